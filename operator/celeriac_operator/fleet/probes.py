"""The broker's queues as the decision sees them: a probe's depths, joined with what heartbeats tell. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from celeriac.broker.depth import QueueDepth
from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator.fleet.heartbeats import FleetTotals, Worker
from celeriac_operator.scaling.signals import LimitedClass, QueueSample


def consumers_of(workers: Iterable[Worker]) -> dict[str, list[Worker]]:
    """Queue -> the workers that consume it, those that are gone too."""
    consumers: dict[str, list[Worker]] = {}
    for worker in workers:
        for queue in worker.beat.queues:
            consumers.setdefault(queue, []).append(worker)
    return consumers


def queue_samples(
    depths: Mapping[str, QueueDepth],
    consumers: Mapping[str, Sequence[Worker]],
    totals: FleetTotals,
    now: float,
    *,
    names: Iterable[str] | None = None,
) -> dict[str, QueueSample]:
    """Queue -> its sample, of these queues (None: of all) that could be read. now: by the machine's clock, as messages' times.

    Work in flight is the greater of what the broker has leased and what live workers run: some brokers cannot tell the one
    (RabbitMQ without its management API), and with early acks there is nothing leased while a task runs.
    What is leased beyond the live workers' slots is reserved, and so is what a dead worker held: it waits like the rest.
    """
    return {
        name: _sample(name, depths, [w for w in consumers.get(name, ()) if not w.gone], totals, now)
        for name in (depths if names is None else names)
        if name in depths and not depths[name].error
    }


def _sample(
    name: str, depths: Mapping[str, QueueDepth], consumers: Sequence[Worker], totals: FleetTotals, now: float
) -> QueueSample:
    depth = depths[name]
    held = slots = 0.0
    for beat in [worker.beat for worker in consumers]:
        share = _share(beat.queues, name, depths)
        held += share * (beat.busy + beat.reserved)
        slots += share * beat.slots
    leased = max(depth.leased, round(held))
    # The broker's number is fresh and the heartbeats' are not: slots bound what runs better than `busy` tells it.
    running = min(leased - depth.expired, round(slots))
    done = totals.by_queue.get(name) or QueueTotals()
    return QueueSample(
        name=name,
        ready=depth.ready,
        reserved=max(0, leased - depth.expired - running),
        leased=leased,
        expired=depth.expired,
        throttled=depth.throttled,
        delayed=depth.delayed,
        due_soon=depth.due_soon,
        dead=depth.dead,
        oldest_age_s=None if depth.oldest_sent_at is None else max(0.0, now - depth.oldest_sent_at),
        started=done.started,
        completed=done.completed,
        failed=done.failed,
        retried=done.retried,
        redelivered=done.redelivered,
        busy_s=done.busy_s,
        wait_s=done.wait_s,
        waits=done.waits,
        wait_counts=totals.waits.get(name, ()),
        consumers=len(consumers) or depth.consumers,
    )


def _share(queues: Sequence[str], queue: str, depths: Mapping[str, QueueDepth]) -> float:
    """The part in [0, 1] of what a worker of these queues holds that is of this one: as the broker has leased it, else evenly."""
    if len(queues) == 1:
        return 1.0
    leased = {name: depths[name].leased for name in queues if name in depths}
    whole = sum(leased.values())
    return leased[queue] / whole if whole else 1.0 / len(queues)


def tasks_of(totals: FleetTotals) -> dict[str, TaskTotals]:
    """Task -> sums over the fleet, whichever pools its workers belong to."""
    sums: dict[str, TaskTotals] = {}
    for (_, queue, task), counts in totals.owned_tasks.items():
        known = sums.get(task, TaskTotals(queue=queue))
        sums[task] = TaskTotals(
            queue=queue,
            started=known.started + counts.started,
            succeeded=known.succeeded + counts.succeeded,
            failed=known.failed + counts.failed,
            retried=known.retried + counts.retried,
            throttled=known.throttled + counts.throttled,
            run_s=known.run_s + counts.run_s,
        )
    return sums


def limited_classes(
    queues: Sequence[str],
    consumers: Mapping[str, Sequence[Worker]],
    depths: Mapping[str, QueueDepth],
    task_totals: Mapping[str, TaskTotals],
    rates: Mapping[str, float],
) -> tuple[LimitedClass, ...]:
    """The rate-limited types of task on these queues, as live workers and the pool's spec know them.

    task_totals   task -> sums over the fleet.
    rates         task -> starts a second that the spec sets; it beats what workers say.

    A limit per worker is multiplied by the workers that keep it; a limit of the cluster is one number, whoever tells it.
    With nobody alive, the last worker heard speaks for the next one, so that a pool at zero still knows its limits.
    """
    wanted = set(queues)
    known = {worker.id: worker for name in queues for worker in consumers.get(name, ())}.values()
    live = [worker for worker in known if not worker.gone] or sorted(known, key=lambda w: w.heard_at)[-1:]
    if not rates and not any(worker.beat.limits for worker in live):
        return ()
    live.sort(key=lambda w: w.heard_at)
    cluster: dict[str, float] = {}
    per_worker: dict[str, float] = {}
    homes: dict[str, str] = {task: totals.queue for task, totals in task_totals.items()}
    for worker in live:
        for limit in worker.beat.limits:
            if limit.scope == "cluster":
                cluster[limit.task] = limit.per_s
            else:
                per_worker[limit.task] = per_worker.get(limit.task, 0.0) + limit.per_s
    cluster.update(rates)
    throttled: dict[str, int] = {}
    for queue in queues:
        for task, count in (depths[queue].throttled_by_task if queue in depths else {}).items():
            throttled[task] = throttled.get(task, 0) + count
            homes[task] = queue
    return tuple(
        LimitedClass(
            task=task,
            queue=homes[task],
            rate_per_s=rate,
            per_worker=task not in cluster,
            throttled=throttled.get(task, 0),
            started=task_totals[task].started if task in task_totals else 0,
            run_s=task_totals[task].run_s if task in task_totals else 0.0,
        )
        for task, rate in sorted({**per_worker, **cluster}.items())
        if homes.get(task) in wanted
    )
