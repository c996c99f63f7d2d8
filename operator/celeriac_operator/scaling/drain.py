"""plan(signals, spec, memory, desired, now): which pods go, and when the smaller number may be written.

Scale-in is select, drain, commit. A marked worker stops claiming, gives back what has not started, finishes, and turns
not ready. A ReplicaSet removes pods that are not ready first: so when the pods that are not ready are exactly the
drained ones, writing `replicas` minus their number removes those and no other. A StatefulSet removes its highest ordinal,
ready or not. Until their controller has taken them, pods keep their marks, however late it is. Everything is read off the
pods anew at every tick: a lost command, a new leader or a restart changes nothing but time. When demand returns, marks are
lifted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from celeriac_operator.resources.labels import KIND
from celeriac_operator.resources.spec import DrainTimeoutPolicy, Selection, WorkerPoolSpec
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, Signals, TargetSample
from celeriac_operator.scaling.victims import Choice, choose, is_drained, is_known, is_stuck, ordinal_of, ordinals_of

#: So long a worker may take to answer its mark, and a drained pod to turn not ready, before somebody is told.
_TOLD_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do about pods.

    replicas  to write now, or None. It lies between the desired number and the present one.
    drain     pods to mark, or to keep marked, with drain_id; undrain: pods whose marks to lift; overdue: those of `drain`
              that still work after the drain time-out.
    waiting   what a scale-in waits for, in words; "" when it waits for nothing. rollout: that is what it waits for.
    """

    memory: Memory
    replicas: int | None = None
    drain: tuple[str, ...] = ()
    drain_id: str = ""
    undrain: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    waiting: str = ""
    rollout: bool = False


def plan(signals: Signals, spec: WorkerPoolSpec, memory: Memory, desired: int, now: float) -> Plan:
    """Who is marked, whose mark is lifted and what is written, for a pool that is to have `desired` replicas (0 or more).

    As many as there are, or more: the number is written at once, and marks are lifted. Fewer: as many pods as are to go are
    marked, and the number falls by those that are drained. Either way a pod that a number already written takes stays marked
    until it is gone. memory: the last plan's. now: epoch seconds. Raises nothing.
    """
    target = signals.target
    alive = _alive(signals)
    memory = replace(
        memory, ended=frozenset(pod.name for pod in alive if pod.name in memory.ended and _is_leaving(pod))
    )
    drain_id = memory.drain_id or _echoed_id(alive) or f"scale-in-{now:.0f}"
    since = dict(memory.marked)
    leaving = _taken(alive, target)
    kept = _kept_marked(leaving, target)
    echoing = {pod.name for pod in alive if pod.drain_state} - leaving
    nobody = Plan(
        memory=replace(
            memory,
            drain_id=drain_id if kept else "",
            marked=tuple((name, since.get(name, now)) for name in kept),
            drained=(),
        ),
        drain=kept,
        drain_id=drain_id if kept else "",
        undrain=tuple(sorted(echoing)),
    )
    if desired >= target.replicas:
        return replace(nobody, replicas=None if desired == target.replicas else desired)
    if spec.scale_down.selection is Selection.ANY:
        return replace(nobody, replicas=desired)
    if target.rollout:
        return replace(nobody, waiting="scale-in waits for the rollout to end", rollout=True)
    choice = choose(alive, signals, spec, desired, drain_id=drain_id, memory=memory)
    if not choice.victims and not choice.gone:
        return replace(nobody, waiting=_waiting(alive, choice, target, target.replicas - desired, leaving))
    known = dict(memory.drained)
    still_ready = {
        pod.name: known.get(pod.name, now)
        for pod in choice.victims
        if pod.ready and is_drained(pod, drain_id) and target.kind != "StatefulSet"
    }
    write = target.replicas - choice.gone
    victims = {pod.name for pod in choice.victims}
    marked = victims.union(kept)
    # Who takes signed commands only, and does not echo this mark, has not refused to end: it was not told.
    overdue = {
        pod.name
        for pod in choice.victims
        if pod.busy
        and now - since.get(pod.name, now) > spec.scale_down.drain_timeout_s
        and not (pod.signed and pod.drain_id != drain_id)
    }
    requeues = spec.scale_down.on_drain_timeout is DrainTimeoutPolicy.REQUEUE
    return Plan(
        memory=replace(
            memory,
            drain_id=drain_id,
            marked=tuple((name, since.get(name, now)) for name in sorted(marked)),
            drained=tuple(still_ready.items()),
            ended=memory.ended | overdue if requeues else frozenset(),
        ),
        replicas=write if choice.gone else None,
        drain=tuple(sorted(marked)),
        drain_id=drain_id,
        undrain=tuple(sorted(echoing - victims)),
        overdue=tuple(sorted(overdue)),
        waiting=""
        if write == desired
        else "; ".join(
            (
                _waiting(alive, choice, target, target.replicas - desired, leaving),
                *_hung(
                    mute=[pod for pod in choice.victims if _is_mute(pod, drain_id, since, now)],
                    ready={name for name, at in still_ready.items() if now - at >= _TOLD_AFTER_S},
                ),
            )
        ),
    )


