"""What falls when a call has failed, and what a chord's parts add up to: as tables."""

from typing import Any

import pytest

from celeriac import states
from celeriac.policy.workflow import Place, unrun, unrun_after
from celeriac.wire.chord import Dependency, Joined, claim_token, collected, part_record


def task(task_id: str, **options: Any) -> dict[str, Any]:
    return {"task": "t", "options": {"task_id": task_id, **options}, "subtask_type": None, "kwargs": {}}


def several(kind: str, *tasks: Any, **options: Any) -> dict[str, Any]:
    return {"task": f"celery.{kind}", "options": options, "subtask_type": kind, "kwargs": {"tasks": list(tasks)}}


def chord(header: Any, body: Any, **options: Any) -> dict[str, Any]:
    return {
        "task": "celery.chord", "options": options, "subtask_type": "chord", "kwargs": {"header": header, "body": body}
    }  # fmt: skip


BODY = task("body")
IN_CHORD = {"group_id": "g", "group_index": 3, "chord": BODY}


@pytest.mark.parametrize(
    ("sig", "ids", "places"),
    [
        pytest.param(task("a"), ["a"], [], id="a call"),
        pytest.param({"task": "t"}, [], [], id="a call without an id"),
        pytest.param(task("a", **IN_CHORD), ["a"], [Place("g", "a", 3, BODY)], id="a member of a header"),
        pytest.param(task("a", group_id="g", group_index=3), ["a"], [], id="a member of a plain group"),
        pytest.param(several("chain", task("a"), task("b")), ["a", "b"], [], id="a chain"),
        pytest.param(
            several("chain", task("a"), task("b", **IN_CHORD)), ["a", "b"], [Place("g", "b", 3, BODY)],
            id="a chain whose last step is a member",
        ),
        pytest.param(
            several("chain", task("a"), task("b"), **IN_CHORD), ["a", "b"], [Place("g", "b", 3, BODY)],
            id="a chain that is a member",
        ),
        pytest.param(
            several("group", task("a"), task("b"), **IN_CHORD), ["a", "b"],
            [Place("g", "a", 3, BODY), Place("g", "b", 4, BODY)], id="a group that is several members",
        ),
        pytest.param(
            several("group", task("a", **IN_CHORD), task("b", **{**IN_CHORD, "group_index": 4})), ["a", "b"],
            [Place("g", "a", 3, BODY), Place("g", "b", 4, BODY)], id="a group of members",
        ),
        pytest.param(
            chord(several("group", task("a")), task("b", **IN_CHORD)), ["a", "b"], [Place("g", "b", 3, BODY)],
            id="a chord whose body is a member",
        ),
        pytest.param(chord([task("a")], task("b")), ["a", "b"], [], id="a chord with a list for a header"),
        pytest.param(
            task("a", chain=[task("c", **IN_CHORD), task("b")]), ["a", "b", "c"], [Place("g", "c", 3, BODY)],
            id="a call that others follow",
        ),
        pytest.param(several("map"), [], [], id="a map without an id"),
    ],
)  # fmt: skip
def test_what_is_never_sent_leaves_ids_and_places_behind(sig: Any, ids: list[str], places: list[Place]) -> None:
    assert unrun(sig) == (ids, places)


def test_the_rest_of_a_chain_falls_in_the_order_in_which_it_would_have_run() -> None:
    rest = [task("d", **IN_CHORD), several("group", task("b"), task("c")), task("a")]

    assert unrun_after(rest) == (["a", "b", "c", "d"], [Place("g", "d", 3, BODY)])


def part(task_id: str, value: Any, state: str = states.SUCCESS) -> Any:
    return part_record(task_id, state, value)


def leaf(task_id: str) -> Any:
    return [[task_id, None], None]


def nested(*members: Any) -> Any:
    return [["n", None], list(members)]


ERROR = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}


@pytest.mark.parametrize(
    ("parts", "structure", "expected"),
    [
        pytest.param([], None, [], id="none"),
        pytest.param([part("a", 1), part("b", 2)], None, [1, 2], id="in order"),
        pytest.param([part("a", 1), part("b", ERROR, states.FAILURE)], None, Dependency("b", ERROR), id="one failed"),
        pytest.param(
            [part("a", ERROR, states.REVOKED), part("b", ERROR, states.FAILURE)], None, Dependency("a", ERROR),
            id="the first of those that failed",
        ),
        pytest.param(
            [part("a", 1), part("b", 2), part("c", 3)], nested(nested(leaf("a"), leaf("b")), leaf("c")), [[1, 2], 3],
            id="a group inside",
        ),
        pytest.param(
            [part("a", 1), part("x", 9), part("c", 3)], nested(nested(leaf("a")), leaf("c")), [[1], 3, 9],
            id="one that was added comes last",
        ),
        pytest.param([part("a", 1), part("a", 2)], nested(leaf("a"), leaf("a")), [1, 2], id="one id at two places"),
    ],
)  # fmt: skip
def test_what_a_bodys_argument_is(parts: Any, structure: Any, expected: Any) -> None:
    assert collected(Joined("g", "a", parts, structure)) == expected


def test_a_claim_is_the_members_own() -> None:
    assert Joined("g", "a", []).token == claim_token("a") != claim_token("b")
