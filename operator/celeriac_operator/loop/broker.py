"""One broker's thread: probe its queues, join them with heartbeats and pods, decide each pool, act, report."""

import logging
import math
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire.event import TaskTotals
from celeriac_operator import clock
from celeriac_operator.errors import CannotSign, ClusterError, Conflict
from celeriac_operator.fleet.brokers import BrokerSide
from celeriac_operator.fleet.control import MARK_TTL_S, Commands, end, keep_drained, lift_drain
from celeriac_operator.fleet.gaps import HEARD_AFTER_S, gaps, unheeded
from celeriac_operator.fleet.heartbeats import Ears, Fleet, FleetTotals, Worker
from celeriac_operator.fleet.management import ManagementUnavailable, with_facts
from celeriac_operator.fleet.match import Crews, crews_of, keepers, match, pod_samples
from celeriac_operator.fleet.probes import consumers_of, limited_classes, queue_samples
from celeriac_operator.fleet.signature import Signature, without_key
from celeriac_operator.loop.members import STUCK_S, Changes, Cluster, Drain, Key, Member, Sight, Tick, subject_of
from celeriac_operator.loop.rates import Asked, Rates, disagreements
from celeriac_operator.loop.rest import rest_of, sleeps, still
from celeriac_operator.loop.sharing import split_shared
from celeriac_operator.metrics import BrokerReading, OperatorMetrics, PoolReading
from celeriac_operator.resources.spec import DrainTimeoutPolicy, WorkerPoolSpec
from celeriac_operator.resources.status import QUIET_WRITE_S, face_of, gist_of, status_of, worth_writing
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.drain import unanswered
from celeriac_operator.scaling.guards import QUIET
from celeriac_operator.scaling.learning import horizon_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.rates import Keeper
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

log = logging.getLogger("celeriac_operator.loop")

#: Seconds between two ticks, at the least, however often one is asked for.
FASTEST_TICK_S = 1.0
#: Pods of one pool whose deletion cost is written in one tick.
MOST_MARKS = 25
#: Deletion cost of a pod that is to go first. Others keep what they have, which is 0 unless somebody set it.
DOOMED_COST = -1000


