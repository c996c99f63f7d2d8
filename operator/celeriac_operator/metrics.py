"""The operator's own metrics: what the last decisions said, and queues and totals as they are at the scrape.

Names, labels and buckets are the project's set (research 5.6 in the docs): `celeriac_pool_*`, `celeriac_queue_*`,
`celeriac_broker_*`, `celeriac_operator_*`, and the fleet's totals as `celeriac_fleet_*`, which survive scale-in and are
never to be added to the `celeriac_*` counters that workers serve themselves. No label holds a pod or a URL.

What is told of pools, queues and the fleet is told by the replica that leads, or sums over replicas would be double.
"""

import logging
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add
from typing import Protocol

from celeriac.telemetry.exposition import Family, Labels, labelled, single
from celeriac.wire.event import Heartbeat, QueueTotals, TaskTotals
from celeriac_operator import clock
from celeriac_operator.resources.states import PASSING_FAULTS
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals

log = logging.getLogger("celeriac_operator.metrics")

#: (namespace, name) of a pool.
Key = tuple[str, str]

#: Seconds from a pod's creation to its first heartbeat.
COLD_START_BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 600.0)
#: Seconds from the mark to the end of a drain: as long as a task may take.
DRAIN_BUCKETS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)
#: Seconds of one round trip, or of one tick.
TRIP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

#: Every reason that `pool_limited_by` shows as 0 or 1; a reason beyond these is shown while it holds.
LIMITS = (
    "none", "max", "min", "work", "rate_limit", "step", "schedule", "signal", "paused", "dry_run", "pending_pods",
    "override", "conflict", "drain", "stabilization", "deadband", "rollout", "startup", "failing",
    "conflict_unknown",
)  # fmt: skip
#: Conditions that tell of something wrong while they are True, and those that do while they are not. `Ready` is always shown.
WRONG_IF_TRUE = frozenset({
    "Stalled", "Conflict", "AtLimit", "RateLimited", "RateLimitsDiffer", "RateLimitsNotKept", "CommandsNotHeeded",
    "ScaleUpBlocked", "FallbackActive", "GraceTooShort", "EvictionBlocked", "ReplicasContested",
})  # fmt: skip
WRONG_IF_FALSE = frozenset({"BrokerReachable", "SignalsComplete", "ScalingActive"})
#: Why a pool is not ready that is served, and that no tick has come to yet.
UNDECIDED = "NotDecidedYet"
#: Demand terms that are always shown.
TERMS = ("steady", "headroom", "backlog", "eta")
#: What is told of runs, by task where workers tell of tasks.
RUN_STATES = ("started", "succeeded", "failed", "retried")

_NO_DEMAND = dict.fromkeys(TERMS, 0.0)
_NOT_LIMITED = dict.fromkeys(LIMITS, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReading:
    """One pool's last tick. objective_s: what its objective promises. at: epoch seconds of the decision.

    broker             the name of its loop: see `OperatorMetrics.broker_serves`.
    queue_objectives   queue -> (objective, seconds), where a queue may have one of its own.
    """

    broker: str
    signals: Signals
    decision: Decision
    min_replicas: int
    max_replicas: int
    objective: str
    objective_s: float
    at: float
    queue_objectives: Mapping[str, tuple[str, float]] = field(default_factory=dict)


class HeardWorker(Protocol):
    """What a page may tell of a `fleet.heartbeats.Worker`, which lies beside this floor."""

    @property
    def beat(self) -> Heartbeat: ...
    @property
    def heard_at(self) -> float: ...
    @property
    def gone(self) -> bool: ...
    @property
    def owner(self) -> Key | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReading:
    """One broker's queues, and its fleet's totals by pool. Pools are (namespace, name), ("", "") for workers of no pool.

    samples   queue -> what it holds, as of the last probe.
    workers   those that are remembered, the gone included.
    """

    samples: Mapping[str, QueueSample] = field(default_factory=dict)
    queues: Mapping[tuple[Key, str], QueueTotals] = field(default_factory=dict)
    tasks: Mapping[tuple[Key, str, str], TaskTotals] = field(default_factory=dict)
    workers: Sequence[HeardWorker] = ()


#: Makes more families of the readings of pools and brokers.
Also = Callable[[Mapping[Key, PoolReading], Mapping[str, BrokerReading]], Iterable[Family]]


class _Histogram:
    """Counts by bucket, the last one beyond all bounds, and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> "_Histogram":
        found = _Histogram(self.bounds)
        found.counts, found.sum = self.counts.copy(), self.sum
        return found


@dataclass(slots=True)
class _PoolCounts:
    """What is counted over a pool's life, kept while the pool exists."""

    scale_actions: dict[tuple[str, str], int] = field(default_factory=dict)
    drains: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("idle", "undrained", "timed_out", "lost"), 0))
    drain_s: _Histogram = field(default_factory=lambda: _Histogram(DRAIN_BUCKETS_S))
    cold_start_s: _Histogram = field(default_factory=lambda: _Histogram(COLD_START_BUCKETS_S))
    busy_slot_s: float = 0.0
    idle_slot_s: float = 0.0


