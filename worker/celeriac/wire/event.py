"""Celery events as values: the bodies of `task-*` and `worker-*`, and the heartbeat that the operator reads.

The envelope (exchange `celeryev`, routing key = type with dots, task events batched as lists on `task.multi`) is the
broker's affair. Source: celery/events of 5.7, measured in research/celery.md 3C.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

EXCHANGE = "celeryev"
SW_IDENT = "py-celeriac"

#: The one key of a worker event under which our own fields travel, so that they can never collide with Celery's.
OWN_FIELDS = "celeriac"

#: Upper bounds, in seconds, of the buckets in which workers count waits: a wait belongs to the first that is not below it, and one
#: more bucket holds those beyond the last. The same for all, so that queues can be compared and added. Heartbeats carry counts
#: alone, hence these never change: other bounds need a field of another name.
WAIT_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0)


class QueueTotals(NamedTuple):
    """What one worker process has done on one queue since it started. Cumulative, so a lost heartbeat loses nothing.

    received   messages claimed, redeliveries included.
    started    runs begun. redelivered of them came back from a lost worker.
    succeeded, failed, retried, rejected, revoked, dead_lettered   runs or messages that ended so.
    busy_s     slot-seconds spent running, the running tasks' time so far included.
    wait_s     sum of seconds from due to start, over `waits` started messages whose send time is known.
    """

    received: int = 0
    started: int = 0
    redelivered: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    rejected: int = 0
    revoked: int = 0
    dead_lettered: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    waits: int = 0

    @property
    def completed(self) -> int:
        """Runs that ended for good; a retry comes back as a new message and is not among them."""
        return self.succeeded + self.failed + self.rejected + self.revoked + self.dead_lettered


class TaskTotals(NamedTuple):
    """What one worker process has done of one type of task since it started."""

    queue: str = ""
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    throttled: int = 0
    run_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A limit in force: `per_s` starts a second for `task`, for this worker alone or the whole cluster.

    by   who set it while the worker ran: an operator's pool as "namespace/name"; empty: the code, or a person.
    """

    task: str
    per_s: float
    scope: str = "worker"  # worker | cluster
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainState:
    """The drain mark a worker has heard, echoed. state: draining (still busy) or drained (idle, not ready)."""

    id: str
    epoch: int
    state: str
    expires_in_s: float


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Heartbeat(NamedTuple):
    """A worker's state, sent every `freq` seconds, at each change of drain state, and once at exit.

    Celery's own fields first (type worker-heartbeat, worker-online, worker-offline); the rest travels in `celeriac`.

    incarnation   unique per process start: totals of two incarnations are never subtracted from each other.
    slots         tasks this worker can run at once; busy of them run; reserved are claimed and not started;
                  held wait in this worker for their time or a rate limit (only where the broker cannot keep them).
    state         running | draining | drained | stopping
    longest_running_s   age of the oldest running task, 0 when idle.
    commands      which of the operator's commands it heeds: "" plain ones (it reads no signed one), "signed" or "either".
    queue_waits   queue -> how many started messages waited how long since this process started: cumulative counts by bucket of
                  `WAIT_BUCKETS_S`, at most one more than there are bounds, zeros at the end left out. A queue that is not there
                  tells nothing of its waits.
    """

    hostname: str
    timestamp: float
    freq: float = 2.0
    active: int = 0
    processed: int = 0
    pid: int = 0
    clock: int = 0
    utcoffset: float = 0.0
    sw_ident: str = SW_IDENT
    sw_ver: str = ""
    sw_sys: str = ""
    loadavg: tuple[float, ...] = (0.0, 0.0, 0.0)
    # Ours.
    incarnation: str = ""
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    slots: int = 1
    busy: int = 0
    reserved: int = 0
    held: int = 0
    state: str = "running"
    longest_running_s: float = 0.0
    started_at: float = 0.0
    commands: str = ""
    queues: tuple[str, ...] = ()
    drain: DrainState | None = None
    queue_totals: Mapping[str, QueueTotals] = _NOTHING
    task_totals: Mapping[str, TaskTotals] = _NOTHING
    limits: tuple[RateLimit, ...] = ()
    queue_waits: Mapping[str, tuple[int, ...]] = _NOTHING

    @property
    def ours(self) -> bool:
        """Whether one of our workers sent it; a stock Celery worker leaves our fields at their defaults."""
        return bool(self.incarnation)