def release(signals: Signals, memory: Memory) -> Plan:
    """Who is let go of by a pool that may not act any more: all it has marked claim again, but for those that a number it has
    written takes.

    Only pods it has marked itself, by what it remembers. Where another pool acts on the same target none are: that one reads
    their marks, and takes them over.
    """
    target, since = signals.target, dict(memory.marked)
    if target.foreign_manager.startswith(f"{KIND}/"):
        return Plan(memory=replace(memory, drain_id="", marked=(), drained=()))
    mine = [pod for pod in _alive(signals) if pod.name in since]
    leaving = _taken(_alive(signals), target)
    kept = tuple(name for name in _kept_marked(leaving, target) if name in since)
    # One that was marked just now does not echo it yet. The mark is lifted all the same, and again while it is echoed.
    echoing = tuple((pod.name, since[pod.name]) for pod in mine if pod.drain_state and pod.drain_id == memory.drain_id)
    return Plan(
        memory=replace(memory, drain_id=memory.drain_id if echoing else "", marked=echoing, drained=()),
        drain=kept,
        drain_id=memory.drain_id if kept else "",
        undrain=tuple(sorted({pod.name for pod in mine} - leaving)),
    )


def _alive(signals: Signals) -> list[PodSample]:
    return [pod for pod in signals.pods if not pod.deleting and pod.phase not in ("Succeeded", "Failed")]


def _taken(alive: Sequence[PodSample], target: TargetSample) -> set[str]:
    """Drained pods that a number already written takes, or may take: they must not claim again, whatever is wanted by now.

    A larger number is written first; who is still there when its controller has seen it, stays.
    """
    drained = {pod.name for pod in alive if pod.drain_state == "drained"}
    if target.settling:
        return drained
    if target.kind == "StatefulSet":
        return {name for name in drained if ordinal_of(name) not in ordinals_of(target)}
    return drained if target.replicas < len(alive) else set()


def _kept_marked(taken: set[str], target: TargetSample) -> tuple[str, ...]:
    """Those of them whose marks are repeated until they are gone, in the order of their names.

    A rollout has more pods than replicas all the while, so that they may not be leaving at all: what mark they have, they
    keep while it lasts.
    """
    return () if target.rollout else tuple(sorted(taken))


def _is_leaving(pod: PodSample) -> bool:
    """Whether its worker, which was told to end, does, or has yet to hear of it; one that is back was started again."""
    return pod.stopping or bool(pod.busy)


def _echoed_id(alive: Sequence[PodSample]) -> str:
    """The id of a drain that pods still follow, from before this operator started: it is taken up, not begun anew."""
    echoed = [pod.drain_id for pod in alive if pod.drain_state and pod.drain_id]
    return max(sorted(set(echoed)), key=echoed.count, default="")


def _waiting(alive: Sequence[PodSample], choice: Choice, target: TargetSample, wanted: int, leaving: set[str]) -> str:
    """Why fewer than `wanted` pods go now, those left out that are `leaving` already."""
    names = {pod.name for pod in choice.victims}
    reasons = []
    if choice.victims:
        busy = sum(pod.busy for pod in choice.victims)
        reasons.append(f"draining {_listed(names)}" + (f", {busy} tasks still run" if busy else ""))
        if target.ordered and wanted > 1:
            reasons.append("one at a time, since podManagementPolicy is OrderedReady")
    others = {
        pod.name
        for pod in alive
        if not pod.ready and pod.name not in names | leaving and (target.ordered or not is_stuck(pod))
    }
    if others:
        reasons.append(f"{_listed(others)} not ready and not drained")
    unknown = {pod.name for pod in alive if not is_known(pod) and not is_stuck(pod)} - others - leaving
    if unknown and len(names) + choice.gone < wanted:
        reasons.append(f"{_listed(unknown)} without a heartbeat")
    return f"{wanted} to go: {'; '.join(reasons) or 'waiting for the last scale-in to end'}"


def unanswered(pods: Sequence[PodSample], memory: Memory, now: float) -> tuple[str, ...]:
    """Names of the pods that were marked long ago and do not echo it."""
    since = dict(memory.marked)
    return tuple(pod.name for pod in pods if pod.name in since and _is_mute(pod, memory.drain_id, since, now))


def _is_mute(pod: PodSample, drain_id: str, since: Mapping[str, float], now: float) -> bool:
    return pod.drain_id != drain_id and now - since.get(pod.name, now) >= _TOLD_AFTER_S


def _hung(*, mute: Sequence[PodSample], ready: set[str]) -> tuple[str, ...]:
    """What a person has to see to when a drain does not come to its end by itself."""
    told = []
    signed, others = {pod.name for pod in mute if pod.signed}, {pod.name for pod in mute if not pod.signed}
    if signed:
        told.append(
            f"no answer to the drain from {_listed(signed)}, which demand signed commands: see CommandsNotHeeded"
        )
    if others:
        told.append(
            f"no answer to the drain from {_listed(others)}: a stock Celery worker knows none, set scaleDown.selection to Any"
        )
    if ready:
        told.append(f"drained but still ready: {_listed(ready)}; has the container a readinessProbe on /readyz?")
    return tuple(told)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
