"""Raw Kubernetes objects, as an API server would return them, for tests of the operator."""

from typing import Any


def deployment(name: str = "mails", *, replicas: int = 2, ready: int = 2, **metadata: Any) -> dict[str, Any]:
    """A Deployment whose pods are all of the newest template."""
    return {
        "kind": "Deployment",
        "metadata": {"name": name, **metadata},
        "spec": {"replicas": replicas, "template": {"spec": {"terminationGracePeriodSeconds": 45}}},
        "status": {
            "observedGeneration": 1,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": ready,
        },
    }


def stateful_set(name: str = "mails", *, replicas: int = 2, **status: Any) -> dict[str, Any]:
    return {
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "template": {"spec": {}}},
        "status": {"replicas": replicas, "readyReplicas": replicas, **status},
    }


def replica_set(name: str, *, owner: dict[str, Any] | None = None, replicas: int = 2) -> dict[str, Any]:
    return {
        "kind": "ReplicaSet",
        "metadata": {"name": name, **owned_by(owner)},
        "spec": {"replicas": replicas, "template": {"spec": {}}},
        "status": {},
    }


def pod(
    name: str, *, owner: dict[str, Any] | None = None, ready: bool = True, revision: str = "r1", **status: Any
) -> dict[str, Any]:
    """A running pod; `status` replaces parts of its status."""
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-11-22T10:00:20Z"}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"pod-template-hash": revision},
            "creationTimestamp": "2026-11-22T10:00:00Z",
            **owned_by(owner),
        },
        "spec": {},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "conditions": [condition], **status},
    }


def worker_pool(name: str = "mails", *, target: str = "mails", kind: str = "Deployment", **spec: Any) -> dict[str, Any]:
    return {
        "kind": "WorkerPool",
        "metadata": {"name": name},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target},
            "queues": [{"name": "mails"}],
            **spec,
        },
    }


def autoscaler(name: str, *, target: str, kind: str = "Deployment") -> dict[str, Any]:
    reference = {"kind": kind, "name": target}
    return {"kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {"scaleTargetRef": reference}}


def owned_by(owner: dict[str, Any] | None) -> dict[str, Any]:
    if owner is None:
        return {}
    reference = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {"ownerReferences": [{**reference, "controller": True}]}
