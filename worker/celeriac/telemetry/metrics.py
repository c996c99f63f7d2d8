"""The worker's Prometheus metrics, made from the totals at each scrape. Names and labels are a table; a pod is never a label."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from celeriac.policy.commands import REASONS
from celeriac.telemetry.exposition import Family, Labels, labelled, single
from celeriac.telemetry.totals import RUN_BUCKETS_S, Totals
from celeriac.wire.event import WAIT_BUCKETS_S

#: Every state a task can end a run in, so that all start at zero.
STATES = ("succeeded", "failed", "retried", "rejected", "revoked", "expired", "ignored", "requeued", "dead_lettered")

#: Metric names and what they mean: /metrics says it, and docs/metrics.md.
NAMES: Mapping[str, str] = {
    "celeriac_tasks": "Runs and messages that ended in this state.",
    "celeriac_task_retries": "Retries by the exception that caused them.",
    "celeriac_tasks_redelivered": "Messages whose earlier worker was lost.",
    "celeriac_task_wait_seconds": "Seconds from due to start, of messages that our own clients sent.",
    "celeriac_task_run_seconds": "Seconds of one run, a retry counting anew.",
    "celeriac_tasks_in_flight": "Bodies running now.",
    "celeriac_task_longest_running_seconds": "Seconds for which the oldest running body has run; 0 when idle.",
    "celeriac_ratelimit_limit_per_second": "Starts a second that a limit allows.",
    "celeriac_ratelimit_throttled": "Messages that had to wait for a limit.",
    "celeriac_worker_slots": "Bodies this worker can run at once.",
    "celeriac_worker_slots_busy": "Bodies it runs now.",
    "celeriac_worker_reserved": "Messages claimed and not started.",
    "celeriac_worker_draining": "1 while the operator drains this worker.",
    "celeriac_worker_broker_up": "1 while the broker answers.",
    "celeriac_error_mails": "Mails about failed tasks, by what became of them.",
    "celeriac_commands_refused": "Remote control's commands that were passed over.",
    "celeriac_build": "What is running.",
}

_NONE_REFUSED = dict.fromkeys(REASONS, 0)
_NO_MAILS = {"sent": 0, "failed": 0, "left_out": 0}


class WorkerState:
    """What a scrape asks the running worker; the loop fills it in."""

    def __init__(
        self,
        running: Callable[[], Iterable[tuple[str, float]]],
        gauges: Callable[[], Mapping[str, float]],
        limits: Callable[[], Mapping[str, float]],
        mails: Callable[[], Mapping[str, int] | None] = lambda: None,
        refused: Callable[[], Mapping[str, int]] = lambda: _NONE_REFUSED,
    ) -> None:
        self.running = running
        self.gauges = gauges
        self.mails = mails
        self.refused = refused
        self.limits = limits


def families(totals: Totals, state: WorkerState, version: str) -> Iterator[Family]:
    """What a scrape gets."""
    with totals._lock:
        counted = _counted(totals)
    yield from counted
    yield labelled(
        "celeriac_error_mails", "counter", NAMES["celeriac_error_mails"], "result", state.mails() or _NO_MAILS
    )
    yield labelled(
        "celeriac_commands_refused", "counter", NAMES["celeriac_commands_refused"], "reason", state.refused()
    )
    in_flight: dict[str, int] = dict.fromkeys(totals.queues, 0)
    longest: dict[str, float] = dict.fromkeys(totals.queues, 0.0)
    for queue, seconds in state.running():
        in_flight[queue] = in_flight.get(queue, 0) + 1
        longest[queue] = max(longest.get(queue, 0.0), seconds)
    yield labelled("celeriac_tasks_in_flight", "gauge", NAMES["celeriac_tasks_in_flight"], "queue", in_flight)
    yield labelled(
        "celeriac_task_longest_running_seconds",
        "gauge",
        NAMES["celeriac_task_longest_running_seconds"],
        "queue",
        longest,
    )
    yield labelled(
        "celeriac_ratelimit_limit_per_second",
        "gauge",
        NAMES["celeriac_ratelimit_limit_per_second"],
        "limit",
        state.limits(),
    )
    for name, value in state.gauges().items():
        yield single(name, "gauge", NAMES[name], value)
    yield labelled("celeriac_build", "info", NAMES["celeriac_build"], "version", {version: 1.0})


def _counted(totals: Totals) -> tuple[Family, ...]:
    by_queue, by_task = Labels("queue"), Labels("queue", "task")
    tasks = Family("celeriac_tasks", "counter", NAMES["celeriac_tasks"], by_task.and_("state"))
    retries = Family("celeriac_task_retries", "counter", NAMES["celeriac_task_retries"], by_task.and_("reason"))
    redelivered = Family("celeriac_tasks_redelivered", "counter", NAMES["celeriac_tasks_redelivered"], by_queue)
    wait = Family(
        "celeriac_task_wait_seconds",
        "histogram",
        NAMES["celeriac_task_wait_seconds"],
        by_queue,
        bounds=WAIT_BUCKETS_S,
    )
    run = Family(
        "celeriac_task_run_seconds", "histogram", NAMES["celeriac_task_run_seconds"], by_queue, bounds=RUN_BUCKETS_S
    )
    by_limit: dict[str, int] = {}
    for (queue, name), task in totals.tasks.items():
        tasks.add_each((queue, name), {state: task.states.get(state, 0) for state in STATES})
        retries.add_each((queue, name), task.reasons)
        if task.throttled:
            by_limit[name] = by_limit.get(name, 0) + task.throttled
    for name, queue_totals in totals.queues.items():
        redelivered.add((name,), queue_totals.redelivered)
        wait.add_histogram((name,), queue_totals.wait.counts, queue_totals.wait.sum)
        run.add_histogram((name,), queue_totals.run.counts, queue_totals.run.sum)
    throttled = labelled(
        "celeriac_ratelimit_throttled", "counter", NAMES["celeriac_ratelimit_throttled"], "limit", by_limit
    )
    return tasks, retries, throttled, redelivered, wait, run
