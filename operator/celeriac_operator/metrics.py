"""The operator's own metrics: what the last decisions said, and queues and totals as they are at the scrape.

Names, labels and buckets are the project's set (research 5.6 in the docs): `celeriac_pool_*`, `celeriac_queue_*`,
`celeriac_broker_*`, `celeriac_operator_*`, and the fleet's totals as `celeriac_fleet_*`, which survive scale-in and are
never to be added to the `celeriac_*` counters that workers serve themselves. No label holds a pod or a URL.

What is told of pools, queues and the fleet is told by the replica that leads, or sums over replicas would be double.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator import clock
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReading:
    """One broker's queues, and its fleet's totals by pool. Pools are (namespace, name), ("", "") for workers of no pool.

    samples   queue -> what it holds, as of the last probe.
    """

    samples: Mapping[str, QueueSample] = field(default_factory=dict)
    queues: Mapping[tuple[Key, str], QueueTotals] = field(default_factory=dict)
    tasks: Mapping[tuple[Key, str, str], TaskTotals] = field(default_factory=dict)


class _Histogram:
    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        self._counts[place] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        return buckets, self._sum


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


class OperatorMetrics(Collector):
    """What the loop tells, until the next scrape asks. Every method may be called from any thread."""

    def __init__(self, *, version: str) -> None:
        self._version = version
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
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The text exposition format, for /metrics."""
        return generate_latest(self._registry)

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

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            readers = {broker: counts.read for broker, counts in self._brokers.items()} if self._leader else {}
        brokers: dict[str, BrokerReading] = {}
        for broker, read in readers.items():
            try:
                brokers[broker] = read()
            except Exception:  # one broker must not take the page from the others
                self.error("bug")
                log.exception("broker %s cannot be told of: this is a bug in the operator, please report it", broker)
        with self._lock:
            families = [*self._of_brokers(), *self._of_operator()]
            if self._leader:
                families += [*self._of_pools(), *self._of_queues(brokers), *self._of_limits(), *_of_fleet(brokers)]
        return iter(families)

    def _of_pools(self) -> Iterator[Metric]:
        labels = ["namespace", "pool"]
        replicas = GaugeMetricFamily(
            "celeriac_pool_replicas", "Replicas of the pool, by what they are or should be.", labels=[*labels, "kind"]
        )
        demand = GaugeMetricFamily(
            "celeriac_pool_demand_slots", "Slots the demand asks for, by term of the formula.", labels=[*labels, "term"]
        )
        limited = GaugeMetricFamily(
            "celeriac_pool_limited_by", "1 for the guard that had the last word.", labels=[*labels, "reason"]
        )
        slots = GaugeMetricFamily("celeriac_pool_slots", "Tasks that ready workers can run at once.", labels=labels)
        busy = GaugeMetricFamily("celeriac_pool_slots_busy", "Slots in which a task runs.", labels=labels)
        drain = GaugeMetricFamily(
            "celeriac_pool_predicted_drain_seconds", "Seconds until what waits now is done.", labels=labels
        )
        slo = GaugeMetricFamily(
            "celeriac_pool_slo_target_seconds", "Seconds the objective promises.", labels=[*labels, "objective"]
        )
        age = GaugeMetricFamily(
            "celeriac_operator_decision_age_seconds", "Seconds since the pool was last decided.", labels=labels
        )
        now = clock.now()
        for pool, reading in self._readings.items():
            for kind, count in _replicas(reading).items():
                replicas.add_metric([*pool, kind], count)
            terms = {**dict.fromkeys(TERMS, 0.0), **reading.decision.terms}
            for term, value in terms.items():
                demand.add_metric([*pool, term], value)
            for reason in dict.fromkeys((*LIMITS, reading.decision.limited_by)):
                limited.add_metric([*pool, reason], float(reason == reading.decision.limited_by))
            all_slots, busy_slots = _slots(reading.signals.pods)
            slots.add_metric(pool, all_slots)
            busy.add_metric(pool, busy_slots)
            if reading.decision.predicted_drain_s is not None:
                drain.add_metric(pool, reading.decision.predicted_drain_s)
            slo.add_metric([*pool, reading.objective], reading.objective_s)
            age.add_metric(pool, max(0.0, now - reading.at))
        yield from (replicas, demand, limited, slots, busy, drain, slo, age)
        yield self._of_conditions(labels)
        yield from self._of_pool_lives(labels)

    def _of_conditions(self, labels: list[str]) -> Metric:
        """Ready of every pool, and what else tells of something wrong: a healthy pool has one series."""
        family = GaugeMetricFamily(
            "celeriac_pool_condition",
            "1 when the condition is True, 0 when not: Ready of every pool, others while they tell of something wrong.",
            labels=[*labels, "condition", "reason"],
        )
        for pool, reading in self._readings.items():
            for name, (truth, reason, _) in reading.decision.conditions.items():
                wrong = truth is not None and name in (WRONG_IF_TRUE if truth else WRONG_IF_FALSE)
                if wrong or name == "Ready":
                    family.add_metric([*pool, name, reason], float(truth is True))
        for pool, reason in self._faults.items():
            family.add_metric([*pool, "Ready", reason], 0.0)
            if reason != UNDECIDED:
                family.add_metric([*pool, "Stalled", reason], 1.0)
        return family

    def _of_pool_lives(self, labels: list[str]) -> Iterator[Metric]:
        actions = CounterMetricFamily(
            "celeriac_pool_scale_actions", "Writes of the target's scale.", labels=[*labels, "direction", "reason"]
        )
        drains = CounterMetricFamily(
            "celeriac_pool_drains", "Drains that ended, by outcome.", labels=[*labels, "outcome"]
        )
        drain_s = HistogramMetricFamily("celeriac_pool_drain_seconds", "Seconds from mark to end.", labels=labels)
        cold = HistogramMetricFamily(
            "celeriac_pool_cold_start_seconds", "Seconds from a pod's creation to its first heartbeat.", labels=labels
        )
        busy = CounterMetricFamily(
            "celeriac_pool_busy_slot_seconds", "Slot-seconds in which a task ran.", labels=labels
        )
        idle = CounterMetricFamily("celeriac_pool_idle_slot_seconds", "Slot-seconds paid for nothing.", labels=labels)
        for pool, counts in self._pools.items():
            for (direction, reason), count in counts.scale_actions.items():
                actions.add_metric([*pool, direction, reason], count)
            for outcome, count in counts.drains.items():
                drains.add_metric([*pool, outcome], count)
            drain_s.add_metric(list(pool), *counts.drain_s.read())
            cold.add_metric(list(pool), *counts.cold_start_s.read())
            busy.add_metric(pool, counts.busy_slot_s)
            idle.add_metric(pool, counts.idle_slot_s)
        yield from (actions, drains, drain_s, cold, busy, idle)

    def _of_queues(self, brokers: Mapping[str, BrokerReading]) -> Iterator[Metric]:
        labels = ["namespace", "pool", "queue"]
        messages = GaugeMetricFamily(
            "celeriac_queue_messages", "Messages of the queue, each in one kind only.", labels=[*labels, "kind"]
        )
        oldest = GaugeMetricFamily(
            "celeriac_queue_oldest_task_age_seconds", "Age of the oldest due message; 0 with none.", labels=labels
        )
        soon = GaugeMetricFamily("celeriac_queue_due_soon", "Delayed messages due within a cold start.", labels=labels)
        consumers = GaugeMetricFamily("celeriac_queue_consumers", "Live workers that consume the queue.", labels=labels)
        slo = GaugeMetricFamily(
            "celeriac_queue_slo_target_seconds",
            "Seconds the queue's objective promises: its own, or the pool's.",
            labels=[*labels, "objective"],
        )
        for pool, reading in self._readings.items():
            samples = brokers[reading.broker].samples if reading.broker in brokers else {}
            for name, (objective, seconds) in reading.queue_objectives.items():
                slo.add_metric([*pool, name, objective], seconds)
            for decided_on in reading.signals.queues:
                queue = samples.get(decided_on.name, decided_on)
                at = [*pool, queue.name]
                kinds = {
                    "ready": queue.ready,
                    "reserved": queue.reserved,
                    "running": max(0, queue.leased - queue.reserved - queue.expired),
                    "expired": queue.expired,
                    "delayed": queue.delayed,
                    "throttled": queue.throttled,
                    "dead": queue.dead,
                }
                for kind, count in kinds.items():
                    messages.add_metric([*at, kind], count)
                oldest.add_metric(at, queue.oldest_age_s or 0.0)
                soon.add_metric(at, queue.due_soon)
                if queue.consumers is not None:
                    consumers.add_metric(at, queue.consumers)
        yield from (messages, oldest, soon, consumers, slo)

    def _of_limits(self) -> Iterator[Metric]:
        labels = ["namespace", "pool", "queue", "limit"]
        rate = GaugeMetricFamily(
            "celeriac_fleet_ratelimit_limit_per_second",
            "Starts a second that the limit allows the pool.",
            labels=labels,
        )
        waiting = GaugeMetricFamily(
            "celeriac_fleet_ratelimit_throttled_messages", "Messages that wait for the limit.", labels=labels
        )
        for pool, reading in self._readings.items():
            for limit in reading.signals.limited:
                rate.add_metric([*pool, limit.queue, limit.task], limit.rate_per_s)
                waiting.add_metric([*pool, limit.queue, limit.task], limit.throttled)
        yield from (rate, waiting)

    def _of_brokers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("celeriac_broker_up", "1 when the last probe worked.", labels=["broker"])
        errors = CounterMetricFamily("celeriac_broker_probe_errors", "Probes that failed.", labels=["broker"])
        probe = HistogramMetricFamily("celeriac_broker_probe_seconds", "Seconds one probe took.", labels=["broker"])
        tick = HistogramMetricFamily(
            "celeriac_operator_reconcile_seconds", "Seconds one tick took, all pools of the broker.", labels=["broker"]
        )
        for broker, counts in self._brokers.items():
            up.add_metric([broker], float(counts.up))
            errors.add_metric([broker], counts.errors)
            probe.add_metric([broker], *counts.probe_s.read())
            tick.add_metric([broker], *counts.tick_s.read())
        yield from (up, errors, probe, tick)

    def _of_operator(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "celeriac_build", "What is running.", value={"component": "operator", "version": self._version}
        )
        yield GaugeMetricFamily("celeriac_operator_leader", "1 when this replica acts.", value=float(self._leader))
        errors = CounterMetricFamily("celeriac_operator_reconcile_errors", "Errors by class.", labels=["error"])
        for kind, count in self._errors.items():
            errors.add_metric([kind], count)
        yield errors
        if self._signs_until is not None:
            yield GaugeMetricFamily(
                "celeriac_operator_signing_certificate_expiry_timestamp_seconds",
                "When the certificate expires that commands are signed with.",
                value=self._signs_until,
            )
        if self._index_known_at is not None:
            yield GaugeMetricFamily(
                "celeriac_operator_watch_last_event_timestamp_seconds",
                "When the cluster was last known to be as the operator sees it: by a watch, or by a comparison.",
                value=self._index_known_at,
            )
            yield CounterMetricFamily(
                "celeriac_operator_watch_missed_changes",
                "Changes that no watch told of, and that a comparison with the cluster found.",
                value=self._missed,
            )


