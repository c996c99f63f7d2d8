"""The loop's Cluster over a manifest and its processes: what the Kubernetes API is elsewhere."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celeriac_operator.errors import Conflict, NotFound, SetupError
from celeriac_operator.local.manifest import FieldRef, Manifest, SecretRef, Workload, expanded
from celeriac_operator.local.processes import Processes
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.signals import TargetSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A write of the scale. before and after: replicas."""

    pool: str
    before: int
    after: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event on a pool."""

    pool: str
    kind: str
    reason: str
    message: str
    at: float


class LocalCluster:
    """Serves one manifest. broker_url: stands in for Secrets that are not in the file;

    result_url likewise for results.
    """

    def __init__(self, manifest: Manifest, processes: Processes, *, broker_url: str, result_url: str) -> None:
        self._manifest = manifest
        self._processes = processes
        self._broker_url = broker_url
        self._lock = threading.Lock()
        self._closing = False
        self._status: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._versions: dict[tuple[str, str], int] = {}
        self._scaled: list[Scaled] = []
        self._happenings: list[Happening] = []
        self._specs = {pool.key: WorkerPoolSpec.parse(pool.spec) for pool in manifest.pools}
        floors = {
            (pool.namespace, spec.target_ref.name): spec.min_replicas
            for pool, spec in ((pool, self._specs[pool.key]) for pool in manifest.pools)
        }
        #: What the workers are given, a workload each.
        self.environments: list[Mapping[str, str]] = []
        for workload in manifest.workloads.values():
            if workload.key in floors:
                start = workload.replicas if workload.replicas is not None else floors[workload.key]
                # A missing Secret is told before anything starts.
                self.environments.append(environment(workload, manifest, broker_url, result_url))
                processes.add(
                    workload.namespace,
                    workload.name,
                    workload.program,
                    env=lambda workload=workload: environment(workload, manifest, broker_url, result_url),  # type: ignore[misc]
                    replicas=start,
                )

    # -- Cluster

    def pools(self) -> Sequence[PoolRecord]:
        with self._lock:
            return [replace(pool, status=self._status.get(pool.key, {})) for pool in self._manifest.pools]

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        at = (pool.namespace, spec.target_ref.name)
        workload = self._manifest.workloads.get(at)
        if workload is None:
            return TargetSample(
                kind=spec.target_ref.kind,
                name=spec.target_ref.name,
                error=f"{spec.target_ref.kind} {at[0]}/{at[1]} is not in the file",
            )
        with self._lock:
            version = self._versions.get(at, 1)
        return TargetSample(
            replicas=self._processes.replicas(*at),
            ready_replicas=sum(pod.ready for pod in self._processes.pods(*at)),
            # A StatefulSet's processes have no ordinals: they are made and taken as a ReplicaSet's pods are.
            kind="ReplicaSet" if workload.kind == "StatefulSet" else workload.kind,
            name=workload.name,
            resource_version=str(version),
            grace_s=workload.program.grace_s,
        )

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        return self._processes.pods(pool.namespace, spec.target_ref.name)

    def trace(self, pool: PoolRecord, spec: WorkerPoolSpec) -> object:
        """The target and its processes themselves: there are few."""
        return (self.target(pool, spec), tuple(self.pods(pool, spec)))

    def secret(self, namespace: str, name: str, key: str) -> str:
        found = _secret(self._manifest, namespace, name, key)
        if found is not None:
            return found
        if (name, key) in broker_refs(self._manifest, namespace):
            return self._broker_url
        if any(_names_management(spec, name, key) for spec in self._specs.values()):
            return ""  # the broker here is another, and tells what it knows by itself
        raise NotFound(
            f"Secret {namespace}/{name} with key {key} is not in the file", what=f"secret {name}", status=404
        )

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        at = (pool.namespace, spec.target_ref.name)
        with self._lock:
            version = self._versions.get(at, 1)
            if str(version) != resource_version:
                raise Conflict(f"the scale of {at[0]}/{at[1]} changed since it was read", what="scale", status=409)
            self._versions[at] = version + 1
            before = self._processes.replicas(*at)
            self._scaled.append(Scaled(pool=pool.name, before=before, after=replicas, at=time.time()))
        self._processes.scale(*at, replicas)

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        self._processes.mark(pool.namespace, self._specs[pool.key].target_ref.name, costs)

    def kill_pod(self, pool: PoolRecord, name: str) -> None:
        self._processes.kill_pod(pool.namespace, self._specs[pool.key].target_ref.name, name)

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            self._status[pool.key] = status
        return status

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        with self._lock:
            self._happenings.append(
                Happening(pool=pool.name, kind=kind, reason=reason, message=message, at=time.time())
            )

    def may_act(self) -> bool:
        return not self._closing

    def term(self) -> int:
        """Always the same: nobody else acts for these pools."""
        return 0

    def close(self) -> None:
        """From now on the loop watches and does nothing: somebody else stops the processes."""
        self._closing = True

    # -- for the view and the summary

    def scaled(self) -> list[Scaled]:
        """Every write of a scale so far."""
        with self._lock:
            return list(self._scaled)

    def happenings(self) -> list[Happening]:
        """Every event so far."""
        with self._lock:
            return list(self._happenings)


def broker_refs(manifest: Manifest, namespace: str) -> set[tuple[str, str]]:
    """(Secret, key) of every broker that a pool of this namespace names."""
    refs = set()
    for pool in manifest.pools:
        broker = WorkerPoolSpec.parse(pool.spec).broker
        if broker is not None and pool.namespace == namespace:
            refs.add((broker.url_from.name, broker.url_from.key))
    return refs


def _names_management(spec: WorkerPoolSpec, name: str, key: str) -> bool:
    ref = spec.broker.management_url_from if spec.broker else None
    return ref is not None and (ref.name, ref.key) == (name, key)


def _secret(manifest: Manifest, namespace: str, name: str, key: str) -> str | None:
    return manifest.secrets.get((namespace, name), {}).get(key)


def environment(workload: Workload, manifest: Manifest, broker_url: str, result_url: str) -> dict[str, str]:
    """What a process of this workload gets: the caller's environment, then the container's own.

    A Secret that is not in the file is the local broker's, when a pool names it as its broker or the variable holds a
    URL of broker or results; any other is a SetupError.
    """
    env = dict(os.environ)
    ours = {"CELERIAC_BROKER_URL": broker_url, "CELERIAC_RESULT_BACKEND": result_url}
    env.update({name: url for name, url in ours.items() if url})
    for name, value in workload.program.env.items():
        if isinstance(value, str):
            env[name] = expanded(value, env)
        elif isinstance(value, FieldRef):
            env[name] = _field(value, workload)
        else:
            found = _secret(manifest, workload.namespace, value.name, value.key)
            if found is None and name in ours:
                found = ours[name]
            elif found is None and (value.name, value.key) in broker_refs(manifest, workload.namespace):
                found = broker_url
            if found is None and not value.optional:
                raise SetupError(_missing(workload, name, value))
            if found is not None:
                env[name] = found
    return env


def _missing(workload: Workload, name: str, ref: SecretRef) -> str:
    return (
        f"{workload.kind} {workload.namespace}/{workload.name}: env {name} needs key {ref.key!r} of Secret"
        f" {ref.name!r}, which is not in the file; add a Secret with that name under stringData"
    )


def _field(ref: FieldRef, workload: Workload) -> str:
    if ref.path == "metadata.namespace":
        return workload.namespace
    if ref.path in _OF_THE_POD:
        return _OF_THE_POD[ref.path]
    raise SetupError(
        f"{workload.kind} {workload.namespace}/{workload.name}: fieldRef {ref.path!r} means nothing to a process;"
        f" local mode knows metadata.namespace, {', '.join(_OF_THE_POD)}"
    )


#: Facts of the pod, filled in where its process starts.
_OF_THE_POD: Mapping[str, str] = {
    "metadata.name": "$(CELERIAC_POD_NAME)",
    "metadata.uid": "$(CELERIAC_POD_UID)",
    "status.podIP": "127.0.0.1",
    "status.hostIP": "127.0.0.1",
    "spec.nodeName": "localhost",
}
