"""What is unfit in a pool's surroundings, as findings: its workload's pods, its Secrets, its CRD. Raw objects in, sentences out."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from celeriac_operator.resources.spec import WorkerPoolSpec

#: What a worker takes of the pod's grace period unless told otherwise, in seconds.
WORKER_GRACE_S = 25.0
#: The setting `worker_shutdown_grace_s` as a container's variable.
GRACE_VARIABLE = "CELERIAC_WORKER_SHUTDOWN_GRACE_S"
POD_VARIABLES = ("CELERIAC_POD_NAMESPACE", "CELERIAC_POD_NAME", "CELERIAC_POD_UID")


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and something will surprise
    ERROR = "error"  # it does not work
    UNKNOWN = "unknown"  # it could not be looked at


class Finding(NamedTuple):
    """One thing that was looked at. subject: what, e.g. "WorkerPool shop/mail"; fix: what to do, empty when it is well."""

    level: Level
    subject: str
    says: str
    fix: str = ""


def of_pods(subject: str, workload: Mapping[str, Any]) -> list[Finding]:
    """Whether a workload's pods end in time, tell who they are, and can turn not ready."""
    pod = _at(workload, "spec", "template", "spec")
    containers = [each for each in pod.get("containers") or () if isinstance(each, Mapping)]
    if not containers:
        return [Finding(Level.ERROR, subject, "its pod template has no container", "correct the workload")]
    worker = _worker(containers)
    env = {str(entry.get("name")): entry for entry in worker.get("env") or () if isinstance(entry, Mapping)}
    from_elsewhere = bool(worker.get("envFrom"))
    found = [
        _grace(subject, pod, env, from_elsewhere),
        _readiness(subject, worker),
        _named(subject, env, from_elsewhere),
    ]
    profile = (env.get("CELERIAC_PROFILE") or {}).get("value")
    if profile != "kubernetes" and not from_elsewhere:
        who = (
            "its workers do not run with the profile kubernetes"
            if profile
            else "its manifest does not set the profile kubernetes: unless the image does"
        )
        says = f"{who}, tasks are acknowledged before they run, and a pod that is killed loses them"
        found.append(
            Finding(Level.WARNING, subject, says, "set CELERIAC_PROFILE=kubernetes, or task_acks_late in the app")
        )
    return [finding for finding in found if finding.level is not Level.OK] or [
        Finding(Level.OK, subject, "its pods end in time, turn not ready when drained, and say who they are")
    ]


def _grace(subject: str, pod: Mapping[str, Any], env: Mapping[str, Any], from_elsewhere: bool) -> Finding:
    grace_s = float(pod.get("terminationGracePeriodSeconds", 30))
    told = (env.get(GRACE_VARIABLE) or {}).get("value")
    worker_s = float(told) if told is not None and str(told).replace(".", "", 1).isdigit() else WORKER_GRACE_S
    if worker_s >= grace_s:
        return Finding(
            Level.ERROR, subject, f"its workers take up to {worker_s:g} s to end and the kubelet kills them after {grace_s:g} s: tasks are cut off",
            f"set terminationGracePeriodSeconds above {worker_s + 5:g}, or {GRACE_VARIABLE} to {max(1, grace_s - 5):g} or less",
        )  # fmt: skip
    if told is None and not from_elsewhere and grace_s > 2 * WORKER_GRACE_S:
        return Finding(
            Level.WARNING, subject, f"its pods have {grace_s:g} s to end, and its workers give up after {WORKER_GRACE_S:g} s all the same",
            f"set {GRACE_VARIABLE} to {grace_s - 5:g}",
        )  # fmt: skip
    return Finding(Level.OK, subject, f"workers end within {worker_s:g} of {grace_s:g} s")


def _readiness(subject: str, worker: Mapping[str, Any]) -> Finding:
    path = _at(worker, "readinessProbe", "httpGet").get("path")
    if path == "/readyz":
        return Finding(Level.OK, subject, "readiness is asked of /readyz")
    return Finding(
        Level.WARNING, subject, "its pods have no readiness probe on /readyz: one that is drained stays ready, so the ReplicaSet may "
        "remove a busy pod instead (deletion costs still tell it, from Kubernetes 1.22 on)",
        "add readinessProbe: {httpGet: {path: /readyz, port: 8080}}",
    )  # fmt: skip


