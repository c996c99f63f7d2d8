"""Which worker runs in which pod, and the pod as the decision sees it. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from celeriac.wire.control import SIGNED
from celeriac.wire.event import DrainState
from celeriac_operator.fleet.heartbeats import Worker
from celeriac_operator.resources.records import PodRecord
from celeriac_operator.scaling.rates import Keeper, Kept
from celeriac_operator.scaling.signals import PodSample

#: What tells whose a worker is -> the workers that tell it.
Crews = Mapping[tuple[str, ...], Sequence[Worker]]


def crews_of(workers: Iterable[Worker]) -> Crews:
    """Workers by what they tell of their pod: made once a tick, for all pools of a broker."""
    crews: dict[tuple[str, ...], list[Worker]] = {}
    for worker in workers:
        beat = worker.beat
        if beat.pod_uid:
            at: tuple[str, ...] = ("uid", beat.pod_uid)
        elif beat.pod:
            at = ("pod", beat.namespace, beat.pod)
        else:
            at = ("host", beat.hostname.rpartition("@")[2])
        crews.setdefault(at, []).append(worker)
    return crews


def match(pods: Sequence[PodRecord], crews: Crews, *, namespace: str) -> dict[str, tuple[Worker, ...]]:
    """Pod name -> its workers, those that are gone too. A pod that nobody answers for is missing: it is counted, and
    never drained.

    By pod uid, else by namespace and pod name. A worker that tells no pod at all (a stock one, or one without the
    downward API) by the host part of its node name, which in a pod is the pod's name: the caller hands in the pods of
    one pool, so that a namesake elsewhere cannot be taken for it.
    """
    found: dict[str, tuple[Worker, ...]] = {}
    for pod in pods:
        keys = (("uid", pod.uid), ("pod", namespace, pod.name), ("pod", "", pod.name), ("host", pod.name))
        known = [worker for key in keys for worker in crews.get(key, ())]
        if known:
            found[pod.name] = tuple(sorted(known, key=_rank)) if len(known) > 1 else (known[0],)
    return found


def _rank(worker: Worker) -> tuple[bool, float, float]:
    return (not worker.gone, worker.started_at, worker.heard_at)


def _speakers(workers: Sequence[Worker]) -> Sequence[Worker]:
    """Those who speak for their pod, the youngest last: all that live, or with none alive the last who did.

    A worker whose namesake started after it was last heard was that one's predecessor, in a container that has restarted.
    """
    living = [worker for worker in workers if not worker.gone]
    return [
        worker
        for worker in living
        if not any(
            other.beat.hostname == worker.beat.hostname and other.started_at > worker.heard_at for other in living
        )
    ] or workers[-1:]


def pod_samples(
    pods: Sequence[PodRecord], matched: Mapping[str, Sequence[Worker]], now: float, *, skew_s: float = 0.0
) -> tuple[PodSample, ...]:
    """The pods with what their workers last said of themselves; of several in one pod, the sum.

    Times of pods are the cluster's, which the machine's clock follows; in the samples they are by the clock of `now`, which
    the machine's is ahead of by skew_s.

    A worker that fell silent keeps what it said, with its age: it may well be running. One that said good-bye does not.
    """
    return tuple(_sample(pod, _speakers(matched.get(pod.name, ())), now, skew_s) for pod in pods)


def keepers(workers: Iterable[Worker]) -> tuple[Keeper, ...]:
    """The live workers of ours, with the rates that they tell."""
    return tuple(
        Keeper(
            node=worker.beat.hostname,
            slots=worker.beat.slots,
            starts=worker.beat.state == "running",
            rates={limit.task: Kept(limit.per_s, limit.scope, limit.by) for limit in worker.beat.limits},
        )
        for worker in workers
        if worker.beat.ours and not worker.gone
    )


def _sample(pod: PodRecord, workers: Sequence[Worker], now: float, skew_s: float) -> PodSample:
    """The pod, with what these workers tell; of a pod without any, what the cluster tells."""
    beats = [worker.beat for worker in workers]
    at_work = [worker.beat for worker in workers if not worker.offline]
    heartbeat_age_s = max((max(0.0, now - worker.heard_at) for worker in workers), default=None)
    drain_state, drain_id, drain_expires_in_s = _drain_of([beat.drain for beat in at_work], heartbeat_age_s or 0.0)
    return PodSample(
        name=pod.name,
        uid=pod.uid,
        phase=pod.phase,
        ready=pod.ready,
        deleting=pod.deleting,
        created_at=None if pod.created_at is None else pod.created_at - skew_s,
        ready_at=None if pod.ready_at is None else pod.ready_at - skew_s,
        pending_reason=pod.pending_reason,
        revision=pod.revision,
        running=pod.running,
        node=beats[-1].hostname if beats else "",
        nodes=tuple(dict.fromkeys(beat.hostname for beat in beats)),
        heartbeat_age_s=heartbeat_age_s,
        first_heartbeat_at=min(
            (worker.first_heard_at if worker.born else worker.started_at for worker in workers), default=None
        ),
        slots=sum(beat.slots for beat in beats) if beats else 1,
        queues=tuple(dict.fromkeys(queue for beat in beats for queue in beat.queues)),
        stopping=bool(workers) and all(worker.beat.state == "stopping" or worker.offline for worker in workers),
        busy=sum(beat.busy for beat in at_work),
        reserved=sum(beat.reserved for beat in at_work),
        longest_running_s=max((beat.longest_running_s for beat in at_work), default=0.0),
        drain_state=drain_state,
        drain_id=drain_id,
        drain_expires_in_s=drain_expires_in_s,
        signed=any(beat.commands == SIGNED for beat in at_work),
    )


def _drain_of(marks: Sequence[DrainState | None], heartbeat_age_s: float) -> tuple[str, str, float]:
    """(state, id, seconds left) of the mark that a pod's workers echo; of several workers, what holds for all."""
    heard = [mark for mark in marks if mark is not None]
    if not heard:
        return "", "", 0.0
    agreed = len(heard) == len(marks) and len({mark.id for mark in heard}) == 1
    state = "drained" if agreed and all(mark.state == "drained" for mark in heard) else "draining"
    # Until all have heard the same mark it is nobody's: the operator says it again.
    left_s = max(0.0, min(mark.expires_in_s for mark in heard) - heartbeat_age_s)
    return state, heard[0].id if agreed else "", left_s
