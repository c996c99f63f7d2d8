"""Whose manifest sets a workload's replicas again when it is applied, as far as the object itself tells."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from celeriac_operator.resources.fitness import Finding, Level
from celeriac_operator.resources.labels import FIELD_MANAGER, HANDOVER

#: What kubectl, and Argo CD in the same way, applied last.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

#: Field managers that write a manifest again and again, by how their names begin; of kubectl the annotation tells more.
_APPLIERS: Mapping[str, str] = {
    "argocd": "Argo CD",
    "helm-controller": "Flux",
    "kustomize-controller": "Flux",
    "helm": "Helm",
    "Helm": "Helm",
    "Terraform": "Terraform",
    "HashiCorp": "Terraform",
    "pulumi": "Pulumi",
}
#: Our worker's chart leaves replicas out, unless it is told a number.
_OUR_CHART = "celeriac-worker-"


def of_replicas(subject: str, workload: Mapping[str, Any], *, scale_recorded: bool) -> Finding | None:
    """Who sets `spec.replicas` back when a manifest is applied the next time; None when nobody is known to.

    scale_recorded   the API server records who writes /scale (1.22 and later), so that an owner of the field is who wrote it last.
    """
    owners = list(dict.fromkeys(_owners(workload, scale_recorded=scale_recorded)))
    if not owners:
        return None
    return Finding(
        Level.WARNING, subject, f"replicas has another owner: {'; '.join(owners)}",
        "take replicas out of the manifest in the way of docs/from-a-deployment.md (Argo CD, Flux: docs/gitops.md): deleting the line alone sets 1",
    )  # fmt: skip


def _owners(workload: Mapping[str, Any], *, scale_recorded: bool) -> Iterator[str]:
    metadata = workload.get("metadata") or {}
    entries = [entry for entry in metadata.get("managedFields") or () if _has_replicas(entry)]
    managers = [str(entry.get("manager") or "") for entry in entries]
    applied = _last_applied(metadata)
    if applied is not None:
        argo = next((name for name in managers if name.startswith("argocd")), "")
        who = f"{argo} (Argo CD)" if argo else "kubectl apply"
        yield f"{who} applied a manifest with replicas: {applied}, and the next time sets it back to that{_unless(argo)}"
    for entry, manager in zip(entries, managers, strict=True):
        if manager in (FIELD_MANAGER, HANDOVER):
            continue
        tool = next((tool for start, tool in _APPLIERS.items() if manager.startswith(start)), "")
        named = f"{manager} ({tool})" if tool and tool.lower() != manager.lower() else manager
        if entry.get("operation") == "Apply":
            yield f"{named} owns it by server-side apply, and the next one sets it back{_unless(manager)}"
        elif tool and applied is None and scale_recorded and not _is_ours(metadata, workload):
            # Defaults are recorded as if they had been written: whether the manifest has the field cannot be seen here.
            yield f"{named} wrote it last, and sets it back the next time if its manifest has replicas"


def _unless(manager: str) -> str:
    """What Argo CD can be told, and the object does not show: then each sync takes the number that is there."""
    told = ", unless its application ignores /spec/replicas with RespectIgnoreDifferences"
    return told if manager.startswith("argocd") else ""


def _has_replicas(entry: Mapping[str, Any]) -> bool:
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _last_applied(metadata: Mapping[str, Any]) -> object:
    """The replicas of the manifest that was applied last, None when it had none."""
    try:
        manifest = json.loads((metadata.get("annotations") or {}).get(LAST_APPLIED) or "{}")
        return (manifest.get("spec") or {}).get("replicas")
    except (ValueError, AttributeError):
        return None


def _is_ours(metadata: Mapping[str, Any], workload: Mapping[str, Any]) -> bool:
    """Whether the worker's chart made it, and its one replica is the default."""
    chart = str((metadata.get("labels") or {}).get("helm.sh/chart") or "")
    return chart.startswith(_OUR_CHART) and (workload.get("spec") or {}).get("replicas") == 1
