"""Observe, decide, act, report: one thread per broker serves every pool that names it.

The cluster is a Protocol, so that the same loop runs over the Kubernetes API and over processes on one machine. A tick
reads all of a broker's queues in one round trip, joins them with heartbeats and pods, asks the pure `decide` for each
pool, and carries out what it says. Nothing that is wrong with one pool, one broker or one request stops another.

    kopf's indexes, or local mode          OperatorLoop                      BrokerLoop (one per broker)
    ────────────── poke ──────────────▶    which pool has which broker  ──▶  tick: probe, join, decide, apply, report
                                                                             Ears: heartbeats, between the ticks
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from celeriac.broker.connection import redacted
from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator import clock
from celeriac_operator.errors import ClusterError, Conflict, NotFound
from celeriac_operator.fleet.brokers import BrokerSide, BrokerTarget, connect
from celeriac_operator.fleet.control import keep_drained, lift_drain
from celeriac_operator.fleet.heartbeats import Ears, Fleet, FleetTotals, Worker
from celeriac_operator.fleet.match import match, pod_samples
from celeriac_operator.fleet.probes import limited_classes, queue_samples
from celeriac_operator.metrics import FleetReading, OperatorMetrics, PoolReading
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import SecretKeyRef, SpecError, WorkerPoolSpec
from celeriac_operator.resources.status import fault_status, status_of, worth_writing
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.learning import horizon_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

log = logging.getLogger("celeriac_operator.loop")

#: Seconds between two ticks, and between two looks, at the least, however often one is asked for.
FASTEST_TICK_S = 1.0
FASTEST_LOOK_S = 0.2
#: Seconds between two looks at which pools there are, when nobody pokes.
ROSTER_S = 1.0
#: Seconds a Secret's value is trusted before it is read again, and before one that could not be read is tried again.
SECRET_TTL_S = 60.0
SECRET_RETRY_S = 5.0
#: Seconds without progress after which a loop counts as stuck; for a broker's beyond its interval.
STUCK_S = 60.0
#: Deletion cost of a pod that is to go first. Others keep what they have, which is 0 unless somebody set it.
DOOMED_COST = -1000

Key = tuple[str, str]


class Cluster(Protocol):
    """What the loop asks of a cluster. Every method may block, and raises `celeriac_operator.errors.ClusterError`."""

    def pools(self) -> Sequence[PoolRecord]:
        """All pools this operator serves, from the warm index."""
        ...

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        """The workload the pool scales; one that is missing is `TargetSample(error=...)`, not an exception."""
        ...

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        """The target's pods by owner references, from the warm index."""
        ...

    def secret(self, namespace: str, name: str, key: str) -> str:
        """One value of a Secret, decoded."""
        ...

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        """Write the target's scale; Conflict when it changed since `resource_version` was read."""
        ...

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        """Pod name -> deletion cost: for ReplicaSets that know it, and for people.

        A pod that is gone is passed over.
        """
        ...

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> None:
        """Replace the pool's status subresource."""
        ...

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        """A Kubernetes event on the pool; kind is Normal or Warning."""
        ...

    def may_act(self) -> bool:
        """Whether this replica holds the Lease, or needs none.

        Without it the loop observes and decides, and writes nothing.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick saw and decided for one pool: for the live view, the summary and tests.

    queues, tasks   what the pool's workers have done so far, by queue, and by queue and task.
    """

    pool: PoolRecord
    spec: WorkerPoolSpec
    signals: Signals
    decision: Decision
    queues: Mapping[str, QueueTotals]
    tasks: Mapping[tuple[str, str], TaskTotals]
    acted: bool
    now: float


