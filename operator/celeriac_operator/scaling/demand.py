"""staff(signals, spec, memory): how many pods the work asks for, term by term, before any guard.

For each stream of like work (one rate-limited type of task on one queue, or the rest of that queue):

    steady    rate x S                            Little's law: slots busy on average
    headroom  beta x sqrt(rate x S)               square-root staffing: few wait although arrivals are random
    backlog   waiting x S / time left             what waits is done in time; late work pushes harder, at most fourfold
    eta       due soon x S / time left            what comes due before a pod could start
    work cap  tasks that exist or will arrive within a cold start: never more slots than tasks to put in them
    rate cap  limit x S + beta x sqrt(limit x S)  pods beyond a rate limit only wait
    floor     running tasks that outlive a cold start keep their slot
    ordered   slots that are there or on their way, when they will have done what waits before another one could start

Backlog counts what waits now as long as the slots that are there can do it in time. When they cannot, it counts what
they will leave of it a cold start from now, which is when a new pod starts; and when arrivals are rising, of what will
have come in by then.

The slots of all streams are added and divided once by the slots of a pod. Sources: Little 1961 for the first term,
Halfin and Whitt 1981 for the second.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celeriac_operator.resources.spec import Objective, ObjectiveType, QueueSpec, WorkerPoolSpec
from celeriac_operator.scaling.learning import arrivals_per_s, cold_start_s, completions_per_s, waited_s
from celeriac_operator.scaling.memory import Memory, QueueMemory, rounded, shares
from celeriac_operator.scaling.signals import LimitedClass, QueueSample, Signals
from celeriac_operator.scaling.supply import Supply, supply


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Like work on one queue, this pool's share of it. Counts may be fractions: a mix is known by its proportions.

    task           the rate-limited type, or "" for the rest.
    limit_per_s    starts a second that its limit allows, None when adding pods is not in vain.
    headroom       beta, the queue's weight included.
    rising         it comes in faster than it used to: what will have come in when a new pod starts counts, too.
    oldest_age_s   of the queue's oldest due message.
    """

    queue: str
    task: str = ""
    ready: float = 0.0
    running: float = 0.0
    throttled: float = 0.0
    soon: float = 0.0
    rate_per_s: float = 0.0
    rising: bool = False
    service_s: float = 1.0
    limit_per_s: float | None = None
    headroom: float = 1.0
    oldest_age_s: float = 0.0
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What one stream asks for. A cap or floor that plays no part is None."""

    steady: float = 0.0
    headroom: float = 0.0
    backlog: float = 0.0
    eta: float = 0.0
    work_cap: float | None = None
    rate_cap: float | None = None
    floor: float | None = None
    slots: float = 0.0

    @property
    def uncapped(self) -> float:
        return self.steady + self.headroom + self.backlog + self.eta


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What all the work asks for.

    pods        ceil(slots / slots_per_pod) + spare.
    terms       slots by term, as in Decision.terms.
    limited_by  none, work or rate_limit: whichever cap took more.
    sentence    the sum, in words.
    limits      (task, starts a second) of the types whose rate limit holds the pool back.
    work_s      slot-seconds that wait, but for rate-limited work; limited_s: how long that takes at its limit.
    queues      for the status: what is known of each queue.
    """

    pods: int
    slots: float
    slots_per_pod: float
    terms: Mapping[str, float]
    limited_by: str
    sentence: str
    limits: tuple[tuple[str, float], ...] = ()
    steady: float = 0.0
    work_s: float = 0.0
    limited_s: float = 0.0
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def drained_in_s(self, pods: int) -> float | None:
        """Seconds until what waits now is done by so many pods while more arrives; None when they cannot."""
        # What arrives meanwhile takes its slots first.
        free = pods * self.slots_per_pod - self.steady
        if (self.work_s > 0 and free <= 0) or math.isinf(self.limited_s):
            return None
        return max(self.limited_s, self.work_s / free if self.work_s > 0 else 0.0)