class BrokerLoop:
    """The thread that serves all pools of one broker.

    members   called at each tick for the pools of this broker, with their newest specs.
    epoch     called at each tick for the number that counts leaders, 0 while this one's time of leading has not begun; see
              `celeriac.wire.control.drain`.
    name      for logs and labels, unique among the loops of this process.
    signature what commands are signed with.
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
        signature: Signature | None = None,
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._side = side
        self._members = members
        self._epoch = epoch
        self._commands = Commands(side.post, signature or without_key())
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
        self._unmanaged = ""  # why the management API did not tell
        self._progress_at = time.monotonic()
        self._interval_s = 5.0
        self._known: set[Key] = set()
        self._deserted = False
        # Brokers take turns, by their names: threads that all want to run at once cost more than what they do.
        self._phase = zlib.crc32(name.encode()) / 2**32
        self._ticks = int(self._phase * 1000)
        self._rates_error = ""  # why rates were not kept at the last tick
        self._rates_differ: Mapping[Key, str] = {}
        self._rates = Rates(
            side.rates,
            self._commands,
            name=name,
            changes=changes,
            exists=lambda: {pool.key for pool in cluster.pools()},
        )
        metrics.broker_serves(name, self._read)

    def start(self) -> None:
        self._ears.start()
        self._thread.start()

    def stop(self) -> None:
        """End both threads; returns when they are done, or after some seconds when the broker hangs."""
        self.retire()
        self._ears.join()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def retire(self, *, gone: bool = False) -> None:
        """Ask both threads to end, without waiting: a broker that hangs must not hold up the others.

        gone: because no pool names this broker any more; what pools set there that exist no more is lifted.
        """
        self._deserted = gone or self._deserted
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
        first = True
        while not self._stopping.is_set():
            self._wake.clear()
            started = time.monotonic()
            members = self._members()
            self._interval_s = interval_s(members)
            try:
                self.tick(members)
            except Exception:  # what is not expected must not end the loop that all pools of this broker depend on
                self._metrics.error("bug")
                log.exception("a tick of broker %s failed; the next one is due in %g s", self.name, self._interval_s)
            else:
                self._progress()
            self._stopping.wait(max(0.0, FASTEST_TICK_S - (time.monotonic() - started)))
            wait_s = self._interval_s * self._phase if first else self._interval_s
            self._wake.wait(max(0.0, wait_s - (time.monotonic() - started)))
            first = False
        self._forget(set())
        self._rates.close(lift=self._deserted)
        self._side.close()

    def _progress(self) -> None:
        """One step is done. A tick that fails as a whole makes no progress; one of many slow steps does."""
        self._progress_at = time.monotonic()

    # -- one tick

    def tick(self, members: Sequence[Member]) -> None:
        """Serve every member once. Raises nothing that concerns one of them alone."""
        began = time.monotonic()
        error = self._probe(members)
        now, skew_s = clock.now(), clock.skew_s()
        self._ticks += 1
        turn = self._fleet.attend(now)
        if not error:
            # What was not read keeps its last sample, which grows old.
            self._sampled_at = {
                name: self._sampled_at.get(name, 0.0) if name in self._unread else now for name in self._depths
            }
        asleep, awake = self._parted(members, turn, error=error)
        seen = [*asleep]
        if awake:
            seen += self._decide(awake, asleep, turn, error=error, now=now, skew_s=skew_s)
        if self._stopping.is_set():
            return  # whoever retired it has taken it out of the metrics
        if (epoch := self._epoch()) and self._acts():
            asked = [_asked(sight, now) for sight in seen if sight.keepers is not None]
            self._rates_error = self._rates.keep(asked, epoch=epoch)
            if self._rates_error:
                self._metrics.error("RateLimitsNotKept")
        self._forget({member.record.key for member in members})
        self._metrics.broker_ticked(self.name, took_s=time.monotonic() - began)

    def _parted(self, members: Sequence[Member], turn: int, *, error: str) -> tuple[list[Sight], list[Member]]:
        """(what was seen last of the members that rest, the members to look at)."""
        if error or self._watch is not None:  # who watches wants to see every tick
            return [], list(members)
        asleep: list[Sight] = []
        awake: list[Member] = []
        epoch = self._epoch()
        for member in members:
            state = member.state
            rest, sight = state.rest, state.sight
            if (
                rest is None
                or sight is None
                or not sleeps(rest, member.spec, epoch, self._depths)
                or any(keeper.rates for keeper in sight.keepers or ())
                or state.trace != (self.name, turn, self._cluster.trace(member.record, member.spec))
            ):
                awake.append(member)
            else:
                state.rest = rest.shorter()
                asleep.append(sight)
        return asleep, awake

    def _decide(
        self, members: Sequence[Member], asleep: Sequence[Sight], turn: int, *, error: str, now: float, skew_s: float
    ) -> list[Sight]:
        """Look at these members, decide each, and carry that out; what was seen of them."""
        workers = self._fleet.workers(now)
        self._commands.know(workers)
        crews, consumers = crews_of(workers), consumers_of(workers)
        seen: list[Sight] = []
        for member in members:
            with self._guard(member, "reading its target and pods"):
                # The trace is taken first, that what changes meanwhile is looked at again, and kept last, that a look that failed is.
                trace = (self.name, turn, self._cluster.trace(member.record, member.spec))
                member.state.sight = sight = self._look(member, crews, now, skew_s)
                member.state.trace = trace
                seen.append(sight)
            self._progress()
        self._fleet.settle(now)
        totals = self._fleet.totals()
        if not error:
            self._take_samples(
                {queue.name for member in members for queue in member.spec.queues}, consumers, totals, now + skew_s
            )
        shares, by_task = split_shared([*asleep, *seen]), _by_task(totals)
        self._rates_differ = disagreements(
            {sight.member.record.key: _rates_of(sight) for sight in seen if sight.keepers is not None}
        )
        for sight in seen:
            if self._stopping.is_set():
                break  # its pools may be another loop's by now
            with self._guard(sight.member, "acting for it"):
                signals = self._signals(sight, consumers, by_task, shares=shares, error=error, now=now, skew_s=skew_s)
                self._serve(sight.member, signals, totals, now)
            self._progress()
        return seen

    def _read(self) -> BrokerReading:
        """What a scrape gets of this broker: most of its pools rest, and are decided on a few times a minute."""
        now = clock.now()
        self._fleet.settle(now, strangers=False)
        totals = self._fleet.totals()
        samples = queue_samples(self._depths, consumers_of(self._fleet.workers(now)), totals, now + clock.skew_s())
        return BrokerReading(samples=samples, queues=totals.owned, tasks=totals.owned_tasks)

    def _take_samples(
        self, names: Collection[str], consumers: Mapping[str, Sequence[Worker]], totals: FleetTotals, wall: float
    ) -> None:
        """Take samples of these queues. wall: the machine's clock. Others keep theirs: of pools that rest, which were seen to need no newer one."""
        samples = queue_samples(self._depths, consumers, totals, wall, names=names)
        kept = {name: sample for name, sample in self._samples.items() if name in self._depths and name not in samples}
        self._samples = {**kept, **samples}

    def _probe(self, members: Sequence[Member]) -> str:
        """Read the queues; what went wrong, or ""."""
        horizons: dict[str, float] = {}
        for member in members:
            horizon_s = _horizon_s(member)
            for queue in member.spec.queues:
                horizons[queue.name] = max(horizons.get(queue.name, 0.0), horizon_s)
        began = time.monotonic()
        try:
            self._side.probe.release_due([name for name in horizons if self._may_be_due(name, horizons[name])])
            self._depths = self._side.probe.probe(horizons)
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            if self._stopping.is_set():
                return str(error) or type(error).__name__  # whoever retired it has taken it out of metrics and log
            self._metrics.broker_failed(self.name)
            self._metrics.error(type(error).__name__)
            self._changes.failed(f"broker {self.name}", str(error))
            return str(error) or type(error).__name__
        self._ask_management()
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

    def _may_be_due(self, queue: str, horizon_s: float) -> bool:
        """Whether delayed messages may be due there, by what lay there a tick ago: where it was asked for what is due by now."""
        depth = self._depths.get(queue)
        if depth is None or depth.error:
            return True
        return (depth.due_soon if horizon_s >= 2 * self._interval_s else depth.delayed) > 0

    def _ask_management(self) -> None:
        """Add what the management API knows to the depths; without it they are coarser, and the pools say so."""
        if self._side.management is None:
            return
        subject = f"broker {self.name}: its management API"
        try:
            self._depths = with_facts(self._depths, self._side.management.read())
        except ManagementUnavailable as error:
            self._unmanaged = str(error)
            self._metrics.error(ManagementUnavailable.__name__)
            self._changes.failed(subject, self._unmanaged)
        else:
            self._unmanaged = ""
            self._changes.worked(subject)

    def _look(self, member: Member, crews: Crews, now: float, skew_s: float) -> Sight:
        """The member's target and pods, joined with the workers that run in them."""
        target = self._cluster.target(member.record, member.spec)
        pods = () if target.error else self._cluster.pods(member.record, member.spec)
        matched = match(pods, crews, namespace=member.record.namespace)
        for worker in (worker for workers_of_pod in matched.values() for worker in workers_of_pod):
            if worker.owner != member.record.key or not worker.beat.queues:
                queues = tuple(queue.name for queue in member.spec.queues)
                self._fleet.own(worker.id, member.record.key, worker.beat.queues or queues)
        stock = sorted(w.beat.hostname for found in matched.values() for w in found if not (w.gone or w.beat.ours))
        return Sight(
            member=member,
            target=target,
            pods=pod_samples(pods, matched, now, skew_s=skew_s),
            stock=tuple(stock),
            keepers=self._keepers(member.spec, target, matched),
        )

    def _keepers(
        self, spec: WorkerPoolSpec, target: TargetSample, matched: Mapping[str, Sequence[Worker]]
    ) -> tuple[Keeper, ...] | None:
        """The workers as keepers of rates, where somebody asks them; None for a pool that may tell them nothing."""
        if spec.mode in QUIET or target.foreign_manager or target.foreign_unread:
            return None
        if not spec.rate_limits and self._side.rates is not None:
            return ()  # the broker keeps the rates of others
        return keepers(worker for found in matched.values() for worker in found)

    def _signals(
        self,
        sight: Sight,
        consumers: Mapping[str, Sequence[Worker]],
        by_task: Mapping[str, TaskTotals],
        *,
        shares: Mapping[Key, Mapping[str, float]],
        error: str,
        now: float,
        skew_s: float,
    ) -> Signals:
        spec = sight.member.spec
        names = [queue.name for queue in spec.queues]
        memory = sight.member.state.memory
        listening_since = self._ears.listening_since
        listened_s = 0.0 if listening_since is None else max(0.0, now - listening_since)
        return Signals(
            broker_ok=not error,
            broker_error=error,
            sampled_at=min((self._sampled_at.get(name, 0.0) for name in names), default=0.0),
            queues=tuple(self._samples[name] for name in names if name in self._samples),
            limited=limited_classes(
                names,
                consumers,
                self._depths,
                by_task,
                {limit.task: limit.rate_per_s for limit in spec.rate_limits},
            ),
            pods=sight.pods,
            target=sight.target,
            operator_uptime_s=listened_s,
            share=shares.get(sight.member.record.key, {}),
            queue_errors={name: self._unread[name] for name in names if name in self._unread},
            rates_error=self._rates_error if spec.rate_limits else "",
            rates_differ=self._rates_differ.get(sight.member.record.key, ""),
            skew_s=skew_s,
            unheeded=unheeded(
                sight.pods,
                lack=self._commands.signature.lack(),
                certificate=self._commands.signature.name,
                unanswered=unanswered(sight.pods, memory, now) if memory is not None else (),
            ),
            missing=gaps(
                sight.pods,
                queues=len(names),
                stock=sight.stock,
                hearing=listening_since is not None or now - self._fleet.started_at < HEARD_AFTER_S,
                listened_s=listened_s,
                unmanaged=self._unmanaged,
                now=now,
            ),
        )

    def _serve(self, member: Member, signals: Signals, totals: FleetTotals, now: float) -> None:
        """Decide one pool, and do what was decided; or let the last decision stand, where it rests."""
        state, epoch = member.state, self._epoch()
        with state.lock:
            rest, state.rest = state.rest, None
            if state.memory is None:
                state.memory = Memory.from_status(member.record.status)
            elif state.served_by is not self:
                state.memory, rest = state.memory.elsewhere(), None
            state.served_by = self
            if not epoch or state.epoch != epoch:
                # What was planned and told to nobody, or in another time of leading, is no drain: how long one takes counts from its mark.
                state.memory = state.memory.undrained()
            rests = rest is not None and still(rest, signals, member.spec, epoch)
            decision = rest.decision if rest and rests else decide(signals, member.spec, state.memory, now)
            state.memory = decision.memory
            acts = epoch == self._epoch() and self._acts()
            self._measure(member, signals, decision, now)
            if acts and not rests:
                state.lead(epoch)
                decided = self._end_overdue(member, signals, decision)
                done = decided.unwritten()
                # Report even when acting failed: a person reads there what the operator wanted.
                try:
                    done = self._apply(member, signals, decided)
                except ClusterError as error:
                    done = decided.unwritten(str(error))
                    raise
                finally:
                    self._progress()
                    self._report(member, signals, done, now)
            if rest and rests:
                state.rest = rest.shorter()
            else:
                state.rest = rest_of(decision, signals, member.spec, epoch, tick=self._ticks)
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
        self._tell(member, signals, decision)
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

    def _tell(self, member: Member, signals: Signals, decision: Decision) -> None:
        """Lift marks, and say those again that hold. What fails is said at the next tick, and a mark that is not repeated
        expires: nothing hangs on this one.
        """
        over, lacking = f"commands over {self.name}", ""
        for tell in (
            partial(lift_drain, nodes=_nodes(signals, decision.undrain)),
            partial(keep_drained, nodes=_nodes(signals, decision.drain), mark=decision.drain_id),
        ):
            try:
                tell(self._commands, epoch=member.state.epoch)
            except CannotSign as error:
                lacking = str(error)
            except (BrokerUnavailable, ImproperlyConfigured) as error:
                self._changes.failed(over, str(error))
                return
        self._changes.worked(over)
        subject = f"{subject_of(member.record)}: commands"
        if lacking:
            self._metrics.error(CannotSign.__name__)
            self._changes.failed(subject, lacking)
        else:
            self._changes.worked(subject)

    def _end_overdue(self, member: Member, signals: Signals, decision: Decision) -> Decision:
        """See to the pods that still work after drainTimeout. Their successors are idle, and drained like any other.

        Returns what to report of it.
        """
        policy = member.spec.scale_down.on_drain_timeout
        if not decision.overdue or policy is DrainTimeoutPolicy.WAIT:
            return decision
        subject = f"{subject_of(member.record)}: ending overdue pods"
        try:
            if policy is DrainTimeoutPolicy.REQUEUE:
                end(self._commands, nodes=_nodes(signals, decision.overdue), epoch=member.state.epoch)
            else:
                for name in decision.overdue:
                    self._cluster.kill_pod(member.record, name)
                    self._progress()
        except (BrokerUnavailable, ImproperlyConfigured, CannotSign, ClusterError) as error:
            self._metrics.error(type(error).__name__)
            self._changes.failed(subject, str(error))
            return decision.unended(str(error))
        self._changes.worked(subject)
        return decision

    def _mark(self, member: Member, signals: Signals, decision: Decision) -> None:
        present = {pod.name for pod in signals.pods}
        costs = dict.fromkeys((name for name in decision.drain if name in present), DOOMED_COST)
        costs |= dict.fromkeys((name for name in member.state.costs if name in present and name not in costs), 0)
        news = {name: cost for name, cost in costs.items() if member.state.costs.get(name, 0) != cost}
        # Each is a request of its own, and other pools of this broker wait: the rest is marked at the next ticks.
        later = list(news)[MOST_MARKS:]
        for name in later:
            del news[name]
            costs[name] = member.state.costs.get(name, 0)
        subject = f"{subject_of(member.record)}: marking pods"
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
                broker=self.name,
                signals=signals,
                decision=decision,
                min_replicas=spec.min_replicas,
                max_replicas=spec.max_replicas,
                objective=str(spec.objective.type),
                objective_s=float(spec.objective.seconds),
                queue_objectives={
                    queue.name: (str(objective.type), float(objective.seconds))
                    for queue in spec.queues
                    for objective in (spec.objective_of(queue),)
                },
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
                state.drains[name] = Drain(since=since, state=pods[name].drain_state)
        for pod in signals.pods:
            if pod.name in state.heard_pods or pod.first_heartbeat_at is None or pod.created_at is None:
                continue
            state.heard_pods.add(pod.name)
            if pod.first_heartbeat_at >= self._fleet.started_at:
                self._metrics.pool_pod_started(key, cold_start_s=max(0.0, pod.first_heartbeat_at - pod.created_at))
        state.heard_pods &= set(pods)

    def _report(self, member: Member, signals: Signals, decision: Decision, now: float) -> None:
        """Events that are new, and the status where a person would notice, or in 30 s when only figures moved or somebody else's
        stands there.

        decision: as it was carried out.
        """
        state, record = member.state, member.record
        told, state.events = state.events, frozenset(decision.events)
        for event in decision.events:
            if event not in told:
                self._cluster.event(record, *event)
                self._progress()
        face = face_of(decision, signals, member.spec, record.generation)
        if face == state.face and now - state.looked_at < QUIET_WRITE_S:
            return
        if state.status == record.status:
            state.status = record.status  # one copy of it is enough
        before = state.status if state.status is not None else record.status
        status = status_of(decision, signals, member.spec, before, record.generation, now + signals.skew_s)
        gist = gist_of(status)
        settled = gist == state.looked
        worth = worth_writing(before, status, written_s_ago=now - state.status_at, settled=settled)
        if worth or state.overwritten(record, now):
            state.wrote(record, status, self._cluster.write_status(record, status), now)
        # Only now: what could not be written is tried again at the next tick.
        state.face, state.looked, state.looked_at = face, gist, now

    def _acts(self) -> bool:
        """Whether this replica leads."""
        return bool(self._epoch()) and self._cluster.may_act()

    def _forget(self, present: set[Key]) -> None:
        gone = self._known - present
        if gone:
            self._fleet.drop(gone)
            # The roster took them out of the metrics when they went; this thread may have told of them since.
            try:
                there = {record.key for record in self._cluster.pools()}
            except ClusterError as error:
                log.warning("which pools are gone cannot be told: %s", error)
                return  # `_known` keeps them for the next tick
            for key in gone - there:
                self._metrics.pool_gone(key)
        self._known = present

    @contextmanager
    def _guard(self, member: Member, what: str) -> Iterator[None]:
        """What goes wrong with one pool stays with it: logged once per change, counted, tried again next tick."""
        subject = f"{subject_of(member.record)}: {what}"
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