@dataclass(slots=True)
class PoolState:
    """What the loop remembers of one pool between ticks; it follows the pool from broker to broker.

    epoch   as whose leader it knows status, fault, events and costs: another replica may have written since.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: Memory | None = None
    status: Mapping[str, Any] | None = None
    status_at: float = 0.0
    events: frozenset[tuple[str, str, str]] = frozenset()
    costs: dict[str, int] = field(default_factory=dict)
    drains: dict[str, "_Drain"] = field(default_factory=dict)
    heard_pods: set[str] = field(default_factory=set)
    fault: tuple[str, str] = ("", "")
    parsed: tuple[int, WorkerPoolSpec] | None = None
    epoch: int = 0

    def lead(self, epoch: int) -> None:
        """Forget what was written in an earlier time of leading: what the cluster says now is newer."""
        if self.epoch != epoch:
            self.epoch = epoch
            self.status, self.status_at = None, 0.0
            self.fault, self.events = ("", ""), frozenset()
            self.costs.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A pool that can be served: its record, its spec as parsed, and what is remembered of it."""

    record: PoolRecord
    spec: WorkerPoolSpec
    state: PoolState


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the cluster says of one member this tick, joined with its workers."""

    member: Member
    target: TargetSample
    pods: tuple[PodSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drain:
    """A drain under way: since when, and what its worker last echoed."""

    since: float
    state: str


class Changes:
    """Logs an error once per change: the same text again is not news, and neither is silence until it was broken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def failed(self, subject: str, text: str) -> bool:
        """Whether this was news."""
        with self._lock:
            news = self._last.get(subject) != text
            self._last[subject] = text
        if news:
            log.warning("%s: %s", subject, text)
        return news

    def worked(self, subject: str) -> None:
        with self._lock:
            was = self._last.pop(subject, None)
        if was is not None:
            log.info("%s: works again", subject)

    def forget(self, *subjects: str) -> None:
        """Let go of what is said of these, and of their parts (`subject: part`): they exist no more."""
        parts = tuple(f"{subject}: " for subject in subjects)
        with self._lock:
            for known in [known for known in self._last if known in subjects or known.startswith(parts)]:
                del self._last[known]


