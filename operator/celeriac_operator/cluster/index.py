"""What the watches have seen, kept as small values: handlers feed it from their thread, the loops read it from theirs.

Pods find their pool by owner references alone (pod -> ReplicaSet -> Deployment, pod -> StatefulSet), so that nobody
has to label anything. Raw objects are not kept: ten thousand pods would be a hundred megabytes.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celeriac_operator.cluster.pods import Pod, pod_of
from celeriac_operator.cluster.workloads import PLURALS, Workload, workload_of
from celeriac_operator.resources.labels import API_VERSION, KIND, PLURAL
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec
from celeriac_operator.resources.status import first_target

#: (namespace, name) of a pool.
PoolKey = tuple[str, str]
#: (kind, namespace, name) of a workload.
TargetKey = tuple[str, str, str]

#: Kind -> the API path of its group and version, and its plural: everything that is watched.
WATCHED: Mapping[str, tuple[str, str]] = {
    KIND: (f"/apis/{API_VERSION}", PLURAL),
    "Pod": ("/api/v1", "pods"),
    **{kind: ("/apis/apps/v1", plural) for kind, plural in PLURALS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A WorkerPool, the workload it names, and when it was made (RFC 3339: comparable as text).

    valid   whether its spec can be acted on: another is nobody's rival.
    """

    record: PoolRecord
    target: TargetKey
    created_at: str
    valid: bool = True


