"""learn(signals, spec, memory, now): the memory, richer by what this tick saw.

Arrival rates, service times, cold starts, slots a pod and head-room are learnt here and nowhere else; `demand` reads
them. Ticks may be irregular and may fail: everything is counted over the time that passed, from totals that only grow.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from celeriac.wire.event import WAIT_BUCKETS_S
from celeriac_operator.resources.spec import Objective, ObjectiveType, WorkerPoolSpec
from celeriac_operator.scaling.memory import (
    FIRST_COLD_START_S,
    ClassMemory,
    Mark,
    Memory,
    QueueMemory,
    Service,
)
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals
from celeriac_operator.scaling.waits import grown, percentile_s

#: Time constants of the two arrival rates: the fast one sees a burst in a tick or two, the slow one ignores it.
_FAST_S, _SLOW_S, _DONE_S = 10.0, 120.0, 30.0

#: How far back service times are measured, and how close together the marks are kept.
_WINDOW_S, _SPACING_S = 300.0, 5.0

#: No run is taken for shorter than this: a table of no-ops would otherwise ask for no slots at all.
_SERVICE_LEAST_S = 1e-4

#: By so much time a worker's totals may lag behind the broker's counts: a few heartbeats.
_LAG_S = 10.0

#: Claims count down to a third over so many newer ones, so that shares follow a changed mix.
_CLAIMS_KEPT = 1000.0

_STARTS_KEPT, _TRAIL_KEPT = 32, 64

#: How long a long run is remembered, and how close together such runs are kept.
_RUNS_KEPT_S, _RUNS_SPACING_S = 3600.0, 60.0

#: No cold start is learnt to be longer: pods ordered so far ahead would mostly be for work that somebody else has done.
_COLD_START_MOST_S = 600.0

#: Broker data older than so many ticks is stale.
STALE_TICKS = 3

#: A heartbeat older than this says nothing about what its worker does now; workers send one every 2 s.
HEARTBEAT_FRESH_S = 15.0

#: The head-room fed back from waits: once a minute, from at least so many, within bounds, at most halved or doubled.
_JUDGED_EVERY_S, _JUDGED_FROM_WAITS = 60.0, 20
_HEADROOM_LEAST, _HEADROOM_MOST = 0.25, 3.0

#: Waits are remembered for about so long: a minute's percentile goes up and down. None since so long: nothing is told of them.
_LATELY_S, _WAITED_TOLD_FOR_S = 1800.0, 3600.0

#: While one of these has the last word, waits say nothing about the head-room.
_FREEZING = frozenset({"max", "rate_limit", "signal", "pending_pods", "not_consuming", "failing"})


def fresh(signals: Signals, spec: WorkerPoolSpec, now: float) -> bool:
    """Whether the queues were read lately enough to decide on."""
    return signals.broker_ok and now - signals.sampled_at <= STALE_TICKS * spec.interval_s


def cold_start_s(spec: WorkerPoolSpec, memory: Memory) -> float:
    """From the order for a pod to its first heartbeat: as the spec says, else the p90 observed, else 30 s."""
    if spec.cold_start_s is not None:
        return spec.cold_start_s
    return FIRST_COLD_START_S if memory.cold_start_s is None else min(memory.cold_start_s, _COLD_START_MOST_S)


def horizon_s(spec: WorkerPoolSpec, memory: Memory) -> float:
    """How far ahead delayed work counts as due soon: what the broker's probe must be asked for. 0: not at all."""
    if not spec.eta.enabled:
        return 0.0
    return cold_start_s(spec, memory) + spec.interval_s if spec.eta.horizon_s is None else spec.eta.horizon_s


def learn(signals: Signals, spec: WorkerPoolSpec, memory: Memory, now: float) -> Memory:
    memory = _learn_pods(signals, memory, now)
    if not fresh(signals, spec, now):
        if now - signals.sampled_at <= STALE_TICKS * spec.interval_s and memory.fresh_at is not None:
            return memory  # one answer missed: the last one is still good, only not good enough to act on
        # What was true before the gap may not be true after it: windows of quiet and of wants start anew.
        return replace(
            memory,
            fresh_at=now if memory.fresh_at is None else memory.fresh_at,
            steady_since=None,
            quiet_since=None,
            wants=(),
            nudge=None,
        )
    steady_since = now if memory.steady_since is None else memory.steady_since
    memory = replace(memory, fresh_at=now, steady_since=steady_since)
    if signals.sampled_at <= memory.sampled_at:
        return memory  # the same sample again: an early tick
    frozen = memory.limited_by in _FREEZING
    objectives = {queue.name: spec.objective_of(queue) for queue in spec.queues}
    queues = {name: queue for name, queue in memory.queues.items() if name in objectives}
    for sample in signals.queues:
        # A limit per worker rises with every pod: its tasks are like any other.
        limited = [limit for limit in signals.limited if limit.queue == sample.name and not limit.per_worker]
        objective = objectives.get(sample.name, spec.objective)
        queue = _learn_queue(
            queues.get(sample.name, QueueMemory()),
            sample,
            limited,
            at=signals.sampled_at,
            objective_s=float(objective.seconds),
        )
        queues[sample.name] = _learn_headroom(queue, sample, objective, spec.headroom, frozen=frozen)
    return replace(memory, sampled_at=signals.sampled_at, queues=queues)