def staff(signals: Signals, spec: WorkerPoolSpec, memory: Memory, now: float) -> Demand:
    cold_s = cold_start_s(spec, memory)
    by_name = {sample.name: sample for sample in signals.queues}
    streams = [
        stream
        for queue in spec.queues
        if queue.name in by_name
        for stream in streams_of(
            queue, by_name[queue.name], signals, spec, memory.queues.get(queue.name, QueueMemory())
        )
    ]
    per_pod = max(1.0, float(spec.concurrency or memory.slots_per_pod or 1))
    ordered = supply(signals, slots_per_pod=per_pod, cold_start_s=cold_s, now=now)
    held = max(0.0, ordered.slots - spec.spare_replicas * per_pod)
    asked = [(stream, slots_for(stream, cold_start_s=cold_s, tick_s=spec.interval_s)) for stream in streams]
    total = asked_at_once = sum(slots.slots for _, slots in asked)
    if asked_at_once > held:
        # More than there is, and more only comes a cold start from now: what counts is what will be left for it then.
        left = left_in(streams, ordered, cold_s)
        asked = [
            (stream, slots_for(stream, cold_start_s=cold_s, tick_s=spec.interval_s, left=left)) for stream in streams
        ]
        total = sum(slots.slots for _, slots in asked)
    enough = held if asked_at_once > held > total else None
    total = max(total, enough or 0.0)
    if any(stream.throttled > 0 for stream in streams):
        total = max(total, 1.0)  # throttled work keeps one slot, however slow its limit
    by_work = sum(max(0.0, slots.uncapped - slots.work_cap) for _, slots in asked if slots.work_cap is not None)
    held_back = [(stream, slots) for stream, slots in asked if slots.rate_cap is not None]
    by_rate = sum(
        max(0.0, min(slots.uncapped, _or_inf(slots.work_cap)) - _or_inf(slots.rate_cap)) for _, slots in held_back
    )
    limited_by = "none"
    if by_work > _NOTABLE or by_rate > _NOTABLE:
        limited_by = "work" if by_work >= by_rate else "rate_limit"
    if enough is not None and limited_by == "none":
        limited_by = "work"
    terms = _terms([slots for _, slots in asked], total, enough, capped=limited_by != "none")
    limits = tuple(sorted({(stream.task, stream.limit_per_s or 0.0) for stream, _ in held_back}))
    demand = Demand(
        pods=math.ceil(total / per_pod - 1e-9) + spec.spare_replicas,
        slots=total,
        slots_per_pod=per_pod,
        terms=terms,
        limited_by=limited_by,
        sentence="",
        limits=limits,
        steady=sum(slots.steady for _, slots in asked),
        work_s=sum((x.ready + x.throttled + 0.5 * x.running) * x.service_s for x in streams if x.limit_per_s is None),
        limited_s=max((_limited_s(stream) for stream in streams), default=0.0),
        queues={
            sample.name: _of_queue(sample, memory, [slots for stream, slots in asked if stream.queue == sample.name])
            for sample in signals.queues
        },
    )
    return replace(demand, sentence=_sentence(demand, streams, spec))


#: Slots below this are rounding, and neither cap nor term worth a word.
_NOTABLE = 0.05

#: A burst: the fast arrival rate is so many times the slow one, and at least one message a tick above it.
_BURST = 1.5


def bursting(queue: QueueMemory, tick_s: float) -> bool:
    """Whether work comes in faster than it used to; while it does, nothing is scaled in."""
    return queue.fast_per_s > _BURST * queue.slow_per_s + 1.0 / tick_s


