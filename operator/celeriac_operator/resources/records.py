"""A WorkerPool and a pod as the cluster's index holds them: plain values, so that local mode can make them too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """A WorkerPool object as read. spec and status are raw: `WorkerPoolSpec.parse` judges the first."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): what names a pool everywhere in the operator."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """A pod of a pool's target, without what only its worker knows. Times: epoch seconds, None for not yet.

    phase            Pending | Running | Succeeded | Failed | Unknown
    pending_reason   why it does not run: Unschedulable, ImagePullBackOff, CrashLoopBackOff, QuotaExceeded …, or empty.
    running          a container of it runs, be it another than the one that pending_reason is about.
    revision         the ReplicaSet's hash (`pod-template-hash`, or a StatefulSet's `controller-revision-hash`).
    """

    name: str
    uid: str = ""
    phase: str = "Pending"
    ready: bool = False
    deleting: bool = False
    created_at: float | None = None
    ready_at: float | None = None
    pending_reason: str = ""
    revision: str = ""
    running: bool = False