def _learn_pods(signals: Signals, memory: Memory, now: float) -> Memory:
    heard = [
        pod
        for pod in signals.pods
        if pod.heartbeat_age_s is not None and pod.heartbeat_age_s <= HEARTBEAT_FRESH_S and not pod.deleting
    ]
    slots_per_pod = sum(pod.slots for pod in heard) / len(heard) if heard else memory.slots_per_pod
    homeless = frozenset(
        _uid(pod) for pod in signals.pods if pod.pending_reason == "Unschedulable" or _uid(pod) in memory.homeless
    )
    settled = [pod for pod in signals.pods if _uid(pod) not in homeless]
    starts = _learn_starts(settled, memory.starts, since=now - signals.listened_s)
    n = signals.target.replicas
    missing = not signals.target.error and sum(not pod.deleting for pod in signals.pods) < n
    missing_since = (now if memory.missing_since is None else memory.missing_since) if missing else None
    trail = memory.trail if memory.trail and memory.trail[-1][1] == n else (*memory.trail, (now, n))[-_TRAIL_KEPT:]
    return replace(
        memory,
        slots_per_pod=slots_per_pod or None,
        starts=starts,
        homeless=homeless,
        cold_start_s=_p90([seconds for _, seconds in starts]) if starts else memory.cold_start_s,
        long_runs=_learn_runs(max((pod.longest_running_s for pod in heard), default=0.0), memory.long_runs, now),
        missing_since=missing_since,
        trail=memory.trail if signals.target.error else trail,
    )


def longest_run_s(memory: Memory) -> float:
    """The longest that a task was seen to run within the last hour: what ran once and never again is no news for ever."""
    return memory.long_runs[0][1] if memory.long_runs else 0.0


def _learn_runs(longest_s: float, runs: tuple[tuple[float, float], ...], now: float) -> tuple[tuple[float, float], ...]:
    runs = tuple((at, seconds) for at, seconds in runs if at > now - _RUNS_KEPT_S and seconds > longest_s)
    # One entry a minute is enough, and keeps the list short.
    news = longest_s > 0 and (not runs or now - runs[-1][0] >= _RUNS_SPACING_S)
    return (*runs, (now, longest_s)) if news else runs


def _learn_starts(
    pods: Sequence[PodSample], starts: tuple[tuple[str, float], ...], *, since: float
) -> tuple[tuple[str, float], ...]:
    """Cold starts of pods made since this operator runs; of older ones it does not know when they were first heard."""
    known = {uid for uid, _ in starts}
    new = tuple(
        (_uid(pod), min(_COLD_START_MOST_S, max(0.0, pod.first_heartbeat_at - pod.created_at)))
        for pod in pods
        if pod.created_at is not None
        and pod.first_heartbeat_at is not None
        and pod.created_at >= since
        and _uid(pod) not in known
    )
    return (*starts, *new)[-_STARTS_KEPT:] if new else starts


def _uid(pod: PodSample) -> str:
    return pod.uid or pod.name


