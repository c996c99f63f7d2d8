"""The workloads a pool may scale, read from raw objects; reading and writing their `/scale`.

Only what a Deployment, a StatefulSet or a ReplicaSet says of itself. Who else scales it is told in `rivals`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.pods import controller_uid, epoch_s

#: Kind -> plural in apps/v1: all that can be a target.
PLURALS: Mapping[str, str] = {"Deployment": "deployments", "ReplicaSet": "replicasets", "StatefulSet": "statefulsets"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment, StatefulSet or ReplicaSet.

    owner            uid of what controls it (a ReplicaSet's Deployment), or "".
    replicas         spec.replicas; absent means 1, as the API server defaults it.
    existing         status.replicas: the pods that its controller counts, None before it counted any.
    first_ordinal    of a StatefulSet's pods: spec.ordinals.start.
    ordered          a StatefulSet whose podManagementPolicy is OrderedReady, which is the default.
    generation       counts changes of its spec; its controller has seen observed_generation of them.
    replacing        its pods are being replaced, by the controller's own account.
    grace_s          terminationGracePeriodSeconds of its pods.
    pod_labels       of its template.
    selector         of its pods, as text: "app=mails,tier in (a,b)".
    quota_exceeded   its controller cannot create pods: the message, or "".
    replicas_manager field manager that owns spec.replicas, "" when none is recorded (Kubernetes before 1.22 records
                     none for `/scale`); replicas_written_at is when it last wrote, epoch seconds.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    owner: str = ""
    replicas: int = 1
    ready_replicas: int = 0
    generation: int = 0
    observed_generation: int = 0
    replacing: bool = False
    grace_s: float = 30.0
    quota_exceeded: str = ""
    replicas_manager: str = ""
    replicas_written_at: float | None = None
    existing: int | None = None
    first_ordinal: int = 0
    ordered: bool = False
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    selector: str = ""


def workload_of(body: Mapping[str, Any]) -> Workload:
    """The workload that an apps/v1 object describes. `kind` must be set; lists leave it to the caller."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    kind = body["kind"]
    manager, written_at = replicas_manager(metadata.get("managedFields") or ())
    template = spec.get("template") or {}
    grace_s = (template.get("spec") or {}).get("terminationGracePeriodSeconds")
    return Workload(
        kind=kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=str(metadata.get("resourceVersion", "")),
        owner=controller_uid(metadata),
        replicas=1 if spec.get("replicas") is None else int(spec["replicas"]),
        ready_replicas=int(status.get("readyReplicas") or 0),
        generation=int(metadata.get("generation") or 0),
        observed_generation=int(status.get("observedGeneration") or 0),
        replacing=replaces_pods(kind, spec, status),
        grace_s=30.0 if grace_s is None else float(grace_s),
        quota_exceeded=_quota_exceeded(status),
        replicas_manager=manager,
        replicas_written_at=written_at,
        existing=status.get("replicas"),
        first_ordinal=int((spec.get("ordinals") or {}).get("start") or 0),
        ordered=kind == "StatefulSet" and spec.get("podManagementPolicy") != "Parallel",
        pod_labels=(template.get("metadata") or {}).get("labels") or {},
        selector=selector_text(spec.get("selector") or {}),
    )


def selector_text(selector: Mapping[str, Any]) -> str:
    """A label selector as kubectl takes it and as `/scale` shows it: its labels and its expressions, joined by commas."""
    parts = [f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or ():
        key, operator = each["key"], each["operator"]
        values = ",".join(sorted(each.get("values") or ()))
        parts.append({"Exists": key, "DoesNotExist": f"!{key}"}.get(operator, f"{key} {operator.lower()} ({values})"))
    return ",".join(parts)


def replaces_pods(kind: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether a rolling update is under way, as far as the controller's status tells.

    | kind        | under way when                                                                    |
    |---|---|
    | Deployment  | status.updatedReplicas < status.replicas: pods of an older template live          |
    | StatefulSet | the same, and status.currentRevision != status.updateRevision; never with OnDelete |
    |             | or a partition, where the older revision stays on purpose                          |
    | ReplicaSet  | never                                                                             |
    """
    if kind == "ReplicaSet":
        return False
    if kind == "StatefulSet":
        strategy = spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete" or (strategy.get("rollingUpdate") or {}).get("partition"):
            return False
        if status.get("currentRevision") == status.get("updateRevision"):
            return False
    return int(status.get("updatedReplicas") or 0) < int(status.get("replicas") or 0)


def replicas_manager(managed_fields: Any) -> tuple[str, float | None]:
    """Who last wrote spec.replicas, and when; ("", None) when the API server did not record it."""
    latest: tuple[str, float | None] = ("", None)
    for entry in managed_fields:
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            written_at = epoch_s(entry.get("time"))
            if latest[1] is None or (written_at or 0.0) >= latest[1]:
                latest = (str(entry.get("manager") or ""), written_at)
    return latest


def path_of(namespace: str, kind: str, name: str) -> str:
    """The URL path of a workload."""
    return f"/apis/apps/v1/namespaces/{namespace}/{PLURALS[kind]}/{name}"


def write_scale(client: KubeClient, workload: Workload, *, replicas: int, resource_version: str) -> str:
    """Set the number of replicas; the new resourceVersion. Conflict when it changed since `resource_version`."""
    body = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {
            "name": workload.name,
            "namespace": workload.namespace,
            "resourceVersion": resource_version,
        },
        "spec": {"replicas": replicas},
    }
    answer = client.put(f"{path_of(workload.namespace, workload.kind, workload.name)}/scale", body)
    return str(answer.get("metadata", {}).get("resourceVersion", ""))


def _quota_exceeded(status: Mapping[str, Any]) -> str:
    """The message of a ReplicaFailure that a quota caused: such pods never exist, so that no pod can tell of it."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = str(condition.get("message") or "")
            if "exceeded quota" in message:
                return message
    return ""
