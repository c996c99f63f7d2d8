"""Which worker runs in which pod, and the pod as the decision sees it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from celeriac_operator.fleet.heartbeats import Worker
from celeriac_operator.resources.records import PodRecord
from celeriac_operator.scaling.signals import PodSample


def match(pods: Sequence[PodRecord], workers: Iterable[Worker], *, namespace: str) -> dict[str, Worker]:
    """Pod name -> its worker. A pod that nobody answers for is missing: it is counted, and never drained.

    By pod uid, else by namespace and pod name. A worker that tells no pod at all (a stock one, or one without the
    downward API) by the host part of its node name, which in a pod is the pod's name: the caller hands in the pods of
    one pool, so that a namesake elsewhere cannot be taken for it.
    Of several processes in one pod (its container was restarted), the one that lives, and of those the youngest.
    """
    by_uid = {pod.uid: pod.name for pod in pods if pod.uid}
    names = {pod.name for pod in pods}
    found: dict[str, Worker] = {}
    for worker in workers:
        beat = worker.beat
        if beat.pod_uid:
            name = by_uid.get(beat.pod_uid)
        elif beat.pod:
            name = beat.pod if beat.pod in names and beat.namespace in ("", namespace) else None
        else:
            host = beat.hostname.rpartition("@")[2]
            name = host if host in names else None
        if name is None:
            continue
        rival = found.get(name)
        if rival is None or _rank(worker) > _rank(rival):
            found[name] = worker
    return found


def _rank(worker: Worker) -> tuple[bool, float, float]:
    return (not worker.gone, worker.started_at, worker.heard_at)


def pod_samples(pods: Sequence[PodRecord], matched: Mapping[str, Worker], now: float) -> tuple[PodSample, ...]:
    """The pods with what their workers last said of themselves.

    A worker that fell silent keeps what it said, with its age: it may well be running. One that said good-bye does not.
    """
    return tuple(_sample(pod, matched.get(pod.name), now) for pod in pods)


def _sample(pod: PodRecord, worker: Worker | None, now: float) -> PodSample:
    sample = PodSample(
        name=pod.name,
        uid=pod.uid,
        phase=pod.phase,
        ready=pod.ready,
        deleting=pod.deleting,
        created_at=pod.created_at,
        ready_at=pod.ready_at,
        pending_reason=pod.pending_reason,
        revision=pod.revision,
        running=pod.running,
    )
    if worker is None:
        return sample
    beat = worker.beat
    age_s = max(0.0, now - worker.heard_at)
    sample = replace(
        sample,
        node=beat.hostname,
        heartbeat_age_s=age_s,
        first_heartbeat_at=worker.first_heard_at if worker.born else worker.started_at,
        slots=beat.slots,
        queues=beat.queues,
        stopping=beat.state == "stopping" or worker.offline,
    )
    if worker.offline:
        return sample
    sample = replace(sample, busy=beat.busy, reserved=beat.reserved, longest_running_s=beat.longest_running_s)
    if beat.drain is None:
        return sample
    return replace(
        sample,
        drain_state=beat.drain.state,
        drain_id=beat.drain.id,
        drain_expires_in_s=max(0.0, beat.drain.expires_in_s - age_s),
    )
