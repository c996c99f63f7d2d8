"""A decision in words: its summary, the pool's conditions, and the events that a change is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from celeriac_operator.resources.spec import DrainTimeoutPolicy, Mode
from celeriac_operator.scaling.demand import Demand
from celeriac_operator.scaling.drain import Plan
from celeriac_operator.scaling.guards import QUIET, Tick
from celeriac_operator.scaling.health import Blocked
from celeriac_operator.scaling.memory import rounded

Condition = tuple[bool | None, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found and decided in one tick."""

    tick: Tick
    work: Demand
    obstacle: Blocked | None
    plan: Plan
    desired: int
    stale: bool
    falls_back: bool
    at_limit: bool
    longest_run_s: float


def summary(facts: Facts, said: tuple[str, ...]) -> str:
    """12 pods: steady 20.0 (40/s x 0.5 s) + ... = 45.1 slots / 4 per pod; from 9"""
    replicas, plan = facts.tick.replicas, facts.plan
    parts = [f"{facts.desired} {'pod' if facts.desired == 1 else 'pods'}: {said[0]}", *said[1:]]
    if plan.waiting:
        parts.append(plan.waiting)
    if plan.replicas is not None:
        parts.append(f"scaling from {replicas} to {plan.replicas}")
    return "; ".join(parts)


def conditions(facts: Facts, before: Mapping[str, bool | None]) -> dict[str, Condition]:
    """All conditions of a pool, each time: what does not hold is said to be False.

    Ready, Reconciling and Stalled are kstatus's: a pool is ready when its number follows from what is known, also while
    it scales; it is stalled when only a person can help. What held before, and cannot be looked at now, is Unknown.
    """
    spec, signals = facts.tick.spec, facts.tick.signals
    target, plan, quiet = signals.target, facts.plan, spec.mode in QUIET
    found: dict[str, Condition] = {}

    if target.error:
        ready: Condition = (False, "TargetUnavailable", target.error)
    elif target.foreign_manager and not quiet:
        ready = (
            False,
            "Conflict",
            f"{target.foreign_manager} scales {target.kind} {target.name} too: remove one of them",
        )
    elif target.foreign_unread and not quiet:
        ready = (False, "ConflictUnknown", f"nothing is written: {target.foreign_unread}")
    elif facts.stale and signals.queue_errors and signals.broker_ok:
        ready = (False, "QueueUnreadable", "; ".join(signals.queue_errors.values()))
    elif facts.stale and not signals.sampled_at and signals.broker_ok:
        ready = (False, "NoSampleYet", "the queues have not been read yet")
    elif facts.stale:
        ready = (False, "BrokerUnreachable", signals.broker_error or "the queues could not be read lately")
    else:
        ready = (True, "Decided", "the number of replicas follows from the work")
    found["Ready"] = ready
    found["Reconciling"] = _either(ready[1] in _TRANSIENT, ready[1], ready[2], "UpToDate")
    found["Stalled"] = _either(ready[1] in _PERSONS, ready[1], ready[2], "NotStalled")
    if not signals.broker_ok:
        found["BrokerReachable"] = (False, "NoAnswer", signals.broker_error or "the broker did not answer")
    elif signals.sampled_at or signals.queue_errors:
        found["BrokerReachable"] = (True, "Answered", "")
    else:
        found["BrokerReachable"] = (None, "NoSampleYet", "")
    found["Conflict"] = _conflict(facts, ready)
    found["ScalingActive"] = _scaling_active(facts, ready)
    at_limit = f"work asks for {facts.work.pods} pods, maxReplicas is {spec.max_replicas}"
    found["AtLimit"] = _either(facts.at_limit, "MaxReplicas", at_limit, "WithinLimits")
    limited = bool(facts.work.limits) and not facts.stale
    found["RateLimited"] = _either(limited, "RateLimit", _rate_limited(facts.work), "NotLimited")
    unkept = bool(signals.rates_error)
    found["RateLimitsNotKept"] = _either(unkept, "NotTold", f"spec.rateLimits: {signals.rates_error}", "Kept")
    found["CommandsNotHeeded"] = _either(bool(signals.unheeded[0]), *signals.unheeded, "Heeded")
    differ = f"spec.rateLimits: {signals.rates_differ}"
    found["RateLimitsDiffer"] = _either(bool(signals.rates_differ), "PoolsDisagree", differ, "PoolsAgree")
    obstacle = facts.obstacle
    found["ScaleUpBlocked"] = (True, obstacle.reason, obstacle.message) if obstacle else (False, "NotBlocked", "")
    drained = plan.waiting or f"{len(plan.drain)} drained pods go"
    found["Draining"] = _either(bool(plan.drain), "ScaleIn", drained, "NoScaleIn")
    found["FallbackActive"] = _either(facts.falls_back, str(spec.fallback.behavior), ready[2], "SignalsFresh")
    grace = (
        f"tasks were seen to run for {rounded(facts.longest_run_s)} s in the last hour, terminationGracePeriodSeconds is "
        f"{target.grace_s:.0f}: an eviction or a rollout cuts them off"
    )
    too_short = not target.error and facts.longest_run_s > target.grace_s
    found["GraceTooShort"] = _either(too_short, "TasksOutliveGrace", grace, "LongEnough")
    found["SignalsComplete"] = _complete(facts)
    found["EvictionBlocked"] = _either(bool(target.disruption), "DisruptionBudget", target.disruption, "NotBlocked")
    contested = f"{target.contested_by} changed the replicas of {target.kind} {target.name}"
    found["ReplicasContested"] = _either(bool(target.contested_by), "ForeignChange", contested, "NotContested")
    if facts.stale:
        unseen: Condition = (None, "QueuesNotRead", "not known while the queues cannot be read")
        found |= {name: unseen for name in _OF_QUEUES if before.get(name)}
    if target.error:
        unseen = (None, "TargetUnavailable", "not known while the target cannot be read")
        found |= {name: unseen for name in _OF_TARGET if before.get(name)}
    return found


