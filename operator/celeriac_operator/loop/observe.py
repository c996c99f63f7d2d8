"""What one tick sees: a pool's target and its pods, joined with the workers in them, and all of that as signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from celeriac.wire.event import TaskTotals
from celeriac_operator.fleet.brokers import BrokerSide
from celeriac_operator.fleet.control import Commands
from celeriac_operator.fleet.ears import Ears
from celeriac_operator.fleet.gaps import HEARD_AFTER_S, gaps, unheeded
from celeriac_operator.fleet.heartbeats import Fleet, Worker
from celeriac_operator.fleet.match import Crews, keepers, match, pod_samples
from celeriac_operator.fleet.probes import limited_classes
from celeriac_operator.loop.members import Cluster, Key, Member, Sight
from celeriac_operator.loop.queues import Queues
from celeriac_operator.loop.rates import rates_of
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.drain import unanswered
from celeriac_operator.scaling.guards import QUIET
from celeriac_operator.scaling.rates import Keeper
from celeriac_operator.scaling.signals import Signals, TargetSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What all pools of a broker share at one tick.

    error         why the broker could not be read, "" when it could.
    skew_s        seconds by which the machine's clock is ahead of `now`.
    consumers     queue -> its workers. by_task: task -> sums over the fleet. shares: pool -> queue -> its part of the demand.
    rates_error   why rates were not kept at the last tick. rates_differ: pool -> on what others disagree with it.
    """

    error: str
    now: float
    skew_s: float
    consumers: Mapping[str, Sequence[Worker]]
    by_task: Mapping[str, TaskTotals]
    shares: Mapping[Key, Mapping[str, float]]
    rates_error: str
    rates_differ: Mapping[Key, str]


class Observer:
    """Looks at the pools of one broker. Used by the broker's tick alone."""

    def __init__(
        self, cluster: Cluster, side: BrokerSide, queues: Queues, fleet: Fleet, ears: Ears, commands: Commands
    ) -> None:
        self._cluster, self._side, self._queues = cluster, side, queues
        self._fleet, self._ears, self._commands = fleet, ears, commands

    def look(self, member: Member, crews: Crews, now: float, skew_s: float) -> Sight:
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

    def signals(self, sight: Sight, moment: Moment) -> Signals:
        """All that a decision on this pool may rest on."""
        spec = sight.member.spec
        names = [queue.name for queue in spec.queues]
        memory = sight.member.state.memory
        samples, unread = self._queues.samples, self._queues.unread
        now, listening_since = moment.now, self._ears.listening_since
        listened_s = 0.0 if listening_since is None else max(0.0, now - listening_since)
        return Signals(
            broker_ok=not moment.error,
            broker_error=moment.error,
            sampled_at=self._queues.sampled_at(names),
            queues=tuple(samples[name] for name in names if name in samples),
            limited=limited_classes(names, moment.consumers, self._queues.depths, moment.by_task, rates_of(sight)),
            pods=sight.pods,
            target=sight.target,
            listened_s=listened_s,
            share=moment.shares.get(sight.member.record.key, {}),
            queue_errors={name: unread[name] for name in names if name in unread},
            rates_error=moment.rates_error if spec.rate_limits else "",
            rates_differ=moment.rates_differ.get(sight.member.record.key, ""),
            skew_s=moment.skew_s,
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
                unmanaged=self._queues.unmanaged,
                now=now,
            ),
        )
