"""Workflows between the two libraries: a client of one, a worker of the other, and workers of both on one queue."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from libraries import Client, Place, start_worker
from processes import wait_until
from servers import RedisServer

_WORLDS = [
    ("celery", ["celeriac"]),
    ("celeriac", ["celery"]),
    ("celery", ["celery", "celeriac"]),
    ("celeriac", ["celery", "celeriac"]),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A client, and the libraries of the workers it meets."""

    client: Client
    workers: list[str]

    def value(self, expression: str) -> Any:
        answer = self.client.run(expression)
        assert "value" in answer, answer
        return answer["value"]


@pytest.fixture(
    scope="module",
    params=_WORLDS,
    ids=[f"{client}-client-{'-and-'.join(workers)}-workers" for client, workers in _WORLDS],
)
def world(
    request: pytest.FixtureRequest, compat_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    client_library, workers = request.param
    with compat_redis.client() as redis:
        redis.flushall()
    place = Place(name="redis", broker=compat_redis.url, backend=compat_redis.url.replace("/0", "/1"))
    folder = tmp_path_factory.mktemp("world")
    with contextlib.ExitStack() as stack:
        for library in workers:
            stack.callback(start_worker(library, place, folder / f"{library}.log", app="workflows").kill)
        client = Client(client_library, place, folder / "client.log", driver="canvas_driver.py")
        stack.callback(client.close)
        yield World(client=client, workers=workers)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param("chain(add.s(1, 2), add.s(3), add.s(4))", 10, id="a chain"),
        pytest.param("group(add.s(n, n) for n in range(5))", [0, 2, 4, 6, 8], id="a group"),
        pytest.param("chord([add.s(n, n) for n in range(9)], total.s())", 72, id="a chord"),
        pytest.param("chord([add.s(n, n) for n in range(3)], same.s()) | total.s() | add.s(1)", 7, id="a chain after a chord"),
        pytest.param("chain(same.s(1), group(add.s(1), add.s(2)), total.s(), add.s(1))", 6, id="a chord in the middle of a chain"),
        pytest.param("chord([chain(add.s(1, 1), add.s(1)), add.s(2, 2)], total.s())", 7, id="a chain in a header"),
        pytest.param("chord([chain(same.s(1), group(add.s(1), add.s(2))), same.s(9)], same.s())", [[2, 3], 9], id="a group at a member's end"),
        pytest.param("chord([chord([add.s(1, 1), add.s(1, 1)], total.s()), same.s(3)], total.s())", 7, id="a chord in a header"),
        pytest.param(
            "chord([chain(same.s(1), chord([add.s(1), add.s(2)], total.s())), same.s(9)], same.s())", [5, 9], id="a chord at a member's end"
        ),
        pytest.param("chord([add.s(1, 1)], chain(total.s(), add.s(1), group(add.s(1), add.s(2))))", [4, 5], id="a chain as a body"),
        pytest.param("chord([add.s(1, 1)], chord([total.s(), total.s()], total.s()))", 4, id="a chord as a body"),
        pytest.param("chord([add.s(1, 1), add.s(2, 2)], group(total.s(), same.s()))", [6, [2, 4]], id="a group as a body"),
        pytest.param("same.map([1, 2])", [1, 2], id="a map"),
        pytest.param("add.starmap([(1, 2), (3, 4)])", [3, 7], id="a starmap"),
        pytest.param("add.chunks([(n, n) for n in range(5)], 2).group()", [[0, 2], [4, 6], [8]], id="chunks"),
        pytest.param("becomes.s('task')", 21, id="replaced by a task"),
        pytest.param("becomes.s('chain') | add.s(1)", 23, id="replaced by a chain, in a chain"),
        pytest.param("becomes.s('group') | total.s()", 43, id="replaced by a group, in a chain"),
        pytest.param("chord([becomes.s('chord'), same.s(1)], total.s())", 44, id="replaced by a chord, in a header"),
        pytest.param("signature('workflows.add', args=(1, 2), app=app)", 3, id="a signature by name"),
    ],
)  # fmt: skip
def test_a_workflow_gives_its_value(world: World, expression: str, value: Any) -> None:
    assert world.value(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("chord([same.s(1), fails.s()], total.s())", id="a member that fails"),
        pytest.param("chord([same.s(1), chain(fails.s(), same.s())], total.s())", id="a chain's first step"),
        pytest.param("chord([same.s(1), fails.s()], total.s()) | add.s(1)", id="before a chain"),
    ],
)
def test_a_chord_whose_member_fails_fails(world: World, expression: str) -> None:
    raised = world.client.run(expression)["raised"]

    # The body's error, or the member's own: clients ask for the parents, too.
    assert raised["name"] in {"ChordError", "ValueError"}