def streams_of(
    queue: QueueSpec, sample: QueueSample, signals: Signals, spec: WorkerPoolSpec, known: QueueMemory
) -> list[Stream]:
    """The queue's rate-limited types, each in proportion to its share of what was claimed, and the rest."""
    share = signals.share.get(queue.name, 1.0)
    limited: Sequence[LimitedClass] = ()
    if spec.rate_limit_aware:
        # A limit per worker rises with every pod: that is no reason to hold pods back.
        limited = [limit for limit in signals.limited if limit.queue == queue.name and not limit.per_worker]
    parts = {task: part for task, part in shares(known).items() if task in {limit.task for limit in limited}}
    service_s = {
        limit.task: known.classes[limit.task].service.value_s for limit in limited if limit.task in known.classes
    }
    rest = max(0.0, 1.0 - sum(parts.values()))
    rest_service_s = known.service.value_s if limited else known.overall.value_s
    # Of what runs, each type takes its share by time.
    by_time = rest * rest_service_s + sum(parts[task] * service_s[task] for task in parts)
    waiting = sample.ready + sample.reserved + sample.expired
    running = max(0, sample.leased - sample.reserved - sample.expired)
    rising = bursting(known, spec.interval_s)
    rate_per_s = max(known.slow_per_s, known.surge_per_s) if rising else known.slow_per_s
    headroom = (spec.headroom if known.headroom is None else known.headroom) * queue.weight
    throttled_rest = max(0, sample.throttled - sum(limit.throttled for limit in limited))

    def stream(task: str, part: float, its_service_s: float, throttled: float, limit_per_s: float | None) -> Stream:
        return Stream(
            queue=queue.name,
            task=task,
            ready=waiting * part * share,
            running=running * (part * its_service_s / by_time if by_time > 0 else part) * share,
            throttled=throttled * share,
            soon=sample.due_soon * part * share if spec.eta.enabled else 0.0,
            rate_per_s=max(0.0, rate_per_s) * part * share,
            rising=rising,
            service_s=its_service_s,
            limit_per_s=limit_per_s,
            headroom=headroom,
            oldest_age_s=sample.oldest_age_s or 0.0,
            objective=spec.objective_of(queue),
        )

    found = [stream("", rest, rest_service_s, throttled_rest, None)]
    for limit in limited:
        its_service_s = service_s.get(limit.task, known.overall.value_s)
        found.append(stream(limit.task, parts.get(limit.task, 0.0), its_service_s, limit.throttled, limit.rate_per_s))
    return found


def left_in(streams: Sequence[Stream], ordered: Supply, within_s: float) -> float:
    """The part of all that waits and will come in within that time, which then still waits with the slots ordered."""
    free = [stream for stream in streams if stream.limit_per_s is None]
    work_s = sum((stream.ready + stream.rate_per_s * within_s) * stream.service_s for stream in free)
    if work_s <= 0:
        return 1.0
    # That of what busy slots run now, not of what waits: short messages behind long tasks end none of those sooner.
    running = sum(stream.running for stream in free)
    running_s = sum(stream.running * stream.service_s for stream in free)
    service_s = running_s / running if running > 0 else max(stream.service_s for stream in free)
    return max(0.0, 1.0 - ordered.done_s(within_s, service_s=service_s) / work_s)


def slots_for(stream: Stream, *, cold_start_s: float, tick_s: float, left: float | None = None) -> Slots:
    """The terms of one stream, its caps where they bind, and what follows.

    left: the part of what waits, and of what comes in within a cold start, that will wait when a new pod has started;
    None when no new pod is asked for, so that what waits now is what counts.
    """
    objective, service_s = stream.objective, stream.service_s
    steady = headroom = backlog = eta = 0.0
    waiting = stream.ready + stream.throttled
    match objective.type:
        case ObjectiveType.DRAIN_TIME | ObjectiveType.LATENCY:
            left_s = max(0.8 * objective.seconds - stream.oldest_age_s, 0.25 * objective.seconds, tick_s)
            steady = stream.rate_per_s * service_s
            headroom = stream.headroom * math.sqrt(steady)
            if left is not None and stream.limit_per_s is None:
                then = left * (stream.ready + stream.rate_per_s * cold_start_s) + stream.throttled
                waiting = then if stream.rising else min(waiting, then)
            backlog = waiting * service_s / left_s
            eta = stream.soon * service_s / left_s
        case ObjectiveType.BACKLOG:
            per_slot = float(objective.target or 1)
            backlog = (waiting + stream.running) / per_slot
            eta = stream.soon / per_slot
        case ObjectiveType.UTILIZATION:
            steady = stream.running * 100.0 / (objective.target or 100)
            # Of all slots busy, 100 % would never ask for one more, however much waits.
            steady = max(steady, stream.running + min(1.0, waiting))
    uncapped = steady + headroom + backlog + eta
    work = stream.running + stream.ready + stream.throttled + stream.soon + stream.rate_per_s * (cold_start_s + tick_s)
    slots = min(uncapped, work)
    rate_cap = None
    if stream.limit_per_s is not None:
        at_limit = max(0.0, stream.limit_per_s) * service_s
        allowed = at_limit + stream.headroom * math.sqrt(at_limit)
        if allowed < slots:
            slots = rate_cap = allowed
    # A task that runs for longer than a pod takes to start is worth its slot: nobody could take over in time.
    floor = stream.running if service_s > cold_start_s and stream.running > slots else None
    return Slots(
        steady=steady,
        headroom=headroom,
        backlog=backlog,
        eta=eta,
        work_cap=work if work < uncapped else None,
        rate_cap=rate_cap,
        floor=floor,
        slots=slots if floor is None else floor,
    )


