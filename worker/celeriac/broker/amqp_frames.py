"""AMQP 0-9-1 frames as bytes: deliveries read in bulk, messages and acknowledgements written in one piece. Opens nothing.

Source: the AMQP 0-9-1 specification, 2.3 and 4.2, with RabbitMQ's errata for field tables. py-amqp reads a message as three frames
of three socket reads each; here all that one read brought is cut up at once.
"""

import struct
from collections.abc import Collection, Iterable, Mapping
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
_publish = Struct(">BHIHHHB").pack
_content = Struct(">BHIHHQH").pack
_head = Struct(">BHI").pack
_size = Struct(">I").pack
_text = Struct(">cI").pack
_whole = Struct(">ci").pack
_large = Struct(">cq").pack
_float = Struct(">cd").pack

#: Names of header fields, decoded once. Bounded: a stranger's messages may bring ever new ones.
_names: dict[bytes, str] = {}
_MOST_NAMES = 4096
#: The same the other way: a name with its length before it.
_named: dict[str, bytes] = {}


class Arrival(NamedTuple):
    """One delivered message. consumer: its consumer tag. properties: py-amqp's names, without the headers."""

    consumer: str
    tag: int
    redelivered: bool
    properties: dict[str, Any]
    headers: dict[str, Any]
    body: bytes
    exchange: str = ""
    routing_key: str = ""


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
        key_at = name_end + 10 + buffer[name_end + 9]
        exchange, key = (
            buffer[name_end + 10 : key_at].decode(),
            buffer[key_at + 1 : key_at + 1 + buffer[key_at]].decode(),
        )
        found.append(Arrival(name, delivery_tag, redelivered != 0, properties, headers, content, exchange, key))
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


def publication(
    channel: int, exchange: str, routing_key: str, mandatory: bool, properties: Mapping[str, Any], headers: Mapping[str, Any], body: bytes,
    most_bytes: int,
) -> bytes:  # fmt: skip
    """The frames of one basic.publish. properties: content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to,
    expiration, each only when it is there. most_bytes: of one frame.

    Raises ValueError, TypeError or struct.error for what is not written here: an empty body, other properties, rare types. py-amqp
    writes that, or says what is wrong with it.
    """
    if type(body) is not bytes or not body:
        raise TypeError("not a body to be written here")
    to, key = exchange.encode(), routing_key.encode()
    flags, known = 0x2000, 0
    before: list[bytes] = []
    after: list[bytes] = []
    for name, flag, parts in (("content_type", 0x8000, before), ("content_encoding", 0x4000, before)):
        if (text := properties.get(name)) is not None:
            flags, known = flags | flag, known + 1
            parts.append(_short(text))
    for name, flag in (("delivery_mode", 0x1000), ("priority", 0x0800)):
        if (number := properties.get(name)) is not None:
            flags, known = flags | flag, known + 1
            after.append(bytes((number,)))
    for name, flag in (("correlation_id", 0x0400), ("reply_to", 0x0200), ("expiration", 0x0100)):
        if (text := properties.get(name)) is not None:
            flags, known = flags | flag, known + 1
            after.append(_short(text))
    if known != len(properties):
        raise ValueError("a property that is not written here")
    content = b"".join((*before, table_bytes(headers), *after))
    frames = [
        _publish(METHOD, channel, 9 + len(to) + len(key), 60, 40, 0, len(to)), to, _short(routing_key), b"\1\xce" if mandatory else b"\0\xce",
        _content(HEADER, channel, 14 + len(content), 60, 0, len(body), flags), content, b"\xce",
    ]  # fmt: skip
    most = most_bytes - 8
    for at in range(0, len(body), most):
        piece = body if len(body) <= most else body[at : at + most]
        frames += [_head(BODY, channel, len(piece)), piece, b"\xce"]
    return b"".join(frames)


def table_bytes(values: Mapping[str, Any]) -> bytes:
    """A field table with its size. Raises ValueError, TypeError or struct.error for names and types that are not written here."""
    parts: list[bytes] = []
    for name, value in values.items():
        parts.append(_named.get(name) or _name_of(name))
        _append(value, parts)
    data = b"".join(parts)
    return _size(len(data)) + data


def _append(value: Any, parts: list[bytes]) -> None:
    """One field, in the types that py-amqp chooses."""
    kind = type(value)
    if kind is str:
        raw = value.encode()
        parts.append(_text(b"S", len(raw)))
        parts.append(raw)
    elif value is None:
        parts.append(b"V")
    elif kind is bool:
        parts.append(b"t\1" if value else b"t\0")
    elif kind is int:
        parts.append(_whole(b"I", value) if -0x80000000 < value <= 0x7FFFFFFF else _large(b"L", value))
    elif kind is float:
        parts.append(_float(b"d", value))
    elif kind is dict:
        parts.append(b"F")
        parts.append(table_bytes(value))
    elif kind is list or kind is tuple:
        inner: list[bytes] = []
        for each in value:
            _append(each, inner)
        data = b"".join(inner)
        parts.append(_text(b"A", len(data)))
        parts.append(data)
    else:
        raise ValueError(f"a {kind.__name__} is not written here")


def _name_of(name: str) -> bytes:
    written = _short(name)
    if len(_named) < _MOST_NAMES:
        _named[name] = written
    return written


def _short(text: str) -> bytes:
    """Text of at most 255 bytes, with its length before it. Raises ValueError for more."""
    raw = text.encode()
    return bytes((len(raw),)) + raw


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
