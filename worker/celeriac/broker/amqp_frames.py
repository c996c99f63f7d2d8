"""AMQP 0-9-1 frames as bytes: deliveries read in bulk, acknowledgements written in one piece. Opens nothing.

Source: the AMQP 0-9-1 specification, 2.3 and 4.2, with RabbitMQ's errata for field tables. py-amqp reads a message as three frames
of three socket reads each; here all that one read brought is cut up at once.
"""

import struct
from collections.abc import Collection, Iterable
from struct import Struct
from typing import Any, NamedTuple

from amqp.exceptions import UnexpectedFrame
from amqp.serialization import _read_item, decode_properties_basic

FRAME_END = 0xCE
METHOD, HEADER, BODY = 1, 2, 3
#: Class 60, method 60.
DELIVER = 60 << 16 | 60
#: A larger body is left to py-amqp, which takes it frame by frame without copying what has come so far.
MOST_BYTES = 65536

_frame = Struct(">BHI").unpack_from
_method = Struct(">BHIIB").unpack_from
_header = Struct(">BHIHHQH").unpack_from
_tag = Struct(">QB").unpack_from
_u32 = Struct(">I").unpack_from
_i32 = Struct(">i").unpack_from
_i64 = Struct(">q").unpack_from
_f64 = Struct(">d").unpack_from
_ack = Struct(">BHIHHQBB").pack

#: Names of header fields, decoded once. Bounded: a stranger's messages may bring ever new ones.
_names: dict[bytes, str] = {}
_MOST_NAMES = 4096


class Arrival(NamedTuple):
    """One delivered message. consumer: its consumer tag. properties: py-amqp's names, without the headers."""

    consumer: str
    tag: int
    redelivered: bool
    properties: dict[str, Any]
    headers: dict[str, Any]
    body: bytes


