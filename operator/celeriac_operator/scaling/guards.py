"""From the pods that work asks for to the pods that are ordered: each guard a function that may change the number.

Their order is the order of this file, and `decide` calls them in it. A guard that changes the number names itself in
`limited_by` and adds a sentence; the last one to do so has the last word.
"""

import math
from dataclasses import dataclass, replace

from celeriac_operator.resources.cron import Cron
from celeriac_operator.resources.spec import FallbackBehavior, Mode, Schedule, WorkerPoolSpec
from celeriac_operator.scaling.demand import Demand, bursting, has_work
from celeriac_operator.scaling.health import Blocked
from celeriac_operator.scaling.learning import cold_start_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import Signals

#: Modes in which a pool changes nothing.
QUIET = (Mode.DRY_RUN, Mode.PAUSED)

#: An operator younger than this has not heard every worker: it removes none.
STARTUP_GRACE_S = 10.0

#: From so many replicas on, a wish for one pod more or less must last for so many ticks.
_DEADBAND_FROM, _DEADBAND_TICKS = 10, 3

_IDLE_TIMEOUT_LEAST_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What every guard may look at. `replicas` are those the target has now."""

    signals: Signals
    spec: WorkerPoolSpec
    now: float

    @property
    def replicas(self) -> int:
        return self.signals.target.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The number on its way through the guards.

    asleep   nothing is to be done: the pool may go to zero without waiting for the idle time-out.
    """

    pods: int
    memory: Memory
    limited_by: str = "none"
    said: tuple[str, ...] = ()
    asleep: bool = False

    def to(self, pods: int, guard: str, sentence: str) -> "Course":
        """The course that `guard` leaves behind; the same one when it changes nothing."""
        if pods == self.pods:
            return self
        return replace(self, pods=pods, limited_by=guard, said=(*self.said, sentence))

    def keeping(self, memory: Memory) -> "Course":
        return replace(self, memory=memory)


def idle_timeout_s(spec: WorkerPoolSpec, memory: Memory) -> float:
    """How long a pod may stay idle. Auto: twice a cold start, so at most twice the cost of knowing the future."""
    if spec.scale_down.idle_timeout_s is not None:
        return spec.scale_down.idle_timeout_s
    return max(_IDLE_TIMEOUT_LEAST_S, 2 * cold_start_s(spec, memory))


def fallback(tick: Tick, memory: Memory) -> Course:
    """Without fresh signals what is there is held, be it nothing; after a while it may be raised, never lowered."""
    spec, held = tick.spec, tick.replicas
    since = tick.now if memory.fresh_at is None else memory.fresh_at
    blind_s = max(0.0, tick.now - since)
    why = tick.signals.broker_error or "no answer from the broker"
    course = Course(
        pods=held,
        memory=memory,
        limited_by="signal",
        said=(f"{held} held: the queues were last read {blind_s:.0f} s ago ({why})",),
    )
    if blind_s < spec.fallback.after_s:
        return course
    match spec.fallback.behavior:
        case FallbackBehavior.HOLD:
            return course
        case FallbackBehavior.REPLICAS | FallbackBehavior.AT_LEAST:
            wanted = max(held, spec.fallback.replicas or 0)
        case FallbackBehavior.MAX:
            wanted = max(held, spec.max_replicas)
    return course.to(wanted, "signal", f"fallback {spec.fallback.behavior}: {wanted}")


def falls_back(tick: Tick, memory: Memory) -> bool:
    """Whether the time for the fallback has come; to be asked when the signals are stale."""
    return memory.fresh_at is not None and tick.now - memory.fresh_at >= tick.spec.fallback.after_s