def _of_fleet(brokers: Mapping[str, BrokerReading]) -> Iterator[Metric]:
    labels = ["namespace", "pool", "queue"]
    tasks = CounterMetricFamily(
        "celeriac_fleet_tasks",
        "Runs and messages that entered a state, whole fleet.",
        labels=[*labels, "task", "state"],
    )
    wait = SummaryMetricFamily("celeriac_fleet_task_wait_seconds", "Seconds from due to start.", labels=labels)
    busy = CounterMetricFamily("celeriac_fleet_busy_slot_seconds", "Slot-seconds of running tasks.", labels=labels)
    throttled = CounterMetricFamily(
        "celeriac_fleet_ratelimit_throttled",
        "Times a message had to wait for its limit.",
        labels=[*labels, "limit"],
    )
    for reading in brokers.values():
        by_task = {(pool, queue) for pool, queue, _ in reading.tasks}
        for (pool, queue), totals in reading.queues.items():
            for state, count in _states(totals, with_runs=(pool, queue) not in by_task).items():
                tasks.add_metric([*pool, queue, "", state], count)
            wait.add_metric([*pool, queue], count_value=totals.waits, sum_value=totals.wait_s)
            busy.add_metric([*pool, queue], totals.busy_s)
        for (pool, queue, task), runs in reading.tasks.items():
            for state in ("started", "succeeded", "failed", "retried"):
                tasks.add_metric([*pool, queue, task, state], getattr(runs, state))
            if runs.throttled:
                throttled.add_metric([*pool, queue, task], runs.throttled)
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
        states |= {
            "started": totals.started,
            "succeeded": totals.succeeded,
            "failed": totals.failed,
            "retried": totals.retried,
        }
    return states
