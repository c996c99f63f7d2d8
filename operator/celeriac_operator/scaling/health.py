"""What stands in the way of new pods: whether one more would help, and the sentence for people when it would not."""

from dataclasses import dataclass, replace

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.breaker import judge
from celeriac_operator.scaling.learning import HEARTBEAT_FRESH_S, cold_start_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, Signals

#: A pod that has been pending for longer than this tells that the next one would be too.
_PENDING_S = 60.0

_CRASH_LOOP = "CrashLoopBackOff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why the pool must not grow. guard: pending_pods, not_consuming or failing, as in Decision.limited_by."""

    guard: str
    reason: str
    message: str


def watch(signals: Signals, memory: Memory, now: float) -> Memory:
    """The memory with what this tick says of pods that crash and of runs that fail.

    A pod that has crashed counts as crashing until it has been ready for a while: in between it runs for some seconds, and
    who looks then sees nothing wrong.
    """
    crashing = frozenset(
        _uid(pod)
        for pod in signals.pods
        if (pod.pending_reason == _CRASH_LOOP and not _is_heard(pod))
        or (_uid(pod) in memory.crashing and not _has_recovered(pod, now))
    )
    breaker = judge(memory.breaker, signals.queues, signals.sampled_at) if signals.broker_ok else memory.breaker
    return replace(memory, crashing=crashing, breaker=breaker)


def blocked(signals: Signals, spec: WorkerPoolSpec, memory: Memory, now: float) -> Blocked | None:
    """The first reason that holds, or None when a new pod would start and consume."""
    pods = [pod for pod in signals.pods if not pod.deleting]
    if signals.target.rollout:
        # A new revision that does not start is the rollout's matter: the pods that serve can still be more.
        serving = {pod.revision for pod in pods if pod.ready}
        pods = [pod for pod in pods if not serving or pod.revision in serving]
    pending = _stuck(pods, now)
    if pending:
        why = next((pod.pending_reason for pod in pending if pod.pending_reason), "Pending")
        message = f"{len(pending)} of {len(pods)} pods are pending for more than {_PENDING_S:.0f} s: {why}"
        return Blocked(guard="pending_pods", reason=why, message=f"{message} ({_names(pending)})")
    if memory.missing_since is not None and now - memory.missing_since > _PENDING_S:
        message = (
            f"{len(pods)} pods exist for {signals.target.replicas} replicas since {now - memory.missing_since:.0f} s: "
            f"a quota or an admission policy may refuse them, see the events of "
            f"{signals.target.kind} {signals.target.name}"
        )
        return Blocked(guard="pending_pods", reason="PodsNotCreated", message=message)
    crashing = [pod for pod in pods if _uid(pod) in memory.crashing]
    wait_s = 3 * cold_start_s(spec, memory)
    useless = _not_consuming(pods, crashing, spec, wait_s=wait_s, listened_s=signals.listened_s, now=now)
    return useless or _failing(signals, memory)


def _stuck(pods: list[PodSample], now: float) -> list[PodSample]:
    """The pods that are pending for long. Not those after which another one was made and is ready: what holds such a pod up,
    a node of its own perhaps, does not hold up the next one.
    """
    started_at = max((pod.created_at or 0.0 for pod in pods if pod.ready), default=0.0)
    pending = [pod for pod in pods if pod.phase == "Pending" and pod.created_at is not None]
    return [
        pod for pod in pending if now - (pod.created_at or now) > _PENDING_S and (pod.created_at or now) >= started_at
    ]


def _failing(signals: Signals, memory: Memory) -> Blocked | None:
    """Most runs fail. From nothing a pod may start all the same: somebody has to find out that they no longer do."""
    if not memory.breaker.open or signals.target.replicas == 0:
        return None
    ended, failed = memory.breaker.window
    message = f"{failed} of the last {ended} tasks failed: more pods would only fail more, see the workers' logs"
    return Blocked(guard="failing", reason="FailuresDominate", message=message)


def _not_consuming(
    pods: list[PodSample],
    crashing: list[PodSample],
    spec: WorkerPoolSpec,
    *,
    wait_s: float,
    listened_s: float,
    now: float,
) -> Blocked | None:
    """Half of the pods or more are of no use, or a queue has no consumer among pods that had time to become one.

    Who has only just begun to listen has not heard them yet, however long they have been there.
    """
    ready = [pod for pod in pods if pod.ready and not pod.stopping]
    mute = [
        pod for pod in ready if pod.heartbeat_age_s is None and min(now - (pod.ready_at or now), listened_s) > wait_s
    ]
    wanted = {queue.name for queue in spec.queues}
    # A stock Celery worker does not say in its heartbeat what it consumes.
    telling = [pod for pod in ready if pod.queues and (pod.heartbeat_age_s or 0.0) <= HEARTBEAT_FRESH_S]
    astray = [pod for pod in telling if not wanted & set(pod.queues)]
    if crashing and 2 * len(crashing) >= len(pods):
        message = f"{len(crashing)} of {len(pods)} pods crash at start ({_names(crashing)}): see their logs"
        return Blocked(guard="pending_pods", reason=_CRASH_LOOP, message=message)
    if mute and 2 * len(mute) >= len(ready):
        message = (
            f"{len(mute)} of {len(ready)} ready pods have sent no heartbeat for {wait_s:.0f} s ({_names(mute)}): "
            f"do they use this broker, with task events on?"
        )
        return Blocked(guard="not_consuming", reason="NoHeartbeat", message=message)
    if astray and 2 * len(astray) >= len(ready):
        message = (
            f"{len(astray)} of {len(ready)} ready pods consume {', '.join(astray[0].queues)}, none of the pool's queues"
        )
        return Blocked(guard="not_consuming", reason="NotConsuming", message=message)
    if telling and len(telling) == len(ready):
        unserved = sorted(wanted - {name for pod in telling for name in pod.queues})
        if unserved:
            message = (
                f"no worker of the pool consumes {', '.join(unserved)}: start them with -Q {','.join(sorted(wanted))}"
            )
            return Blocked(guard="not_consuming", reason="NotConsuming", message=message)
    return None


def _uid(pod: PodSample) -> str:
    return pod.uid or pod.name


def _is_heard(pod: PodSample) -> bool:
    """Of such a pod it is another container that crashes."""
    return pod.heartbeat_age_s is not None and pod.heartbeat_age_s <= HEARTBEAT_FRESH_S


def _has_recovered(pod: PodSample, now: float) -> bool:
    return pod.ready and pod.ready_at is not None and now - pod.ready_at > _PENDING_S


def _names(pods: list[PodSample]) -> str:
    names = sorted(pod.name for pod in pods)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