#: Celery's workers leave the outer chord waiting; only Celery's clients notice, since they ask for the parents, too.
_TOLD_OF_OUTER = [(client, workers) for client, workers in _WORLDS if client == "celery" or "celery" not in workers]


@pytest.mark.parametrize("world", _TOLD_OF_OUTER, ids=lambda world: "-and-".join(world[1]), indirect=True)
def test_a_chord_fails_with_the_chord_in_its_header(world: World) -> None:
    raised = world.client.run("chord([same.s(1), chord([fails.s(), same.s(1)], total.s())], total.s())")["raised"]

    assert raised["name"] == "ChordError"


def lines(path: Path, count: int) -> list[str]:
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, timeout_s=20, what=f"{count} lines")
    return path.read_text().splitlines()


def test_callbacks_get_the_value(world: World, tmp_path: Path) -> None:
    path = tmp_path / "told"

    answer = world.client.run(f"add.s(1, 2).set(link=[told.s({str(path)!r})])")

    assert (answer["value"], lines(path, 1)) == (3, ["3"])


def test_an_error_callback_of_one_argument_gets_the_failed_id(world: World, tmp_path: Path) -> None:
    path = tmp_path / "told"

    answer = world.client.run(f"fails.s().on_error(told.s({str(path)!r}))")

    assert lines(path, 1) == [answer["id"]]


def test_an_error_callback_of_a_body_is_told_of_its_chord(world: World, tmp_path: Path) -> None:
    path = tmp_path / "told"

    answer = world.client.run(f"chord([fails.s(), same.s(1)], total.s().on_error(told.s({str(path)!r})))")

    assert lines(path, 1) == [answer["id"]]


@pytest.mark.parametrize("members", ["same.s(), same.s()", "chain(same.s(), same.s()), group(same.s(), same.s())"])
def test_an_error_callback_of_a_body_that_is_a_group_is_told_of_each_member(
    world: World, members: str, tmp_path: Path
) -> None:
    path = tmp_path / "told"

    world.client.run(f"chord([fails.s(), same.s(1)], group({members}).on_error(told.s({str(path)!r})))")

    assert len(set(lines(path, 1 + members.count(", same")))) == 1 + members.count(", same")


def test_an_error_callback_of_three_arguments_is_told_all(world: World, tmp_path: Path) -> None:
    path = tmp_path / "told"

    answer = world.client.run(f"fails.s().on_error(told_all.s({str(path)!r}))")

    if len(world.workers) == 1:
        assert lines(path, 1) == [f"{answer['id']} ValueError no"]
    else:
        assert answer["raised"]["name"] == "ValueError"


def test_stamps_reach_the_members_and_the_body(world: World) -> None:
    expression = "[sig for sig in [chord([stamp.s(), stamp.s()], same.s())] if sig.stamp(order='o-1') or True][0]"

    assert world.value(expression) == ["o-1", "o-1"]


def test_many_chords_are_counted_whoever_runs_their_members(world: World) -> None:
    values = world.value("group(chord([where.s() for _ in range(6)], same.s()) for _ in range(15))")

    assert [len(members) for members in values] == [6] * 15
    assert {name for members in values for name in members} == set(world.workers)


def test_a_saved_group_is_restored_by_the_other_library(
    world: World, compat_redis: RedisServer, tmp_path: Path
) -> None:
    place = Place(name="redis", broker=compat_redis.url, backend=compat_redis.url.replace("/0", "/1"))
    other = "celeriac" if world.client.library == "celery" else "celery"
    group_id = world.client.save("group(add.s(n, n) for n in range(4))")

    with contextlib.closing(Client(other, place, tmp_path / "other.log", driver="canvas_driver.py")) as client:
        assert client.restore(group_id) == {"value": [0, 2, 4, 6]}
