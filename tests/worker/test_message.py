"""The task message as a value: what a call puts on the wire, and what a worker reads of it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.wire.message import REPR_LIMIT, SENT_AT, compose, parse_time, short_repr, split_body

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

#: Celery's protocol 2: always present, null where there is nothing to say.
FIXED_HEADERS = {
    "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id", "parent_id",
    "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps",
}  # fmt: skip


def composed(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "id": "a1", "task": "shop.add", "args": (2, 3), "kwargs": {"z": 4}, "queue": "shop", "origin": "gen1@here", "sent_at": 100.0,
    }  # fmt: skip
    return compose(**{**given, **changes})


def test_a_message_has_every_header_of_protocol_2_and_one_of_ours() -> None:
    message = composed()

    assert set(message.headers) == FIXED_HEADERS | {SENT_AT}
    assert message.headers[SENT_AT] == 100.0
    assert (message.id, message.queue) == ("a1", "shop")


def test_the_body_is_args_kwargs_and_an_embed_with_all_four_keys() -> None:
    message = composed()

    assert message.body == ((2, 3), {"z": 4}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})


@pytest.mark.parametrize(
    ("given_", "name", "value"),
    [
        pytest.param({}, "root_id", "a1", id="a call that nobody made is its own root"),
        pytest.param({"root_id": "r"}, "root_id", "r", id="root"),
        pytest.param({"parent_id": "p"}, "parent_id", "p", id="parent"),
        pytest.param({"group": "g"}, "group", "g", id="group"),
        pytest.param({"group_index": 0}, "group_index", 0, id="the first of a group"),
        pytest.param(
            {"time_limit": 30, "soft_time_limit": 20}, "timelimit", [30, 20], id="the hard limit stands first"
        ),
        pytest.param({"eta": NOON}, "eta", "2026-05-04T12:00:00+00:00", id="eta"),
        pytest.param({"expires": NOON}, "expires", "2026-05-04T12:00:00+00:00", id="expires"),
        pytest.param({"retries": 2}, "retries", 2, id="retries"),
        pytest.param({"shadow": "s"}, "shadow", "s", id="shadow"),
        pytest.param({"ignore_result": True}, "ignore_result", True, id="ignored result"),
        pytest.param({}, "argsrepr", "(2, 3)", id="args as text"),
        pytest.param({}, "kwargsrepr", "{'z': 4}", id="kwargs as text"),
        pytest.param({"headers": {"tenant": "b"}}, "tenant", "b", id="custom headers are merged flat"),
    ],
)
def test_what_is_asked_for_stands_in_the_headers(given_: dict[str, Any], name: str, value: object) -> None:
    assert composed(**given_).headers[name] == value


def test_times_are_also_there_as_numbers_for_the_broker() -> None:
    sent_at = NOON.timestamp()

    message = composed(sent_at=sent_at, eta=NOON + timedelta(seconds=5), expires=NOON + timedelta(seconds=60))

    assert (message.due_at, message.expiration_s) == (sent_at + 5, 60.0)
    assert (composed().due_at, composed().expiration_s) == (None, None)


@pytest.mark.parametrize("waits", ["chord", "chain", "errbacks"])
def test_the_broker_never_drops_what_others_wait_for(waits: str) -> None:
    soon = datetime.fromtimestamp(1_700_000_060, UTC)
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

    assert composed(sent_at=1_700_000_000.0, expires=soon, embed=nothing).expiration_s == 60.0
    assert composed(sent_at=1_700_000_000.0, expires=soon, embed={**nothing, waits: ["more"]}).expiration_s is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(args=st.lists(json_values, max_size=4), kwargs=st.dictionaries(st.text(), json_values, max_size=4))
def test_arguments_come_out_of_the_body_as_they_went_in(args: list[Any], kwargs: dict[str, Any]) -> None:
    body = json.loads(json.dumps(composed(args=args, kwargs=kwargs).body))

    assert split_body(body)[:2] == (args, kwargs)


@given(moment=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])))
def test_a_time_comes_out_of_the_headers_as_it_went_in(moment: datetime) -> None:
    message = composed(eta=moment)

    assert parse_time(message.headers["eta"]) == moment.timestamp() == message.due_at


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("2026-05-04T12:00:00+00:00", NOON.timestamp(), id="utc"),
        pytest.param("2026-05-04T12:00:00Z", NOON.timestamp(), id="Z"),
        pytest.param("2026-05-04T14:00:00+02:00", NOON.timestamp(), id="offset"),
        pytest.param("2026-05-04T12:00:00", NOON.timestamp(), id="without an offset it is UTC"),
        pytest.param("2026-05-04T12:00:00.250000", NOON.timestamp() + 0.25, id="fractions"),
    ],
)
def test_a_time_is_read_as_seconds_since_the_epoch(text: str | None, at: float | None) -> None:
    assert parse_time(text) == at


@pytest.mark.parametrize("text", ["soon", "", "12", 12, 1.5, [], {}, True], ids=repr)
def test_what_is_no_time_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        pytest.param([[1], {"a": 2}, {"chain": None}], ([1], {"a": 2}, {"chain": None}), id="protocol 2"),
        pytest.param(([1], {}, {}), ([1], {}, {}), id="a tuple"),
        pytest.param([[], {}, None], ([], {}, {}), id="no embed"),
        pytest.param({"task": "t", "id": "i", "args": [1], "kwargs": {"a": 2}}, ([1], {"a": 2}, {}), id="protocol 1"),
        pytest.param({"task": "t", "id": "i"}, ((), {}, {}), id="protocol 1 without arguments"),
    ],
)
def test_a_body_is_split_into_its_parts(body: Any, parts: Any) -> None:
    assert split_body(body) == parts


@pytest.mark.parametrize(
    "body",
    [None, 7, "text", [], [1, 2, 3], [[], {}], [[], [], {}], [{}, {}, {}], ["ab", {}, {}], {"args": []}, [[], {}, []]],
    ids=repr,
)
def test_what_is_no_body_is_a_value_error_that_shows_it(body: Any) -> None:
    with pytest.raises(ValueError, match="not \\[args, kwargs, embed\\]"):
        split_body(body)


def test_long_arguments_are_cut_in_their_representation() -> None:
    text = short_repr("x" * 5000)

    assert len(text) == REPR_LIMIT
    assert text.endswith("...")


def test_an_object_that_cannot_be_shown_does_not_stop_a_call() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert composed(args=[Shy()]).headers["argsrepr"] == "<list whose repr raised RuntimeError>"