class ClusterIndex:
    """Pools, workloads and pods by uid and by name. Every method is safe from any thread, and none blocks for long."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pools: dict[str, Pool] = {}
        self._workloads: dict[str, Workload] = {}
        self._pods: dict[str, Pod] = {}
        self._versions: dict[str, tuple[str, str, str]] = {}  # uid -> (kind, namespace, resourceVersion)
        self._met: dict[str, float] = {}  # pool's uid -> monotonic seconds
        self._told: dict[str, Mapping[str, Any]] = {}  # pool's uid -> the status that we wrote last
        self._workload_uids: dict[TargetKey, str] = {}
        self._owned: defaultdict[str, set[str]] = defaultdict(set)  # owner's uid -> uids of ReplicaSets and pods
        self._pools_of: defaultdict[TargetKey, set[str]] = defaultdict(set)
        self._turns: defaultdict[str, int] = defaultdict(
            int
        )  # workload's uid -> how often it or what it owns has changed
        self._last_event_at = time.monotonic()

    # -- fed by the watches --------------------------------------------------------------------------------------------

    def put(
        self, kind: str, body: Mapping[str, Any], *, since: Mapping[str, tuple[str, str, str]] | None = None
    ) -> frozenset[PoolKey]:
        """Take in an object as it is now. The pools to look at because of it: none if nothing of note changed.

        since   what `versions` gave before the object was asked for, when it was read and not told by a watch. If a watch has told
                something of it meanwhile, that may be newer than the answer, which is left alone.

        A pool's own status is not of note (we wrote it), nor is a workload's or a pod's resourceVersion. What is as it was is
        kept as it is: the watches list again what `Sweep.fill` has read, and a second copy would lie scattered in memory that
        is free but for it.
        """
        metadata = body["metadata"]
        uid = str(metadata["uid"])
        with self._lock:
            if since is not None and since.get(uid) != self._versions.get(uid):
                return frozenset()
            self._last_event_at = time.monotonic()
            version = (kind, metadata["namespace"], str(metadata.get("resourceVersion", "")))
            if self._versions.get(uid) != version:
                self._versions[uid] = version
            if kind == KIND:
                told = self._told.get(uid)
                body = {**body, "status": told} if told is not None and told == body.get("status") else body
                return self._put_pool(uid, pool_of(body, self._pools.get(uid)))
            if kind == "Pod":
                return self._put_pod(uid, pod_of(body))
            return self._put_workload(uid, workload_of({**body, "kind": kind}))

    def drop(self, uid: str) -> frozenset[PoolKey]:
        """Forget an object. The pools that should be looked at because of it."""
        with self._lock:
            self._last_event_at = time.monotonic()
            self._versions.pop(uid, None)
            self._told.pop(uid, None)
            self._met.pop(uid, None)
            if pool := self._pools.pop(uid, None):
                self._disown(self._pools_of, pool.target, uid)
                return frozenset({pool.record.key})
            if pod := self._pods.pop(uid, None):
                self._turned(pod.owner)
                self._disown(self._owned, pod.owner, uid)
                return self._served(pod.owner)
            if workload := self._workloads.pop(uid, None):
                concerned = self._served(uid)
                self._turns.pop(uid, None)
                self._turned(workload.owner)
                key = (workload.kind, workload.namespace, workload.name)
                if self._workload_uids.get(key) == uid:  # a successor of the same name may be there already
                    del self._workload_uids[key]
                self._disown(self._owned, workload.owner, uid)
                return concerned
            return frozenset()

    def wrote_scale(self, uid: str, *, replicas: int, resource_version: str) -> None:
        """Take in our own write to a workload's scale, so that the next tick need not wait for the watch to tell it."""
        with self._lock:
            if workload := self._workloads.get(uid):
                self._workloads[uid] = replace(workload, replicas=replicas, resource_version=resource_version)
                self._turned(uid)

    def wrote_status(self, uid: str, status: Mapping[str, Any]) -> None:
        """Say that this status is about to be written: when the watch brings it back, one copy is kept, not two."""
        with self._lock:
            if uid in self._pools:
                self._told[uid] = status

    # -- read by the loops ---------------------------------------------------------------------------------------------

    def pools(self) -> Sequence[Pool]:
        """All pools, in the order of their names."""
        with self._lock:
            return sorted(self._pools.values(), key=lambda pool: pool.record.key)

    def pool(self, uid: str) -> Pool | None:
        """The pool of that uid, None when there is none (any more)."""
        with self._lock:
            return self._pools.get(uid)

    def met_at(self, uid: str) -> float:
        """When the pool of that uid was first seen with the target that it has (monotonic seconds); long ago when it is not known."""
        with self._lock:
            return self._met.get(uid, float("-inf"))

    def pools_of(self, target: TargetKey) -> Sequence[Pool]:
        """The pools that name this workload, the oldest first."""
        with self._lock:
            pools = [self._pools[uid] for uid in self._pools_of.get(target, ())]
        return sorted(pools, key=lambda pool: (pool.created_at, pool.record.name))

    def workload(self, target: TargetKey) -> Workload | None:
        """The workload of that name, None when there is none."""
        with self._lock:
            uid = self._workload_uids.get(target)
            return self._workloads.get(uid) if uid else None

    def knows(self, uid: str) -> bool:
        """Whether there is a workload of that uid."""
        with self._lock:
            return uid in self._workloads

    def pods(self, workload: Workload) -> Sequence[Pod]:
        """The pods a workload owns, itself or by its ReplicaSets, in the order of their names."""
        with self._lock:
            owned = self._owned.get(workload.uid, ())
            uids = {pod for uid in owned for pod in self._owned.get(uid, ())} | set(owned)
            return sorted((self._pods[uid] for uid in uids if uid in self._pods), key=lambda pod: pod.record.name)

    def trace(self, target: TargetKey) -> tuple[str, int]:
        """(uid, turns) of the workload of that name: equal while neither it nor what it owns has changed but in version."""
        with self._lock:
            uid = self._workload_uids.get(target, "")
            return uid, self._turns.get(uid, 0)

    def versions(self) -> Mapping[str, tuple[str, str, str]]:
        """uid -> (kind, namespace, resourceVersion) of everything held: a copy."""
        with self._lock:
            return dict(self._versions)

    def last_event_age_s(self) -> float:
        """Seconds since anything was put or dropped. A quiet cluster is silent too: `sweep` tells the two apart."""
        with self._lock:
            return time.monotonic() - self._last_event_at

    # -- within the lock -----------------------------------------------------------------------------------------------

    def _put_pool(self, uid: str, pool: Pool) -> frozenset[PoolKey]:
        before = self._pools.get(uid)
        if before == pool:
            return frozenset()
        if before and before.target != pool.target:
            self._disown(self._pools_of, before.target, uid)
        self._pools[uid] = pool
        if before is None or before.target != pool.target:
            self._met[uid] = time.monotonic()
        self._pools_of[pool.target].add(uid)
        if before and before.record.generation == pool.record.generation:
            return frozenset()
        return frozenset({pool.record.key})

    def _put_pod(self, uid: str, pod: Pod) -> frozenset[PoolKey]:
        before = self._pods.get(uid)
        if before == pod:
            return frozenset()
        if before and before.owner != pod.owner:
            self._disown(self._owned, before.owner, uid)
        self._pods[uid] = pod
        self._turned(pod.owner)
        if pod.owner:
            self._owned[pod.owner].add(uid)
        return self._served(pod.owner) if not before or _noted(before.record) != _noted(pod.record) else frozenset()

    def _put_workload(self, uid: str, workload: Workload) -> frozenset[PoolKey]:
        before = self._workloads.get(uid)
        if before == workload:
            return frozenset()
        if before and before.owner != workload.owner:
            self._disown(self._owned, before.owner, uid)
        self._workloads[uid] = workload
        self._workload_uids[workload.kind, workload.namespace, workload.name] = uid
        if workload.owner:
            self._owned[workload.owner].add(uid)
        if before is None or replace(before, resource_version=workload.resource_version) != workload:
            self._turned(uid)
        if before and (before.replicas, before.replacing) == (workload.replicas, workload.replacing):
            return frozenset()
        return self._served(uid)

    def _turned(self, uid: str) -> None:
        """Count a change for the workload `uid` and those that own it."""
        while workload := self._workloads.get(uid):
            self._turns[uid] += 1
            uid = workload.owner

    def _served(self, owner: str) -> frozenset[PoolKey]:
        """The pools whose target is the workload `owner`, or the workload that owns that."""
        keys: set[PoolKey] = set()
        while workload := self._workloads.get(owner):
            pools = self._pools_of.get((workload.kind, workload.namespace, workload.name), ())
            keys.update(self._pools[uid].record.key for uid in pools)
            owner = workload.owner
        return frozenset(keys)

    @staticmethod
    def _disown(owned: defaultdict[Any, set[str]], owner: Any, uid: str) -> None:
        if uids := owned.get(owner):
            uids.discard(uid)
            if not uids:
                del owned[owner]


