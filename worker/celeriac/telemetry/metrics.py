"""The worker's Prometheus metrics, made from the totals at each scrape. Names and labels are a table; a pod is never a label."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from celeriac.policy.commands import REASONS
from celeriac.telemetry.totals import Histogram, Totals

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


class _WorkerCollector(Collector):
    def __init__(self, totals: Totals, state: WorkerState, version: str) -> None:
        self._totals, self._state, self._version = totals, state, version

    def collect(self) -> Iterable[Any]:
        with self._totals._lock:
            families = self._counted()
        yield from families
        in_flight: dict[str, int] = dict.fromkeys(self._totals.queues, 0)
        longest: dict[str, float] = dict.fromkeys(self._totals.queues, 0.0)
        for queue, seconds in self._state.running():
            in_flight[queue] = in_flight.get(queue, 0) + 1
            longest[queue] = max(longest.get(queue, 0.0), seconds)
        yield _gauge(
            "celeriac_tasks_in_flight", ("queue",), {(queue,): float(count) for queue, count in in_flight.items()}
        )
        yield _gauge(
            "celeriac_task_longest_running_seconds", ("queue",), {(queue,): age for queue, age in longest.items()}
        )
        yield _gauge(
            "celeriac_ratelimit_limit_per_second",
            ("limit",),
            {(name,): rate for name, rate in self._state.limits().items()},
        )
        for name, value in self._state.gauges().items():
            yield _gauge(name, (), {(): value})
        info = InfoMetricFamily("celeriac_build", NAMES["celeriac_build"])
        info.add_metric([], {"version": self._version})
        yield info

    def _counted(self) -> list[Any]:
        tasks = CounterMetricFamily("celeriac_tasks", NAMES["celeriac_tasks"], labels=("queue", "task", "state"))
        retries = CounterMetricFamily(
            "celeriac_task_retries", NAMES["celeriac_task_retries"], labels=("queue", "task", "reason")
        )
        throttled = CounterMetricFamily(
            "celeriac_ratelimit_throttled", NAMES["celeriac_ratelimit_throttled"], labels=("limit",)
        )
        redelivered = CounterMetricFamily(
            "celeriac_tasks_redelivered", NAMES["celeriac_tasks_redelivered"], labels=("queue",)
        )
        wait = HistogramMetricFamily(
            "celeriac_task_wait_seconds", NAMES["celeriac_task_wait_seconds"], labels=("queue",)
        )
        run = HistogramMetricFamily("celeriac_task_run_seconds", NAMES["celeriac_task_run_seconds"], labels=("queue",))
        by_limit: dict[str, int] = {}
        for (queue, name), task in self._totals.tasks.items():
            for state in STATES:
                tasks.add_metric((queue, name, state), task.states.get(state, 0))
            for reason, count in task.reasons.items():
                retries.add_metric((queue, name, reason), count)
            if task.throttled:
                by_limit[name] = by_limit.get(name, 0) + task.throttled
        for name, count in by_limit.items():
            throttled.add_metric((name,), count)
        for queue, totals in self._totals.queues.items():
            redelivered.add_metric((queue,), totals.redelivered)
            wait.add_metric((queue,), _buckets(totals.wait), totals.wait.sum)
            run.add_metric((queue,), _buckets(totals.run), totals.run.sum)
        mails = CounterMetricFamily("celeriac_error_mails", NAMES["celeriac_error_mails"], labels=("result",))
        for result, count in (self._state.mails() or _NO_MAILS).items():
            mails.add_metric((result,), count)
        refused = CounterMetricFamily(
            "celeriac_commands_refused", NAMES["celeriac_commands_refused"], labels=("reason",)
        )
        for reason, count in self._state.refused().items():
            refused.add_metric((reason,), count)
        return [tasks, retries, throttled, redelivered, wait, run, mails, refused]


def _gauge(name: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, NAMES[name], labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return found


def renderer(totals: Totals, state: WorkerState, version: str) -> Callable[[], bytes]:
    """A function that gives /metrics' text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_WorkerCollector(totals, state, version))
    return lambda: generate_latest(registry)