@dataclass(slots=True)
class _BrokerCounts:
    up: bool = False
    errors: int = 0
    probe_s: _Histogram = field(default_factory=lambda: _Histogram(TRIP_BUCKETS_S))
    tick_s: _Histogram = field(default_factory=lambda: _Histogram(TRIP_BUCKETS_S))
    read: Callable[[], BrokerReading] = BrokerReading

    def copy(self) -> "_BrokerCounts":
        return _BrokerCounts(self.up, self.errors, self.probe_s.copy(), self.tick_s.copy(), self.read)


class OperatorMetrics:
    """What the loop tells, until the next scrape asks. Every method may be called from any thread.

    also   what else the replica that leads tells, of the same readings: see `celery_exporter`.
    """

    def __init__(self, *, version: str, also: Also | None = None) -> None:
        self._version, self._also = version, also
        self._lock = threading.Lock()
        self._readings: dict[Key, PoolReading] = {}
        self._faults: dict[Key, str] = {}
        self._pools: defaultdict[Key, _PoolCounts] = defaultdict(_PoolCounts)
        self._brokers: dict[str, _BrokerCounts] = {}
        self._errors: dict[str, int] = {}
        self._leader = False
        self._index_known_at: float | None = None
        self._missed = 0
        self._signs_until: float | None = None

    # -- what the loop tells

    def pool_decided(self, pool: Key, reading: PoolReading) -> None:
        with self._lock:
            counts = self._pools[pool]
            last = self._readings.get(pool)
            if last is not None:
                passed_s = max(0.0, reading.at - last.at)
                slots, busy = _slots(last.signals.pods)
                counts.busy_slot_s += busy * passed_s
                counts.idle_slot_s += max(0, slots - busy) * passed_s
            self._readings[pool] = reading
            self._faults.pop(pool, None)

    def pool_served(self, pool: Key) -> None:
        """A broker's loop has the pool. Until that decides it, it is told as not ready."""
        with self._lock:
            if pool not in self._readings:
                self._faults[pool] = UNDECIDED

    def pool_fault(self, pool: Key, reason: str) -> None:
        """Nobody can serve the pool, for this reason (CamelCase). What was last decided of it is told no longer."""
        with self._lock:
            self._readings.pop(pool, None)
            self._faults[pool] = reason

    def pool_scaled(self, pool: Key, *, direction: str, reason: str) -> None:
        with self._lock:
            actions = self._pools[pool].scale_actions
            actions[direction, reason] = actions.get((direction, reason), 0) + 1

    def pool_drain_ended(self, pool: Key, *, outcome: str, took_s: float) -> None:
        """outcome: idle (finished and removed), undrained, timed_out, lost (its pod went before it was idle)."""
        with self._lock:
            counts = self._pools[pool]
            counts.drains[outcome] = counts.drains.get(outcome, 0) + 1
            counts.drain_s.observe(took_s)

    def pool_pod_started(self, pool: Key, *, cold_start_s: float) -> None:
        with self._lock:
            self._pools[pool].cold_start_s.observe(cold_start_s)

    def pool_gone(self, pool: Key) -> None:
        with self._lock:
            self._readings.pop(pool, None)
            self._faults.pop(pool, None)
            self._pools.pop(pool, None)

    def broker_probed(self, broker: str, *, took_s: float) -> None:
        with self._lock:
            if counts := self._brokers.get(broker):
                counts.up = True
                counts.probe_s.observe(took_s)

    def broker_failed(self, broker: str) -> None:
        with self._lock:
            if counts := self._brokers.get(broker):
                counts.up = False
                counts.errors += 1

    def broker_ticked(self, broker: str, *, took_s: float) -> None:
        with self._lock:
            if counts := self._brokers.get(broker):
                counts.tick_s.observe(took_s)

    def broker_serves(self, broker: str, read: Callable[[], BrokerReading]) -> None:
        """From now on, until `broker_gone`, this broker is told of; `read` tells at each scrape, in the scrape's thread, what its queues
        and fleet came to.
        """
        with self._lock:
            self._brokers.setdefault(broker, _BrokerCounts()).read = read

    def broker_gone(self, broker: str) -> None:
        with self._lock:
            self._brokers.pop(broker, None)

    def error(self, kind: str) -> None:
        """Count an error of reconciling: the exception's class name."""
        with self._lock:
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def leads(self, leader: bool) -> None:
        with self._lock:
            self._leader = leader

    def signs_until(self, at: float) -> None:
        """The certificate that commands are signed with expires at this time (epoch seconds)."""
        with self._lock:
            self._signs_until = at

    def index_known(self, at: float, *, missed: int) -> None:
        """When the index was last known to be as the cluster is (epoch seconds): by a watch's event, or a comparison.

        missed   changes so far that no watch had told of, and a comparison found.
        """
        with self._lock:
            self._index_known_at, self._missed = at, missed

    # -- what a scrape gets

    def families(self) -> Iterator[Family]:
        """What /metrics tells, one after the other, so that the whole page is never in memory. What is told meanwhile does not wait."""
        with self._lock:
            readers = {broker: counts.read for broker, counts in self._brokers.items()} if self._leader else {}
        read_fleets: dict[str, BrokerReading] = {}
        for broker, read in readers.items():
            try:
                read_fleets[broker] = read()
            except Exception:  # one broker must not take the page from the others
                self.error("bug")
                log.exception("broker %s cannot be told of: this is a bug in the operator, please report it", broker)
        fleets = _told_once(read_fleets)
        with self._lock:
            leader = self._leader
            brokers = {broker: counts.copy() for broker, counts in self._brokers.items()}
            itself = list(self._of_operator())
            readings, faults = dict(self._readings), dict(self._faults)
        yield from _of_brokers(brokers)
        yield from itself
        if leader:
            yield from _of_pools(readings)
            yield _of_conditions(readings, faults)
            yield from self._of_pool_lives()
            yield from _of_queues(readings, fleets)
            yield from _of_limits(readings)
            yield from _of_fleet(fleets)
            if self._also is not None:
                yield from self._also(readings, fleets)

    def _of_pool_lives(self) -> Iterator[Family]:
        labels = Labels("namespace", "pool")
        actions = Family(
            "celeriac_pool_scale_actions",
            "counter",
            "Times that another number of replicas was written, by the guard that had the last word.",
            labels.and_("direction", "reason"),
        )
        drains = Family("celeriac_pool_drains", "counter", "Drains that ended, by outcome.", labels.and_("outcome"))
        drain_s = Family(
            "celeriac_pool_drain_seconds",
            "histogram",
            "Seconds from the mark on a pod to the end of its drain.",
            labels,
            bounds=DRAIN_BUCKETS_S,
        )
        cold = Family(
            "celeriac_pool_cold_start_seconds",
            "histogram",
            "Seconds from a pod's creation to its first heartbeat.",
            labels,
            bounds=COLD_START_BUCKETS_S,
        )
        busy = Family("celeriac_pool_busy_slot_seconds", "counter", "Slot-seconds in which a task ran.", labels)
        idle = Family(
            "celeriac_pool_idle_slot_seconds", "counter", "Slot-seconds of ready workers in which no task ran.", labels
        )
        with self._lock:
            pools = list(self._pools)
        for pool in pools:
            with self._lock:  # for each pool anew: the loop, which counts, does not wait for all of them
                if counts := self._pools.get(pool):
                    for (direction, reason), count in counts.scale_actions.items():
                        actions.add((*pool, direction, reason), count)
                    drains.add_each(pool, counts.drains)
                    drain_s.add_histogram(pool, counts.drain_s.counts, counts.drain_s.sum)
                    cold.add_histogram(pool, counts.cold_start_s.counts, counts.cold_start_s.sum)
                    busy.add(pool, counts.busy_slot_s)
                    idle.add(pool, counts.idle_slot_s)
        yield from (actions, drains, drain_s, cold, busy, idle)

    def _of_operator(self) -> Iterator[Family]:
        build = Family("celeriac_build", "info", "What is running.", Labels("component", "version"))
        build.add(("operator", self._version), 1.0)
        yield build
        yield single("celeriac_operator_leader", "gauge", "1 when this replica acts.", float(self._leader))
        yield labelled(
            "celeriac_operator_reconcile_errors", "counter", "Errors that a tick met, by class.", "error", self._errors
        )
        if self._signs_until is not None:
            yield single(
                "celeriac_operator_signing_certificate_expiry_timestamp_seconds",
                "gauge",
                "When the certificate expires that commands are signed with.",
                self._signs_until,
            )
        if self._index_known_at is not None:
            yield single(
                "celeriac_operator_watch_last_event_timestamp_seconds",
                "gauge",
                "When the cluster was last known to be as the operator sees it: by a watch, or by a comparison.",
                self._index_known_at,
            )
            yield single(
                "celeriac_operator_watch_missed_changes",
                "counter",
                "Changes that no watch told of, and that a comparison with the cluster found.",
                self._missed,
            )