class BrokerLoop:
    """The thread that serves all pools of one broker.

    members   called at each tick for the pools of this broker, with their newest specs.
    epoch     called at each tick for the number that counts leaders; see `celeriac.wire.control.drain`.
    name      for logs and labels, unique among the loops of this process.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        side: BrokerSide,
        members: Callable[[], Sequence[Member]],
        epoch: Callable[[], int],
        metrics: OperatorMetrics,
        changes: Changes,
        watch: Callable[[Tick], None] | None = None,
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._side = side
        self._members = members
        self._epoch = epoch
        self._metrics = metrics
        self._changes = changes
        self._watch = watch
        self._fleet = Fleet(started_at=clock.now())
        self._ears = Ears(side.receiver, self._fleet, name=self.name, on_change=self.poke)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"broker-{self.name}", daemon=True)
        self._samples: dict[str, QueueSample] = {}
        self._depths: Mapping[str, QueueDepth] = {}
        self._sampled_at: dict[str, float] = {}
        self._unread: dict[str, str] = {}
        self._progress_at = time.monotonic()
        self._interval_s = 5.0
        self._known: set[Key] = set()

    def start(self) -> None:
        self._ears.start()
        self._thread.start()

    def stop(self) -> None:
        """End both threads; returns when they are done, or after some seconds when the broker hangs."""
        self.retire()
        self._ears.join()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def retire(self) -> None:
        """Ask both threads to end, without waiting: a broker that hangs must not hold up the others."""
        self._stopping.set()
        self._wake.set()
        self._ears.retire()

    def poke(self) -> None:
        """Bring the next tick forward."""
        self._wake.set()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and not self._ears.alive

    def health(self) -> str:
        """Why this loop is not alive, or "" when it is."""
        if self._stopping.is_set():
            return ""
        for thread, alive in (("tick", self._thread.is_alive()), ("heartbeat", self._ears.alive)):
            if not alive:
                return f"the {thread} thread of broker {self.name} has ended"
        silent_s = time.monotonic() - self._progress_at
        if silent_s > self._interval_s + STUCK_S:
            return f"the loop of broker {self.name} has come no further for {silent_s:.0f} s"
        return ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            started = time.monotonic()
            members = self._members()
            self._interval_s = min((member.spec.interval_s for member in members), default=5.0)
            try:
                self.tick(members)
            except Exception:  # what is not expected must not end the loop that all pools of this broker depend on
                self._metrics.error("bug")
                log.exception("a tick of broker %s failed; the next one is due in %g s", self.name, self._interval_s)
            else:
                self._progress()
            self._stopping.wait(max(0.0, FASTEST_TICK_S - (time.monotonic() - started)))
            self._wake.wait(max(0.0, self._interval_s - (time.monotonic() - started)))
        self._side.close()

    def _progress(self) -> None:
        """One step is done. A tick that fails as a whole makes no progress; one of many slow steps does."""
        self._progress_at = time.monotonic()

    # -- one tick

    def tick(self, members: Sequence[Member]) -> None:
        """Serve every member once. Raises nothing that concerns one of them alone."""
        began = time.monotonic()
        error = self._probe(members)
        now = clock.now()
        workers = self._fleet.workers(now)
        seen: list[Sight] = []
        for member in members:
            with self._guard(member, "reading its target and pods"):
                seen.append(self._look(member, workers, now))
            self._progress()
        self._fleet.settle(now)
        totals = self._fleet.totals()
        if not error:
            samples = queue_samples(self._depths, workers, totals, now)
            # A queue that could not be read keeps its last sample, which grows old.
            kept = {name: sample for name, sample in self._samples.items() if name in self._unread}
            self._samples = {**{name: sample for name, sample in samples.items() if name not in self._unread}, **kept}
            self._sampled_at = {name: self._sampled_at[name] if name in kept else now for name in self._samples}
        shares, by_task = split_shared(seen), _by_task(totals)
        for sight in seen:
            if self._stopping.is_set():
                return  # its pools may be another loop's by now
            with self._guard(sight.member, "acting for it"):
                signals = self._signals(sight, workers, by_task, shares=shares, error=error, now=now)
                self._serve(sight.member, signals, totals, now)
            self._progress()
        self._forget({member.record.key for member in members})
        self._metrics.broker_ticked(
            self.name,
            took_s=time.monotonic() - began,
            fleet=FleetReading(queues=totals.owned, tasks=totals.owned_tasks),
        )

    def _probe(self, members: Sequence[Member]) -> str:
        """Read the queues; what went wrong, or ""."""
        horizons: dict[str, float] = {}
        for member in members:
            for queue in member.spec.queues:
                horizons[queue.name] = max(horizons.get(queue.name, 0.0), _horizon_s(member))
        began = time.monotonic()
        try:
            self._side.probe.release_due(list(horizons))
            self._depths = self._side.probe.probe(horizons)
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            self._metrics.broker_failed(self.name)
            self._metrics.error(type(error).__name__)
            self._changes.failed(f"broker {self.name}", str(error))
            return str(error) or type(error).__name__
        self._metrics.broker_probed(self.name, took_s=time.monotonic() - began)
        self._changes.worked(f"broker {self.name}")
        self._unread = {name: depth.error for name, depth in self._depths.items() if depth.error}
        for name in horizons:
            subject = f"broker {self.name}: queue {name}"
            if name in self._unread:
                self._metrics.error("QueueUnreadable")
                self._changes.failed(subject, self._unread[name])
            else:
                self._changes.worked(subject)
        return ""

    def _look(self, member: Member, workers: Sequence[Worker], now: float) -> Sight:
        """The member's target and pods, joined with the workers that run in them."""
        target = self._cluster.target(member.record, member.spec)
        pods = () if target.error else self._cluster.pods(member.record, member.spec)
        matched = match(pods, workers, namespace=member.record.namespace)
        for worker in (worker for workers_of_pod in matched.values() for worker in workers_of_pod):
            queues = worker.beat.queues or tuple(queue.name for queue in member.spec.queues)
            self._fleet.own(worker.id, member.record.key, queues)
        return Sight(member=member, target=target, pods=pod_samples(pods, matched, now))

    def _signals(
        self,
        sight: Sight,
        workers: Sequence[Worker],
        by_task: Mapping[str, TaskTotals],
        *,
        shares: Mapping[Key, Mapping[str, float]],
        error: str,
        now: float,
    ) -> Signals:
        spec = sight.member.spec
        names = [queue.name for queue in spec.queues]
        listening_since = self._ears.listening_since
        return Signals(
            broker_ok=not error,
            broker_error=error,
            sampled_at=min((self._sampled_at.get(name, 0.0) for name in names), default=0.0),
            queues=tuple(self._samples[name] for name in names if name in self._samples),
            limited=limited_classes(
                names,
                workers,
                self._depths,
                by_task,
                {limit.task: limit.rate_per_s for limit in spec.rate_limits},
            ),
            pods=sight.pods,
            target=sight.target,
            operator_uptime_s=0.0 if listening_since is None else max(0.0, now - listening_since),
            share=shares.get(sight.member.record.key, {}),
            queue_errors={name: self._unread[name] for name in names if name in self._unread},
        )

    def _serve(self, member: Member, signals: Signals, totals: FleetTotals, now: float) -> None:
        """Decide one pool, and do what was decided."""
        state = member.state
        with state.lock:
            if state.memory is None:
                state.memory = Memory.from_status(member.record.status)
            decision = decide(signals, member.spec, state.memory, now)
            state.memory = decision.memory
            acts = self._cluster.may_act()
            self._measure(member, signals, decision, now)
            if acts:
                state.lead(self._epoch())
                done = decision.unwritten()
                # Report even when acting failed: a person reads there what the operator wanted.
                try:
                    done = self._apply(member, signals, decision)
                except ClusterError as error:
                    done = decision.unwritten(str(error))
                    raise
                finally:
                    self._progress()
                    self._report(member, signals, done, now)
        if self._watch is not None:
            key = member.record.key
            self._watch(
                Tick(
                    pool=member.record,
                    spec=member.spec,
                    signals=signals,
                    decision=decision,
                    queues={queue: counts for (owner, queue), counts in totals.owned.items() if owner == key},
                    tasks={at[1:]: counts for at, counts in totals.owned_tasks.items() if at[0] == key},
                    acted=acts,
                    now=now,
                )
            )

    def _apply(self, member: Member, signals: Signals, decision: Decision) -> Decision:
        """Carry out a decision: marks before the scale, so that a ReplicaSet that shrinks knows whom to take.

        Returns what to report of it. Raises ClusterError when the scale was refused.
        """
        nodes = {pod.name: pod.nodes or (pod.node,) for pod in signals.pods if pod.node}

        def of(names: Sequence[str]) -> list[str]:
            return [node for name in names for node in nodes.get(name, ())]

        try:
            lift_drain(self._side.post, nodes=of(decision.undrain), epoch=self._epoch())
            keep_drained(self._side.post, mark=decision.drain_id, nodes=of(decision.drain), epoch=self._epoch())
            self._changes.worked(f"commands over {self.name}")
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            # The next tick says it again, and a mark that is not repeated expires: nothing hangs on this one.
            self._changes.failed(f"commands over {self.name}", str(error))
        self._mark(member, signals, decision)
        self._progress()
        replicas = decision.replicas
        if replicas is None or replicas == signals.target.replicas:
            return decision
        try:
            self._cluster.scale(member.record, member.spec, replicas, signals.target.resource_version)
        except Conflict:
            # Somebody wrote in between: nothing is lost, the next tick decides on what is there then.
            self._metrics.error(Conflict.__name__)
            self.poke()
            return decision.unwritten()
        direction = "up" if replicas > signals.target.replicas else "down"
        self._metrics.pool_scaled(member.record.key, direction=direction, reason=decision.limited_by)
        log.info(
            "pool %s/%s: %d -> %d replicas: %s",
            *member.record.key,
            signals.target.replicas,
            replicas,
            decision.summary,
        )
        return decision

    def _mark(self, member: Member, signals: Signals, decision: Decision) -> None:
        present = {pod.name for pod in signals.pods}
        costs = dict.fromkeys((name for name in decision.drain if name in present), DOOMED_COST)
        costs |= dict.fromkeys((name for name in member.state.costs if name in present and name not in costs), 0)
        news = {name: cost for name, cost in costs.items() if member.state.costs.get(name, 0) != cost}
        subject = f"{_subject(member.record)}: marking pods"
        if news:
            try:
                self._cluster.mark_pods(member.record, news)
            except ClusterError as error:
                # Readiness decides who goes: the costs help where other pods are not ready, and tell people.
                self._changes.failed(subject, str(error))
                return
            self._changes.worked(subject)
        member.state.costs = {name: cost for name, cost in costs.items() if cost}

    def _measure(self, member: Member, signals: Signals, decision: Decision, now: float) -> None:
        """Tell the metrics what this tick saw and decided, and which drains and cold starts ended with it."""
        spec, state, key = member.spec, member.state, member.record.key
        self._metrics.pool_decided(
            key,
            PoolReading(
                signals=signals,
                decision=decision,
                min_replicas=spec.min_replicas,
                max_replicas=spec.max_replicas,
                objective=str(spec.objective.type),
                objective_s=float(spec.objective.seconds),
                at=now,
            ),
        )
        pods = {pod.name: pod for pod in signals.pods}
        for name, drain in list(state.drains.items()):
            pod = pods.get(name)
            if name in decision.drain and pod is not None and not pod.deleting:
                continue
            del state.drains[name]
            took_s = now - drain.since
            self._metrics.pool_drain_ended(key, outcome=_drain_outcome(pod, drain, took_s, spec), took_s=took_s)
        for name in decision.drain:
            if name in pods and not pods[name].deleting:
                since = state.drains[name].since if name in state.drains else now
                state.drains[name] = _Drain(since=since, state=pods[name].drain_state)
        for pod in signals.pods:
            if pod.name in state.heard_pods or pod.first_heartbeat_at is None or pod.created_at is None:
                continue
            state.heard_pods.add(pod.name)
            if pod.first_heartbeat_at >= self._fleet.started_at:
                self._metrics.pool_pod_started(key, cold_start_s=max(0.0, pod.first_heartbeat_at - pod.created_at))
        state.heard_pods &= set(pods)

    def _report(self, member: Member, signals: Signals, decision: Decision, now: float) -> None:
        """Events that are new, and the status where a person would notice, or in 30 s when only figures moved.

        decision: as it was carried out.
        """
        state, record = member.state, member.record
        told, state.events = state.events, frozenset(decision.events)
        for event in decision.events:
            if event not in told:
                self._cluster.event(record, *event)
                self._progress()
        before = state.status if state.status is not None else record.status
        status = status_of(decision, signals, member.spec, before, record.generation, now)
        if worth_writing(before, status, written_s_ago=now - state.status_at):
            self._cluster.write_status(record, status)
            state.status, state.status_at = status, now

    def _forget(self, present: set[Key]) -> None:
        gone = self._known - present
        if gone:
            self._fleet.drop(gone)
        self._known = present

    @contextmanager
    def _guard(self, member: Member, what: str) -> Iterator[None]:
        """What goes wrong with one pool stays with it: logged once per change, counted, tried again next tick."""
        subject = f"{_subject(member.record)}: {what}"
        try:
            yield
        except ClusterError as error:
            self._metrics.error(type(error).__name__)
            self._changes.failed(subject, str(error))
        except Exception as error:  # a bug that one pool's data meets must not stop the other pools
            self._metrics.error("bug")
            if self._changes.failed(subject, repr(error)):
                log.exception("%s: this is a bug in the operator, please report it", subject)
        else:
            self._changes.worked(subject)


