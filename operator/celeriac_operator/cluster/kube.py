"""`KubeCluster`: the loop's `Cluster` over the Kubernetes API. Reads come from the index, writes go out at once.

Nothing is read per tick: a thousand pools at five seconds would be two hundred requests a second. The index may be
some milliseconds behind, which is why every write to `/scale` carries the version that was read, and why a Conflict
makes the index read that object anew.
"""

import base64
import binascii
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celeriac_operator.cluster.budgets import Budgets
from celeriac_operator.cluster.client import JSON_PATCH, KubeClient
from celeriac_operator.cluster.events import EventRecorder
from celeriac_operator.cluster.index import ClusterIndex, Pool, TargetKey
from celeriac_operator.cluster.lease import Lease
from celeriac_operator.cluster.pods import Pod
from celeriac_operator.cluster.rivals import Rivals
from celeriac_operator.cluster.workloads import PLURALS, Workload, path_of, write_scale
from celeriac_operator.cluster.writes import Writes
from celeriac_operator.errors import ClusterError, Conflict, Forbidden, NotFound
from celeriac_operator.resources.labels import API_VERSION, DELETION_COST, FIELD_MANAGER, PLURAL
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.signals import TargetSample

log = logging.getLogger("celeriac_operator.cluster")

#: Pods that a quota refused and that are reported one by one.
REFUSED_SHOWN = 20


