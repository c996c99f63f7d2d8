"""KEDA's ScaledObjects as WorkerPools: `imported(documents)` takes over what has a counterpart, and says what has none.

Source: KEDA 2.20's ScaledObject, TriggerAuthentication and its redis, rabbitmq and cron scalers (research/operator.md 1).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac_operator.errors import OperatorError
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec

#: kombu's separator of queue name and priority step in a Redis list's key.
_STEP = re.compile("\x06\x16\\d+$")
#: KEDA's defaults.
_MAX_REPLICAS, _COOLDOWN_S, _POLLING_S = 100, 300, 30
_REDIS = {"redis", "redis-sentinel", "redis-cluster"}
_STATIC = "static"
_FALLBACKS = {
    _STATIC: "Replicas",
    "currentReplicas": "Hold",
    "currentReplicasIfHigher": "AtLeast",
    "currentReplicasIfLower": "Hold",
}
_PAUSE = "autoscaling.keda.sh/"
#: What is said of a ScaledObject that scales one way alone, by the mode that does the same.
_ONE_WAY = {
    "ScaleUpOnly": "KEDA never scales this in (paused-scale-in, or scaleDown.selectPolicy Disabled)",
    "ScaleDownOnly": "KEDA never scales this out (paused-scale-out, or scaleUp.selectPolicy Disabled)",
}


class NothingToImport(OperatorError):
    """What was given holds nothing that can be taken over; the message says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One pool. notes: sentences for its reader: what was not carried over and why, and what is to be done."""

    pool: Mapping[str, Any]
    notes: Sequence[str]


def imported(documents: Iterable[Any], *, mode: str = "DryRun") -> list[Imported]:
    """A WorkerPool for each ScaledObject among `documents` (objects as JSON types; Lists are opened).

    TriggerAuthentications and workloads beside them tell where the broker's URL is. mode: of the pools; DryRun lets KEDA go on
    while the pool records what it would have done. Raises NothingToImport when there is no ScaledObject, or one that is no object.
    """
    found = list(_objects(documents))
    scaled = [item for item in found if item.get("kind") == "ScaledObject"]
    if not scaled:
        kinds = sorted({str(item.get("kind")) for item in found})
        jobs = "; a ScaledJob starts a Job a message, which a pool of workers does not" if "ScaledJob" in kinds else ""
        raise NothingToImport(f"there is no ScaledObject here, only: {', '.join(kinds) or 'nothing'}{jobs}")
    return [_pool(item, found, mode) for item in scaled]


def _objects(documents: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    for document in documents:
        if not isinstance(document, Mapping):
            continue
        if document.get("kind") == "List" and isinstance(document.get("items"), Sequence):
            yield from _objects(document["items"])
        else:
            yield document


def _pool(scaled: Mapping[str, Any], others: Sequence[Mapping[str, Any]], mode: str) -> Imported:
    notes: list[str] = []
    meta, spec = _dict(scaled.get("metadata")), _dict(scaled.get("spec"))
    name, namespace = str(meta.get("name") or "pool"), meta.get("namespace")
    target = _dict(spec.get("scaleTargetRef"))
    target_ref = {"name": str(target.get("name") or "")}
    for field, usual in (("apiVersion", "apps/v1"), ("kind", "Deployment")):
        if target.get(field, usual) != usual:
            target_ref[field] = str(target[field])
    pool: dict[str, Any] = {"targetRef": target_ref}
    workload = _beside(others, str(target.get("kind", "Deployment")), target_ref["name"])
    queues, schedules = _triggers(spec, name, others, workload, target, pool, notes)
    pool["queues"] = queues
    _counts(spec, pool, notes)
    pool["objective"] = {"seconds": 60}
    if schedules:
        pool["schedules"] = schedules
    _scale_to_zero(spec, pool)
    _fallback(spec, pool, notes)
    _behavior(spec, pool, notes)
    if _dict(spec.get("advanced")).get("restoreToOriginalReplicaCount"):
        pool["onDelete"] = "RestoreReplicas"
    annotations = _dict(meta.get("annotations"))
    if f"{_PAUSE}paused-replicas" in annotations:
        pool["replicas"] = _number(annotations[f"{_PAUSE}paused-replicas"], 0)
        notes.append("paused-replicas became replicas, the manual override: take it away to scale again")
    wanted = _mode(annotations, _hpa_behavior(spec))
    # Paused writes nothing either; any other mode would act beside KEDA.
    pool["mode"] = wanted if mode == "Active" or wanted == "Paused" else mode
    if spec.get("pollingInterval"):
        notes.append("pollingInterval: the pool looks every 5 s (interval), in one round trip for all its queues")
    if wanted in _ONE_WAY:
        notes.append(
            f"{_ONE_WAY[wanted]}: that is mode {wanted}{'' if mode == 'Active' else ', NOT Active, to switch to'}"
        )
    if pool["mode"] == "DryRun":
        notes.append(
            "mode DryRun changes nothing beside KEDA and records what it would have done; to switch, delete the ScaledObject,"
            f" then set mode: {wanted}"
        )
    try:
        WorkerPoolSpec.parse(pool)
    except SpecError as error:
        notes += [f"to be mended by hand: {problem}" for problem in error.problems]
    made: dict[str, Any] = {
        "apiVersion": "celeriac.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name},
        "spec": pool,
    }
    if namespace:
        made["metadata"]["namespace"] = str(namespace)
    return Imported(pool=made, notes=notes)


def _counts(spec: Mapping[str, Any], pool: dict[str, Any], notes: list[str]) -> None:
    low, high = _number(spec.get("minReplicaCount"), 0), _number(spec.get("maxReplicaCount"), _MAX_REPLICAS)
    idle = spec.get("idleReplicaCount")
    if idle is not None and _number(idle, 0) < low:
        notes.append(
            f"idleReplicaCount {idle} with minReplicaCount {low}: the pool goes to {idle} when idle, and starts as many as the"
            f" objective needs, which may be fewer than {low}"
        )
        low = _number(idle, 0)
    pool["minReplicas"], pool["maxReplicas"] = low, high


def _scale_to_zero(spec: Mapping[str, Any], pool: dict[str, Any]) -> None:
    if pool["minReplicas"] == 0:
        pool["scaleToZero"] = {"after": f"{_number(spec.get('cooldownPeriod'), _COOLDOWN_S)}s"}


def _fallback(spec: Mapping[str, Any], pool: dict[str, Any], notes: list[str]) -> None:
    given = _dict(spec.get("fallback"))
    if not given:
        return
    behavior = str(given.get("behavior") or _STATIC)
    after_s = _number(given.get("failureThreshold"), 3) * _number(spec.get("pollingInterval"), _POLLING_S)
    ours = _FALLBACKS.get(behavior, "Hold")
    pool["fallback"] = {"after": f"{max(1, after_s)}s", "behavior": ours}
    if ours in {"Replicas", "AtLeast"}:
        pool["fallback"]["replicas"] = _number(given.get("replicas"), 0)
    if behavior == _STATIC:
        notes.append(
            "fallback static: here nothing lowers a pool on missing data; it goes up to the number, never down to it"
        )
    elif behavior == "currentReplicasIfLower" or behavior not in _FALLBACKS:
        notes.append(
            f"fallback {behavior}: there is no counterpart that lowers a pool on missing data; the pool holds what it has"
        )


def _behavior(spec: Mapping[str, Any], pool: dict[str, Any], notes: list[str]) -> None:
    behavior = _hpa_behavior(spec)
    up, down = _dict(behavior.get("scaleUp")), _dict(behavior.get("scaleDown"))
    periods_s: set[int] = set()
    for policy in _list(up.get("policies")):
        kind, value = policy.get("type"), _number(policy.get("value"), 0)
        if value > 0 and kind in {"Pods", "Percent"}:
            step = pool.setdefault("scaleUp", {})
            field = "maxPods" if kind == "Pods" else "maxPercent"
            step[field] = max(value, step.get(field, 0))
            periods_s.add(_number(policy.get("periodSeconds"), 15))
            step["perSeconds"] = max(periods_s)
    if len(periods_s) > 1:
        notes.append(
            f"behavior.scaleUp.policies have several periodSeconds: a pool has one, the longest, perSeconds {max(periods_s)}"
        )
    if up.get("selectPolicy") == "Min":
        notes.append("behavior.scaleUp.selectPolicy Min: of maxPods and maxPercent a pool takes what allows more")
    if up.get("stabilizationWindowSeconds"):
        notes.append("behavior.scaleUp.stabilizationWindowSeconds: a pool never waits to scale up")
    if down.get("stabilizationWindowSeconds") is not None:
        pool["scaleDown"] = {"idleTimeout": f"{_number(down['stabilizationWindowSeconds'], 300)}s"}
        notes.append(
            "behavior.scaleDown.stabilizationWindowSeconds became idleTimeout: how long a pod must have been spare before it goes"
        )
    if _list(down.get("policies")) or down.get("selectPolicy") in {"Min", "Max"}:
        notes.append(
            "behavior.scaleDown.policies: pods go one by one as they are drained (maxConcurrentDrains), not by a rate"
        )
    if "tolerance" in up or "tolerance" in down:
        notes.append("behavior tolerance: the pool has a deadband of its own")
    if _dict(_dict(spec.get("advanced")).get("scalingModifiers")):
        notes.append(
            "advanced.scalingModifiers: the queues' demands are summed (weights: queues[].weight); the formula is not carried over"
        )


def _hpa_behavior(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return _dict(_dict(_dict(spec.get("advanced")).get("horizontalPodAutoscalerConfig")).get("behavior"))


def _mode(annotations: Mapping[str, Any], behavior: Mapping[str, Any]) -> str:
    """The mode of a pool that does what KEDA does at present: what is paused, or disabled in the HPA, stays so."""

    def stopped(annotation: str, direction: str = "") -> bool:
        paused = str(annotations.get(_PAUSE + annotation, "false")).lower() == "true"
        return paused or _dict(behavior.get(direction)).get("selectPolicy") == "Disabled"

    if f"{_PAUSE}paused-replicas" not in annotations and stopped("paused"):
        return "Paused"
    match stopped("paused-scale-in", "scaleDown"), stopped("paused-scale-out", "scaleUp"):
        case True, True:
            return "Paused"
        case True, False:
            return "ScaleUpOnly"
        case False, True:
            return "ScaleDownOnly"
        case _:
            return "Active"


def _triggers(
    spec: Mapping[str, Any], name: str, others: Sequence[Mapping[str, Any]], workload: Mapping[str, Any],
    target: Mapping[str, Any], pool: dict[str, Any], notes: list[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    queues: dict[str, dict[str, Any]] = {}
    schedules: list[dict[str, Any]] = []
    sources: list[tuple[Any, str]] = []
    for place, trigger in enumerate(_list(spec.get("triggers"))):
        kind, data = str(trigger.get("type")), _dict(trigger.get("metadata"))
        path = f"triggers[{place}] ({kind})"
        if kind in _REDIS or kind == "rabbitmq":
            queue = _queue(kind, data, path, notes)
            if queue:
                queues.setdefault(queue, {"name": queue})
                source = _source(kind, trigger, data, others, workload, target, path, notes)
                if source not in sources:
                    sources.append(source)
        elif kind == "cron":
            schedules.append(
                {
                    "start": str(data.get("start")), "end": str(data.get("end")), "timezone": str(data.get("timezone") or "UTC"),
                    "minReplicas": _number(data.get("desiredReplicas"), 1),
                }
            )  # fmt: skip
        else:
            notes.append(f"{path}: a pool scales from the work that waits; this trigger is not carried over")
    if len(sources) > 1:
        notes.append(
            "the triggers name more than one broker: a pool has one; make a pool for each, each with its own workload"
        )
    if sources:
        ref, note = sources[0]
        pool["broker"] = {"urlFrom": {"secretKeyRef": ref or {"name": f"{name}-broker", "key": "url"}}}
        if note:
            notes.append(note)
    return list(queues.values()), schedules


def _queue(kind: str, data: Mapping[str, Any], path: str, notes: list[str]) -> str:
    """The queue of a trigger, and notes on how it was measured; empty for none."""
    if kind == "rabbitmq":
        queue = str(data.get("queueName") or "")
        if str(data.get("useRegex", "false")).lower() == "true":
            notes.append(f"{path}: useRegex is not carried over; list the queues that {queue!r} means")
        measured = str(data.get("mode") or "QueueLength")
        value = data.get("value") or data.get("queueLength") or 20
        if measured != "QueueLength":
            notes.append(f"{path}: mode {measured} is not needed: the pool measures arrivals and service times itself")
    else:
        listed = str(data.get("listName") or "")
        queue = _STEP.sub("", listed)
        value = data.get("listLength") or 5
        if queue != listed:
            notes.append(f"{path}: the list of one priority step of {queue}; the pool counts all steps of a queue")
    if not queue:
        notes.append(f"{path}: it names no queue")
        return ""
    notes.append(
        f"{path}: {value} messages a replica became an objective in seconds, 60 for a start; to keep the ratio:"
        f" objective: {{type: Backlog, target: {value} / slots of a pod}}"
    )
    active = data.get("activationListLength") or data.get("activationValue")
    if active and str(active) != "0":
        notes.append(
            f"{path}: the activation threshold {active} is not carried over: one message is reason enough for one pod"
        )
    return queue


def _source(
    kind: str, trigger: Mapping[str, Any], data: Mapping[str, Any], others: Sequence[Mapping[str, Any]],
    workload: Mapping[str, Any], target: Mapping[str, Any], path: str, notes: list[str],
) -> tuple[dict[str, str] | None, str]:  # fmt: skip
    """(the Secret key with the broker's URL or None, what is to be done when there is none)."""
    if kind == "rabbitmq" and str(data.get("protocol", "auto")) == "http":
        notes.append(
            f"{path}: protocol http is the management API: put its URL in broker.managementUrlFrom, and the amqp:// URL in urlFrom"
        )
    authentication = _dict(trigger.get("authenticationRef"))
    found = _beside(
        others, str(authentication.get("kind") or "TriggerAuthentication"), str(authentication.get("name") or "")
    )
    for entry in _list(_dict(found.get("spec")).get("secretTargetRef")):
        if kind == "rabbitmq" and entry.get("parameter") == "host":
            return {"name": str(entry.get("name")), "key": str(entry.get("key"))}, ""
    variable = str(data.get("hostFromEnv") or "") if kind == "rabbitmq" else ""
    if variable:
        ref = _variable(workload, variable, str(target.get("envSourceContainerName") or ""))
        if ref:
            return ref, ""
        return (
            None,
            f"broker: make a Secret with the URL that ${variable} has in the workload, and name it in broker.urlFrom",
        )
    if kind == "rabbitmq":
        return (
            None,
            "broker: make a Secret with the amqp:// URL, user and password included, and name it in broker.urlFrom",
        )
    where = str(
        data.get("address") or ":".join(str(data[part]) for part in ("host", "port") if data.get(part)) or "HOST:6379"
    )
    scheme = (
        "sentinel"
        if kind == "redis-sentinel"
        else "rediss"
        if str(data.get("enableTLS")).lower() == "true"
        else "redis"
    )
    url = f"{scheme}://:PASSWORD@{where}/{data.get('databaseIndex') or 0}"
    return None, f"broker: make a Secret with the URL, {url}, and name it in broker.urlFrom"


def _variable(workload: Mapping[str, Any], variable: str, container: str) -> dict[str, str] | None:
    """The Secret key that a container's environment variable comes from."""
    pod = _dict(_dict(_dict(workload.get("spec")).get("template")).get("spec"))
    containers = _list(pod.get("containers"))
    chosen = next((one for one in containers if one.get("name") == container), containers[0] if containers else {})
    for entry in _list(chosen.get("env")):
        ref = _dict(_dict(entry.get("valueFrom")).get("secretKeyRef"))
        if entry.get("name") == variable and ref:
            return {"name": str(ref.get("name")), "key": str(ref.get("key"))}
    return None


def _beside(others: Sequence[Mapping[str, Any]], kind: str, name: str) -> Mapping[str, Any]:
    for item in others:
        if name and item.get("kind") == kind and _dict(item.get("metadata")).get("name") == name:
            return item
    return {}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in value if isinstance(item, Mapping)]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else []
    )


def _number(value: Any, usual: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return usual