def _learn_queue(
    known: QueueMemory, sample: QueueSample, limited: Sequence[LimitedClass], *, at: float, objective_s: float
) -> QueueMemory:
    last = known.last
    claims = {limit.task: _claims(known, limit) for limit in limited}
    # At first sight what is started was started by nobody knows whom; what is parked tells the mix all the same.
    others = 0.0 if last is None else max(0.0, sample.started - last.started - sum(_started(known, x) for x in limited))
    kept = math.exp(-(others + sum(claims.values())) / _CLAIMS_KEPT)
    overall = _learn_service(_continued(known, sample, known.overall), at, sample.busy_s, _ended(sample))
    # Without limited types the rest is all there is: its marks are kept once.
    all_rest = not limited and not known.classes and known.service == known.overall
    queue = replace(
        known,
        last=sample,
        sampled_at=at,
        overall=overall,
        service=overall if all_rest else _learn_rest(known, sample, limited, at),
        classes={limit.task: _learn_class(known, limit, at, claims=claims[limit.task], kept=kept) for limit in limited},
        other_claims=known.other_claims * kept + others,
    )
    passed_s = at - known.sampled_at
    if last is None or passed_s <= 0:
        return queue  # a baseline: what lies there did not arrive now
    done = max(0, sample.completed - last.completed)
    # What came in is what is there now and was not, and what went for good meanwhile. Retries and redeliveries cancel
    # out: they leave one count for another. A retry that waits for its time leaves all of these counts and is owed.
    held, held_before = (q.ready + q.leased + q.throttled for q in (sample, last))
    balance = float(held - held_before + done) + known.owed
    # What was delayed and has come due is no news: the eta term has staffed for it. Of it, what was owed has gone.
    came_due = max(0.0, last.delayed - sample.delayed + known.owed)
    arrived = max(0.0, balance - came_due)
    latest_per_s = arrived / passed_s
    # What one look saw may have been one batch, all of it waiting by now; what the next one sees as well is a rate.
    both_per_s = min(latest_per_s, known.latest_per_s)
    certain_per_s = both_per_s - 2.0 * math.sqrt(both_per_s / passed_s)
    watched_s = known.watched_s + passed_s
    return replace(
        queue,
        latest_per_s=latest_per_s,
        watched_s=watched_s,
        fast_per_s=_decayed(known.fast_per_s, latest_per_s, passed_s, _FAST_S),
        surge_per_s=max(certain_per_s, _decayed(known.surge_per_s, both_per_s, passed_s, _FAST_S)),
        slow_per_s=_decayed(known.slow_per_s, latest_per_s, passed_s, max(_SLOW_S, min(watched_s, objective_s))),
        done_per_s=_decayed(known.done_per_s, done / passed_s, passed_s, _DONE_S),
        # Nothing more can come back than what is delayed, or what the workers have not yet reported as done.
        owed=max(min(0.0, balance), -(sample.delayed + known.done_per_s * _LAG_S)),
        arrived_at=at if arrived >= 0.5 else known.arrived_at,
    )


def _learn_class(known: QueueMemory, limit: LimitedClass, at: float, *, claims: float, kept: float) -> ClassMemory:
    before = known.classes.get(limit.task, ClassMemory(service=Service(value_s=known.overall.value_s)))
    service = before.service
    if before.last is not None and limit.started < before.last.started:
        service = Service(value_s=service.value_s)
    service = _learn_service(service, at, limit.run_s, limit.started)
    return ClassMemory(last=limit, service=service, claims=before.claims * kept + claims)


def _learn_rest(known: QueueMemory, sample: QueueSample, limited: Sequence[LimitedClass], at: float) -> Service:
    """The service time of what no limit holds back: the queue's totals without those of its limited types."""
    service = _continued(known, sample, known.service)
    if known.last is not None and {limit.task for limit in limited} != set(known.classes):
        service = Service(value_s=service.value_s)  # tasks moved between the types and the rest: the totals jump
    busy_s = sample.busy_s - sum(limit.run_s for limit in limited)
    return _learn_service(service, at, busy_s, _ended(sample) - sum(limit.started for limit in limited))


def _claims(known: QueueMemory, limit: LimitedClass) -> float:
    """How many messages of this type were claimed since the last sample: started at once, or parked as throttled."""
    before = known.classes.get(limit.task)
    if before is None or before.last is None:
        return float(limit.throttled)
    return float(max(0, limit.started - before.last.started + limit.throttled - before.last.throttled))


def _started(known: QueueMemory, limit: LimitedClass) -> int:
    before = known.classes.get(limit.task)
    return 0 if before is None or before.last is None else max(0, limit.started - before.last.started)


def _ended(sample: QueueSample) -> float:
    """Runs that ended: a retry ended too, and took its time."""
    return float(sample.completed + sample.retried)


def _continued(known: QueueMemory, sample: QueueSample, service: Service) -> Service:
    """`service`, without its marks when the totals they count from have been lost."""
    lost = known.last is not None and (sample.busy_s < known.last.busy_s - 1e-6 or _ended(sample) < _ended(known.last))
    return Service(value_s=service.value_s) if lost else service


def _learn_service(service: Service, at: float, busy_s: float, ended: float) -> Service:
    """S = (what was known when the window began + busy slot-seconds within it) / (1 + runs ended within it).

    Running tasks count by the time they have run so far, so that tasks longer than the window are seen to be long. A
    window without work keeps the value, however long it lasts.
    """
    marks = service.marks
    while len(marks) > 1 and marks[1].at <= at - _WINDOW_S:
        marks = marks[1:]
    value_s = service.value_s
    if marks:
        first = marks[0]
        value_s = (first.value_s + max(0.0, busy_s - first.busy_s)) / (1.0 + max(0.0, ended - first.ended))
    if not marks or at - marks[-1].at >= _SPACING_S:
        marks = (*marks, Mark(at=at, busy_s=busy_s, ended=ended, value_s=value_s))
    return Service(value_s=max(_SERVICE_LEAST_S, value_s), marks=marks)


