"""decide(signals, spec, memory, now) -> Decision: how many replicas, why, limited by what, and who is drained for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What should be done, and the sentence that explains it.

    desired     replicas wanted after all guards. unclamped: what demand alone asks for.
    replicas    what to write to /scale now, or None to write nothing: scale-in waits until its victims are drained.
    drain       pods (names) to mark or keep marked, with `drain_id`; undrain: pods whose mark to lift; overdue: those
                of `drain` that still work after spec.scale_down.drain_timeout_s, for `on_drain_timeout` to deal with.
    terms       slots by term: steady, headroom, backlog, eta, floor, cap (a missing term plays no part).
    limited_by  the guard that had the last word: none, max, min, work, rate_limit, step, schedule, signal, paused, dry_run,
                pending_pods, override, conflict, drain, stabilization, deadband, rollout, startup …
    conditions  type -> (status, reason, message): status True, False or None for Unknown.
    events      (type Normal|Warning, reason, message) worth a Kubernetes event, on change only.
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


def decide(signals: Signals, spec: WorkerPoolSpec, memory: Memory, now: float) -> Decision:
    """How many replicas the pool of `spec` should have at `now`, why, limited by what, and who is drained for it."""
    # Until demand is written: hold what is there, which is what every missing answer means in this project.
    held = signals.target.replicas
    return Decision(
        desired=held, unclamped=held, replicas=None, summary=f"{held} pods: held", limited_by="signal", memory=memory
    )