def demand(tick: Tick, demand: Demand, memory: Memory) -> Course:
    """What work asks for. The last pod stays until `scaleToZero.after` without work; the first one comes at once."""
    spec = tick.spec
    course = Course(pods=demand.pods, memory=memory, limited_by=demand.limited_by, said=(demand.sentence,))
    if has_work(tick.signals, spec):
        course = course.keeping(replace(memory, quiet_since=None))
        return course.to(max(1, course.pods), "none", "1 pod at the least while there is work")
    quiet_since = tick.now if memory.quiet_since is None else memory.quiet_since
    course = course.keeping(replace(memory, quiet_since=quiet_since))
    if spec.min_replicas > 0 or spec.spare_replicas > 0:
        return course
    if not spec.scale_to_zero.enabled:
        return course.to(max(1, course.pods), "scale_to_zero", "the last pod stays: scale to zero is off")
    arrivals = [queue.arrived_at for queue in memory.queues.values() if queue.arrived_at is not None]
    quiet_s = tick.now - max([quiet_since, *arrivals])
    after_s = spec.scale_to_zero.after_s
    if tick.replicas == 0 or quiet_s >= after_s:
        said = "nothing to do" if tick.replicas == 0 else f"nothing to do for {quiet_s:.0f} s"
        return replace(course, pods=0, limited_by="none", said=(said,), asleep=True)
    return course.to(
        max(1, course.pods),
        "scale_to_zero",
        f"the last pod stays until {after_s:.0f} s without work ({quiet_s:.0f} s so far)",
    )


def stabilization(course: Course, tick: Tick) -> Course:
    """Scale-in follows the largest wish of the idle time-out; in a burst and after a start there is none."""
    memory, now = course.memory, tick.now
    timeout_s = idle_timeout_s(tick.spec, memory)
    # Only wishes that no later one tops can still be the largest of a window.
    wants = tuple((at, want) for at, want in memory.wants if at > now - timeout_s and want > course.pods)
    wants = () if course.asleep else (*wants, (now, course.pods))
    course = course.keeping(replace(memory, wants=wants))
    if course.pods >= tick.replicas:
        return course
    if tick.signals.listened_s < STARTUP_GRACE_S:
        return course.to(
            tick.replicas, "startup", f"{tick.replicas} kept: the operator has only begun to hear the workers"
        )
    if course.asleep:
        return course
    seen_s = now - (now if memory.steady_since is None else memory.steady_since)
    if seen_s < timeout_s:
        return course.to(
            tick.replicas, "startup", f"{tick.replicas} kept: watched for {seen_s:.0f} of {timeout_s:.0f} s"
        )
    rushed = [name for name, queue in memory.queues.items() if bursting(queue, tick.spec.interval_s)]
    if rushed:
        return course.to(
            tick.replicas, "stabilization", f"{tick.replicas} kept: a burst on {', '.join(sorted(rushed))}"
        )
    most = min(tick.replicas, max(want for _, want in wants))
    return course.to(most, "stabilization", f"{most} kept: wanted within the last {timeout_s:.0f} s")


def step(course: Course, tick: Tick, obstacle: Blocked | None) -> Course:
    """No growth that would not help, and none faster than `scaleUp` allows; unset, it allows any."""
    spec, replicas = tick.spec, tick.replicas
    if course.pods <= replicas:
        return course
    if obstacle is not None:
        return course.to(replicas, obstacle.guard, f"{replicas} held: {obstacle.message}")
    limits = spec.scale_up
    if limits.max_pods is None and limits.max_percent is None:
        return course
    began = _replicas_at(course.memory, tick.now - limits.per_seconds, replicas)
    by_pods = began + (limits.max_pods or 0)
    by_percent = math.ceil(began * (1 + (limits.max_percent or 0) / 100))
    most = max(by_pods, by_percent, replicas, 1)  # from zero, one pod at the least
    if course.pods <= most:
        return course
    return course.to(most, "step", f"{most} at most: a step from {began} within {limits.per_seconds} s")


def deadband(course: Course, tick: Tick) -> Course:
    """Of ten pods or more, one pod more or less must be wanted for three ticks: otherwise every tick writes."""
    off = course.pods - tick.replicas
    if off == 0 or tick.replicas < _DEADBAND_FROM:
        return course.keeping(replace(course.memory, nudge=None))
    direction = 1 if off > 0 else -1
    nudge = course.memory.nudge
    since = nudge[1] if nudge is not None and nudge[0] == direction else tick.now
    course = course.keeping(replace(course.memory, nudge=(direction, since)))
    # Three ticks span two intervals; a tenth of one for a clock that is early.
    if abs(off) > 1 or tick.now - since >= (_DEADBAND_TICKS - 1.1) * tick.spec.interval_s:
        return course
    return course.to(tick.replicas, "deadband", f"{tick.replicas} kept: {course.pods} must be wanted for three ticks")


