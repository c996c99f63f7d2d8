"""Celery events as values: the bodies of `task-*` and `worker-*`, and the heartbeat that the operator reads.

The envelope (exchange `celeryev`, routing key = type with dots, task events batched as lists on `task.multi`) is the
broker's affair. Source: celery/events of 5.7, measured in research/celery.md 3C.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

EXCHANGE = "celeryev"
SW_IDENT = "py-celeriac"

#: The one key of a worker event under which our own fields travel, so that they can never collide with Celery's.
OWN_FIELDS = "celeriac"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTotals:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTotals:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A worker's state, sent every `freq` seconds, at each change of drain state, and once at exit.

    Celery's own fields first (type worker-heartbeat, worker-online, worker-offline); the rest travels in `celeriac`.

    incarnation   unique per process start: totals of two incarnations are never subtracted from each other.
    slots         tasks this worker can run at once; busy of them run; reserved are claimed and not started;
                  held wait in this worker for their time or a rate limit (only where the broker cannot keep them).
    state         running | draining | drained | stopping
    longest_running_s   age of the oldest running task, 0 when idle.
    """

    hostname: str
    timestamp: float
    freq: float = 2.0
    active: int = 0
    processed: int = 0
    loadavg: tuple[float, ...] = (0.0, 0.0, 0.0)
    pid: int = 0
    clock: int = 0
    utcoffset: float = 0.0
    sw_ident: str = SW_IDENT
    sw_ver: str = ""
    sw_sys: str = ""
    # Ours.
    incarnation: str = ""
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    slots: int = 1
    busy: int = 0
    reserved: int = 0
    held: int = 0
    queues: tuple[str, ...] = ()
    state: str = "running"
    drain: DrainState | None = None
    longest_running_s: float = 0.0
    started_at: float = 0.0
    queue_totals: Mapping[str, QueueTotals] = field(default_factory=dict)
    task_totals: Mapping[str, TaskTotals] = field(default_factory=dict)
    limits: tuple[RateLimit, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether one of our workers sent it; a stock Celery worker leaves our fields at their defaults."""
        return bool(self.incarnation)


_CELERY_FIELDS = (
    "hostname", "timestamp", "freq", "active", "processed", "pid", "clock", "utcoffset", "sw_ident", "sw_ver", "sw_sys",
)  # fmt: skip
_OWN_SCALARS = (
    "incarnation", "namespace", "pod", "pod_uid", "slots", "busy", "reserved", "held", "state", "longest_running_s",
    "started_at",
)  # fmt: skip


def heartbeat_to_wire(beat: Heartbeat, kind: str = "worker-heartbeat") -> dict[str, Any]:
    """The event body as JSON types. kind: worker-heartbeat, worker-online or worker-offline."""
    own: dict[str, Any] = {name: getattr(beat, name) for name in _OWN_SCALARS}
    own["queues"] = list(beat.queues)
    own["drain"] = asdict(beat.drain) if beat.drain else None
    own["queue_totals"] = {name: asdict(totals) for name, totals in beat.queue_totals.items()}
    own["task_totals"] = {name: asdict(totals) for name, totals in beat.task_totals.items()}
    own["limits"] = [asdict(limit) for limit in beat.limits]
    body: dict[str, Any] = {name: getattr(beat, name) for name in _CELERY_FIELDS}
    return {"type": kind, **body, "loadavg": list(beat.loadavg), OWN_FIELDS: own}


def heartbeat_from_wire(body: Mapping[str, Any]) -> Heartbeat:
    """The heartbeat that `body` holds; unknown fields are passed over, missing ones take their defaults.

    Raises ValueError when hostname or timestamp is missing, a field has the wrong type, or a number is negative or not
    finite: anybody who may publish on the broker can send one, and whoever reads it computes with its numbers.
    """
    try:
        own = body.get(OWN_FIELDS) or {}
        drain = own.get("drain")
        return Heartbeat(
            **_checked(Heartbeat, body, _CELERY_FIELDS),
            **_checked(Heartbeat, own, _OWN_SCALARS),
            loadavg=tuple(_number(value, float) for value in body.get("loadavg") or ()),
            queues=tuple(_text(name) for name in _list(own.get("queues"))),
            drain=_part(DrainState, drain) if drain else None,
            queue_totals={_text(n): _part(QueueTotals, t) for n, t in (own.get("queue_totals") or {}).items()},
            task_totals={_text(n): _part(TaskTotals, t) for n, t in (own.get("task_totals") or {}).items()},
            limits=tuple(_part(RateLimit, limit) for limit in _list(own.get("limits"))),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"not a worker heartbeat: {error!r:.200} in {dict(body)!r:.200}") from error


_KINDS: Mapping[type, Mapping[str, Any]] = {
    cls: {each.name: each.type for each in fields(cls) if each.type in (int, float, str)}
    for cls in (Heartbeat, QueueTotals, TaskTotals, RateLimit, DrainState)
}
#: A count beyond this is none: floats are exact up to here.
_MOST = 2**53
#: Numbers that may be below zero: a zone west of Greenwich, and a mark that ran out while its heartbeat was made.
_SIGNED = frozenset({"utcoffset", "expires_in_s"})


def _part(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A value of `cls`, of the fields that it knows: a newer worker may send more than an older operator reads."""
    return cls(**_checked(cls, values, _KINDS[cls]))


def _checked(cls: type, values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of `names` that are there, each of the type that `cls` says."""
    kinds, found = _KINDS[cls], {}
    for name in names:
        if name in values:
            try:
                kind, value = kinds[name], values[name]
                found[name] = _text(value) if kind is str else _number(value, kind, signed=name in _SIGNED)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} is {values[name]!r:.50}: {error}") from error
    return found


def _number(value: Any, kind: type, *, signed: bool = False) -> Any:
    if type(value) is kind is int and 0 <= value <= _MOST:  # nearly all: counts
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    if not math.isfinite(value) or (value < 0 and not signed):
        raise ValueError("negative or not finite")
    return kind(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is not text")
    return value


def _list(value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.50} is not a list")
    return list(value or ())
