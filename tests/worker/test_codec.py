"""A task message's body is read back as what was passed, whichever of the two writers wrote it."""

import decimal
import enum
import json
import uuid
from collections import namedtuple
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac.broker.codec import JSON, decode, encode, encode_body
from celeriac.exceptions import EncodeError
from celeriac.wire.message import NO_EMBED


class Colour(enum.IntEnum):
    RED = 3


class Shout(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((), {}, id="none"),
        pytest.param((1, -1, True, None, "text"), {"a": "b"}, id="plain"),
        pytest.param(("Stra\u00dfe \u20ac \U0001f955 \x00\n\"\\",), {}, id="text of all kinds"),
        pytest.param((2**63 - 1, -(2**63), 2**64, 10**40), {}, id="large numbers"),
        pytest.param((0.1, 1e300, -0.0), {"x": 1.5}, id="floats"),
        pytest.param(("\ud800",), {}, id="half of a surrogate pair"),
        pytest.param(([1, [2, {"a": [3]}]],), {"deep": {"b": {}}}, id="nested"),
        pytest.param((uuid.UUID(int=7), datetime(2024, 2, 3, 4, 5, tzinfo=UTC), decimal.Decimal("1.10")), {}, id="kombu's tagged types"),
        pytest.param((Colour.RED, Shout("x")), {}, id="children of plain types"),
        pytest.param((1,), {1: 2}, id="a name that is no text"),
    ],
)  # fmt: skip
def test_a_body_is_read_as_the_plain_writer_has_it(args: Any, kwargs: Any) -> None:
    content_type, encoding, payload = encode_body((args, kwargs, NO_EMBED), "json")

    read = decode(payload, content_type, encoding, {JSON})
    assert read == decode(encode((args, kwargs, NO_EMBED), "json")[2], JSON, "utf-8", {JSON})
    assert read[0] == list(args)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_what_it_is(value: float) -> None:
    _, _, payload = encode_body(((value,), {}, NO_EMBED), "json")

    assert repr(json.loads(payload)[0][0]) == repr(value)


def test_a_named_tuple_is_a_list_as_ever() -> None:
    assert json.loads(encode_body(((Point(1, 2),), {}, NO_EMBED), "json")[2])[0] == [[1, 2]]


def test_what_follows_from_a_call_is_in_its_body() -> None:
    embed = {**NO_EMBED, "chain": [{"task": "next"}]}

    assert json.loads(encode_body(((1,), {}, embed), "json")[2]) == [[1], {}, embed]


def test_another_serializer_is_used_as_asked() -> None:
    assert encode_body(((1,), {}, NO_EMBED), "pickle")[0] == "application/x-python-serialize"


@pytest.mark.parametrize("value", [object(), {1, 2}.__iter__()], ids=["object", "iterator"])
def test_what_cannot_be_written_is_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="cannot serialize"):
        encode_body(((value,), {}, NO_EMBED), "json")