#: Conditions that follow from what waits in the queues, and those that follow from the target and its pods.
_OF_QUEUES = ("AtLimit", "RateLimited")
_OF_TARGET = ("ScaleUpBlocked", "GraceTooShort", "EvictionBlocked", "ReplicasContested")

#: Reasons of a pool that is not ready: those that pass by themselves, and those that only a person can end.
_TRANSIENT = frozenset({"NoSampleYet", "BrokerUnreachable", "ConflictUnknown"})
_PERSONS = frozenset({"TargetUnavailable", "Conflict", "QueueUnreadable"})


def _either(holds: bool, reason: str, message: str, otherwise: str) -> Condition:
    return (True, reason, message) if holds else (False, otherwise, "")


def _conflict(facts: Facts, ready: Condition) -> Condition:
    target = facts.tick.signals.target
    if ready[1] == "Conflict":
        return (True, "AnotherAutoscaler", ready[2])
    if target.foreign_manager:
        message = f"{target.foreign_manager} scales {target.kind} {target.name}: this pool writes nothing beside it"
        return (False, "HandsOff", message)
    if target.foreign_unread:
        return (None, "NotRead", target.foreign_unread)
    return (False, "NoConflict", "")


def _scaling_active(facts: Facts, ready: Condition) -> Condition:
    match facts.tick.spec.mode:
        case Mode.PAUSED:
            return (False, "Paused", "spec.mode is Paused")
        case Mode.DRY_RUN:
            return (False, "DryRun", "spec.mode is DryRun: decisions are reported, not acted on")
        case _ if ready[1] in _PERSONS or ready[1] == "ConflictUnknown":
            return (False, ready[1], ready[2])
        case _ if facts.tick.spec.replicas is not None:
            return (False, "Override", f"spec.replicas is {facts.tick.spec.replicas}: remove it to scale by work again")
        case _:
            return (True, "Active", "")


