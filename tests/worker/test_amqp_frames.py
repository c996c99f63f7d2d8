"""Deliveries cut out of bytes, messages and runs of acknowledgements made into bytes; py-amqp's own writer is the other side."""

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import dumps

from celeriac.broker.amqp_frames import (
    MOST_BYTES,
    Arrival,
    acknowledgement,
    acknowledgements,
    deliveries,
    frame_at,
    publication,
)

HEADERS = {
    "lang": "py", "id": "stra\u00dfe", "eta": None, "retries": 3, "big": 2**40, "timelimit": [None, 1.5], "ignore_result": True,
    "stamps": {"a": {"b": [1, {}]}}, "at": 12.5, "price": Decimal("1.5"), "": "no name",
    "when": datetime.fromisoformat("2026-01-02"),  # py-amqp reads times without an offset
}  # fmt: skip


def delivered(
    tag: int, body: bytes = b"{}", *, redelivered: bool = False, channel: int = 1, **properties: Any
) -> bytes:
    """The frames of a delivery, as a broker writes them."""
    written: list[bytes] = []
    write = frame_writer(
        SimpleNamespace(frame_max=131072, bytes_sent=0), SimpleNamespace(write=lambda data: written.append(bytes(data)))
    )
    arguments = dumps("sLbss", ("w.1", tag, redelivered, "shop", "shop.orders"))
    write(1, channel, spec.Basic.Deliver, arguments, amqp.Message(body, **properties))
    return b"".join(written)


def cut(data: bytes) -> tuple[list[Arrival], int, bool]:
    found: list[Arrival] = []
    at, short = deliveries(data, 0, found)
    return found, at, short


def test_a_delivery_is_what_was_written() -> None:
    data = delivered(
        7, b"body", redelivered=True, content_type="application/json", content_encoding="utf-8", application_headers=HEADERS,
        delivery_mode=2, priority=5, correlation_id="c", reply_to="r",
    )  # fmt: skip

    [arrival], at, _ = cut(data)

    assert at == len(data)
    assert arrival == Arrival(
        "w.1", 7, True,
        {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 5, "correlation_id": "c", "reply_to": "r"},
        HEADERS, b"body", "shop", "shop.orders",
    )  # fmt: skip


def test_rare_properties_are_read_too() -> None:
    [arrival], _, _ = cut(
        delivered(1, application_headers={"a": 1}, expiration="500", message_id="m", app_id="x", timestamp=5)
    )

    assert arrival.headers == {"a": 1}
    assert arrival.properties == {"expiration": "500", "message_id": "m", "app_id": "x", "timestamp": 5}


def test_however_the_bytes_come_the_same_deliveries_come_out() -> None:
    stream = delivered(1, b"", application_headers=HEADERS) + delivered(2, b"x" * 50) + delivered(3)
    whole, _, _ = cut(stream)
    assert [arrival.tag for arrival in whole] == [1, 2, 3]

    for place in range(len(stream)):
        first, at, _ = cut(stream[:place])
        rest, end, _ = cut(stream[at:])
        assert first + rest == whole
        assert at + end == len(stream)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(acknowledgement(1, 5, False), id="another method"),
        pytest.param(b"\x08\x00\x00\x00\x00\x00\x00\xce", id="a heartbeat"),
        pytest.param(delivered(1, b"x" * (MOST_BYTES + 1)), id="a large body"),
        pytest.param(
            delivered(1)[: delivered(1).index(b"\xce") + 1] + delivered(2, channel=2), id="another channel between its frames"
        ),
    ],
)  # fmt: skip
def test_what_is_no_small_delivery_is_left_where_it_is(data: bytes) -> None:
    assert cut(data) == ([], 0, False)
    kind, channel, start, end = frame_at(data, 0) or pytest.fail("no frame")
    assert data[end - 1] == 0xCE
    assert (channel, start) == (0 if kind == 8 else 1, 7)


def test_headers_that_nobody_can_read_leave_a_message_without_headers() -> None:
    data = delivered(1, b"body", application_headers={"a": "text"})
    broken = data.replace(b"\x01aS\x00\x00\x00\x04text", b"\x01aS\x00\xff\x00\x04text")
    assert broken != data

    [arrival], at, _ = cut(broken)

    assert (arrival.headers, arrival.body, at) == ({}, b"body", len(broken))


def test_a_frame_that_does_not_end_as_one_is_an_error() -> None:
    with pytest.raises(amqp.exceptions.UnexpectedFrame, match="ends with 0x00"):
        frame_at(acknowledgement(1, 5, False)[:-1] + b"\0", 0)