class OperatorLoop:
    """Which pool has which broker, and a BrokerLoop for each: they start and end as pools come and go.

    default_broker_url   for pools that name no broker; None: such a pool gets a condition that says so.
    watch                called after each decision, from the broker's thread: for the live view.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        metrics: OperatorMetrics,
        default_broker_url: str | None = None,
        connect: Callable[[BrokerTarget], BrokerSide] = connect,
        watch: Callable[[Tick], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._default = BrokerTarget(url=default_broker_url) if default_broker_url else None
        self._connect = connect
        self._watch = watch
        self._changes = Changes()
        self._lock = threading.Lock()
        self._roster: Mapping[BrokerTarget, Sequence[Member]] = {}
        self._loops: dict[BrokerTarget, BrokerLoop] = {}
        self._retired: list[BrokerLoop] = []
        self._states: dict[Key, tuple[str, PoolState]] = {}
        self._secrets: dict[tuple[str, str, str], tuple[str | ClusterError, float]] = {}
        self._secrets_used: set[tuple[str, str, str]] = set()
        self._poked: set[Key] = set()
        self._epoch = 0
        self._led = False
        self._ready = False
        self._progress_at = time.monotonic()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every thread. Marks that were set expire in the workers by themselves."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)
        loops = [*self._loops.values(), *self._retired]
        for loop in loops:
            loop.retire()
        for loop in loops:
            loop.stop()

    def poke(self, namespace: str, name: str) -> None:
        """Something about this pool, its target or its pods changed: look again, now."""
        with self._lock:
            self._poked.add((namespace, name))
        self._wake.set()

    def livez(self) -> tuple[bool, str]:
        """Whether every thread lives and ticks, and if not, which one does not."""
        if not self._thread.is_alive():
            return False, "the operator's loop has ended"
        silent_s = time.monotonic() - self._progress_at
        if silent_s > STUCK_S:
            return False, f"the operator's loop has come no further with its pools for {silent_s:.0f} s"
        with self._lock:
            loops = list(self._loops.values())
        faults = [fault for loop in loops if (fault := loop.health())]
        return (False, "; ".join(faults)) if faults else (True, f"{len(loops)} brokers served")

    def readyz(self) -> tuple[bool, str]:
        """Whether the pools have been read once."""
        return (True, "serving") if self._ready else (False, "the pools have not been read yet")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            with self._lock:
                poked, self._poked = self._poked, set()
            try:
                self.look()
                for target, members in self._roster.items():
                    if any(member.record.key in poked for member in members):
                        self._loops[target].poke()
                self._progress()
            except ClusterError as error:
                self._metrics.error(type(error).__name__)
                self._changes.failed("reading the pools", str(error))
                self._progress()  # a restart would not bring the API server back
            except Exception:  # nobody else would start or end the brokers' loops
                self._metrics.error("bug")
                log.exception("looking at the pools failed; trying again in %g s", ROSTER_S)
            self._stopping.wait(FASTEST_LOOK_S)
            self._wake.wait(ROSTER_S)

    def _progress(self) -> None:
        """One step is done: many slow ones in a row are no reason to restart."""
        self._progress_at = time.monotonic()

    def look(self) -> None:
        """Read the pools, and start and end broker loops accordingly."""
        records = self._cluster.pools()
        self._changes.worked("reading the pools")
        self._lead()
        now = clock.now()
        roster: dict[BrokerTarget, list[Member]] = {}
        self._secrets_used.clear()
        for record in records:
            state = self._state(record)
            try:
                spec = _spec_of(record, state)
                target = self._target(record, spec, now)
            except SpecError as error:
                self._fault(record, state, "InvalidSpec", "; ".join(error.problems), now)
            except _NoBroker as error:
                self._fault(record, state, error.reason, str(error), now)
            else:
                roster.setdefault(target, []).append(Member(record=record, spec=spec, state=state))
            self._progress()
        self._drop({record.key for record in records})
        self._end_loops(roster)
        sides = self._open_sides(roster, now)
        for members in roster.values():
            for member in members:
                if member.state.fault != ("", ""):
                    self._changes.worked(_subject(member.record))
                    member.state.fault = ("", "")
        with self._lock:
            self._roster = roster
        self._start_loops(sides)
        self._ready = True

    def _lead(self) -> None:
        leads = self._cluster.may_act()
        if leads and not self._led:
            # Later leaders have higher numbers. One whose clock is behind its predecessor's is not heeded by workers that
            # heard that one, until it has been silent for some minutes: see `celeriac.policy.drain`.
            self._epoch = max(self._epoch + 1, int(clock.now()))
        self._led = leads
        self._metrics.leads(leads)

    def _state(self, record: PoolRecord) -> PoolState:
        uid, state = self._states.get(record.key, ("", PoolState()))
        if uid != record.uid:
            state = PoolState()  # deleted and made anew under the same name
        self._states[record.key] = (record.uid, state)
        return state

    def _target(self, record: PoolRecord, spec: WorkerPoolSpec, now: float) -> BrokerTarget:
        broker = spec.broker
        if broker is None:
            if self._default is None:
                raise _NoBroker(
                    "BrokerMissing",
                    "the pool names no broker and the operator was installed without a default one;"
                    " set spec.broker.urlFrom.secretKeyRef",
                )
            return _checked(self._default)
        tls = broker.tls
        target = BrokerTarget(
            url=self._secret(record, broker.url_from, now).strip(),
            key_prefix=broker.key_prefix,
            ca=self._secret(record, tls.ca_from, now) if tls and tls.ca_from else "",
            cert=self._secret(record, tls.cert_from, now) if tls and tls.cert_from else "",
            key=self._secret(record, tls.key_from, now) if tls and tls.key_from else "",
        )
        return _checked(target)

    def _secret(self, record: PoolRecord, ref: SecretKeyRef, now: float) -> str:
        at = (record.namespace, ref.name, ref.key)
        self._secrets_used.add(at)
        known = self._secrets.get(at)
        if known is None or now >= known[1]:
            known = self._read_secret(at, now)
            self._secrets[at] = known
            self._progress()
        value = known[0]
        if isinstance(value, ClusterError):
            raise _NoBroker(
                "SecretNotFound",
                f"key {ref.key!r} of Secret {record.namespace}/{ref.name} cannot be read: {value}",
            ) from value
        return value

    def _read_secret(self, at: tuple[str, str, str], now: float) -> tuple[str | ClusterError, float]:
        try:
            return self._cluster.secret(*at), now + SECRET_TTL_S
        except ClusterError as error:
            known = self._secrets.get(at)
            if known is not None and isinstance(known[0], str) and not isinstance(error, NotFound):
                return known[0], now + SECRET_RETRY_S  # an API server that is away takes no broker from anybody
            return error, now + SECRET_RETRY_S

    def _fault(self, record: PoolRecord, state: PoolState, reason: str, message: str, now: float) -> None:
        """Say what is wrong with a pool that cannot be served, once per change."""
        if self._led:
            state.lead(self._epoch)
        if state.fault == (reason, message):
            return
        subject = _subject(record)
        self._changes.failed(subject, message)
        if not self._cluster.may_act():
            return
        try:
            with state.lock:
                before = state.status if state.status is not None else record.status
                status = fault_status(before, reason, message, record.generation, now)
                self._cluster.write_status(record, status)
                # Only now: until the status is written, the next look tries again.
                state.status, state.status_at, state.fault = status, now, (reason, message)
            self._cluster.event(record, "Warning", reason, message)
        except ClusterError as error:
            self._metrics.error(type(error).__name__)
            self._changes.failed(f"{subject}: telling its fault", str(error))

    def _drop(self, present: set[Key]) -> None:
        for key in [key for key in self._states if key not in present]:
            del self._states[key]
            self._metrics.pool_gone(key)
            self._changes.forget(f"pool {key[0]}/{key[1]}")
        for at in self._secrets.keys() - self._secrets_used:
            del self._secrets[at]

    def _end_loops(self, roster: Mapping[BrokerTarget, Sequence[Member]]) -> None:
        for target in [target for target in self._loops if target not in roster]:
            loop = self._loops[target]
            loop.retire()
            self._retired = [old for old in self._retired if not old.ended] + [loop]
            self._metrics.broker_gone(loop.name)
            self._changes.forget(f"broker {loop.name}", f"commands over {loop.name}")
            with self._lock:
                del self._loops[target]

    def _open_sides(self, roster: dict[BrokerTarget, list[Member]], now: float) -> dict[BrokerTarget, BrokerSide]:
        """The conversations with brokers that have no loop yet. One that cannot be opened is a fault of its pools alone,
        which leave the roster.
        """
        sides: dict[BrokerTarget, BrokerSide] = {}
        for target in [target for target in roster if target not in self._loops]:
            try:
                sides[target] = self._connect(target)
            except Exception as error:  # noqa: BLE001 - whatever a library makes of one pool's URL or certificates
                self._metrics.error(type(error).__name__)
                text = f"the broker {target.name} cannot be used: {redacted(str(error)) or type(error).__name__}"
                for member in roster.pop(target):
                    self._fault(member.record, member.state, "InvalidBroker", text, now)
        return sides

    def _start_loops(self, sides: Mapping[BrokerTarget, BrokerSide]) -> None:
        for target, side in sides.items():
            loop = BrokerLoop(
                _unlike(target.name, {loop.name for loop in self._loops.values()}),
                cluster=self._cluster,
                side=side,
                members=lambda target=target: self._members(target),  # type: ignore[misc]
                epoch=lambda: self._epoch,
                metrics=self._metrics,
                changes=self._changes,
                watch=self._watch,
            )
            loop.start()  # before it is known: whoever asks for its health must not find it dead
            with self._lock:
                self._loops[target] = loop

    def _members(self, target: BrokerTarget) -> Sequence[Member]:
        with self._lock:
            return self._roster.get(target, ())


class _NoBroker(Exception):
    """The pool's broker cannot be told; the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _checked(target: BrokerTarget) -> BrokerTarget:
    try:
        target.check()
    except ImproperlyConfigured as error:
        raise _NoBroker("InvalidBroker", str(error)) from error
    return target