def _complete(facts: Facts) -> Condition:
    """Whether all that a decision may rest on was there. What is missing makes it coarser, and is named."""
    missing = facts.tick.signals.missing
    if not missing:
        return (True, "AllHeard", "")
    return (False, missing[0][0], "; ".join(sentence for _, sentence in missing))


def _rate_limited(work: Demand) -> str:
    names = ", ".join(f"{task} ({rounded(per_s)}/s)" for task, per_s in work.limits)
    done = "" if math.isinf(work.limited_s) else f"; what waits is done in about {rounded(work.limited_s)} s"
    return f"adding pods cannot help, a rate limit holds back {names}{done}"


#: Conditions whose turning True, or back, is worth an event: of which type, and what is said when it is over.
_TELLING = {
    "Stalled": ("Warning", "the pool is decided on again"),
    "FallbackActive": ("Warning", "the queues are read again"),
    "ScaleUpBlocked": ("Warning", "nothing stands in the way of new pods any more"),
    "GraceTooShort": ("Warning", "no task has outlived the grace period for an hour"),
    "EvictionBlocked": ("Warning", "no PodDisruptionBudget stands in the way any more"),
    "ReplicasContested": ("Warning", "nobody else changes the replicas any more"),
    "RateLimitsNotKept": ("Warning", "broker and workers know the rate limits again"),
    "CommandsNotHeeded": ("Warning", "the workers heed the operator's commands again"),
    "RateLimitsDiffer": ("Warning", "no other pool asks for another rate any more"),
    "AtLimit": ("Normal", "work fits within maxReplicas again"),
    "RateLimited": ("Normal", "no rate limit holds work back any more"),
}


def truths(facts: Facts, found: Mapping[str, Condition], before: Mapping[str, bool | None]) -> dict[str, bool | None]:
    """What the next tick compares with: of a condition that is Unknown, what it was before."""
    known = {name: before.get(name) if truth is None else truth for name, (truth, _, _) in found.items()}
    return {**known, "overdue": bool(facts.plan.overdue)}


#: What becomes of a worker that outlasts drainTimeout.
_AFTER = {
    DrainTimeoutPolicy.WAIT: "they are waited for",
    DrainTimeoutPolicy.REQUEUE: "their workers are told to end, and what still runs goes back to its queue",
    DrainTimeoutPolicy.KILL: "their pods are deleted without grace",
}

#: Reasons of events that tell of a write of the target's scale.
WRITES = frozenset({"ScaledUp", "ScaledDown"})

#: Reason of the event that tells what becomes of overdue workers.
DRAIN_TIMEOUT = "DrainTimeout"


def events(
    facts: Facts, found: Mapping[str, Condition], before: Mapping[str, bool | None], sentence: str
) -> tuple[tuple[str, str, str], ...]:
    """(type, reason, message) of what has changed since the last tick, and of the number that is to be written now.

    What is said of a write is for after it: see `Decision.unwritten`.
    """
    told: list[tuple[str, str, str]] = []
    replicas, plan = facts.tick.replicas, facts.plan
    if plan.replicas is not None:
        told.append(("Normal", "ScaledUp" if plan.replicas > replicas else "ScaledDown", sentence))
    reachable = found["BrokerReachable"]
    if reachable[0] is False and before.get("BrokerReachable") is not False:
        told.append(("Warning", "BrokerUnreachable", reachable[2]))
    elif reachable[0] and before.get("BrokerReachable") is False:
        told.append(("Normal", "BrokerReachable", "the broker answers again"))
    for name, (kind, over) in _TELLING.items():
        status, reason, message = found[name]
        if status and not before.get(name):
            told.append((kind, reason if name == "Stalled" else name, message))
        elif status is False and before.get(name):
            told.append(("Normal", f"{name}Ended", over))
    if plan.overdue and not before.get("overdue"):
        spec = facts.tick.spec.scale_down
        message = (
            f"{', '.join(plan.overdue)} still work after {spec.drain_timeout_s:.0f} s: {_AFTER[spec.on_drain_timeout]}"
        )
        told.append(("Warning", DRAIN_TIMEOUT, message))
    return tuple(told)