def _named(subject: str, env: Mapping[str, Any], from_elsewhere: bool) -> Finding:
    missing = [name for name in POD_VARIABLES if name not in env]
    if not missing or from_elsewhere:
        return Finding(Level.OK, subject, "its workers know their pods")
    return Finding(
        Level.WARNING, subject, f"its workers are not told their pods ({', '.join(missing)} missing): they are matched by hostname, "
        "and one that cannot be matched is never drained", "set them by the downward API, as charts/celeriac-worker does",
    )  # fmt: skip


def _worker(containers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The container with the worker: one that knows us by its environment, else the first."""
    for each in containers:
        if any(str(_dict(entry).get("name", "")).startswith("CELERIAC_") for entry in each.get("env") or ()):
            return each
    return containers[0]


def of_condition(subject: str, condition: Mapping[str, Any]) -> Finding | None:
    """What a pool's own condition says is wrong, where a person has to set something; None for any other."""
    kind, truth = condition.get("type"), condition.get("status")
    says = f"{condition.get('reason')}: {condition.get('message')}"
    if kind == "Ready" and truth != "True":
        return Finding(Level.ERROR, subject, f"it is not ready: {says}", "as it says")
    if kind == "CommandsNotHeeded" and truth == "True":
        return Finding(
            Level.ERROR, subject, f"its workers are not drained: {says}",
            "give the operator a key (signing.secretName of its chart), and its workers the certificate (security_cert_store)",
        )  # fmt: skip
    return None


def of_secret(subject: str, path: str, key: str, secret: Mapping[str, Any] | None) -> Finding:
    """Whether a Secret is there with the key that the spec's `path` names; its values are not looked at."""
    if secret is None:
        return Finding(
            Level.ERROR, subject, f"{path} names a Secret that does not exist", "create it, or correct the name"
        )
    keys = sorted(_dict(secret.get("data")))
    if key not in keys:
        return Finding(
            Level.ERROR,
            subject,
            f"{path} names the key {key!r}, the Secret has: {', '.join(keys) or 'none'}",
            "correct the key",
        )
    return Finding(Level.OK, subject, f"{path}: the Secret has the key {key!r}")


def of_crd(installed: Mapping[str, Any], ours: Mapping[str, Any]) -> Finding:
    """Whether the CRD in the cluster has the fields of this version (its CEL rules may be left out: before 1.25 they are)."""
    subject = "CustomResourceDefinition workerpools.celeriac.dev"
    missing = sorted(set(_fields(_schema(ours))) - set(_fields(_schema(installed))))
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        return Finding(
            Level.ERROR,
            subject,
            f"it lacks fields of this version: {shown}",
            "celeriac-operator crd | kubectl apply -f -",
        )
    served = [version.get("name") for version in _at(installed, "spec").get("versions") or () if version.get("served")]
    return Finding(Level.OK, subject, f"installed, serves {', '.join(map(str, served))}")


def _schema(crd: Mapping[str, Any]) -> Mapping[str, Any]:
    versions = [_dict(version) for version in _at(crd, "spec").get("versions") or ()]
    return _at(versions[0], "schema", "openAPIV3Schema") if versions else {}


def _fields(schema: Mapping[str, Any], path: str = "") -> Iterable[str]:
    for name, inner in _dict(schema.get("properties")).items():
        yield f"{path}.{name}".lstrip(".")
        yield from _fields(_dict(inner), f"{path}.{name}")
    if isinstance(schema.get("items"), Mapping):
        yield from _fields(schema["items"], f"{path}[]")


def secrets_of(spec: WorkerPoolSpec) -> list[tuple[str, str, str]]:
    """(field, Secret, key) of every Secret that a spec names."""
    broker = spec.broker
    if broker is None:
        return []
    tls = broker.tls
    named = [
        ("spec.broker.urlFrom", broker.url_from),
        ("spec.broker.managementUrlFrom", broker.management_url_from),
        ("spec.broker.tls.caFrom", tls.ca_from if tls else None),
        ("spec.broker.tls.certFrom", tls.cert_from if tls else None),
        ("spec.broker.tls.keyFrom", tls.key_from if tls else None),
    ]
    return [(path, ref.name, ref.key) for path, ref in named if ref is not None]


def _at(value: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = _dict(value.get(name))
    return value


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