def interval_s(members: Sequence[Member]) -> float:
    """Seconds between two ticks: the least that a pool asks for, and while marks are to hold, a third of their time."""
    return min(
        (min(member.spec.interval_s, MARK_TTL_S / 3 if member.state.drains else math.inf) for member in members),
        default=5.0,
    )


def _nodes(signals: Signals, names: Sequence[str]) -> list[str]:
    """The node names of the workers in the pods of these names."""
    nodes = {pod.name: pod.nodes or (pod.node,) for pod in signals.pods if pod.node}
    return [node for name in names for node in nodes.get(name, ())]


#: Seconds from which a pod that has not been heard does not count as starting any more.
_LATE_S = 120.0


def _asked(sight: Sight, now: float) -> Asked:
    slots = max((pod.slots for pod in sight.pods), default=1)
    coming = [
        pod
        for pod in sight.pods
        if pod.heartbeat_age_s is None
        and not (pod.deleting or pod.pending_reason)
        and now - (pod.created_at or now) < _LATE_S
    ]
    return Asked(
        key=sight.member.record.key,
        rates=_rates_of(sight),
        keepers=sight.keepers or (),
        coming_slots=float(slots * len(coming)),
    )


def _rates_of(sight: Sight) -> dict[str, float]:
    return {limit.task: limit.rate_per_s for limit in sight.member.spec.rate_limits}


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


def _drain_outcome(pod: PodSample | None, drain: Drain, took_s: float, spec: WorkerPoolSpec) -> str:
    if pod is not None and not pod.deleting:
        return "undrained"
    if drain.state == "drained":
        return "idle"
    return "timed_out" if took_s >= spec.scale_down.drain_timeout_s else "lost"
