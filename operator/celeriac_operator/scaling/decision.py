"""decide(signals, spec, memory, now) -> Decision: how many replicas, why, limited by what, and who is drained."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling import drain, guards, report
from celeriac_operator.scaling.demand import staff
from celeriac_operator.scaling.health import blocked, watch
from celeriac_operator.scaling.learning import cold_start_s, fresh, learn, longest_run_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What should be done, and the sentence that explains it.

    desired     replicas wanted after all guards. unclamped: what demand alone asks for.
    replicas    what to write to /scale now, or None to write nothing: scale-in waits until its victims are drained.
    drain       pods (names) to mark or keep marked, with `drain_id`; undrain: pods whose mark to lift; overdue: those
                of `drain` that still work after spec.scale_down.drain_timeout_s, for `on_drain_timeout` to deal with.
    terms       slots by term: steady, headroom, backlog, eta, floor, cap, ordered (a missing term plays no part).
    limited_by  the guard that had the last word: none, work, rate_limit, scale_to_zero, startup, stabilization,
                pending_pods, not_consuming, failing, step, deadband, schedule, min, max, override, dry_run, paused,
                scale_up_only, scale_down_only, signal, target, conflict, conflict_unknown, rollout, drain.
    conditions  type -> (status, reason, message): status True, False or None for Unknown.
    events      (type Normal|Warning, reason, message) worth a Kubernetes event, on change only.
    queues      what is known of each queue: counts, arrivals_per_s, completions_per_s, service_s, slots; waited_s:
                the objective's percentile of waits, None but for objective Latency.
    memory      what to hand in at the next tick; opaque to the caller but for `to_status` / `from_status`.
    """

    desired: int
    unclamped: int
    replicas: int | None
    summary: str
    limited_by: str = "none"
    terms: Mapping[str, float] = field(default_factory=dict)
    drain: tuple[str, ...] = ()
    drain_id: str = ""
    undrain: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    predicted_drain_s: float | None = None
    cold_start_s: float | None = None
    conditions: Mapping[str, tuple[bool | None, str, str]] = field(default_factory=dict)
    events: tuple[tuple[str, str, str], ...] = ()
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    def unwritten(self, error: str = "") -> "Decision":
        """What to report when the number was not written: because the cluster refused it with `error`, or, without one,
        because somebody else wrote in between and the next tick decides anew.
        """
        told = tuple(event for event in self.events if event[1] not in report.WRITES)
        if not error:
            return replace(self, replicas=None, events=told)
        message = f"writing {self.replicas} replicas was refused: {error}"
        return replace(
            self,
            replicas=None,
            summary=f"{self.summary}; {message}",
            conditions={**self.conditions, "ScalingActive": (False, "ScaleRefused", message)},
            events=(*told, ("Warning", "ScaleRefused", message)),
        )

    def unended(self, error: str) -> "Decision":
        """What to report when what `on_drain_timeout` asks for could not be done to `overdue`."""
        message = f"{', '.join(self.overdue)} outlasted drainTimeout, and could not be ended: {error}"
        return replace(
            self,
            conditions={**self.conditions, "Draining": (True, "NotEnded", message)},
            events=(
                *(event for event in self.events if event[1] != report.DRAIN_TIMEOUT),
                ("Warning", "DrainTimeoutNotHeeded", message),
            ),
        )


def decide(signals: Signals, spec: WorkerPoolSpec, memory: Memory, now: float) -> Decision:
    """How many replicas the pool of `spec` should have at `now`, why, limited by what, and who is drained for it."""
    tick = guards.Tick(signals=signals, spec=spec, now=now)
    memory = watch(signals, learn(signals, spec, memory, now), now)
    work = staff(signals, spec, memory, now)
    obstacle = blocked(signals, spec, memory, now)

    # The number, guard by guard: each may change it, and the last to do so has the last word.
    stale = not fresh(signals, spec, now)
    if stale:
        course = guards.fallback(tick, memory)
    else:
        course = guards.demand(tick, work, memory)
        course = guards.stabilization(course, tick)
        course = guards.step(course, tick, obstacle)
        course = guards.deadband(course, tick)
    course = guards.schedule(course, tick)
    course = guards.limits(course, tick)
    course = guards.override(course, tick)
    course = guards.mode(course, tick)
    course = guards.hands_off(course, tick)

    # What to do about it: write it, or first drain those who are to go.
    acts, kept = guards.may_act(tick), course.memory
    plan = drain.plan(signals, spec, kept, course.pods, now) if acts else drain.release(signals, kept)
    limited_by = ("rollout" if plan.rollout else "drain") if plan.waiting else course.limited_by

    facts = report.Facts(
        tick=tick,
        work=work,
        obstacle=obstacle,
        plan=plan,
        desired=course.pods,
        stale=stale,
        falls_back=stale and guards.falls_back(tick, course.memory),
        at_limit=not stale and work.pods > spec.max_replicas,
        longest_run_s=longest_run_s(memory),
    )
    summary = report.summary(facts, course.said)
    conditions = report.conditions(facts, memory.truths)
    return Decision(
        desired=course.pods,
        unclamped=work.pods,
        replicas=plan.replicas,
        summary=summary,
        limited_by=limited_by,
        terms=work.terms,
        drain=plan.drain,
        drain_id=plan.drain_id,
        undrain=plan.undrain,
        overdue=plan.overdue,
        predicted_drain_s=None if stale else work.drained_in_s(course.pods),
        cold_start_s=cold_start_s(spec, memory),
        conditions=conditions,
        events=report.events(facts, conditions, memory.truths, summary),
        queues=work.queues,
        memory=replace(
            plan.memory, limited_by=course.limited_by, truths=report.truths(facts, conditions, memory.truths)
        ),
    )