def _learn_headroom(
    queue: QueueMemory, sample: QueueSample, objective: Objective, headroom: float, *, frozen: bool
) -> QueueMemory:
    """For objective Latency, beta times the root of (observed percentile / wanted), once a minute; not downwards while the last half
    hour's percentile, which people are told too, is above what is wanted: bursts may be some minutes apart.
    """
    if objective.type is not ObjectiveType.LATENCY:
        if queue.headroom is None and queue.waited_s is None:
            return queue
        return replace(queue, headroom=None, waits_lately=(), waited_s=None)
    judged = replace(
        queue,
        judged_at=queue.sampled_at,
        judged_wait_s=sample.wait_s,
        judged_waits=sample.waits,
        judged_counts=sample.wait_counts,
        judged_frozen=frozen,
    )
    if queue.headroom is None or queue.headroom_of != headroom:
        return replace(judged, headroom=headroom, headroom_of=headroom)
    waits = sample.waits - queue.judged_waits
    if waits < 0 or frozen != queue.judged_frozen:
        return judged
    if queue.sampled_at - queue.judged_at < _JUDGED_EVERY_S or waits < _JUDGED_FROM_WAITS:
        return queue
    counts = grown(sample.wait_counts, queue.judged_counts)
    if sum(counts) >= _JUDGED_FROM_WAITS:
        judged = _learn_lately(judged, counts, queue.sampled_at - queue.judged_at, objective.percentile)
    if frozen:
        return judged
    mean_s = max(0.0, sample.wait_s - queue.judged_wait_s) / waits
    factor = math.sqrt(_observed_s(counts, mean_s, objective.percentile) / objective.seconds)
    if factor < 1.0 and judged.waited_at == queue.sampled_at and (judged.waited_s or 0.0) > objective.seconds:
        return judged  # a good minute between two bad ones
    headroom = queue.headroom * min(2.0, max(0.5, factor))
    return replace(judged, headroom=min(_HEADROOM_MOST, max(_HEADROOM_LEAST, headroom)))


def _learn_lately(queue: QueueMemory, counts: Sequence[int], passed_s: float, percent: float) -> QueueMemory:
    kept = math.exp(-passed_s / _LATELY_S)
    lately = tuple([old * kept + new for old, new in zip_longest(queue.waits_lately, counts, fillvalue=0)])
    waited_s = min(percentile_s(lately, percent), WAIT_BUCKETS_S[-1])
    return replace(queue, waits_lately=lately, waited_s=waited_s, waited_at=queue.sampled_at)


def _observed_s(counts: Sequence[int], mean_s: float, percent: float) -> float:
    """The percentile of these waits, or, where too few workers tell counts or it lies beyond their buckets, that of an exponential
    with the mean of all waits."""
    by_mean_s = mean_s * math.log(1.0 / (1.0 - percent / 100.0))
    if sum(counts) < _JUDGED_FROM_WAITS:
        return by_mean_s
    observed_s = percentile_s(counts, percent)
    return max(by_mean_s, WAIT_BUCKETS_S[-1]) if math.isinf(observed_s) else observed_s


def _decayed(value: float, latest: float, passed_s: float, constant_s: float) -> float:
    kept = math.exp(-passed_s / constant_s)
    return value * kept + latest * (1.0 - kept)


def arrivals_per_s(queue: QueueMemory) -> float:
    """The slow rate for people: without what it lacks while it rises from the nothing it began with."""
    return queue.slow_per_s / _learnt(queue.watched_s, _SLOW_S)


def completions_per_s(queue: QueueMemory) -> float:
    """The rate of completions for people, likewise."""
    return queue.done_per_s / _learnt(queue.watched_s, _DONE_S)


def waited_s(queue: QueueMemory) -> float | None:
    """What the objective's percentile of messages waited, for people; None for other objectives and when it is long past."""
    return queue.waited_s if queue.sampled_at - queue.waited_at <= _WAITED_TOLD_FOR_S else None


def _learnt(watched_s: float, constant_s: float) -> float:
    """The part of an exponentially weighted mean that has been seen, in (0, 1]."""
    return 1.0 - math.exp(-watched_s / constant_s) if watched_s > 0 else 1.0


def _p90(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]