@pytest.mark.parametrize(
    ("open_tags", "settled", "frames"),
    [
        pytest.param([1, 2, 3], {1, 2, 3}, [(3, True)], id="all"),
        pytest.param([1, 2, 3], {1, 2}, [(2, True)], id="the first"),
        pytest.param([1, 2, 3], {1}, [(1, False)], id="one"),
        pytest.param([1, 2, 3], {2, 3}, [(2, False), (3, False)], id="not the first"),
        pytest.param([1, 2, 3, 4, 9], {1, 2, 4, 9}, [(2, True), (4, False), (9, False)], id="a run and others"),
        pytest.param([5, 7], {7}, [(7, False)], id="the last"),
    ],
)
def test_what_is_settled_is_acknowledged_and_nothing_else(
    open_tags: list[int], settled: set[int], frames: list[tuple[int, bool]]
) -> None:
    expected = b"".join(acknowledgement(3, tag, multiple) for tag, multiple in frames)

    assert acknowledgements(3, open_tags, settled) == expected


# -- messages


def as_py_amqp_writes(
    exchange: str, routing_key: str, mandatory: bool, properties: dict[str, Any], headers: dict[str, Any], body: bytes, most_bytes: int
) -> bytes:  # fmt: skip
    """The frames of one basic.publish on channel 3."""
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=most_bytes, bytes_sent=0)
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    message = amqp.Message(body, application_headers=headers, **properties)
    arguments = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    frame_writer(connection, transport)(1, 3, spec.Basic.Publish, arguments, message)
    return b"".join(written)


USUAL = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 0,
    "correlation_id": "an id",
}


@pytest.mark.parametrize(
    ("properties", "headers"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(USUAL, {"task": "shop.pack", "eta": None, "retries": 0, "ignore_result": False, "sent": 1.5}, id="usual"),
        pytest.param({**USUAL, "reply_to": "r\u00e4tsel", "expiration": "1500", "priority": 255}, {"lang": "py"}, id="all properties"),
        pytest.param({"delivery_mode": 1}, {"yes": True, "text": "\u20ac\U0001f955", "": "no name", "none": ""}, id="names and text"),
        pytest.param({}, {str(n): n for n in (2**31 - 1, 2**31, -(2**31), -(2**31) + 1, 2**63 - 1, -(2**63))}, id="whole numbers"),
        pytest.param({}, {"list": [1, None, ["a", {"b": ()}], (True,)], "map": {"in": {"in": [{}]}}}, id="nested"),
        pytest.param({}, {"long": "x" * 70_000}, id="a long header"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"{}", b"x" * 9_000], ids=["short", "in several frames"])
def test_a_message_is_written_as_py_amqp_writes_it(
    properties: dict[str, Any], headers: dict[str, Any], body: bytes
) -> None:
    most = 131_072 if len(body) < 100 else 4_096
    if len(body) > 100:
        headers = {name: value for name, value in headers.items() if name != "long"}
    to = ("an exchange", "a.routing.key", True)

    frames = publication(3, *to, properties, headers, body, most)

    assert frames == as_py_amqp_writes(*to, properties, headers, body, most)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({"body": b""}, "not a body", id="an empty body"),
        pytest.param({"body": "text"}, "not a body", id="text"),
        pytest.param({"properties": {"timestamp": datetime(2024, 1, 1, tzinfo=UTC)}}, "a property", id="another property"),
        pytest.param({"headers": {"at": datetime(2024, 1, 1, tzinfo=UTC)}}, "a datetime", id="a time"),
        pytest.param({"headers": {"of": Decimal("1.5")}}, "a Decimal", id="a decimal"),
        pytest.param({"headers": {"deep": [{"set": {1}}]}}, "a set", id="a set"),
        pytest.param({"headers": {"n" * 256: 1}}, "range", id="a long name"),
        pytest.param({"routing_key": "\u00e9" * 128}, "range", id="a long routing key"),
        pytest.param({"headers": {"half": "\ud800"}}, "surrogates", id="half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_rare_is_left_to_py_amqp(change: dict[str, Any], why: str) -> None:
    usual: dict[str, Any] = {"routing_key": "q", "properties": {}, "headers": {}, "body": b"{}"}

    with pytest.raises((ValueError, TypeError), match=why):
        publication(1, "", mandatory=True, most_bytes=4096, **{**usual, **change})
