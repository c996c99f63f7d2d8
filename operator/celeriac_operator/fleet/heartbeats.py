"""What the workers of one broker do and have done, from their heartbeats: who lives, and totals that never decrease.

Workers send cumulative totals, so a lost heartbeat loses nothing. This module turns them into increments: each process
(incarnation) is subtracted from itself alone, what is gone keeps its share, and a restarted operator counts from where
it found the workers. `Fleet` does no I/O and reads no clock; `fleet.ears` feeds it.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import add, sub
from typing import Any, NamedTuple, TypeVar

from celeriac.broker.eventbus import Unread, event_of
from celeriac.wire.event import WAIT_BUCKETS_S, Heartbeat, QueueTotals, TaskTotals, heartbeat_from_wire, mark_of

log = logging.getLogger("celeriac_operator.fleet")

#: Heartbeats that may be missed before a worker counts as gone.
MISSED_HEARTBEATS = 3
#: Seconds added to that, so that one slow delivery of the third heartbeat is not a death.
SLACK_S = 1.0
#: No worker counts as alive for longer than if it sent a heartbeat each minute, whatever it says of itself.
SLOWEST_S = 60.0
#: Seconds by which a heartbeat may be older than the newest and count as overtaken on the way. One that is older than that comes
#: from a node whose clock was set back.
OVERTAKEN_S = 10.0
#: Seconds an incarnation without an owner is waited for before its totals are counted under no pool: its pod may not
#: be indexed yet.
OWNER_WAIT_S = 15.0
#: Seconds a gone incarnation is remembered, so that one that was only frozen is not counted twice when it returns.
REMEMBERED_S = 3600.0


#: (namespace, name) of a pool.
Owner = tuple[str, str]
#: What workers that belong to no pool are counted under.
NOBODY: Owner = ("", "")

Totals = TypeVar("Totals", QueueTotals, TaskTotals)


class Worker(NamedTuple):
    """One worker process as last heard. (A tuple: thousands are made for each look at a fleet.)

    heard_at, first_heard_at   epoch seconds by the operator's clock; the worker's own clock may be wrong.
    started_at                 when it started, by the operator's clock: from how long it says it has been up.
    born                       it started while we listened: its first heartbeat ends a cold start.
    gone                       it said good-bye (offline), or missed too many heartbeats.
    """

    id: str
    beat: Heartbeat
    heard_at: float
    first_heard_at: float
    started_at: float
    born: bool
    gone: bool
    offline: bool = False
    owner: Owner | None = None


@dataclass(slots=True, kw_only=True)
class _Incarnation:
    """beat was heard at read_at; unread, if there is one, is the JSON of one that came after it, at heard_at. told_at: when the newest was sent."""

    beat: Heartbeat
    heard_at: float
    first_heard_at: float
    born: bool
    mark: str
    read_at: float
    told_at: float
    unread: bytes | None = None
    offline: bool = False
    malformed: bool = False
    owner: Owner | None = None
    # What has been counted already: by queue at once, by owner when the owner is known.
    queues: dict[str, QueueTotals] = field(default_factory=dict)
    tasks: dict[str, TaskTotals] = field(default_factory=dict)
    owned_queues: dict[str, QueueTotals] = field(default_factory=dict)
    owned_tasks: dict[str, TaskTotals] = field(default_factory=dict)
    waits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)  # of a stock worker's runs, by the event that told it


#: Events of runs that did not succeed. (What succeeded is what is left of those that were started.)
_UNHAPPY_ENDS = frozenset({"task-failed", "task-retried"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTotals:
    """Sums over every incarnation ever heard, gone ones included, since this operator started. They only grow.

    by_queue             all workers of a queue, whoever they belong to.
    owned, owned_tasks   split by pool, `NOBODY` for workers of none.
    waits                by queue, counts of waits by bucket of `WAIT_BUCKETS_S`: of the workers that tell them.
    """

    by_queue: Mapping[str, QueueTotals]
    owned: Mapping[tuple[Owner, str], QueueTotals]
    owned_tasks: Mapping[tuple[Owner, str, str], TaskTotals]
    waits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Fleet:
    """The registry of incarnations. Every method may be called from any thread; `now` is in epoch seconds."""

    def __init__(self, *, started_at: float) -> None:
        self.started_at = started_at
        self._lock = threading.Lock()
        self._incarnations: dict[str, _Incarnation] = {}
        self._by_queue: dict[str, QueueTotals] = {}
        self._waits: dict[str, list[int]] = {}
        self._owned: dict[tuple[Owner, str], QueueTotals] = {}
        self._owned_tasks: dict[tuple[Owner, str, str], TaskTotals] = {}
        self._silent: frozenset[str] = frozenset()
        self._turn = 0

    def hear(self, event: Mapping[str, Any] | Unread, now: float) -> bool:
        """Take in one event; True when a worker came, went, or changed its drain state: worth a tick before its time.

        Of task events only the ends of runs in stock Celery workers are counted (`-E`): ours tell them in their heartbeats.
        Raises ValueError for a worker event that is malformed; one that is kept unread is read when somebody asks.
        """
        if isinstance(event, Unread):
            if self._kept(event, now):
                return False
            body: Mapping[str, Any] = event.body()
        else:
            body = event
        kind = body.get("type")
        if kind in _UNHAPPY_ENDS:
            self._hear_end(body, str(kind))
            return False
        if kind not in ("worker-heartbeat", "worker-online", "worker-offline"):
            return False
        beat = heartbeat_from_wire(body)
        with self._lock:
            known = self._incarnations.get(identity(beat))
            if known is None:
                known = self._first_sight(beat, now)
                changed = True
            else:
                if _overtaken(beat.timestamp, known):
                    return False  # the newer one has told it all
                if not beat.ours:
                    beat = _stock(beat, known)
                mark = mark_of(beat)
                changed = known.offline or known.mark != mark
                known.beat, known.mark, known.unread = beat, mark, None
                known.heard_at, known.read_at, known.told_at = now, now, beat.timestamp
            known.offline = kind == "worker-offline"
            changed = changed or known.offline
            self._turn += changed
            return changed

    def _kept(self, unread: Unread, now: float) -> bool:
        """Keep a heartbeat for when it is asked for, where its header tells that nothing has changed but figures.

        Some hundred come every second, and a pool at rest is looked at twice a minute.
        """
        glance = unread.glance
        with self._lock:
            known = self._incarnations.get(glance.incarnation)
            if known is None or known.offline or glance.kind != "worker-heartbeat" or known.mark != glance.mark:
                return False
            if not _overtaken(glance.timestamp, known):
                known.unread, known.heard_at, known.told_at = unread.text, now, glance.timestamp
            return True

    def _read(self, seen: _Incarnation) -> Heartbeat:
        """The newest heartbeat of an incarnation. One that cannot be read counts as a sign of life and no more."""
        unread, seen.unread = seen.unread, None
        if unread is not None:
            try:
                beat = heartbeat_from_wire(event_of(unread))
            except ValueError as error:
                if not seen.malformed:  # once each: it will send the next one in two seconds
                    log.warning("malformed heartbeats of %s are passed over: %s", seen.beat.hostname, error)
                seen.malformed = True
            else:
                seen.beat, seen.read_at = beat, seen.heard_at
        return seen.beat

    def _hear_end(self, body: Mapping[str, Any], kind: str) -> None:
        with self._lock:
            seen = self._incarnations.get(f"{body.get('hostname')}#{body.get('pid')}")
            if seen is not None and not seen.beat.ours:
                seen.ends[kind] = seen.ends.get(kind, 0) + 1

    def _first_sight(self, beat: Heartbeat, now: float) -> _Incarnation:
        # A worker that has been up for longer than we listen was counted by our predecessor, or by nobody: its totals
        # so far are the baseline. Both durations are by one clock each, so that clocks need not agree.
        born = beat.started_at > 0 and beat.timestamp - beat.started_at < now - self.started_at
        seen = _Incarnation(
            beat=beat,
            heard_at=now,
            first_heard_at=now,
            born=born,
            mark=mark_of(beat),
            read_at=now,
            told_at=beat.timestamp,
        )
        if not beat.ours:
            seen.beat = _stock(beat, None)
        if not born:
            seen.queues = dict(seen.beat.queue_totals)
            seen.tasks = dict(seen.beat.task_totals)
            seen.owned_queues = dict(seen.queues)
            seen.owned_tasks = dict(seen.tasks)
            seen.waits = seen.beat.queue_waits
        self._incarnations[identity(beat)] = seen
        return seen

    def _count(self, seen: _Incarnation) -> None:
        for queue, totals in self._read(seen).queue_totals.items():
            before = seen.queues.get(queue)
            if totals is not before and totals != before:
                self._by_queue[queue], seen.queues[queue] = _counted(self._by_queue.get(queue), totals, before)
        told, known = seen.beat.queue_waits, seen.waits
        if told is not known:
            # The heartbeat's own, without a copy; a queue that is not told of any more keeps what was counted of it.
            seen.waits = told if known.keys() <= told.keys() else {**known, **told}
            for queue, counts in told.items():
                self._add_waits(queue, counts, known.get(queue, ()))

    def _add_waits(self, queue: str, counts: tuple[int, ...], before: tuple[int, ...]) -> None:
        if counts == before:
            return
        sums = self._waits.setdefault(queue, [0] * (len(WAIT_BUCKETS_S) + 1))
        for bucket, (now, then) in enumerate(zip_longest(counts, before, fillvalue=0)):
            if now > then:
                sums[bucket] += now - then

    def own(self, incarnation: str, owner: Owner, queues: tuple[str, ...] = ()) -> None:
        """Say whose worker this is. queues: what its pool consumes, as stock Celery's heartbeats name none."""
        with self._lock:
            seen = self._incarnations.get(incarnation)
            if seen is None:
                return
            seen.owner = owner
            if not seen.beat.ours and not seen.beat.queues:
                seen.beat = seen.beat._replace(queues=queues)

    def attend(self, now: float) -> int:
        """How often a worker has come, gone, returned or changed its drain state: while it stays, all do what they did."""
        with self._lock:
            gone = frozenset(id_ for id_, seen in self._incarnations.items() if _gone(seen, now))
            if gone != self._silent:
                self._silent = gone
                self._turn += 1
            return self._turn

    def settle(self, now: float, *, strangers: bool = True) -> None:
        """Count what has grown to its owner, and forget who has been gone for long. Called at each tick, after `own`.

        strangers   whether those without an owner count as nobody's by now; not at a scrape, which may come before a new one was owned.
        """
        with self._lock:
            for id_, seen in list(self._incarnations.items()):
                gone = _gone(seen, now)
                if seen.owner is not None or (strangers and (gone or now - seen.first_heard_at > OWNER_WAIT_S)):
                    self._credit(seen, seen.owner or NOBODY)
                if strangers and gone and now - seen.heard_at > REMEMBERED_S:
                    self._count(seen)
                    del self._incarnations[id_]

    def _credit(self, seen: _Incarnation, owner: Owner) -> None:
        for queue, totals in self._read(seen).queue_totals.items():
            at, before = (owner, queue), seen.owned_queues.get(queue)
            if totals != before or at not in self._owned:
                self._owned[at], seen.owned_queues[queue] = _counted(self._owned.get(at), totals, before)
        for task, counts in seen.beat.task_totals.items():
            task_at, counted = (owner, counts.queue, task), seen.owned_tasks.get(task)
            if counts != counted or task_at not in self._owned_tasks:
                known = self._owned_tasks.get(task_at)
                self._owned_tasks[task_at], seen.owned_tasks[task] = _counted(known, counts, counted)

    def workers(self, now: float) -> list[Worker]:
        """Everybody remembered, the gone included."""
        with self._lock:
            return [
                Worker(
                    id=id_,
                    beat=self._read(seen),
                    heard_at=seen.heard_at,
                    first_heard_at=seen.first_heard_at,
                    started_at=_started_at(seen),
                    born=seen.born,
                    gone=_gone(seen, now),
                    offline=seen.offline,
                    owner=seen.owner,
                )
                for id_, seen in self._incarnations.items()
            ]

    def totals(self, *, count: bool = True) -> FleetTotals:
        """A copy of the sums. Those by queue are up to the last heartbeat, those by owner up to the last `settle`.

        count   whether to count by queue now; else those, which a scrape does not tell, are as they were when they were last counted.
        """
        with self._lock:
            if count:
                for seen in self._incarnations.values():
                    self._count(seen)
            return FleetTotals(
                by_queue=dict(self._by_queue),
                owned=dict(self._owned),
                owned_tasks=dict(self._owned_tasks),
                waits={queue: tuple(sums) for queue, sums in self._waits.items()},
            )

    def drop(self, owners: set[Owner]) -> None:
        """Forget the totals of pools that exist no more."""
        with self._lock:
            for at in [at for at in self._owned if at[0] in owners]:
                del self._owned[at]
            for task_at in [at for at in self._owned_tasks if at[0] in owners]:
                del self._owned_tasks[task_at]
            for seen in self._incarnations.values():
                if seen.owner in owners:
                    seen.owner = None


