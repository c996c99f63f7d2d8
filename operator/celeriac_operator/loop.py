"""Observe, decide, act, report: one thread per broker serves every pool that names it.

The cluster is a Protocol, so that the same loop runs over the Kubernetes API and over processes on one machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.signals import TargetSample


class Cluster(Protocol):
    """What the loop asks of a cluster. Every method may block, and raises `celeriac_operator.errors.ClusterError`."""

    def pools(self) -> Sequence[PoolRecord]:
        """All pools this operator serves, from the warm index."""
        ...

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        """The workload the pool scales; one that is missing is `TargetSample(error=...)`, not an exception."""
        ...

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        """The target's pods by owner references, from the warm index."""
        ...

    def secret(self, namespace: str, name: str, key: str) -> str:
        """One value of a Secret, decoded."""
        ...

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        """Write the target's scale; Conflict when it changed since `resource_version` was read."""
        ...

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        """Pod name -> deletion cost: for ReplicaSets that know it, and for people. A pod that is gone is passed over."""
        ...

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> None:
        """Replace the pool's status subresource."""
        ...

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        """A Kubernetes event on the pool; kind is Normal or Warning."""
        ...

    def may_act(self) -> bool:
        """Whether this replica holds the Lease, or needs none. Without it the loop observes and decides, and writes nothing."""
        ...