def frame_at(buffer: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(type, channel, where its payload begins, where the frame ends); None when it has not come as a whole.

    Raises UnexpectedFrame when this is no frame.
    """
    if len(buffer) - at < 7:
        return None
    kind, channel, size = _frame(buffer, at)
    end = at + 8 + size
    if len(buffer) < end:
        return None
    if buffer[end - 1] != FRAME_END:
        raise UnexpectedFrame(f"a frame ends with {buffer[end - 1]:#04x} instead of {FRAME_END:#04x}")
    return kind, channel, at + 7, end


def deliveries(buffer: bytes, at: int, found: list[Arrival]) -> tuple[int, bool]:
    """Add the deliveries from `at` on to `found`; (where the next frame begins, whether more bytes are needed for it).

    Stops at the first frame that is not a small delivery in consecutive frames: that one is not for this function.
    """
    size = len(buffer)
    while True:
        if size - at < 12:
            return at, False  # a heartbeat has 8
        kind, channel, length, method, tag_length = _method(buffer, at)
        if kind != METHOD or method != DELIVER:
            return at, False
        head = at + 8 + length
        if size - head < 21:
            return at, True
        head_kind, head_channel, head_length, _, _, body_size, flags = _header(buffer, head)
        body = head + 8 + head_length
        if head_kind != HEADER or head_channel != channel or body_size > MOST_BYTES:
            return at, False
        end = body
        if body_size:
            end = body + 8 + body_size
            if size < end:
                return at, True
            if _frame(buffer, body) != (BODY, channel, body_size):
                return at, False
        elif size < end:
            return at, True
        if buffer[end - 1] != FRAME_END:
            return at, False
        name_end = at + 12 + tag_length
        delivery_tag, redelivered = _tag(buffer, name_end)
        properties, headers = properties_of(buffer, head + 19, flags)
        content = buffer[body + 7 : end - 1] if body_size else b""
        name = buffer[at + 12 : name_end].decode()
        found.append(Arrival(name, delivery_tag, redelivered != 0, properties, headers, content))
        at = end


def properties_of(buffer: bytes, at: int, flags: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(properties, headers) of a content header whose flags stand at `at`; no headers when they cannot be read."""
    found: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    try:
        place = at + 2
        if flags & 0x8000:
            end = place + 1 + buffer[place]
            found["content_type"] = buffer[place + 1 : end].decode()
            place = end
        if flags & 0x4000:
            end = place + 1 + buffer[place]
            found["content_encoding"] = buffer[place + 1 : end].decode()
            place = end
        if flags & 0x2000:
            end = place + 4 + _u32(buffer, place)[0]
            headers = table(buffer, place + 4, end)
            place = end
        if flags & 0x1000:
            found["delivery_mode"] = buffer[place]
            place += 1
        if flags & 0x0800:
            found["priority"] = buffer[place]
            place += 1
        if flags & 0x0400:
            end = place + 1 + buffer[place]
            found["correlation_id"] = buffer[place + 1 : end].decode()
            place = end
        if flags & 0x0200:
            end = place + 1 + buffer[place]
            found["reply_to"] = buffer[place + 1 : end].decode()
            place = end
        if flags & 0x01FF:  # the rare ones: expiration, message_id and others
            found, _ = decode_properties_basic(buffer, at)
            headers = found.pop("application_headers", None) or {}
    except (ValueError, IndexError, struct.error):
        # A stranger's message: without headers it becomes a dead letter, and does not end the connection.
        return {name: value for name, value in found.items() if name != "application_headers"}, {}
    return found, headers


def table(buffer: bytes, at: int, end: int) -> dict[str, Any]:
    """A field table's values by name. Raises ValueError, IndexError or struct.error for what is none."""
    found: dict[str, Any] = {}
    while at < end:
        stop = at + 1 + buffer[at]
        raw = buffer[at + 1 : stop]
        name = _names.get(raw)
        if name is None:
            name = raw.decode()
            if len(_names) < _MOST_NAMES:
                _names[raw] = name
        kind = buffer[stop]
        if kind == 0x53:  # S: text
            at = stop + 5 + _u32(buffer, stop + 1)[0]
            try:
                found[name] = buffer[stop + 5 : at].decode()
            except UnicodeDecodeError:
                found[name] = buffer[stop + 5 : at]
        elif kind == 0x56:  # V: nothing
            found[name] = None
            at = stop + 1
        elif kind == 0x49:  # I: 32 bits
            found[name] = _i32(buffer, stop + 1)[0]
            at = stop + 5
        elif kind == 0x74:  # t: true or false
            found[name] = buffer[stop + 1] != 0
            at = stop + 2
        elif kind == 0x64:  # d: a float
            found[name] = _f64(buffer, stop + 1)[0]
            at = stop + 9
        elif kind == 0x6C:  # l: 64 bits
            found[name] = _i64(buffer, stop + 1)[0]
            at = stop + 9
        elif kind == 0x46:  # F: a table
            at = stop + 5 + _u32(buffer, stop + 1)[0]
            found[name] = table(buffer, stop + 5, at)
        else:  # arrays, decimals, times and what else there is
            found[name], at = _read_item(buffer, stop)
    if at != end:
        raise ValueError("a field table ends within a field")
    return found


def acknowledgement(channel: int, tag: int, multiple: bool) -> bytes:
    """The frame of one basic.ack; multiple: of all up to this tag."""
    return _ack(METHOD, channel, 13, 60, 80, tag, multiple, FRAME_END)


def acknowledgements(channel: int, open_tags: Iterable[int], settled: Collection[int]) -> bytes:
    """The fewest basic.ack frames for `settled`, and for nothing else.

    open_tags  every tag that is delivered and not acknowledged, in the order of delivery, settled ones included.

    All that stands before the first unsettled tag goes in one frame, each of the others in one of its own.
    """
    through = 0
    covered = 0
    for tag in open_tags:
        if tag not in settled:
            break
        through = tag
        covered += 1
    frames = [acknowledgement(channel, through, covered > 1)] if through else []
    if covered < len(settled):
        frames += [acknowledgement(channel, tag, False) for tag in sorted(settled) if tag > through]
    return b"".join(frames)