def schedule(course: Course, tick: Tick) -> Course:
    """The largest minimum and smallest maximum of the windows that are open; where they cross, the maximum holds."""
    opened = [window for window in tick.spec.schedules if is_open(window, tick.now + tick.signals.skew_s)]
    least = max((window.min_replicas or 0 for window in opened), default=0)
    most = min((window.max_replicas for window in opened if window.max_replicas is not None), default=None)
    raised = course.to(max(course.pods, least), "schedule", f"{least} at least by schedule")
    return raised if most is None else raised.to(min(raised.pods, most), "schedule", f"{most} at most by schedule")


def limits(course: Course, tick: Tick) -> Course:
    spec = tick.spec
    course = course.to(max(course.pods, spec.min_replicas), "min", f"minReplicas {spec.min_replicas}")
    return course.to(min(course.pods, spec.max_replicas), "max", f"maxReplicas {spec.max_replicas}")


def override(course: Course, tick: Tick) -> Course:
    """What a person set with `kubectl scale`, also below the minimum."""
    wanted = tick.spec.replicas
    if wanted is None:
        return course
    return replace(course, pods=wanted, limited_by="override", said=(*course.said, f"spec.replicas {wanted} overrides"))


def mode(course: Course, tick: Tick) -> Course:
    match tick.spec.mode:
        case Mode.ACTIVE:
            return course
        case Mode.DRY_RUN:
            return replace(course, limited_by="dry_run", said=(*course.said, "dry run: nothing is written"))
        case Mode.PAUSED:
            said = (*course.said, f"paused at {tick.replicas}")
            return replace(course, pods=tick.replicas, limited_by="paused", said=said)
        case Mode.SCALE_UP_ONLY:
            return course.to(
                max(course.pods, tick.replicas), "scale_up_only", f"{tick.replicas} kept: mode ScaleUpOnly"
            )
        case Mode.SCALE_DOWN_ONLY:
            return course.to(
                min(course.pods, tick.replicas), "scale_down_only", f"{tick.replicas} held: mode ScaleDownOnly"
            )


def hands_off(course: Course, tick: Tick) -> Course:
    """A workload that cannot be read, or that another autoscaler drives, or may drive, is not written to.

    In a mode that writes nothing another autoscaler is no obstacle: who scales is told, and that is all.
    """
    target = tick.signals.target
    if target.error:
        said = (*course.said, f"nothing is written: {target.error}")
        return replace(course, limited_by="target", said=said)
    if tick.spec.mode in QUIET:
        rival = target.foreign_manager
        return replace(course, said=(*course.said, f"{rival} scales {target.kind} {target.name}")) if rival else course
    if target.foreign_manager:
        said = (*course.said, f"nothing is written: {target.foreign_manager} scales {target.kind} {target.name} too")
        return replace(course, limited_by="conflict", said=said)
    if target.foreign_unread:
        said = (*course.said, f"nothing is written: {target.foreign_unread}")
        return replace(course, limited_by="conflict_unknown", said=said)
    return course


def may_act(tick: Tick) -> bool:
    """Whether pods may be marked and `/scale` be written at all."""
    target = tick.signals.target
    hands_off = target.error or target.foreign_manager or target.foreign_unread
    return not hands_off and tick.spec.mode not in QUIET


def is_open(window: Schedule, now: float) -> bool:
    """Whether the window's start has fired since its end last did."""
    start = Cron.parse(window.start).last_fired_at(now, window.timezone)
    if start is None:
        return False
    end = Cron.parse(window.end).last_fired_at(now, window.timezone)
    return end is None or end < start


def _replicas_at(memory: Memory, at: float, replicas: int) -> int:
    """How many there were at that moment; before anything was seen, as many as there are now."""
    seen = [count for when, count in memory.trail if when <= at]
    if seen:
        return seen[-1]
    return memory.trail[0][1] if memory.trail else replicas