def _of_brokers(brokers: Mapping[str, _BrokerCounts]) -> Iterator[Family]:
    labels = Labels("broker")
    up = Family("celeriac_broker_up", "gauge", "1 when the broker's queues could be read at the last tick.", labels)
    errors = Family(
        "celeriac_broker_probe_errors", "counter", "Times that the broker's queues could not be read.", labels
    )
    probe = Family(
        "celeriac_broker_probe_seconds",
        "histogram",
        "Seconds that reading all queues of the broker took.",
        labels,
        bounds=TRIP_BUCKETS_S,
    )
    tick = Family(
        "celeriac_operator_reconcile_seconds",
        "histogram",
        "Seconds that a tick took, for all pools of the broker.",
        labels,
        bounds=TRIP_BUCKETS_S,
    )
    for broker, counts in brokers.items():
        up.add((broker,), float(counts.up))
        errors.add((broker,), counts.errors)
        probe.add_histogram((broker,), counts.probe_s.counts, counts.probe_s.sum)
        tick.add_histogram((broker,), counts.tick_s.counts, counts.tick_s.sum)
    yield from (up, errors, probe, tick)


def _of_pools(readings: Mapping[Key, PoolReading]) -> Iterator[Family]:
    labels = Labels("namespace", "pool")
    replicas = Family(
        "celeriac_pool_replicas", "gauge", "Replicas of the pool, by what they are or should be.", labels.and_("kind")
    )
    demand = Family(
        "celeriac_pool_demand_slots", "gauge", "Slots the demand asks for, by term of the formula.", labels.and_("term")
    )
    limited = Family(
        "celeriac_pool_limited_by", "gauge", "1 for the guard that had the last word.", labels.and_("reason")
    )
    slots = Family("celeriac_pool_slots", "gauge", "Tasks that ready workers can run at once.", labels)
    busy = Family("celeriac_pool_slots_busy", "gauge", "Slots in which a task runs.", labels)
    drain = Family(
        "celeriac_pool_predicted_drain_seconds",
        "gauge",
        "Seconds until what waits now is done by the replicas that are wanted.",
        labels,
    )
    slo = Family(
        "celeriac_pool_slo_target_seconds",
        "gauge",
        "Seconds that the pool's objective promises.",
        labels.and_("objective"),
    )
    age = Family("celeriac_operator_decision_age_seconds", "gauge", "Seconds since the pool was last decided.", labels)
    now = clock.now()
    for pool, reading in readings.items():
        decision = reading.decision
        replicas.add_each(pool, _replicas(reading))
        demand.add_each(pool, {**_NO_DEMAND, **decision.terms})
        limited.add_each(pool, {**_NOT_LIMITED, decision.limited_by: 1.0})
        all_slots, busy_slots = _slots(reading.signals.pods)
        slots.add(pool, all_slots)
        busy.add(pool, busy_slots)
        if decision.predicted_drain_s is not None:
            drain.add(pool, decision.predicted_drain_s)
        slo.add((*pool, reading.objective), reading.objective_s)
        age.add(pool, max(0.0, now - reading.at))
    yield from (replicas, demand, limited, slots, busy, drain, slo, age)


