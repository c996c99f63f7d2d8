"""What crosses between the worker and a child process: a job there, its outcome back. One datagram each, primitives only.

A datagram is a kind (1 byte), the job's number (8 bytes), and the parcel; a large one travels in a memory file, and its datagram carries
the file's descriptor instead. Nothing that a body made is ever unpickled here: errors cross as their description, messages that follow with
their bodies already encoded.
"""

import array
import json
import marshal
import os
import pickle
import socket
import struct
from typing import Any, NamedTuple

from celeriac.broker.codec import Encoded, encode
from celeriac.broker.consumer import Delivery
from celeriac.policy.outcome import (
    Failed,
    Ignored,
    Lost,
    Outcome,
    Rejected,
    RetryAsked,
    Revoked,
    Succeeded,
    Unreadable,
)  # fmt: skip
from celeriac.policy.settlement import Rules
from celeriac.policy.timelimit import UNLIMITED, Limits
from celeriac.wire.chord import ChordStart
from celeriac.wire.message import TaskMessage, short_repr
from celeriac.wire.result import Described, exception_to_wire

#: A larger parcel goes by a memory file.
MOST_BYTES = 65_536
#: Room for the largest datagram, and for one descriptor.
ROOM_BYTES = MOST_BYTES + 64
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_HEAD = struct.Struct("<cQ")
_PLAIN, _PICKLED, _FILE = b"j", b"p", b"f"
#: What a child sends when it has begun to listen.
READY = _HEAD.pack(b"r", 0)
#: marshal without references: these values have none, and it is the fastest.
_VERSION = 2


class Sent(NamedTuple):
    """A job as a child sees it."""

    number: int
    task: str
    delivery: Delivery
    rules: Rules
    limits: Limits


# -- a job


def pack_job(number: int, task: str, delivery: Delivery, rules: Rules, limits: Limits) -> bytes:
    """The datagram of a job. The body crosses as it came."""
    parcel: Any = (
        task, delivery.queue, delivery.headers, delivery.properties, delivery.body, delivery.content_type, delivery.content_encoding,
        delivery.body_encoding, delivery.starts, delivery.redelivered, delivery.exchange, delivery.routing_key, tuple(rules),
        None if limits is UNLIMITED else tuple(limits),
    )  # fmt: skip
    try:
        return _HEAD.pack(_PLAIN, number) + marshal.dumps(parcel, _VERSION)
    except ValueError:  # AMQP headers may hold dates and decimals. The child may unpickle: it is we who pickle
        return _HEAD.pack(_PICKLED, number) + pickle.dumps((*parcel[:3], dict(parcel[3]), *parcel[4:]))


def unpack_job(data: bytes) -> Sent:
    """The job of a datagram, in the child."""
    kind, number = _HEAD.unpack_from(data)
    parcel = (
        marshal.loads(memoryview(data)[_HEAD.size :])
        if kind == _PLAIN
        else pickle.loads(memoryview(data)[_HEAD.size :])
    )
    (
        task,
        queue,
        headers,
        properties,
        body,
        content_type,
        encoding,
        body_encoding,
        starts,
        redelivered,
        exchange,
        routing_key,
        rules,
        limits,
    ) = parcel
    delivery = Delivery(
        None,
        queue,
        headers,
        properties,
        body,
        content_type,
        encoding,
        body_encoding,
        starts,
        redelivered=redelivered,
        exchange=exchange,
        routing_key=routing_key,
    )
    return Sent(number, task, delivery, Rules(*rules), UNLIMITED if limits is None else Limits(*limits))


# -- what was done


def pack_done(number: int, outcome: Outcome, started_at: float, run_s: float, *, stored: bool, leaving: bool) -> bytes:
    """The datagram of an outcome. Raises EncodeError for a message that cannot be written.

    stored   its record is written already. leaving: the child takes no other job.
    """
    parcel = (started_at, run_s, stored, leaving, *_flat(outcome))
    return _HEAD.pack(_PLAIN, number) + marshal.dumps(parcel, _VERSION)


def unpack_done(data: bytes) -> tuple[Outcome, float, float, bool, bool]:
    """(outcome, started_at, run_s, stored, leaving). Raises ValueError, EOFError or TypeError for what is no parcel of ours."""
    started_at, run_s, stored, leaving, kind, *parts = marshal.loads(memoryview(data)[_HEAD.size :])
    return _outcome(kind, parts), started_at, run_s, stored, leaving


def number_of(data: bytes) -> int:
    """Whose datagram it is; 0 when it is none of ours."""
    return int(_HEAD.unpack_from(data)[1]) if len(data) >= _HEAD.size and data[:1] in (_PLAIN, _PICKLED, _FILE) else 0


