"""A pod, as far as the operator cares: whose it is, whether it is ready, and why it does not run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celeriac_operator.resources.labels import DELETION_COST
from celeriac_operator.resources.records import PodRecord

#: Reasons of a waiting container that mean it will not start by itself. ContainerCreating and PodInitializing will.
STUCK = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)

#: The label that tells the revision: a ReplicaSet's, or a StatefulSet's.
REVISION_LABELS = ("pod-template-hash", "controller-revision-hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod and the uid of the controller that owns it; `owner` is empty for a pod that nobody owns."""

    namespace: str
    owner: str
    deletion_cost: str
    record: PodRecord


def pod_of(body: Mapping[str, Any]) -> Pod:
    """The pod that a v1 Pod object describes."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    ready = _condition(status, "Ready")
    is_ready = ready.get("status") == "True"
    record = PodRecord(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase") or "Pending",
        ready=is_ready,
        deleting="deletionTimestamp" in metadata,
        created_at=epoch_s(metadata.get("creationTimestamp")),
        ready_at=epoch_s(ready.get("lastTransitionTime")) if is_ready else None,
        pending_reason=pending_reason(status),
        revision=next((labels[label] for label in REVISION_LABELS if label in labels), ""),
        running=any("running" in (container.get("state") or {}) for container in _containers(status)),
    )
    return Pod(
        namespace=metadata["namespace"],
        owner=controller_uid(metadata),
        deletion_cost=str(annotations.get(DELETION_COST, "")),
        record=record,
    )


def pending_reason(status: Mapping[str, Any]) -> str:
    """Why a pod that should run does not, or "": Unschedulable, ImagePullBackOff, CrashLoopBackOff …

    A pod that is merely on its way (being scheduled, pulling, starting) has no reason.
    """
    if status.get("phase") in ("Succeeded", "Failed"):
        return ""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason"):
        return str(scheduled["reason"])
    for container in _containers(status):
        reason = ((container.get("state") or {}).get("waiting") or {}).get("reason") or ""
        if reason in STUCK:
            return str(reason)
    return ""


def controller_uid(metadata: Mapping[str, Any]) -> str:
    """The uid of the object that controls this one, "" when none does."""
    return next((str(owner["uid"]) for owner in metadata.get("ownerReferences") or () if owner.get("controller")), "")


def epoch_s(timestamp: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time, None of none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None


def _containers(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((condition for condition in status.get("conditions") or () if condition.get("type") == kind), {})