def has_work(signals: Signals, spec: WorkerPoolSpec) -> bool:
    """Whether any queue holds work that a worker could take up or has taken up, or will before one could start."""
    return any(
        sample.ready or sample.leased or sample.throttled or sample.expired or (spec.eta.enabled and sample.due_soon)
        for sample in signals.queues
    )


def _limited_s(stream: Stream) -> float:
    waiting = stream.ready + stream.throttled
    if stream.limit_per_s is None or waiting <= 0:
        return 0.0
    return waiting / stream.limit_per_s if stream.limit_per_s > 0 else math.inf


def _or_inf(cap: float | None) -> float:
    return math.inf if cap is None else cap


_SUMMED = ("steady", "headroom", "backlog", "eta")


def _terms(asked: Sequence[Slots], total: float, enough: float | None, *, capped: bool) -> dict[str, float]:
    sums = {
        "steady": sum(slots.steady for slots in asked),
        "headroom": sum(slots.headroom for slots in asked),
        "backlog": sum(slots.backlog for slots in asked),
        "eta": sum(slots.eta for slots in asked),
        "floor": sum(slots.floor or 0.0 for slots in asked),
        "ordered": enough or 0.0,
    }
    terms = {name: value for name, value in sums.items() if value > _NOTABLE or name in ("steady", "backlog")}
    if capped:
        terms["cap"] = total
    return terms


def _sentence(demand: Demand, streams: Sequence[Stream], spec: WorkerPoolSpec) -> str:
    """The sum in words: steady 20.0 (40/s x 0.5 s) + headroom 4.5 + backlog 0.0 = 24.5 slots / 4 per pod."""
    words = {name: f"{name} {value:.1f}" for name, value in demand.terms.items() if name in _SUMMED}
    moving = [stream for stream in streams if stream.rate_per_s > 0]
    if len(moving) == 1 and "headroom" in words:
        words["steady"] += f" ({rounded(moving[0].rate_per_s)}/s x {rounded(moving[0].service_s)} s)"
    asked = sum(demand.terms.get(name, 0.0) for name in _SUMMED)
    sentence = f"{' + '.join(words.values())} = {asked:.1f} slots"
    if "ordered" in demand.terms:
        sentence += f", and {demand.terms['ordered']:.1f} are there or on their way: enough for what waits"
    elif demand.limited_by == "work":
        sentence += f", but there is work for {demand.slots:.1f} only"
    elif demand.limited_by == "rate_limit":
        names = ", ".join(f"{task} ({rounded(per_s)}/s)" for task, per_s in demand.limits)
        sentence += f", but rate limits allow {demand.slots:.1f}: {names}"
    if "floor" in demand.terms:
        sentence += f", at least {demand.terms['floor']:.1f} for long tasks that run"
    sentence += f" / {rounded(demand.slots_per_pod)} per pod"
    if spec.spare_replicas:
        sentence += f" + {spec.spare_replicas} spare"
    return sentence


def _of_queue(sample: QueueSample, memory: Memory, asked: Sequence[Slots]) -> Mapping[str, Any]:
    known = memory.queues.get(sample.name, QueueMemory())
    return {
        "ready": sample.ready,
        "reserved": sample.reserved,
        "running": max(0, sample.leased - sample.reserved - sample.expired),
        "delayed": sample.delayed,
        "throttled": sample.throttled,
        "dead": sample.dead,
        "oldest_age_s": sample.oldest_age_s,
        "arrivals_per_s": max(0.0, arrivals_per_s(known)),
        "completions_per_s": completions_per_s(known),
        "service_s": known.overall.value_s,
        "waited_s": waited_s(known),
        "slots": sum(slots.slots for slots in asked),
    }