class KubeCluster:
    """One cluster, or some namespaces of it.

    index           fed by the watches and the sweep.
    lease           None: this operator runs alone and always acts.
    annotate_pods   whether pods get a deletion cost: a copy for people, and for ReplicaSets of 1.22 and later.
    """

    def __init__(
        self,
        client: KubeClient,
        index: ClusterIndex,
        *,
        instance: str = FIELD_MANAGER,
        lease: Lease | None = None,
        annotate_pods: bool = True,
    ) -> None:
        self._client = client
        self._index = index
        self._lease = lease
        self._rivals = Rivals(client, index)
        self._budgets = Budgets(client)
        self._events = EventRecorder(client, instance=instance)
        self._annotate_pods = annotate_pods
        self._writes = Writes()

    def may_act(self) -> bool:
        """Whether this replica holds the Lease, or needs none."""
        may = self._lease is None or self._lease.held()
        if not may:
            self._writes.forget()
        return may

    def term(self) -> int:
        """The Lease's count of changes of holder when it became ours; 0 without a Lease."""
        return 0 if self._lease is None else self._lease.term

    def pools(self) -> Sequence[PoolRecord]:
        """All pools served, in the order of their names."""
        return [pool.record for pool in self._index.pools()]

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        """The workload as last seen; what is wrong with it as `error`."""
        key = _target_key(pool, spec)
        kind, namespace, name = key
        if spec.target_ref.api_version != "apps/v1" or kind not in PLURALS:
            what = f"{spec.target_ref.api_version} {kind}"
            return TargetSample(
                kind=kind, name=name, error=f"spec.targetRef: {what} is not one of apps/v1 {', '.join(PLURALS)}"
            )
        workload = self._index.workload(key)
        if workload is None:
            error = f"{kind} {namespace}/{name} does not exist: create it, or correct spec.targetRef"
            return TargetSample(kind=kind, name=name, error=error)
        rival, unread = "", ""
        try:
            rival = self._rivals.of(self._index.pool(pool.uid) or Pool(record=pool, target=key, created_at="~"))
        except ClusterError as error:
            unread = str(error)
        return TargetSample(
            kind=kind,
            name=name,
            replicas=workload.replicas,
            ready_replicas=workload.ready_replicas,
            resource_version=workload.resource_version,
            rollout=self._rolls_out(workload),
            grace_s=workload.grace_s,
            foreign_manager=rival,
            foreign_unread=unread,
            contested_by=self._writes.contested_by(workload),
            ours=self._writes.ours(workload),
            first_ordinal=workload.first_ordinal,
            ordered=workload.ordered,
            existing=workload.existing,
            selector=workload.selector,
            settling=self._settles(workload),
            disruption=self._budgets.against(workload, spec.max_replicas),
        )

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        """The target's pods, ended ones left out.

        Pods that a quota forbids do not exist; they are told as Pending with the reason QuotaExceeded, since that is
        what they are to whoever waits for them, and since a ReplicaSet gives them up first, too.
        """
        workload = self._index.workload(_target_key(pool, spec))
        if workload is None:
            return ()
        live = [pod.record for pod in self._index.pods(workload) if pod.record.phase not in ("Succeeded", "Failed")]
        known = sum(not pod.deleting for pod in live)
        return [*live, *_refused(workload, max(known, workload.existing or 0))]

    def trace(self, pool: PoolRecord, spec: WorkerPoolSpec) -> object:
        """How often the target and its pods have changed. Other autoscalers and budgets are looked at with the decision."""
        return self._index.trace(_target_key(pool, spec))

    def secret(self, namespace: str, name: str, key: str) -> str:
        """One value of a Secret, decoded. NotFound also when the Secret lacks the key, or has no text there."""
        data = self._client.get(f"/api/v1/namespaces/{namespace}/secrets/{name}").get("data") or {}
        if key not in data:
            has = ", ".join(sorted(data)) or "none"
            raise NotFound(f"the Secret {namespace}/{name} has no key {key!r}; its keys: {has}", what="GET secret")
        try:
            return base64.b64decode(data[key]).decode().strip()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise NotFound(f"the key {key!r} of Secret {namespace}/{name} is not text", what="GET secret") from error

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        """Write the target's scale; Conflict when it changed since `resource_version` was read."""
        self._guard()
        key = _target_key(pool, spec)
        workload = self._index.workload(key)
        if workload is None:
            raise NotFound(f"{key[0]} {key[1]}/{key[2]} does not exist", what="PUT scale", status=404)
        self._writes.sending(workload, replicas)
        try:
            version = write_scale(self._client, workload, replicas=replicas, resource_version=resource_version)
        except Conflict:
            self._writes.refused(workload)
            # Usually the index was a moment behind; it may also be that its watch is silent.
            known = self._index.versions()
            found = self._client.get(path_of(workload.namespace, workload.kind, workload.name))
            self._index.put(workload.kind, found, since=known)
            raise
        except ClusterError as error:
            if error.status is not None and error.status < 500:
                self._writes.refused(workload)
            raise
        self._index.wrote_scale(workload.uid, replicas=replicas, resource_version=version)
        self._writes.done(workload, replicas)
        self._writes.keep(self._index.knows)

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        """Set the deletion cost of pods by name. Best effort: what decides who goes is readiness."""
        if not self._annotate_pods:
            return
        self._guard()
        known = self._pods_by_name(pool)
        for name, cost in costs.items():
            if name in known and known[name].deletion_cost == str(cost):
                continue
            body = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
            try:
                self._client.patch(f"/api/v1/namespaces/{pool.namespace}/pods/{name}", body)
            except NotFound:
                continue
            except Forbidden as error:
                self._annotate_pods = False
                log.warning("pods get no deletion cost from now on: %s", error)
                return

    def kill_pod(self, pool: PoolRecord, name: str) -> None:
        """Delete one pod without grace, that very one: not a later one of the same name."""
        self._guard()
        known = self._pods_by_name(pool).get(name)
        if known is None:
            return
        try:
            self._client.delete(f"/api/v1/namespaces/{pool.namespace}/pods/{name}", uid=known.record.uid, grace_s=0)
        except (NotFound, Conflict):
            return  # gone, or gone and made anew

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the status subresource as a whole, of this very pool: not of a later one of the same name.

        Returns it as it is stored.
        """
        self._guard()
        body = [
            {"op": "test", "path": "/metadata/uid", "value": pool.uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        path = f"/apis/{API_VERSION}/namespaces/{pool.namespace}/{PLURAL}/{pool.name}/status"
        self._index.wrote_status(pool.uid, status)
        stored = self._client.patch(path, body, content_type=JSON_PATCH).get("status") or {}
        return status if stored == status else stored

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        """A Kubernetes event on the pool; repeats are gathered."""
        self._guard()
        self._events.post(pool, kind, reason, message)

    def _guard(self) -> None:
        if not self.may_act():
            raise Conflict("another replica of the operator holds the Lease: nothing was written", what="guard")

    def _rolls_out(self, workload: Workload) -> bool:
        """Whether pods are being replaced.

        A spec that its controller has not seen yet may hold a new template, unless the change was our own to the scale.
        """
        if workload.replacing:
            return True
        if workload.generation > max(workload.observed_generation, self._writes.generation(workload.uid)):
            return True
        if workload.kind == "StatefulSet":
            return False  # a partition or OnDelete keeps two revisions on purpose; any other update, its status tells
        live = [pod.record for pod in self._index.pods(workload) if not pod.record.deleting]
        return len({pod.revision for pod in live if pod.phase not in ("Succeeded", "Failed")}) > 1

    def _settles(self, workload: Workload) -> bool:
        """Whether its controller has yet to see the newest spec, our own last write to the scale included."""
        return workload.observed_generation < max(workload.generation, self._writes.generation(workload.uid))

    def _pods_by_name(self, pool: PoolRecord) -> Mapping[str, Pod]:
        indexed = self._index.pool(pool.uid)
        workload = self._index.workload(indexed.target) if indexed else None
        return {pod.record.name: pod for pod in self._index.pods(workload)} if workload else {}


def _target_key(pool: PoolRecord, spec: WorkerPoolSpec) -> TargetKey:
    return (spec.target_ref.kind, pool.namespace, spec.target_ref.name)


def _refused(workload: Workload, live: int) -> Sequence[PodRecord]:
    if not workload.quota_exceeded:
        return ()
    missing = min(max(workload.replicas - live, 0), REFUSED_SHOWN)
    return [PodRecord(name=f"{workload.name}-refused-{n}", pending_reason="QuotaExceeded") for n in range(missing)]