#: The plain fields: Celery's, then ours. A heartbeat begins with them, and Celery's are followed by its load.
_CELERY_FIELDS = Heartbeat._fields[: Heartbeat._fields.index("loadavg")]
_OWN_SCALARS = Heartbeat._fields[Heartbeat._fields.index("incarnation") : Heartbeat._fields.index("queues")]


def heartbeat_to_wire(beat: Heartbeat, kind: str = "worker-heartbeat") -> dict[str, Any]:
    """The event body as JSON types. kind: worker-heartbeat, worker-online or worker-offline."""
    own: dict[str, Any] = {name: getattr(beat, name) for name in _OWN_SCALARS}
    own["queues"] = list(beat.queues)
    own["drain"] = asdict(beat.drain) if beat.drain else None
    own["queue_totals"] = {name: totals._asdict() for name, totals in beat.queue_totals.items()}
    own["task_totals"] = {name: totals._asdict() for name, totals in beat.task_totals.items()}
    own["limits"] = [asdict(limit) for limit in beat.limits]
    own["queue_waits"] = {name: list(counts) for name, counts in beat.queue_waits.items()}
    body: dict[str, Any] = {name: getattr(beat, name) for name in _CELERY_FIELDS}
    return {"type": kind, **body, "loadavg": list(beat.loadavg), OWN_FIELDS: own}


class Glance(NamedTuple):
    """What of a heartbeat a listener must know at once. It travels in the message's headers under `OWN_FIELDS`, so that the
    body, which is all about totals, can be read later, or never when a newer one has come by then.

    kind   the event's type. mark: see `mark_of`.
    """

    kind: str
    incarnation: str
    timestamp: float
    mark: str


def glance_to_wire(beat: Heartbeat, kind: str = "worker-heartbeat") -> list[Any]:
    """The header of that heartbeat."""
    return [kind, beat.incarnation, beat.timestamp, mark_of(beat)]


def mark_of(beat: Heartbeat) -> str:
    """What a worker is up to, its drain included: equal in all heartbeats between two changes of that."""
    drain = beat.drain
    return f"{beat.state}/{drain.id}/{drain.epoch}/{drain.state}" if drain else beat.state


def glance_from_wire(header: object) -> Glance | None:
    """The glance in a message's header; None when there is none, or it is of a form that we do not know."""
    if not isinstance(header, list) or tuple(map(type, header)) != (str, str, float, str) or not header[1]:
        return None
    return Glance._make(header) if math.isfinite(header[2]) else None


def heartbeat_from_wire(body: Mapping[str, Any]) -> Heartbeat:
    """The heartbeat that `body` holds; unknown fields are passed over, missing ones take their defaults.

    Raises ValueError when hostname or timestamp is missing, a field has the wrong type, or a number is negative or not
    finite: anybody who may publish on the broker can send one, and whoever reads it computes with its numbers.
    """
    try:
        own = body.get(OWN_FIELDS) or {}
        drain = own.get("drain")
        rest: Any = (
            tuple([_text(name) for name in _list(own.get("queues"))]),
            DrainState(**_checked(_DRAIN, drain)) if drain else None,
            {_text(name): _totals(_QUEUE, totals) for name, totals in (own.get("queue_totals") or {}).items()},
            {_text(name): _totals(_TASK, totals) for name, totals in (own.get("task_totals") or {}).items()},
            tuple([RateLimit(**_checked(_LIMIT, limit)) for limit in _list(own.get("limits"))]),
            {_text(name): _waits(counts) for name, counts in (own.get("queue_waits") or {}).items()},
        )
        load = tuple([_number(value, float) for value in body.get("loadavg") or ()])
        theirs, ours = _plain(_CELERY, body), _plain(_OWN, own)
        if theirs and ours:
            return Heartbeat._make((*theirs, load, *ours, *rest))
        plain = {**_checked(_CELERY, body), **_checked(_OWN, own)}
        return Heartbeat(**plain, loadavg=load, **dict(zip(_PARTS, rest, strict=True)))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"not a worker heartbeat: {error!r:.200} in {dict(body)!r:.200}") from error