def _of_conditions(readings: Mapping[Key, PoolReading], faults: Mapping[Key, str]) -> Family:
    """Ready of every pool, and what else tells of something wrong: a healthy pool has one series."""
    family = Family(
        "celeriac_pool_condition",
        "gauge",
        "1 when the condition is True, 0 when not: Ready of every pool, others while they tell of something wrong.",
        Labels("namespace", "pool", "condition", "reason"),
    )
    for pool, reading in readings.items():
        for name, (truth, reason, _) in reading.decision.conditions.items():
            wrong = truth is not None and name in (WRONG_IF_TRUE if truth else WRONG_IF_FALSE)
            if wrong or name == "Ready":
                family.add((*pool, name, reason), float(truth is True))
    for pool, reason in faults.items():
        family.add((*pool, "Ready", reason), 0.0)
        if reason != UNDECIDED and reason not in PASSING_FAULTS:
            family.add((*pool, "Stalled", reason), 1.0)
    return family


def _of_queues(readings: Mapping[Key, PoolReading], fleets: Mapping[str, BrokerReading]) -> Iterator[Family]:
    labels = Labels("namespace", "pool", "queue")
    messages = Family(
        "celeriac_queue_messages", "gauge", "Messages of the queue, each in one kind only.", labels.and_("kind")
    )
    oldest = Family(
        "celeriac_queue_oldest_task_age_seconds", "gauge", "Age of the oldest due message; 0 with none.", labels
    )
    soon = Family("celeriac_queue_due_soon", "gauge", "Delayed messages due within a cold start.", labels)
    consumers = Family("celeriac_queue_consumers", "gauge", "Live workers that consume the queue.", labels)
    slo = Family(
        "celeriac_queue_slo_target_seconds",
        "gauge",
        "Seconds that the queue's objective promises: its own, or the pool's.",
        labels.and_("objective"),
    )
    for pool, reading in readings.items():
        samples = fleets[reading.broker].samples if reading.broker in fleets else {}
        for name, (objective, seconds) in reading.queue_objectives.items():
            slo.add((*pool, name, objective), seconds)
        for decided_on in reading.signals.queues:
            queue = samples.get(decided_on.name, decided_on)
            at = (*pool, queue.name)
            kinds = {
                "ready": queue.ready,
                "reserved": queue.reserved,
                "running": max(0, queue.leased - queue.reserved - queue.expired),
                "expired": queue.expired,
                "delayed": queue.delayed,
                "throttled": queue.throttled,
                "dead": queue.dead,
            }
            messages.add_each(at, kinds)
            oldest.add(at, queue.oldest_age_s or 0.0)
            soon.add(at, queue.due_soon)
            if queue.consumers is not None:
                consumers.add(at, queue.consumers)
    yield from (messages, oldest, soon, consumers, slo)


