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
from celeriac_operator.scaling.learning import HEARTBEAT_FRESH_S
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, Signals, TargetSample

#: So long a worker may take to answer its mark, and a drained pod to turn not ready, before somebody is told.
_TOLD_AFTER_S = 30.0

#: A mark must hold for so much longer when the number is written: the pod must not claim again before it is removed.
_MARK_LEFT_S = 20.0


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
    choice = _choose(alive, signals, spec, desired, drain_id=drain_id, memory=memory)
    if not choice.victims and not choice.gone:
        return replace(nobody, waiting=_waiting(alive, choice, target, target.replicas - desired, leaving))
    known = dict(memory.drained)
    still_ready = {
        pod.name: known.get(pod.name, now)
        for pod in choice.victims
        if pod.ready and _is_drained(pod, drain_id) and target.kind != "StatefulSet"
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
        return {name for name in drained if ordinal_of(name) not in _ordinals(target)}
    return drained if target.replicas < len(alive) else set()


def _kept_marked(taken: set[str], target: TargetSample) -> tuple[str, ...]:
    """Those of them whose marks are repeated until they are gone, in the order of their names.

    A rollout has more pods than replicas all the while, so that they may not be leaving at all: what mark they have, they
    keep while it lasts.
    """
    return () if target.rollout else tuple(sorted(taken))


def _choose(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    memory: Memory,
) -> "_Choice":
    if signals.target.kind != "StatefulSet":
        marked = frozenset(name for name, _ in memory.marked)
        return _idle_first(alive, signals, spec, desired, drain_id=drain_id, marked=marked, ended=memory.ended)
    if signals.target.ordered:
        return _the_top(alive, signals, desired, drain_id=drain_id, ended=memory.ended)
    return _from_the_top(alive, signals, spec, desired, drain_id=drain_id, ended=memory.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """victims: pods to mark. gone: how many replicas may be taken off now without touching a pod that may work."""

    victims: tuple[PodSample, ...]
    gone: int


def _idle_first(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    marked: frozenset[str],
    ended: frozenset[str],
) -> _Choice:
    """For a ReplicaSet: pods that do not exist or cannot start, then idle ones, then those with the least work left."""
    replicas = signals.target.replicas
    absent = min(replicas - desired, 0 if _unseen(alive, signals) else max(0, replicas - len(alive)))
    stuck = [pod for pod in alive if _is_stuck(pod) or _is_given_up(pod, ended)]
    of_stuck = min(replicas - desired - absent, len(stuck))
    ending = sum(
        pod.name in ended and pod.stopping and pod.ready for pod in alive
    )  # given up, and not to be seen so yet
    victims: list[PodSample] = []
    busy = 0
    for pod in sorted(filter(_is_known, alive), key=lambda pod: _work_left(pod, drain_id, marked)):
        busy += pod.busy > 0
        if len(victims) >= replicas - desired - absent - of_stuck - ending or busy > _most_busy(spec, replicas):
            break
        victims.append(pod)
    drained = [pod for pod in victims if _is_drained(pod, drain_id) and not pod.ready]
    not_ready = {pod.name for pod in alive if not pod.ready}
    # More pods than replicas: the last scale-in is under way, and its pods must not be counted twice.
    settled = len(alive) <= replicas and not _unseen(alive, signals)
    exactly = not_ready <= {pod.name for pod in (*stuck, *drained)}
    return _Choice(victims=tuple(victims), gone=absent + of_stuck + len(drained) if settled and exactly else 0)


def _from_the_top(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    ended: frozenset[str],
) -> _Choice:
    """For a StatefulSet with podManagementPolicy Parallel: its highest ordinals go, all at once, ready or not."""
    first, replicas = signals.target.first_ordinal, signals.target.replicas
    by_ordinal = {ordinal_of(pod.name): pod for pod in alive}
    leaving = {ordinal_of(pod.name) for pod in signals.pods if pod.deleting}
    victims: list[PodSample] = []
    gone, busy, certain = 0, 0, not _unseen(alive, signals)
    for ordinal in range(first + replicas - 1, first + desired - 1, -1):
        pod = by_ordinal.get(ordinal)
        if pod is None:
            if ordinal in leaving:
                break  # about to come back under the same name
            free = True
        elif _is_stuck(pod) or _is_given_up(pod, ended):
            free = True
        elif not _is_known(pod):
            break
        else:
            busy += pod.busy > 0
            if busy > _most_busy(spec, replicas):
                break
            victims.append(pod)
            free = _is_drained(pod, drain_id)
        certain = certain and free  # once one is kept, those below it are too
        gone += certain
    return _Choice(victims=tuple(victims), gone=gone)


def _the_top(
    alive: Sequence[PodSample], signals: Signals, desired: int, *, drain_id: str, ended: frozenset[str]
) -> _Choice:
    """For a StatefulSet with podManagementPolicy OrderedReady, the default: its highest ordinal, and no other at a time.

    Its controller does nothing while a pod that stays is not ready. Of those that go it removes the highest, and one that is
    not ready only if it is the lowest such ordinal: of two drained ones it would remove neither. So the next one is marked
    when the last is on its way out, and the number falls when all below are ready.
    """
    ordinals, certain = _ordinals(signals.target), not _unseen(alive, signals)
    by_ordinal = {ordinal_of(pod.name): pod for pod in alive}
    ending = {ordinal_of(pod.name) for pod in signals.pods if pod.deleting}
    if any(ordinal not in ordinals for ordinal in by_ordinal):
        return _Choice(victims=(), gone=0)
    gone = 0
    for ordinal in reversed(ordinals[desired:]):
        top = by_ordinal.get(ordinal)
        if top is None and certain and ordinal not in ending:
            gone += 1
            continue
        if top is None or not (_is_known(top) or _is_stuck(top) or _is_given_up(top, ended)):
            break
        below = [by_ordinal.get(other) for other in range(ordinals.start, ordinal)]
        goes = certain and all(pod is not None and pod.ready for pod in below)
        if _is_stuck(top) or _is_given_up(top, ended):
            return _Choice(victims=(), gone=gone + goes)
        return _Choice(victims=(top,), gone=gone + (goes and _is_drained(top, drain_id)))
    return _Choice(victims=(), gone=gone)


def _ordinals(target: TargetSample) -> range:
    """The ordinals of a StatefulSet's pods that stay."""
    return range(target.first_ordinal, target.first_ordinal + target.replicas)


def ordinal_of(name: str) -> int:
    """The ordinal of a StatefulSet's pod, -1 for any other name."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else -1


def _is_known(pod: PodSample) -> bool:
    """Whether a worker's heartbeat says now what this pod does; no other is ever drained."""
    return pod.phase == "Running" and _is_heard(pod) and not pod.stopping


def _is_heard(pod: PodSample) -> bool:
    return pod.heartbeat_age_s is not None and pod.heartbeat_age_s <= HEARTBEAT_FRESH_S


def _is_stuck(pod: PodSample) -> bool:
    """Whether it cannot start, by what the cluster says of it: it holds no task, and goes before any other.

    While any container runs it may be the worker's, and another one's trouble says nothing about its tasks.
    """
    return not pod.ready and bool(pod.pending_reason) and not pod.running and not _is_heard(pod)


def _is_leaving(pod: PodSample) -> bool:
    """Whether its worker, which was told to end, does, or has yet to hear of it; one that is back was started again."""
    return pod.stopping or bool(pod.busy)


def _is_given_up(pod: PodSample, ended: frozenset[str]) -> bool:
    """Whether its tasks are to run elsewhere: its worker was told to end and is no longer ready, so that it is taken first."""
    return pod.name in ended and pod.stopping and not pod.ready


def _is_drained(pod: PodSample, drain_id: str) -> bool:
    return (
        pod.drain_state == "drained"
        and pod.drain_id == drain_id
        and pod.drain_expires_in_s >= _MARK_LEFT_S
        and pod.busy == 0
        and pod.reserved == 0
    )


def _work_left(pod: PodSample, drain_id: str, marked: frozenset[str]) -> tuple[object, ...]:
    """Sorts the best victim first. The longest-running of equals has the least left; the youngest lost the least."""
    return (
        pod.busy > 0,
        not _is_drained(pod, drain_id),
        pod.busy + pod.reserved,
        pod.name not in marked,
        -pod.longest_running_s,
        -(pod.created_at or 0.0),
        pod.name,
    )


def _most_busy(spec: WorkerPoolSpec, replicas: int) -> int:
    """How many pods may be finishing work at a time; at least one, or a busy pool could never shrink."""
    most = spec.scale_down.max_concurrent_drains
    if isinstance(most, int):
        return most
    return max(1, replicas * int(most.removesuffix("%")) // 100)


def _unseen(alive: Sequence[PodSample], signals: Signals) -> bool:
    """Whether the target counts more pods, or more ready ones, than are known here: what the index lacks may work."""
    target = signals.target
    # A StatefulSet counts the pods that are on their way out, too; a ReplicaSet does not.
    known = len(signals.pods) if target.kind == "StatefulSet" else len(alive)
    return target.ready_replicas > sum(pod.ready for pod in alive) or (target.existing or 0) > known


def _echoed_id(alive: Sequence[PodSample]) -> str:
    """The id of a drain that pods still follow, from before this operator started: it is taken up, not begun anew."""
    echoed = [pod.drain_id for pod in alive if pod.drain_state and pod.drain_id]
    return max(sorted(set(echoed)), key=echoed.count, default="")


def _waiting(alive: Sequence[PodSample], choice: _Choice, target: TargetSample, wanted: int, leaving: set[str]) -> str:
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
        if not pod.ready and pod.name not in names | leaving and (target.ordered or not _is_stuck(pod))
    }
    if others:
        reasons.append(f"{_listed(others)} not ready and not drained")
    unknown = {pod.name for pod in alive if not _is_known(pod) and not _is_stuck(pod)} - others - leaving
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
