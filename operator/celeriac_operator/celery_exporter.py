"""What the operator knows, under the names of danihodovic/celery-exporter too: for dashboards and alerts that ask for those.

Only what is known. `task_sent` is nobody's to tell but clients', `active_process_count` counts processes of which heartbeats say
nothing, and there is no exception's class and no bucket of run times in a heartbeat: those labels are empty and those series absent.
`hostname` of what tasks did is "generic", as with the exporter's own --generic-hostname-worker-task-metric. Every series has the
labels `namespace` and `pool` besides; a queue that several pools consume is told once, of the first of them, so that sums are right.
Names, labels and meanings: the exporter's README and src/exporter.py at 95e8e49.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from celeriac.telemetry.exposition import Family, Labels
from celeriac.wire.event import WAIT_BUCKETS_S, QueueTotals, TaskTotals
from celeriac_operator import clock
from celeriac_operator.metrics import BrokerReading, HeardWorker, Key, PoolReading
from celeriac_operator.scaling.signals import QueueSample

#: Seconds for which a worker that is gone is told as down, as the exporter does it.
DOWN_FOR_S = 600.0

#: What workers of no pool are counted under.
_NO_POOL: Key = ("", "")
_ANY_HOST = "generic"
_POOL = ("namespace", "pool")
_TASK = (*_POOL, "name", "hostname", "queue_name")
_QUEUE = (*_POOL, "queue_name")


def families(readings: Mapping[Key, PoolReading], brokers: Mapping[str, BrokerReading]) -> Iterator[Family]:
    """The exporter's metrics, of what the last ticks saw and what the brokers tell at this scrape."""
    yield from _of_runs(brokers)
    yield from _of_messages(brokers)
    yield from _of_queues(readings, brokers)
    yield from _of_workers(brokers)


def _of_runs(brokers: Mapping[str, BrokerReading]) -> Iterator[Family]:
    labels = Labels(*_TASK)
    counted = {
        "started": Family("celery_task_started", "counter", "Runs that were started.", labels),
        "succeeded": Family("celery_task_succeeded", "counter", "Runs that succeeded.", labels),
        "retried": Family("celery_task_retried", "counter", "Runs that will be tried again.", labels),
    }
    failed = Family("celery_task_failed", "counter", "Runs that failed.", labels.and_("exception"))
    runtime = Family("celery_task_runtime", "summary", "Seconds of all runs, whether they succeeded or not.", labels)

    def count(at: tuple[str, ...], runs: TaskTotals | QueueTotals) -> None:
        for state, family in counted.items():
            family.add(at, getattr(runs, state))
        failed.add((*at, ""), runs.failed)

    for broker in brokers.values():
        for (pool, queue, name), runs in broker.tasks.items():
            at = (*pool, name, _ANY_HOST, queue)
            count(at, runs)
            runtime.add_summary(at, runs.started, runs.run_s)
        # A stock worker tells how many ran, and not of which type of task.
        told = {(pool, queue) for pool, queue, _ in broker.tasks}
        for (pool, queue), totals in broker.queues.items():
            if (pool, queue) not in told:
                count((*pool, "", _ANY_HOST, queue), totals)
    yield from (*counted.values(), failed, runtime)


def _of_messages(brokers: Mapping[str, BrokerReading]) -> Iterator[Family]:
    """What is told by queue, and not of which type of task the messages were."""
    labels = Labels(*_TASK)
    received = Family("celery_task_received", "counter", "Messages that workers have taken.", labels)
    rejected = Family("celery_task_rejected", "counter", "Messages that their task rejected.", labels)
    revoked = Family("celery_task_revoked", "counter", "Messages that were revoked, or had expired.", labels)
    for broker in brokers.values():
        for (pool, queue), totals in broker.queues.items():
            at = (*pool, "", _ANY_HOST, queue)
            received.add(at, totals.received)
            rejected.add(at, totals.rejected)
            revoked.add(at, totals.revoked)
    yield from (received, rejected, revoked)


def _of_queues(readings: Mapping[Key, PoolReading], brokers: Mapping[str, BrokerReading]) -> Iterator[Family]:
    labels = Labels(*_QUEUE)
    length = Family("celery_queue_length", "gauge", "Messages that wait to be taken, of all priorities.", labels)
    workers = Family("celery_active_worker_count", "gauge", "Live workers that consume the queue.", labels)
    consumers = Family(
        "celery_active_consumer_count", "gauge", "The same, or the broker's count where no worker is heard.", labels
    )
    waits = Family(
        "celery_task_queue_wait_time",
        "histogram",
        "Seconds from due to start, of messages that our own clients sent.",
        Labels(*_TASK),
        bounds=WAIT_BUCKETS_S,
    )
    active = {
        name: Counter(queue for worker in broker.workers if not worker.gone for queue in worker.beat.queues)
        for name, broker in brokers.items()
    }
    for (broker, queue), pool in _first_pools(readings).items():
        sample = brokers[broker].samples.get(queue) if broker in brokers else None
        if sample is None:
            continue
        at = (*pool, queue)
        length.add(at, sample.ready)
        workers.add(at, active[broker][queue])
        if sample.consumers is not None:
            consumers.add(at, sample.consumers)
        if _all_told(sample):
            waits.add_histogram((*pool, "", _ANY_HOST, queue), sample.wait_counts, sample.wait_s)
    yield from (length, workers, consumers, waits)


def _first_pools(readings: Mapping[Key, PoolReading]) -> Mapping[tuple[str, str], Key]:
    """(broker, queue) -> the first pool that consumes it, by name."""
    found: dict[tuple[str, str], Key] = {}
    for pool in sorted(readings):
        for queue in readings[pool].signals.queues:
            found.setdefault((readings[pool].broker, queue.name), pool)
    return found


def _all_told(sample: QueueSample) -> bool:
    """Whether every wait that was summed up is in a bucket, too: older workers tell the sum alone."""
    return sum(sample.wait_counts) == sample.waits > 0


def _of_workers(brokers: Mapping[str, BrokerReading]) -> Iterator[Family]:
    labels = Labels(*_POOL, "hostname")
    up = Family(
        "celery_worker_up",
        "gauge",
        "1 for a host with a worker that is heard; 0 for ten minutes after its last one.",
        labels,
    )
    active = Family("celery_worker_tasks_active", "gauge", "Tasks that run in the workers of the host.", labels)
    running: dict[tuple[Key, str], int | None] = {}
    now = clock.now()
    for broker in brokers.values():
        for worker in broker.workers:
            at = (worker.owner or _NO_POOL, _host(worker))
            if not worker.gone:
                running[at] = (running.get(at) or 0) + worker.beat.busy
            elif now - worker.heard_at <= DOWN_FOR_S:
                running.setdefault(at, None)
    for (pool, host), busy in running.items():
        up.add((*pool, host), float(busy is not None))
        active.add((*pool, host), busy or 0)
    yield from (up, active)


def _host(worker: HeardWorker) -> str:
    """Of a node's name (`celery@host`) what Celery takes for the host."""
    name, at, host = worker.beat.hostname.partition("@")
    return host if at else name
