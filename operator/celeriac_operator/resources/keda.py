"""KEDA's ScaledObjects as WorkerPools: `imported(documents)` takes over what has a counterpart, and says what has none.

Source: KEDA 2.20's ScaledObject, TriggerAuthentication and its redis, rabbitmq and cron scalers (research/operator.md 1).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac_operator.errors import OperatorError
from celeriac_operator.resources.keda_objects import beside, is_true, mapping, mappings, number, shown_name, workers_of
from celeriac_operator.resources.keda_triggers import taken_over
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec

#: KEDA's defaults.
_MAX_REPLICAS, _COOLDOWN_S, _POLLING_S = 100, 300, 30
_STATIC = "static"
_JOBS = "a ScaledJob starts a Job a message, which a pool of workers does not"
#: What a pool can scale.
_TARGETS = {("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("apps/v1", "ReplicaSet")}
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
    """One pool, of the object `of`.

    notes     sentences for its reader: what was not carried over and why, and what is to be done.
    problems  why it cannot be applied as it stands: empty for a pool that can.
    """

    pool: Mapping[str, Any]
    of: str
    notes: Sequence[str]
    problems: Sequence[str] = ()


def imported(documents: Iterable[Any], *, mode: str = "DryRun") -> list[Imported]:
    """A WorkerPool for each ScaledObject among `documents` (objects as JSON types; Lists are opened).

    TriggerAuthentications and workloads beside them tell where the broker's URL is. mode: of the pools; DryRun lets KEDA go on
    while the pool records what it would have done. Raises NothingToImport when there is no ScaledObject, or one that is no object.
    """
    found = list(_objects(documents))
    scaled = [item for item in found if item.get("kind") == "ScaledObject"]
    if not scaled:
        kinds = sorted({str(item.get("kind")) for item in found})
        jobs = f"; {_JOBS}" if "ScaledJob" in kinds else ""
        raise NothingToImport(f"there is no ScaledObject here, only: {', '.join(kinds) or 'nothing'}{jobs}")
    return [_pool(item, found, mode) for item in scaled]


def left_out(documents: Iterable[Any]) -> list[str]:
    """A sentence on each object among `documents` that scales something and becomes no pool."""
    return [f"{shown_name(item)}: {_JOBS}" for item in _objects(documents) if item.get("kind") == "ScaledJob"]


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
    meta, spec = mapping(scaled.get("metadata")), mapping(scaled.get("spec"))
    name, namespace = str(meta.get("name") or "pool"), meta.get("namespace")
    target = mapping(spec.get("scaleTargetRef"))
    target_ref = {"name": str(target.get("name") or "")}
    for field, usual in (("apiVersion", "apps/v1"), ("kind", "Deployment")):
        if target.get(field, usual) != usual:
            target_ref[field] = str(target[field])
    pool: dict[str, Any] = {"targetRef": target_ref}
    workload = beside(others, str(target.get("kind", "Deployment")), target_ref["name"], namespace)
    workers = workers_of(workload, str(target.get("envSourceContainerName") or ""))
    triggers = taken_over(spec.get("triggers"), name, others, workers, namespace, notes)
    if triggers.broker:
        pool["broker"] = triggers.broker
    pool["queues"] = triggers.queues
    _counts(spec, pool, notes)
    if workers.slots:
        pool["concurrency"] = workers.slots
        notes.append(f"concurrency {workers.slots} is the workload's -c; keep the two alike, or leave the field out")
    if workers.stock:
        notes.append(
            "the workload runs Celery's own workers, which know no drain, so that an active pool never shrinks: run Celeriac's (`celeriac` for"
            " `celery`), or set scaleDown.selection: Any, and the ReplicaSet chooses who ends, busy or not, as it does under KEDA"
        )
    pool["objective"] = {"seconds": 60}
    if triggers.schedules:
        pool["schedules"] = triggers.schedules
    _scale_to_zero(spec, pool)
    _fallback(spec, pool, notes)
    _behavior(spec, pool, notes)
    if mapping(spec.get("advanced")).get("restoreToOriginalReplicaCount"):
        pool["onDelete"] = "RestoreReplicas"
        notes.append(
            "restoreToOriginalReplicaCount: deleting the ScaledObject writes back the replicas from before KEDA, and ends workers with"
            f" what they run; first kubectl patch scaledobject {name}{f' -n {namespace}' if namespace else ''} --type merge -p"
            ' \'{"spec":{"advanced":{"restoreToOriginalReplicaCount":false}}}\', then delete it, then set the mode here'
        )
    annotations = mapping(meta.get("annotations"))
    if f"{_PAUSE}paused-replicas" in annotations:
        pool["replicas"] = number(annotations[f"{_PAUSE}paused-replicas"], 0)
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
    problems = _problems(pool)
    notes += [f"to be mended by hand: {problem}" for problem in problems]
    made: dict[str, Any] = {
        "apiVersion": "celeriac.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name},
        "spec": pool,
    }
    if namespace:
        made["metadata"]["namespace"] = str(namespace)
    return Imported(pool=made, of=shown_name(scaled), notes=notes, problems=problems)


def _problems(pool: Mapping[str, Any]) -> list[str]:
    """Why the pool cannot be applied, or would scale nothing."""
    problems: list[str] = []
    try:
        WorkerPoolSpec.parse(pool)
    except SpecError as error:
        problems += error.problems
    # The spec looks at how fields go together only when each is right by itself.
    low, high = pool["minReplicas"], pool["maxReplicas"]
    if low > high and not any("spec.minReplicas" in problem for problem in problems):
        problems.append(f"spec.minReplicas is {low}, above maxReplicas {high}")
    ref = pool["targetRef"]
    target = (ref.get("apiVersion", "apps/v1"), ref.get("kind", "Deployment"))
    if target not in _TARGETS:
        problems.append(
            f"spec.targetRef is {' '.join(target)}; a pool scales a Deployment, StatefulSet or ReplicaSet of apps/v1"
        )
    return problems


def _counts(spec: Mapping[str, Any], pool: dict[str, Any], notes: list[str]) -> None:
    low, high = number(spec.get("minReplicaCount"), 0), number(spec.get("maxReplicaCount"), _MAX_REPLICAS)
    idle = spec.get("idleReplicaCount")
    if idle is not None and number(idle, 0) < low:
        notes.append(
            f"idleReplicaCount {idle} with minReplicaCount {low}: the pool goes to {idle} when idle, and starts as many as the"
            f" objective needs, which may be fewer than {low}"
        )
        low = number(idle, 0)
    pool["minReplicas"], pool["maxReplicas"] = low, high


def _scale_to_zero(spec: Mapping[str, Any], pool: dict[str, Any]) -> None:
    if pool["minReplicas"] == 0:
        pool["scaleToZero"] = {"after": f"{number(spec.get('cooldownPeriod'), _COOLDOWN_S)}s"}


def _fallback(spec: Mapping[str, Any], pool: dict[str, Any], notes: list[str]) -> None:
    given = mapping(spec.get("fallback"))
    if not given:
        return
    behavior = str(given.get("behavior") or _STATIC)
    after_s = number(given.get("failureThreshold"), 3) * number(spec.get("pollingInterval"), _POLLING_S)
    ours = _FALLBACKS.get(behavior, "Hold")
    pool["fallback"] = {"after": f"{max(1, after_s)}s", "behavior": ours}
    if ours in {"Replicas", "AtLeast"}:
        pool["fallback"]["replicas"] = number(given.get("replicas"), 0)
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
    up, down = mapping(behavior.get("scaleUp")), mapping(behavior.get("scaleDown"))
    periods_s: set[int] = set()
    for policy in mappings(up.get("policies")):
        kind, value = policy.get("type"), number(policy.get("value"), 0)
        if value > 0 and kind in ("Pods", "Percent"):
            step = pool.setdefault("scaleUp", {})
            field = "maxPods" if kind == "Pods" else "maxPercent"
            step[field] = max(value, step.get(field, 0))
            periods_s.add(number(policy.get("periodSeconds"), 15))
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
        pool["scaleDown"] = {"idleTimeout": f"{number(down['stabilizationWindowSeconds'], 300)}s"}
        notes.append(
            "behavior.scaleDown.stabilizationWindowSeconds became idleTimeout: how long a pod must have been spare before it goes"
        )
    if mappings(down.get("policies")) or down.get("selectPolicy") in ("Min", "Max"):
        notes.append(
            "behavior.scaleDown.policies: pods go one by one as they are drained (maxConcurrentDrains), not by a rate"
        )
    if "tolerance" in up or "tolerance" in down:
        notes.append("behavior tolerance: the pool has a deadband of its own")
    if mapping(mapping(spec.get("advanced")).get("scalingModifiers")):
        notes.append(
            "advanced.scalingModifiers: the queues' demands are summed (weights: queues[].weight); the formula is not carried over"
        )


def _hpa_behavior(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(mapping(mapping(spec.get("advanced")).get("horizontalPodAutoscalerConfig")).get("behavior"))


def _mode(annotations: Mapping[str, Any], behavior: Mapping[str, Any]) -> str:
    """The mode of a pool that does what KEDA does at present: what is paused, or disabled in the HPA, stays so."""

    def stopped(annotation: str, direction: str = "") -> bool:
        paused = is_true(annotations.get(_PAUSE + annotation))
        return paused or mapping(behavior.get(direction)).get("selectPolicy") == "Disabled"

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