def pool_of(body: Mapping[str, Any], before: Pool | None = None) -> Pool:
    """The pool that a WorkerPool object describes, however wrong its spec: `WorkerPoolSpec.parse` judges that.

    before   the pool as it was: most news is of its status, and the spec of one generation need not be judged twice.
    """
    metadata, spec = body["metadata"], body.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    record = PoolRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=int(metadata.get("generation") or 0),
        resource_version=str(metadata.get("resourceVersion", "")),
        spec=spec,
        status=body.get("status") or {},
    )
    target = spec.get("targetRef")
    target = target if isinstance(target, Mapping) else {}
    kind, name = str(target.get("kind") or "Deployment"), str(target.get("name") or "")
    # One that has changed its target is not served, as one with a wrong spec is not.
    moved = first_target(record.status) not in (None, (kind, name))
    known = before is not None and before.record.generation == record.generation > 0
    return Pool(
        record=record,
        target=(kind, record.namespace, name),
        created_at=str(metadata.get("creationTimestamp") or ""),
        valid=not moved and (before.valid if before is not None and known else _is_valid(spec)),
    )


def _is_valid(spec: Mapping[str, Any]) -> bool:
    try:
        WorkerPoolSpec.parse(spec)
    except SpecError:
        return False
    return True


def list_paths(kind: str, namespaces: Iterable[str]) -> Sequence[str]:
    """The list paths of a watched kind: one a namespace, or one for the whole cluster when `namespaces` is empty."""
    group, plural = WATCHED[kind]
    return [f"{group}/namespaces/{namespace}/{plural}" for namespace in namespaces] or [f"{group}/{plural}"]


def _noted(pod: PodRecord) -> tuple[object, ...]:
    """What of a pod makes it worth a look at its pool before the next tick."""
    return (pod.phase, pod.ready, pod.deleting, pod.pending_reason)