def identity(beat: Heartbeat) -> str:
    """What tells one process from the next: its incarnation, or for a stock Celery worker its node name and pid."""
    return beat.incarnation or f"{beat.hostname}#{beat.pid}"


def _overtaken(sent_at: float, known: _Incarnation) -> bool:
    return known.told_at - OVERTAKEN_S <= sent_at < known.told_at


def _gone(seen: _Incarnation, now: float) -> bool:
    return seen.offline or now - seen.heard_at > MISSED_HEARTBEATS * min(max(seen.beat.freq, 1.0), SLOWEST_S) + SLACK_S


def _started_at(seen: _Incarnation) -> float:
    up_s = seen.beat.timestamp - seen.beat.started_at if seen.beat.started_at > 0 else 0.0
    return min(seen.first_heard_at, seen.read_at - max(0.0, up_s))


def _stock(beat: Heartbeat, before: _Incarnation | None) -> Heartbeat:
    """A stock Celery heartbeat with what it tells: `processed` counts starts, `active` over time is run time.

    It names no queue, so the totals go to the one queue its pool consumes, and nowhere when there are several. Failures and
    retries are those that its task events told (`-E`), if it sends any.
    """
    queues = before.beat.queues if before else ()
    filled = beat._replace(busy=beat.active, queues=queues)
    if len(queues) != 1 or before is None:
        return filled
    last = before.beat.queue_totals.get(queues[0], QueueTotals(started=before.beat.processed))
    passed_s = max(0.0, beat.timestamp - before.beat.timestamp)
    started = max(beat.processed, last.started)
    failed, retried = before.ends.get("task-failed", 0), before.ends.get("task-retried", 0)
    totals = QueueTotals(
        received=started + beat.active,
        started=started,
        succeeded=max(started - beat.active - failed - retried, last.succeeded),
        failed=failed,
        retried=retried,
        busy_s=last.busy_s + passed_s * (before.beat.busy + beat.active) / 2,
    )
    if not before.beat.queue_totals:
        before.queues[queues[0]] = before.owned_queues[queues[0]] = totals._replace(
            started=last.started,
            succeeded=max(0, last.started - before.beat.busy),
            busy_s=0.0,
            failed=0,
            retried=0,
        )
    return filled._replace(queue_totals={queues[0]: totals})


def _counted(known: Totals | None, now: Totals, before: Totals | None) -> tuple[Totals, Totals]:
    """(known + what has grown from `before` to `now`, the most that was seen): field by field, never below zero.

    Called for every heartbeat, some hundred times a second: hence the tuples.
    """
    skipped = 0 if isinstance(now, QueueTotals) else 1  # a task's first field is its queue
    new: tuple[Any, ...] = now[skipped:]
    grown, most = new, now
    if before is not None:
        old: tuple[Any, ...] = before[skipped:]
        grown = tuple(map(sub, new, old))
        if min(grown) < 0:  # out of order, or a counter that lost something
            grown = tuple(max(0, each) for each in grown)
            most = _made(now, skipped, map(max, new, old))
    if known is None:
        return _made(now, skipped, grown), most
    return _made(known, skipped, map(add, known[skipped:], grown)), most


def _made(like: Totals, skipped: int, numbers: Iterable[Any]) -> Totals:
    """Totals like these from their field `skipped` on with other numbers."""
    values: tuple[Any, ...] = (*like[:skipped], *numbers)
    return type(like)(*values)
