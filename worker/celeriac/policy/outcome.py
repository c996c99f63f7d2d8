"""What happened when a task ran, as a value: an error is an outcome, not a jump."""

from datetime import datetime
from typing import Any, NamedTuple

from celeriac.wire.chord import ChordStart
from celeriac.wire.message import TaskMessage


class Succeeded(NamedTuple):
    """The body returned. record: the encoded SUCCESS record, None when the result is ignored. follow: what runs next.

    chords  to be opened before what follows is sent. part: its own end as a member of a chord's header, encoded.

    shown   the value as text, where monitors listen.
    """

    value: Any
    record: bytes | None = None
    follow: tuple[TaskMessage, ...] = ()
    shown: str = ""
    chords: tuple[ChordStart, ...] = ()
    part: bytes | None = None


class Failed(NamedTuple):
    """The body raised. expected: one of the task's `throws`. follow: its error callbacks."""

    error: BaseException
    traceback: str
    expected: bool = False
    follow: tuple[TaskMessage, ...] = ()
    chords: tuple[ChordStart, ...] = ()


class RetryAsked(NamedTuple):
    """The body asked to run again: the same id, `retries` raised by one, not before `due_at` (seconds since the epoch).

    args, kwargs   of the next run. options: what else changes (queue, priority, expires …).
    again          its message, when it was composed where the body ran: then nothing else is looked at.
    """

    error: BaseException | None
    traceback: str
    due_at: float
    args: Any
    kwargs: Any
    options: dict[str, Any]
    shown: str = ""
    again: TaskMessage | None = None


class Rejected(NamedTuple):
    """The body raised Reject: requeue the message, or make it a dead letter. follow: then, its error callbacks."""

    reason: str
    requeue: bool
    follow: tuple[TaskMessage, ...] = ()
    chords: tuple[ChordStart, ...] = ()


class Ignored(NamedTuple):
    """The body raised Ignore: acknowledge and leave the state. follow: what replaces it."""

    follow: tuple[TaskMessage, ...] = ()
    chords: tuple[ChordStart, ...] = ()


class Unreadable(NamedTuple):
    """The body never ran: the message could not be decoded, or its type is unknown."""

    error: BaseException
    reason: str  # malformed | content_disallowed | unknown_task | too_many_starts | unsupported | refused


class Revoked(NamedTuple):
    """The body never ran, since it was revoked or had expired; or it was ended by a signal that somebody sent for it."""

    why: str  # revoked | expired | terminated
    at: datetime | None = None
    signum: int | None = None


class Lost(NamedTuple):
    """The process that ran the body went away under it. reason: a sentence that names the signal or the exit code. follow: error callbacks."""

    reason: str
    follow: tuple[TaskMessage, ...] = ()
    chords: tuple[ChordStart, ...] = ()


Outcome = Succeeded | Failed | RetryAsked | Rejected | Ignored | Unreadable | Revoked | Lost
