"""A WorkerPool's status: `status_of` a decision, and `fault_status` of a pool that cannot be served.

Every write comes back as an event and is stored, so figures are rounded; when to write is told in `noticed`. Numbers are
integers or strings: the API's conventions discourage floats.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from celeriac_operator.resources.conditions import Found, merged, moment
from celeriac_operator.resources.noticed import entries, figure, same, told_of
from celeriac_operator.resources.spec import Mode, WorkerPoolSpec
from celeriac_operator.resources.states import PASSING_FAULTS, state_of

_HISTORY_KEPT = 10
_LIMITS_SHOWN = 64
#: Characters of the reason of a change that a dry run would have made.
_WISH_SAID = 256

#: Ages are told in steps of so many seconds.
_AGE_STEP_S = 5


class Learned(Protocol):
    """What outlives the operator: `scaling.memory.Memory`."""

    def to_status(self) -> dict[str, Any]: ...


class Decided(Protocol):
    """What this page reads of a `scaling.decision.Decision`, which lies a floor above."""

    @property
    def desired(self) -> int: ...
    @property
    def unclamped(self) -> int: ...
    @property
    def replicas(self) -> int | None: ...
    @property
    def summary(self) -> str: ...
    @property
    def limited_by(self) -> str: ...
    @property
    def terms(self) -> Mapping[str, float]: ...
    @property
    def predicted_drain_s(self) -> float | None: ...
    @property
    def cold_start_s(self) -> float | None: ...
    @property
    def conditions(self) -> Mapping[str, Found]: ...
    @property
    def queues(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def memory(self) -> Learned: ...


class Pod(Protocol):
    """What this page reads of a `scaling.signals.PodSample`."""

    @property
    def ready(self) -> bool: ...
    @property
    def deleting(self) -> bool: ...
    @property
    def heartbeat_age_s(self) -> float | None: ...
    @property
    def busy(self) -> int: ...
    @property
    def drain_state(self) -> str: ...


class Target(Protocol):
    """What this page reads of a `scaling.signals.TargetSample`."""

    @property
    def replicas(self) -> int: ...
    @property
    def error(self) -> str: ...
    @property
    def contested_by(self) -> str: ...
    @property
    def ours(self) -> bool: ...
    @property
    def selector(self) -> str: ...


class Limited(Protocol):
    """What this page reads of a `scaling.signals.LimitedClass`."""

    @property
    def task(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def rate_per_s(self) -> float: ...
    @property
    def per_worker(self) -> bool: ...
    @property
    def throttled(self) -> int: ...


class Seen(Protocol):
    """What this page reads of a `scaling.signals.Signals`."""

    @property
    def limited(self) -> Sequence[Limited]: ...

    @property
    def pods(self) -> Sequence[Pod]: ...
    @property
    def target(self) -> Target: ...


def status_of(
    decision: Decided,
    signals: Seen,
    spec: WorkerPoolSpec,
    previous_status: Mapping[str, Any],
    generation: int,
    now: float,
) -> dict[str, Any]:
    """The status subresource after `decision`. `previous_status` gives transition times, history, and what is unseen.

    decision.replicas is the number that was written, None when none was.
    """
    pods = [pod for pod in signals.pods if not pod.deleting]
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": merged(
            entries(previous_status, "conditions"), decision.conditions, generation=generation, now=now
        ),
        "state": _state(decision, signals, spec),
        "desiredReplicas": decision.desired,
        "unclampedReplicas": decision.unclamped,
        "queueNames": _shortened(", ".join(queue.name for queue in spec.queues)),
        "queues": _queues(decision, spec, previous_status),
        "backlog": sum(known["ready"] + known["reserved"] + known["throttled"] for known in decision.queues.values()),
        "decision": {
            "time": moment(now),
            "summary": decision.summary[:1024],
            "limitedBy": decision.limited_by,
            "terms": {name: f"{value:.1f}" for name, value in decision.terms.items()},
        },
        "learned": decision.memory.to_status(),
        "history": _history(decision, signals.target, previous_status, now),
    }
    if spec.mode is Mode.DRY_RUN and (dry := _dry_run(decision, signals.target, previous_status, now)):
        status["dryRun"] = dry
    if signals.limited:
        status["rateLimits"] = [_limit(limit) for limit in signals.limited[:_LIMITS_SHOWN]]
    ages = [known["oldest_age_s"] for known in decision.queues.values() if known["oldest_age_s"] is not None]
    if ages:
        status["oldest"] = f"{_stepped(max(ages))}s"
    if decision.predicted_drain_s is not None:
        status["predictedDrainSeconds"] = _two_digits(decision.predicted_drain_s)
    if decision.cold_start_s is not None:
        status["coldStartSeconds"] = round(decision.cold_start_s)
    if signals.target.error:
        counts = (
            "replicas",
            "target",
            "selector",
            "originalReplicas",
            "readyReplicas",
            "startingReplicas",
            "drainingReplicas",
            "idleReplicas",
        )
        status.update({name: previous_status[name] for name in counts if name in previous_status})
    else:
        status["replicas"] = signals.target.replicas
        status["target"] = {"kind": spec.target_ref.kind, "name": spec.target_ref.name}
        if signals.target.selector:
            status["selector"] = signals.target.selector
        status["originalReplicas"] = previous_status.get("originalReplicas", signals.target.replicas)
        status["readyReplicas"] = sum(pod.ready for pod in pods)
        status["startingReplicas"] = sum(not pod.ready and not pod.drain_state for pod in pods)
        status["drainingReplicas"] = sum(bool(pod.drain_state) for pod in pods)
        status["idleReplicas"] = sum(pod.ready and pod.heartbeat_age_s is not None and pod.busy == 0 for pod in pods)
    if same(status, previous_status):
        status["decision"]["time"] = previous_status["decision"]["time"]
    return status


def fault_status(
    previous_status: Mapping[str, Any], reason: str, message: str, generation: int, now: float
) -> dict[str, Any]:
    """The status of a pool for which nothing can be done (a wrong spec, a missing Secret): what was known, and why.

    reason   CamelCase, such as InvalidSpec or SecretNotFound: shown as the pool's state too.
    """
    passes = reason in PASSING_FAULTS
    found: dict[str, Found] = {
        "Ready": (False, reason, message),
        "Reconciling": (passes, reason, message if passes else ""),
        "Stalled": (not passes, reason, "" if passes else message),
        "ScalingActive": (False, reason, message),
    }
    conditions = merged(entries(previous_status, "conditions"), found, generation=generation, now=now)
    return {**previous_status, "observedGeneration": generation, "state": reason, "conditions": conditions}


def first_target(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """(kind, name) of the workload that `originalReplicas` is of, None before there was one."""
    target = status.get("target")
    if not isinstance(target, Mapping) or not target.get("name"):
        return None
    return (str(target.get("kind")), str(target["name"]))


def face_of(decision: Decided, signals: Seen, spec: WorkerPoolSpec, generation: int) -> tuple[object, ...]:
    """All of a status that `noticeable` looks at, at a hundredth of its cost: while it stays the same, nobody would notice."""
    conditions = tuple((name, found[0], found[1]) for name, found in decision.conditions.items())
    target = signals.target
    counts = (target.replicas, target.error, decision.replicas)
    return (generation, _state(decision, signals, spec), told_of(decision.limited_by), counts, conditions)


def _state(decision: Decided, signals: Seen, spec: WorkerPoolSpec) -> str:
    return state_of(decision.conditions, spec, desired=decision.desired, replicas=signals.target.replicas)


def _queues(decision: Decided, spec: WorkerPoolSpec, previous_status: Mapping[str, Any]) -> list[dict[str, Any]]:
    objectives = {queue.name: spec.objective_of(queue).seconds for queue in spec.queues}
    shown = {row.get("name"): row.get("waitSeconds") for row in entries(previous_status, "queues")}
    rows = []
    for name, known in decision.queues.items():
        row = _queue(name, known)
        if known["waited_s"] is not None:
            row["waitSeconds"] = _shown_wait(shown.get(name), known["waited_s"], objectives.get(name, 0))
        rows.append(row)
    return rows


def _shown_wait(shown: object, waited_s: float, objective_s: float) -> str:
    """What is shown already, unless the new one differs by more than a quarter of the greatest of both and the objective: people
    look here for whether the objective is met, and what goes up and down below it is no news."""
    old_s = None if shown is None else figure(shown)
    if old_s is not None and abs(waited_s - old_s) <= 0.25 * max(objective_s, old_s, waited_s):
        return str(shown)
    return _two_digits(waited_s)


def _queue(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    queue: dict[str, Any] = {
        "name": name,
        **{count: known[count] for count in ("ready", "reserved", "running", "delayed", "throttled", "dead")},
        "arrivalRate": _rate(known["arrivals_per_s"]),
        "completionRate": _rate(known["completions_per_s"]),
        "serviceSeconds": _two_digits(known["service_s"]),
        "slots": f"{known['slots']:.1f}",
    }
    if known["oldest_age_s"] is not None:
        queue["oldestAgeSeconds"] = _stepped(known["oldest_age_s"])
    return queue


def _limit(limit: Limited) -> dict[str, Any]:
    return {
        "task": limit.task,
        "queue": limit.queue,
        "perSecond": f"{limit.rate_per_s:.4g}",
        "scope": "worker" if limit.per_worker else "cluster",
        "throttled": limit.throttled,
    }


def _history(
    decision: Decided, target: Target, previous_status: Mapping[str, Any], now: float
) -> list[Mapping[str, Any]]:
    """The last changes of the number of replicas, newest last, those by others too."""
    history = entries(previous_status, "history")
    before = previous_status.get("replicas")
    if target.error:
        return history
    if (
        isinstance(before, int)
        and before != target.replicas
        and (not history or history[-1].get("to") != target.replicas)
    ):
        by = f"changed by {target.contested_by or 'somebody else'}"
        said = "written by the operator, which did not hear the answer or was replaced" if target.ours else by
        history = [*history, _change(before, target.replicas, said, now)]
    if decision.replicas is not None and decision.replicas != target.replicas:
        history = [*history, _change(target.replicas, decision.replicas, decision.summary, now)]
    return history[-_HISTORY_KEPT:]


def _dry_run(decision: Decided, target: Target, previous_status: Mapping[str, Any], now: float) -> Mapping[str, Any]:
    """What the pool would have done since its mode is DryRun, and what the target had, up to the last change of either.

    Empty before the first number that follows from work; changes that come and go between two writes of the status are not seen.
    """
    known = previous_status.get("dryRun")
    known = known if isinstance(known, Mapping) else {}
    ready = decision.conditions.get("Ready")
    if ready is not None and not ready[0]:
        return known
    wished, had = previous_status.get("desiredReplicas"), previous_status.get("replicas")
    until = _epoch(known.get("until"))
    if until is None or not isinstance(wished, int) or not isinstance(had, int):
        known = {"since": moment(now), "podHours": "0", "targetPodHours": "0", "changes": []}
        wished = had = target.replicas
        until = now
    elif (wished, had) == (decision.desired, target.replicas):
        return known
    hours = max(0.0, now - until) / 3600
    changes = entries(known, "changes")
    if decision.desired != wished:
        changes = [*changes, _change(wished, decision.desired, decision.summary[:_WISH_SAID], now)]
    return {
        "since": known.get("since", moment(now)),
        "until": moment(now),
        "podHours": f"{(figure(known.get('podHours')) or 0.0) + hours * wished:.4f}",
        "targetPodHours": f"{(figure(known.get('targetPodHours')) or 0.0) + hours * had:.4f}",
        "changes": changes[-_HISTORY_KEPT:],
    }


def _epoch(time: object) -> float | None:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None


def _change(before: int, after: int, reason: str, now: float) -> Mapping[str, Any]:
    return {"time": moment(now), "from": before, "to": after, "reason": reason[:512]}


def _rate(per_s: float) -> str:
    """Two digits; what is left of traffic that ended is soon none."""
    return _two_digits(per_s) if per_s >= 0.005 else "0"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):f}".rstrip("0").rstrip(".") or "0"


def _stepped(age_s: float) -> int:
    return int(age_s // _AGE_STEP_S) * _AGE_STEP_S


def _shortened(text: str) -> str:
    return text if len(text) <= 64 else f"{text[:63]}…"
