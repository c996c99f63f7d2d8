"""Which pools need no new decision at a tick: a thousand steady ones would otherwise be decided two hundred times a second.

A pool rests when it has what it wants and nothing but time passes. It is decided all the same at every third or sixth tick
(`ticks_of`), and at once when work comes in, a pod changes, or its spec does: so a burst is answered as fast as ever. Most
pools that rest are not even looked at (`sleeps`): what came in is told by the probe, and what became of pods and workers by a
count of changes. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from celeriac.broker.depth import QueueDepth
from celeriac_operator.resources.spec import ObjectiveType, WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.learning import HEARTBEAT_FRESH_S
from celeriac_operator.scaling.signals import PodSample, Signals

#: Ticks in a row that a decision may stand for, its own included: of any pool, and of one for which more work shows as a queue
#: that grows. The latter's must be a multiple of the former, so that all pools of a broker still wake at the same ticks.
TICKS, LONG_TICKS = 3, 6
#: Seconds that a decision may stand for.
LONG_S = 30.0

#: What may have had the last word. Guards that wait for a moment to pass are asked at each tick, but for those that only keep
#: pods: it does no harm when the last of them goes two ticks later.
_PATIENT = frozenset({"none", "work", "min", "max", "override", "paused", "dry_run", "stabilization", "startup"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A decision that may stand, and what it stood on.

    waiting  messages that may wait without being news: what waited, and what `slots` take up within a tick.
    left     ticks for which it may still stand.
    """

    decision: Decision
    spec: WorkerPoolSpec
    epoch: int
    seen: tuple[object, ...]
    waiting: int
    slots: int
    left: int

    def shorter(self) -> "Rest":
        """The same, a tick later."""
        return replace(self, left=self.left - 1)


def rest_of(decision: Decision, signals: Signals, spec: WorkerPoolSpec, epoch: int, *, tick: int = 0) -> Rest | None:
    """The rest that follows a decision, None when the next tick must decide anew.

    tick   the number of the present one. All pools of a broker wake at the same ticks: what is read for all of them, once.
    """
    ticks = ticks_of(spec)
    steady = decision.limited_by in _PATIENT and decision.desired == signals.target.replicas
    if ticks == 1 or not steady or decision.drain or decision.undrain or decision.events or not signals.broker_ok:
        return None
    slots = sum(pod.slots for pod in signals.pods if pod.ready)
    longest_s = max((float(queue["service_s"]) for queue in decision.queues.values()), default=0.0)
    return Rest(
        decision=decision,
        spec=spec,
        epoch=epoch,
        seen=_seen(signals),
        waiting=_waiting(signals) + int(slots * min(1.0, spec.interval_s / longest_s) if longest_s else slots),
        slots=slots,
        left=ticks - 1 - tick % ticks,
    )


def ticks_of(spec: WorkerPoolSpec) -> int:
    """How many ticks a decision on such a pool may stand for.

    Its objective is kept as long as no queue grows, which the probe tells at each tick. Not so where the number follows from
    what runs, or from the time of day. No decision stands for longer than `LONG_S`, but for that of a tick that lasts longer.
    """
    if TICKS * spec.interval_s > LONG_S:
        return 1
    timed = spec.schedules or any(
        spec.objective_of(queue).type not in (ObjectiveType.DRAIN_TIME, ObjectiveType.LATENCY) for queue in spec.queues
    )
    return TICKS if timed or LONG_TICKS * spec.interval_s > LONG_S else LONG_TICKS


def still(rest: Rest, signals: Signals, spec: WorkerPoolSpec, epoch: int) -> bool:
    """Whether the decision stands for this tick too."""
    return (
        rest.left > 0
        and rest.spec is spec
        and rest.epoch == epoch
        and _waiting(signals) <= rest.waiting
        and _seen(signals) == rest.seen
    )


def sleeps(rest: Rest, spec: WorkerPoolSpec, epoch: int, depths: Mapping[str, QueueDepth]) -> bool:
    """Whether the decision stands by what the probe alone tells, where nothing is known to have happened to pods and workers.

    Rates are kept with whoever is there at each tick, so that a pool that limits some is always looked at.
    """
    if rest.left <= 0 or rest.spec is not spec or rest.epoch != epoch or spec.rate_limits:
        return False
    waiting = leased = 0
    for queue in spec.queues:
        depth = depths.get(queue.name)
        if depth is None or depth.error:
            return False
        waiting += depth.ready + depth.throttled + depth.due_soon + depth.expired
        leased += depth.leased - depth.expired
    return waiting + max(0, leased - rest.slots) <= rest.waiting


def _waiting(signals: Signals) -> int:
    return sum(
        queue.ready + queue.reserved + queue.throttled + queue.expired + queue.due_soon for queue in signals.queues
    )


def _seen(signals: Signals) -> tuple[object, ...]:
    """All but figures: what of the target and the pods a decision looks at."""
    return (
        signals.broker_ok,
        signals.target,
        signals.limited and tuple((limit.task, limit.rate_per_s) for limit in signals.limited),
        signals.share,
        signals.queue_errors,
        signals.rates_error,
        signals.rates_differ,
        signals.missing,
        signals.unheeded,
        tuple(map(_pod, signals.pods)),
    )


def _pod(pod: PodSample) -> tuple[object, ...]:
    heard = pod.heartbeat_age_s is not None and pod.heartbeat_age_s <= HEARTBEAT_FRESH_S
    return (pod.name, pod.phase, pod.ready, pod.deleting, pod.pending_reason, pod.stopping, pod.drain_state, heard)
