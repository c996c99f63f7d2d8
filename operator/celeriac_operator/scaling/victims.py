"""Which pods a scale-in takes, and how many of them may be taken off the number now without touching one that may work.

A ReplicaSet removes pods that are not ready first; a StatefulSet its highest ordinals, ready or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.learning import HEARTBEAT_FRESH_S
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, Signals, TargetSample

#: A mark must hold for so much longer when the number is written: the pod must not claim again before it is removed.
_MARK_LEFT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """victims: pods to mark. gone: how many replicas may be taken off now without touching a pod that may work."""

    victims: tuple[PodSample, ...]
    gone: int


def choose(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    memory: Memory,
) -> Choice:
    """Who of the pods that are `alive` goes for `desired` replicas, fewer than there are, under this drain's id."""
    if signals.target.kind != "StatefulSet":
        marked = frozenset(name for name, _ in memory.marked)
        return _idle_first(alive, signals, spec, desired, drain_id=drain_id, marked=marked, ended=memory.ended)
    if signals.target.ordered:
        return _the_top(alive, signals, desired, drain_id=drain_id, ended=memory.ended)
    return _from_the_top(alive, signals, spec, desired, drain_id=drain_id, ended=memory.ended)


def _idle_first(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    marked: frozenset[str],
    ended: frozenset[str],
) -> Choice:
    """For a ReplicaSet: pods that do not exist or cannot start, then idle ones, then those with the least work left."""
    replicas = signals.target.replicas
    absent = min(replicas - desired, 0 if _unseen(alive, signals) else max(0, replicas - len(alive)))
    stuck = [pod for pod in alive if is_stuck(pod) or _is_given_up(pod, ended)]
    of_stuck = min(replicas - desired - absent, len(stuck))
    ending = sum(
        pod.name in ended and pod.stopping and pod.ready for pod in alive
    )  # given up, and not to be seen so yet
    victims: list[PodSample] = []
    busy = 0
    for pod in sorted(filter(is_known, alive), key=lambda pod: _work_left(pod, drain_id, marked)):
        busy += pod.busy > 0
        if len(victims) >= replicas - desired - absent - of_stuck - ending or busy > _most_busy(spec, replicas):
            break
        victims.append(pod)
    drained = [pod for pod in victims if is_drained(pod, drain_id) and not pod.ready]
    not_ready = {pod.name for pod in alive if not pod.ready}
    # More pods than replicas: the last scale-in is under way, and its pods must not be counted twice.
    settled = len(alive) <= replicas and not _unseen(alive, signals)
    exactly = not_ready <= {pod.name for pod in (*stuck, *drained)}
    return Choice(victims=tuple(victims), gone=absent + of_stuck + len(drained) if settled and exactly else 0)


def _from_the_top(
    alive: Sequence[PodSample],
    signals: Signals,
    spec: WorkerPoolSpec,
    desired: int,
    *,
    drain_id: str,
    ended: frozenset[str],
) -> Choice:
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
        elif is_stuck(pod) or _is_given_up(pod, ended):
            free = True
        elif not is_known(pod):
            break
        else:
            busy += pod.busy > 0
            if busy > _most_busy(spec, replicas):
                break
            victims.append(pod)
            free = is_drained(pod, drain_id)
        certain = certain and free  # once one is kept, those below it are too
        gone += certain
    return Choice(victims=tuple(victims), gone=gone)


def _the_top(
    alive: Sequence[PodSample], signals: Signals, desired: int, *, drain_id: str, ended: frozenset[str]
) -> Choice:
    """For a StatefulSet with podManagementPolicy OrderedReady, the default: its highest ordinal, and no other at a time.

    Its controller does nothing while a pod that stays is not ready. Of those that go it removes the highest, and one that is
    not ready only if it is the lowest such ordinal: of two drained ones it would remove neither. So the next one is marked
    when the last is on its way out, and the number falls when all below are ready.
    """
    ordinals, certain = ordinals_of(signals.target), not _unseen(alive, signals)
    by_ordinal = {ordinal_of(pod.name): pod for pod in alive}
    ending = {ordinal_of(pod.name) for pod in signals.pods if pod.deleting}
    if any(ordinal not in ordinals for ordinal in by_ordinal):
        return Choice(victims=(), gone=0)
    gone = 0
    for ordinal in reversed(ordinals[desired:]):
        top = by_ordinal.get(ordinal)
        if top is None and certain and ordinal not in ending:
            gone += 1
            continue
        if top is None or not (is_known(top) or is_stuck(top) or _is_given_up(top, ended)):
            break
        below = [by_ordinal.get(other) for other in range(ordinals.start, ordinal)]
        goes = certain and all(pod is not None and pod.ready for pod in below)
        if is_stuck(top) or _is_given_up(top, ended):
            return Choice(victims=(), gone=gone + goes)
        return Choice(victims=(top,), gone=gone + (goes and is_drained(top, drain_id)))
    return Choice(victims=(), gone=gone)


def ordinals_of(target: TargetSample) -> range:
    """The ordinals of a StatefulSet's pods that stay."""
    return range(target.first_ordinal, target.first_ordinal + target.replicas)


def ordinal_of(name: str) -> int:
    """The ordinal of a StatefulSet's pod, -1 for any other name."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else -1


def is_known(pod: PodSample) -> bool:
    """Whether a worker's heartbeat says now what this pod does; no other is ever drained."""
    return pod.phase == "Running" and _is_heard(pod) and not pod.stopping


def _is_heard(pod: PodSample) -> bool:
    return pod.heartbeat_age_s is not None and pod.heartbeat_age_s <= HEARTBEAT_FRESH_S


def is_stuck(pod: PodSample) -> bool:
    """Whether it cannot start, by what the cluster says of it: it holds no task, and goes before any other.

    While any container runs it may be the worker's, and another one's trouble says nothing about its tasks.
    """
    return not pod.ready and bool(pod.pending_reason) and not pod.running and not _is_heard(pod)


def _is_given_up(pod: PodSample, ended: frozenset[str]) -> bool:
    """Whether its tasks are to run elsewhere: its worker was told to end and is no longer ready, so that it is taken first."""
    return pod.name in ended and pod.stopping and not pod.ready


def is_drained(pod: PodSample, drain_id: str) -> bool:
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
        not is_drained(pod, drain_id),
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