def _flat(outcome: Outcome) -> tuple[Any, ...]:
    match outcome:
        case Succeeded(_, record, follow, shown, chords, part):
            return "succeeded", record, [_message(message) for message in follow], shown, _opened(chords), part
        case Failed(error, traceback, expected, follow, chords):
            return (
                "failed",
                _described(error),
                str(traceback),
                bool(expected),
                [_message(message) for message in follow],
                _opened(chords),
            )
        case RetryAsked(error, traceback):
            again = None if outcome.again is None else _message(outcome.again)
            return "retry", None if error is None else _described(error), str(traceback), float(outcome.due_at), again
        case Rejected(reason, requeue, follow, chords):
            return "rejected", str(reason), bool(requeue), [_message(message) for message in follow], _opened(chords)
        case Ignored(follow, chords):
            return "ignored", [_message(message) for message in follow], _opened(chords)
        case Unreadable(error, reason):
            return "unreadable", _described(error), str(reason)
        case Revoked(why, _, signum):
            return "revoked", str(why), signum
        case Lost(reason, _):
            return "lost", str(reason)


def _outcome(kind: str, parts: list[Any]) -> Outcome:
    match kind, parts:
        case "succeeded", [record, follow, shown, chords, part]:
            return Succeeded(None, record, _messages(follow), shown, _opening(chords), part)
        case "failed", [error, traceback, expected, follow, chords]:
            return Failed(Described(*error), traceback, expected, _messages(follow), _opening(chords))
        case "retry", [error, traceback, due_at, again]:
            message = None if again is None else TaskMessage(*_unpacked(again))
            return RetryAsked(None if error is None else Described(*error), traceback, due_at, (), {}, {}, "", message)
        case "rejected", [reason, requeue, follow, chords]:
            return Rejected(reason, requeue, _messages(follow), _opening(chords))
        case "ignored", [follow, chords]:
            return Ignored(_messages(follow), _opening(chords))
        case "unreadable", [error, reason]:
            return Unreadable(Described(*error), reason)
        case "revoked", [why, signum]:
            return Revoked(why, None, signum)
        case "lost", [reason]:
            return Lost(reason)
        case _:
            raise ValueError(f"not an outcome: {kind!r:.100}")


def _described(error: BaseException) -> tuple[dict[str, Any], str, str]:
    # By way of JSON: subclasses of str and float, which marshal does not know, become what they are.
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of the user's
        text = short_repr(error)
    record, text, shown = json.loads(json.dumps([exception_to_wire(error), text, short_repr(error)]))
    return record, text, shown


def _message(message: TaskMessage) -> tuple[Any, ...]:
    headers: dict[str, Any] = json.loads(encode(message.headers, "json")[2])
    body = tuple(encode(message.body, message.serializer))
    return (headers, body, *json.loads(encode(message[2:], "json")[2]))


def _messages(packed: list[Any]) -> tuple[TaskMessage, ...]:
    return tuple(TaskMessage(*fields) for fields in map(_unpacked, packed))


def _opened(chords: tuple[ChordStart, ...]) -> list[Any]:
    return [tuple(start) for start in chords]


def _opening(packed: list[Any]) -> tuple[ChordStart, ...]:
    return tuple(ChordStart(*fields) for fields in packed)


def _unpacked(fields: list[Any]) -> tuple[Any, ...]:
    headers, body, *rest = fields
    return (headers, Encoded(*body), *rest)


# -- the road


def send(road: socket.socket, data: bytes) -> None:
    """Send one datagram. Raises BlockingIOError when the road is full and does not block, OSError when it is gone."""
    if len(data) <= MOST_BYTES:
        road.send(data)
        return
    descriptor = os.memfd_create("celeriac", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        head = _HEAD.pack(_FILE, number_of(data))
        road.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    finally:
        os.close(descriptor)


def receive(road: socket.socket, flags: int = 0) -> bytes:
    """The next datagram, whole; b"" when the other side has ended. Raises BlockingIOError when there is none and it does not block."""
    data, ancillary, _, _ = road.recvmsg(ROOM_BYTES, _ANCILLARY_BYTES, flags)
    return data if not ancillary else _from_file(ancillary)


def taken_back(road: socket.socket) -> list[int]:
    """Numbers of the jobs that nobody has read, in order; nobody will read them any more. road: the child's own end."""
    numbers: list[int] = []
    while True:
        try:
            data, ancillary, _, _ = road.recvmsg(ROOM_BYTES, _ANCILLARY_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return numbers
        if not data:
            return numbers
        for descriptor in _descriptors(ancillary):
            os.close(descriptor)
        numbers.append(number_of(data))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _from_file(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    whole = b""
    for descriptor in _descriptors(ancillary):
        with open(descriptor, "rb") as file:
            file.seek(0)
            whole = file.read()
    return whole
