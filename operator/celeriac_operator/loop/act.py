"""Do what was decided for a pool: end what is overdue, mark who is to go, and only then write the target's scale."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac_operator import clock
from celeriac_operator.errors import CannotSign, ClusterError, Conflict
from celeriac_operator.fleet.control import Commands, end, keep_drained, lift_drain
from celeriac_operator.loop.members import Changes, Cluster, Member, subject_of
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources.spec import DrainTimeoutPolicy
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import Signals

log = logging.getLogger("celeriac_operator.loop")

#: Pods of one pool whose deletion cost is written in one tick, and the seconds that this may take.
MOST_MARKS = 25
MARKING_S = 5.0
#: Seconds after the look at the pods in which a smaller number may be written. The marks of those that go had 20 s left then:
#: later they may have claimed again.
SEEN_WITHIN_S = 15.0
#: Deletion cost of a pod that is to go first. Others keep what they have, which is 0 unless somebody set it.
DOOMED_COST = -1000


class Actuator:
    """Carries decisions out, over one broker and the cluster. Used by the broker's tick alone, and only while this replica leads.

    broker     its name, for logs.
    progress   called when a step is done that may have been slow. poke: called when the next tick should come at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        commands: Commands,
        *,
        broker: str,
        metrics: OperatorMetrics,
        changes: Changes,
        progress: Callable[[], None],
        poke: Callable[[], None],
    ) -> None:
        self._cluster, self._commands, self._broker = cluster, commands, broker
        self._metrics, self._changes, self._progress, self._poke = metrics, changes, progress, poke

    def end_overdue(self, member: Member, signals: Signals, decision: Decision) -> Decision:
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

    def apply(self, member: Member, signals: Signals, decision: Decision, seen_at: float) -> Decision:
        """Carry out a decision: marks before the scale, so that a ReplicaSet that shrinks knows whom to take.

        seen_at   when the signals were seen, by the operator's clock: other pools are served in between, and a cluster may be slow.

        Returns what to report of it. Raises ClusterError when the scale was refused.
        """
        self._tell(member, signals, decision)
        self._mark(member, signals, decision)
        self._progress()
        replicas = decision.replicas
        if replicas is None or replicas == signals.target.replicas:
            return decision
        subject = f"{subject_of(member.record)}: scaling down"
        if replicas < signals.target.replicas and clock.now() - seen_at > SEEN_WITHIN_S:
            self._changes.failed(
                subject,
                f"what was seen is older than {SEEN_WITHIN_S:g} s, for the cluster or the broker is slow: looking again first",
            )
            self._poke()
            return decision.unwritten()
        self._changes.worked(subject)
        try:
            self._cluster.scale(member.record, member.spec, replicas, signals.target.resource_version)
        except Conflict:
            # Somebody wrote in between: nothing is lost, the next tick decides on what is there then.
            self._metrics.error(Conflict.__name__)
            self._poke()
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
        over, lacking = f"commands over {self._broker}", ""
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

    def _mark(self, member: Member, signals: Signals, decision: Decision) -> None:
        present, known = {pod.name for pod in signals.pods}, member.state.costs
        costs = dict.fromkeys((name for name in decision.drain if name in present), DOOMED_COST)
        costs |= dict.fromkeys((name for name in known if name in present and name not in costs), 0)
        news = [(name, cost) for name, cost in costs.items() if known.get(name, 0) != cost]
        subject = f"{subject_of(member.record)}: marking pods"
        marked: dict[str, int] = {}
        began = clock.now()
        # Each is a request of its own, and other pools of this broker wait: the rest is marked at the next ticks.
        for name, cost in news[:MOST_MARKS]:
            if clock.now() - began > MARKING_S:
                break
            try:
                self._cluster.mark_pods(member.record, {name: cost})
            except ClusterError as error:
                # Readiness decides who goes: the costs help where other pods are not ready, and tell people.
                self._changes.failed(subject, str(error))
                break
            self._changes.worked(subject)
            self._progress()
            marked[name] = cost
        kept = {name: marked.get(name, known.get(name, 0)) for name in costs}
        member.state.costs = {name: cost for name, cost in kept.items() if cost}


def _nodes(signals: Signals, names: Sequence[str]) -> list[str]:
    """The node names of the workers in the pods of these names."""
    nodes = {pod.name: pod.nodes or (pod.node,) for pod in signals.pods if pod.node}
    return [node for name in names for node in nodes.get(name, ())]