def _unlike(name: str, taken: Collection[str]) -> str:
    """The name, numbered when another broker of the same address (with other credentials, say) has it."""
    numbered = (f"{name} #{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _subject(record: PoolRecord) -> str:
    return f"pool {record.namespace}/{record.name}"


def _spec_of(record: PoolRecord, state: PoolState) -> WorkerPoolSpec:
    """The record's spec, parsed once a generation: the roster is looked at every second. Raises SpecError."""
    if state.parsed is None or state.parsed[0] != record.generation:
        state.parsed = (record.generation, WorkerPoolSpec.parse(record.spec))
    return state.parsed[1]


def split_shared(sights: Sequence[Sight]) -> dict[Key, dict[str, float]]:
    """Pool -> queue -> its part of the demand, of queues that several pools consume: by slots, none counting as one."""
    weights: dict[str, dict[Key, float]] = {}
    for sight in sights:
        slots = sum(pod.slots for pod in sight.pods if pod.ready and not pod.deleting)
        for queue in sight.member.spec.queues:
            weights.setdefault(queue.name, {})[sight.member.record.key] = max(1.0, slots)
    shares: dict[Key, dict[str, float]] = {}
    for queue_name, pools in weights.items():
        if len(pools) > 1:
            whole = sum(pools.values())
            for key, weight in pools.items():
                shares.setdefault(key, {})[queue_name] = weight / whole
    return shares


def _horizon_s(member: Member) -> float:
    """Seconds ahead in which delayed work counts as soon due, by what is remembered of the pool so far."""
    memory = member.state.memory
    return horizon_s(member.spec, Memory.from_status(member.record.status) if memory is None else memory)


def _by_task(totals: FleetTotals) -> dict[str, TaskTotals]:
    """Task -> sums over every pool."""
    sums: dict[str, TaskTotals] = {}
    for (_, queue, task), counts in totals.owned_tasks.items():
        known = sums.get(task, TaskTotals(queue=queue))
        sums[task] = TaskTotals(
            queue=queue,
            started=known.started + counts.started,
            succeeded=known.succeeded + counts.succeeded,
            failed=known.failed + counts.failed,
            retried=known.retried + counts.retried,
            throttled=known.throttled + counts.throttled,
            run_s=known.run_s + counts.run_s,
        )
    return sums


def _drain_outcome(pod: PodSample | None, drain: _Drain, took_s: float, spec: WorkerPoolSpec) -> str:
    if pod is not None and not pod.deleting:
        return "undrained"
    if drain.state == "drained":
        return "idle"
    return "timed_out" if took_s >= spec.scale_down.drain_timeout_s else "lost"