#: What is not plain, and ours.
_PARTS = Heartbeat._fields[-6:]

#: Numbers that may be below zero: a zone west of Greenwich, and a mark that ran out while its heartbeat was made.
_SIGNED = frozenset({"utcoffset", "expires_in_s"})


class _Shape(NamedTuple):
    """The plain fields of a class: their names and types, and how to take all of them, and those that count, out of what came."""

    cls: Callable[..., Any]
    kinds: Mapping[str, type]
    types: tuple[type, ...]
    every: Callable[[Mapping[str, Any]], Any]
    signed: Callable[[Mapping[str, Any]], Any] | None
    counts: Callable[[Mapping[str, Any]], Any]


def _shape(cls: type, names: Iterable[str] | None = None) -> _Shape:
    hints = get_type_hints(cls)
    kinds = {name: hints[name] for name in names or hints if hints[name] in (int, float, str)}
    signed = [name for name in kinds if name in _SIGNED]
    return _Shape(
        cls=cls,
        kinds=kinds,
        types=tuple(kinds.values()),
        every=itemgetter(*kinds),
        signed=itemgetter(*signed) if signed else None,
        counts=itemgetter(*(name for name, kind in kinds.items() if kind is not str and name not in _SIGNED)),
    )


_CELERY, _OWN = _shape(Heartbeat, _CELERY_FIELDS), _shape(Heartbeat, _OWN_SCALARS)
_QUEUE, _TASK, _LIMIT, _DRAIN = map(_shape, (QueueTotals, TaskTotals, RateLimit, DrainState))
#: A count beyond this is none: floats are exact up to here.
_MOST = 2**53
_BUCKETS = len(WAIT_BUCKETS_S) + 1
_INT = {int}


def _plain(shape: _Shape, values: Mapping[str, Any]) -> Any:
    """All fields of the shape in order when they are there and as they should be, which is nearly always so; else None.

    Three hundred times a second, hence without a loop of our own: a sum is not finite when one of its parts is not.
    """
    try:
        found = shape.every(values)
    except KeyError:
        return None
    if tuple(map(type, found)) != shape.types or (shape.signed and not math.isfinite(shape.signed(values))):
        return None
    counts = shape.counts(values)
    return found if min(counts) >= 0 and sum(counts) <= _MOST else None


def _totals(shape: _Shape, values: Mapping[str, Any]) -> Any:
    """Totals of the fields that we know: a newer worker may send more than an older operator reads."""
    found = _plain(shape, values)
    return shape.cls(**_checked(shape, values)) if found is None else shape.cls(*found)


def _waits(counts: Any) -> tuple[int, ...]:
    """Counts by bucket of `WAIT_BUCKETS_S`."""
    if (
        type(counts) is list
        and len(counts) <= _BUCKETS
        and {*map(type, counts)} == _INT
        and min(counts) >= 0
        and sum(counts) <= _MOST
    ):
        return tuple(counts)  # nearly all
    found = tuple([_number(count, int) for count in _list(counts)])
    if len(found) > _BUCKETS:
        raise ValueError(f"{len(found)} counts of waits, and there are {_BUCKETS} buckets")
    return found


def _checked(shape: _Shape, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the shape's fields that are there, each of its type."""
    found = {}
    for name, kind in shape.kinds.items():
        if name in values:
            value = values[name]
            try:
                found[name] = _text(value) if kind is str else _number(value, kind, signed=name in _SIGNED)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} is {value!r:.50}: {error}") from error
    return found


def _number(value: Any, kind: Any, *, signed: bool = False) -> Any:
    if type(value) is kind and 0 <= value <= _MOST:  # nearly all
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    if not math.isfinite(value) or (value < 0 and not signed):
        raise ValueError("negative or not finite")
    if abs(value) > _MOST:
        raise ValueError("larger than anything that was counted")
    return kind(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is not text")
    return value


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.50} is not a list")
    return list(value)