def _of_limits(readings: Mapping[Key, PoolReading]) -> Iterator[Family]:
    labels = Labels("namespace", "pool", "queue", "limit")
    rate = Family(
        "celeriac_fleet_ratelimit_limit_per_second", "gauge", "Starts a second that the limit allows the pool.", labels
    )
    waiting = Family(
        "celeriac_fleet_ratelimit_throttled_messages", "gauge", "Messages that wait for the limit.", labels
    )
    for pool, reading in readings.items():
        for limit in reading.signals.limited:
            rate.add((*pool, limit.queue, limit.task), limit.rate_per_s)
            waiting.add((*pool, limit.queue, limit.task), limit.throttled)
    yield from (rate, waiting)


def _told_once(fleets: Mapping[str, BrokerReading]) -> Mapping[str, BrokerReading]:
    """The same readings; what several brokers tell of one pool's queue is added up, and told by the first broker of all.

    No label names a broker. A pool that was moved is in the totals of the broker that it left, too, and workers of no pool may have
    queues of one name on any of them.
    """
    tellers = Counter(at for each in fleets.values() for at in {*each.queues, *(key[:2] for key in each.tasks)})
    shared = {at for at, times in tellers.items() if times > 1}
    if not shared:
        return fleets
    queues: dict[tuple[Key, str], QueueTotals] = {}
    tasks: dict[tuple[Key, str, str], TaskTotals] = {}

    def add_runs(key: tuple[Key, str, str], runs: TaskTotals) -> None:
        known = tasks.get(key)
        tasks[key] = TaskTotals(runs.queue, *map(add, known[1:], runs[1:])) if known else runs

    for each in fleets.values():
        by_task = {key[:2] for key in each.tasks}
        for at in shared & each.queues.keys():
            totals = each.queues[at]
            queues[at] = QueueTotals(*map(add, queues[at], totals)) if at in queues else totals
            if (
                at not in by_task
            ):  # stock workers, of whose runs the type is not known; those of the other broker's may be
                told = {state: getattr(totals, state) for state in RUN_STATES}
                add_runs((*at, ""), TaskTotals(queue=at[1], run_s=totals.busy_s, **told))
        for key in [key for key in each.tasks if key[:2] in shared]:
            add_runs(key, each.tasks[key])
    found = {
        name: replace(
            each,
            queues={at: totals for at, totals in each.queues.items() if at not in shared},
            tasks={key: runs for key, runs in each.tasks.items() if key[:2] not in shared},
        )
        for name, each in fleets.items()
    }
    name, first = next(iter(found.items()))
    return {**found, name: replace(first, queues={**first.queues, **queues}, tasks={**first.tasks, **tasks})}


