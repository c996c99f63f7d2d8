"""What would change a decision: the demand of a pool's status, computed again with another spec."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from celeriac_operator.resources.spec import ObjectiveType, WorkerPoolSpec
from celeriac_operator.scaling.demand import staff
from celeriac_operator.scaling.memory import Memory, QueueMemory, Service
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample

#: The status's limitedBy in words: what held the number where it is, and what to change if that is not wanted.
GUARDS: Mapping[str, str] = {
    "none": "demand alone: nothing holds it",
    "max": "maxReplicas holds it down: raise it",
    "min": "minReplicas holds it up: lower it",
    "rate_limit": "pods beyond a rate limit would only wait for it: raise the limit, or set rateLimitAware: false",
    "work": "there is no work for more",
    "stabilization": "it goes down when pods have been spare for scaleDown.idleTimeout: shorten that",
    "step": "scaleUp.maxPods or maxPercent allows no larger step: raise it",
    "pending_pods": "pods that were ordered do not start: see the condition ScaleUpBlocked",
    "not_consuming": "pods run and take nothing up: see the condition ScaleUpBlocked",
    "failing": "most runs fail, and more workers would fail more: see the condition ScaleUpBlocked",
    "deadband": "one pod more or less must be wanted for three ticks",
    "schedule": "a schedule is open: see spec.schedules",
    "override": "spec.replicas (kubectl scale) overrides it: take that away",
    "signal": "the broker has not been read: see the condition BrokerReachable, and spec.fallback",
    "paused": "mode is Paused: set mode: Active",
    "dry_run": "mode is DryRun, and this is what would be written: set mode: Active",
    "scale_up_only": "mode is ScaleUpOnly: set mode: Active",
    "scale_down_only": "mode is ScaleDownOnly: set mode: Active",
    "conflict": "something else scales the target: see the condition Conflict",
    "conflict_unknown": "whether something else scales the target could not be read: see the condition Conflict",
    "target": "the target cannot be read or scaled: see the condition Ready",
    "drain": "pods go as they become idle: see scaleDown.maxConcurrentDrains and drainTimeout",
    "rollout": "pods are being replaced: it goes down when that is done",
    "scale_to_zero": "the last pod goes after scaleToZero.after without work, if scaleToZero.enabled",
    "startup": "the operator has only begun to watch, or to hear the workers again, and does not scale down yet",
}


class Alternative(NamedTuple):
    """A change of the spec, and the replicas that demand alone would ask for then."""

    change: str
    replicas: int


def alternatives(spec: WorkerPoolSpec, status: Mapping[str, Any], now: float) -> list[Alternative]:
    """What some changes would do, first "as it is" for comparison; empty when the status tells too little.

    From the rounded figures of the status, so the first may differ by a pod from what was decided.
    """
    if not status.get("queues"):
        return []
    signals, memory = _seen(spec, status, now)

    def pods(changed: WorkerPoolSpec) -> int:
        return staff(signals, changed, memory, now).pods

    usual = pods(spec)
    found = [Alternative("as it is", usual)]
    objective = spec.objective
    if objective.type in (ObjectiveType.DRAIN_TIME, ObjectiveType.LATENCY):
        for seconds in (max(1, objective.seconds // 2), objective.seconds * 2):
            changed = replace(spec, objective=replace(objective, seconds=seconds))
            found.append(Alternative(f"objective.seconds {seconds} instead of {objective.seconds}", pods(changed)))
        if spec.headroom:
            found.append(Alternative(f'headroom "0" instead of "{spec.headroom:g}"', pods(replace(spec, headroom=0.0))))
    elif objective.target:
        changed = replace(spec, objective=replace(objective, target=objective.target * 2))
        found.append(
            Alternative(f"objective.target {objective.target * 2} instead of {objective.target}", pods(changed))
        )
    if signals.limited and spec.rate_limit_aware:
        found.append(
            Alternative("without rate limits (rateLimitAware: false)", pods(replace(spec, rate_limit_aware=False)))
        )
    slots = spec.concurrency or memory.slots_per_pod or 1
    twice = replace(spec, concurrency=max(1, round(2 * slots)))
    found.append(Alternative(f"{2 * slots:g} slots a pod instead of {slots:g}", pods(twice)))
    return [found[0], *(one for one in found[1:] if one.replicas != usual)]


def _seen(spec: WorkerPoolSpec, status: Mapping[str, Any], now: float) -> tuple[Signals, Memory]:
    memory = Memory.from_status(status)
    samples: list[QueueSample] = []
    queues: dict[str, QueueMemory] = {}
    for row in status.get("queues") or ():
        name, running, reserved = str(row.get("name")), _count(row, "running"), _count(row, "reserved")
        samples.append(
            QueueSample(
                name=name, ready=_count(row, "ready"), reserved=reserved, leased=running + reserved, throttled=_count(row, "throttled"),
                delayed=_count(row, "delayed"), oldest_age_s=float(row["oldestAgeSeconds"]) if "oldestAgeSeconds" in row else None,
            )
        )  # fmt: skip
        rate, service_s = float(row.get("arrivalRate") or 0.0), float(row.get("serviceSeconds") or 0.0)
        known = memory.queues.get(name, QueueMemory())
        service = Service(value_s=service_s) if service_s > 0 else known.overall
        queues[name] = replace(
            known, fast_per_s=rate, slow_per_s=rate, sampled_at=now, watched_s=3600.0, overall=service, other_claims=known.other_claims or 1.0,
            service=service if not known.classes else known.service,
        )  # fmt: skip
    slots = int(memory.slots_per_pod or spec.concurrency or 1)
    ready, idle = _count(status, "readyReplicas"), _count(status, "idleReplicas")
    pods = tuple(
        PodSample(name=f"pod-{place}", slots=slots, busy=0 if place < idle else slots, heartbeat_age_s=0.0)
        for place in range(ready)
    )
    limited = tuple(
        LimitedClass(
            task=str(row.get("task")), queue=str(row.get("queue")), rate_per_s=float(row.get("perSecond") or 0.0),
            per_worker=row.get("scope") == "worker", throttled=_count(row, "throttled"),
        )
        for row in status.get("rateLimits") or ()
    )  # fmt: skip
    target = TargetSample(replicas=_count(status, "replicas"))
    signals = Signals(broker_ok=True, sampled_at=now, queues=tuple(samples), limited=limited, pods=pods, target=target)
    return signals, replace(memory, queues=queues)


def _count(row: Mapping[str, Any], name: str) -> int:
    return int(row.get(name) or 0)
