"""Tell what was seen, decided and done: figures to the metrics, events and the status to the cluster."""

from collections.abc import Callable

from celeriac_operator.fleet.heartbeats import Fleet
from celeriac_operator.loop.members import Cluster, Drain, Member
from celeriac_operator.metrics import OperatorMetrics, PoolReading
from celeriac_operator.resources.noticed import QUIET_WRITE_S, gist_of, worth_writing
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.resources.status import face_of, status_of
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import PodSample, Signals


class Reporter:
    """Tells of the pools of one broker. Used by the broker's tick alone.

    broker     its name, a label.
    progress   called when a step is done that may have been slow.
    """

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        *,
        broker: str,
        metrics: OperatorMetrics,
        progress: Callable[[], None],
    ) -> None:
        self._cluster, self._fleet, self._broker = cluster, fleet, broker
        self._metrics, self._progress = metrics, progress

    def measure(self, member: Member, signals: Signals, decision: Decision, now: float) -> None:
        """Tell the metrics what this tick saw and decided, and which drains and cold starts ended with it."""
        spec, state, key = member.spec, member.state, member.record.key
        self._metrics.pool_decided(
            key,
            PoolReading(
                broker=self._broker,
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

    def report(self, member: Member, signals: Signals, decision: Decision, now: float) -> None:
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


def _drain_outcome(pod: PodSample | None, drain: Drain, took_s: float, spec: WorkerPoolSpec) -> str:
    if pod is not None and not pod.deleting:
        return "undrained"
    if drain.state == "drained":
        return "idle"
    return "timed_out" if took_s >= spec.scale_down.drain_timeout_s else "lost"