def _of_fleet(fleets: Mapping[str, BrokerReading]) -> Iterator[Family]:
    labels = Labels("namespace", "pool", "queue")
    tasks = Family(
        "celeriac_fleet_tasks",
        "counter",
        "Runs and messages of the whole fleet that entered this state.",
        labels.and_("task", "state"),
    )
    wait = Family(
        "celeriac_fleet_task_wait_seconds",
        "summary",
        "Seconds from due to start, of messages that our own clients sent.",
        labels,
    )
    busy = Family("celeriac_fleet_busy_slot_seconds", "counter", "Slot-seconds in which a task ran, by queue.", labels)
    throttled = Family(
        "celeriac_fleet_ratelimit_throttled",
        "counter",
        "Times that a message had to wait for its limit.",
        labels.and_("limit"),
    )
    for reading in fleets.values():
        by_task = {(pool, queue) for pool, queue, _ in reading.tasks}
        for (pool, queue), totals in reading.queues.items():
            at = (*pool, queue)
            tasks.add_each((*at, ""), _states(totals, with_runs=(pool, queue) not in by_task))
            wait.add_summary(at, totals.waits, totals.wait_s)
            busy.add(at, totals.busy_s)
        for (pool, queue, task), runs in reading.tasks.items():
            at_task = (*pool, queue, task)
            tasks.add_each(at_task, {state: getattr(runs, state) for state in RUN_STATES})
            if runs.throttled:
                throttled.add(at_task, runs.throttled)
    yield from (tasks, wait, busy, throttled)


def _replicas(reading: PoolReading) -> dict[str, int]:
    pods = [pod for pod in reading.signals.pods if not pod.deleting]
    return {
        "desired": reading.decision.desired,
        "unclamped": reading.decision.unclamped,
        "current": reading.signals.target.replicas,
        "ready": sum(pod.ready for pod in pods),
        "starting": sum(not pod.ready and not pod.drain_state for pod in pods),
        "draining": sum(bool(pod.drain_state) for pod in pods),
        "idle": sum(pod.ready and pod.busy == 0 and pod.heartbeat_age_s is not None for pod in pods),
        "min": reading.min_replicas,
        "max": reading.max_replicas,
    }


def _slots(pods: Iterable[PodSample]) -> tuple[int, int]:
    """(slots, busy) of the pods whose workers have been heard."""
    heard = [pod for pod in pods if pod.heartbeat_age_s is not None and not pod.deleting]
    return sum(pod.slots for pod in heard if pod.ready), sum(pod.busy for pod in heard)


def _states(totals: QueueTotals, *, with_runs: bool) -> dict[str, int]:
    """State -> count, of what no task type is told for; with_runs: the runs too, which stock workers do not tell."""
    states = {
        "received": totals.received,
        "redelivered": totals.redelivered,
        "rejected": totals.rejected,
        "revoked": totals.revoked,
        "dead_lettered": totals.dead_lettered,
    }
    if with_runs:
        states |= {state: getattr(totals, state) for state in RUN_STATES}
    return states
