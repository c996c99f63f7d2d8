"""Counts of what this process has done, by queue and task: the one source of metrics and heartbeats, so that they never disagree.

Plain numbers, added to once a batch; Prometheus' types are made at a scrape.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from celeriac.wire.event import WAIT_BUCKETS_S, QueueTotals, TaskTotals

#: Seconds; the same for all, like those of waits.
RUN_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
#: Exception classes told apart for each task; more are 'other'.
MAX_REASONS = 20
OTHER = "other"


class Observation(NamedTuple):
    """One message that has ended. run_s and wait_s are None when its body did not run, or when its sender told no time."""

    queue: str
    task: str
    state: str
    run_s: float | None = None
    wait_s: float | None = None
    reason: str = ""
    redelivered: bool = False


class Histogram:
    """Counts in buckets, their sum, and how many."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Queue:
    __slots__ = ("busy_s", "received", "redelivered", "run", "started", "states", "wait")

    def __init__(self) -> None:
        self.received = self.started = self.redelivered = 0
        self.busy_s = 0.0
        self.states: dict[str, int] = {}
        self.wait, self.run = Histogram(WAIT_BUCKETS_S), Histogram(RUN_BUCKETS_S)


class _Task:
    __slots__ = ("queue", "reasons", "run_s", "started", "states", "throttled")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.started = self.throttled = 0
        self.run_s = 0.0
        self.states: dict[str, int] = {}
        self.reasons: dict[str, int] = {}


class Totals:
    """Adds up observations. Safe to read from another thread."""

    def __init__(self, max_task_names: int = 200) -> None:
        self._lock = threading.Lock()
        self._max_task_names = max_task_names
        self.queues: dict[str, _Queue] = {}
        self.tasks: dict[tuple[str, str], _Task] = {}
        #: Mean run time of what ran lately (seconds), None before the first.
        self.recent_run_s: float | None = None
        self.processed = 0

    def known(self, queues: Iterable[str], tasks: Iterable[str]) -> None:
        """Start these at zero, so that the first event is seen as an increase."""
        with self._lock:
            for queue in queues:
                self._queue(queue)
                for task in tasks:
                    self._task(queue, task)

    def received(self, queue: str, count: int) -> None:
        """Count claimed messages."""
        with self._lock:
            self._queue(queue).received += count

    def throttled(self, queue: str, task: str, count: int = 1) -> None:
        """Count messages that had to wait for a rate limit."""
        with self._lock:
            self._task(queue, task).throttled += count

    def settled(self, batch: Iterable[Observation]) -> None:
        """Count what has ended."""
        with self._lock:
            runs, spent_s = 0, 0.0
            for queue_name, task_name, state, run_s, wait_s, reason, redelivered in batch:
                queue, task = self._queue(queue_name), self._task(queue_name, task_name)
                queue.states[state] = queue.states.get(state, 0) + 1
                task.states[state] = task.states.get(state, 0) + 1
                if reason:
                    if reason not in task.reasons and len(task.reasons) >= MAX_REASONS:
                        reason = OTHER
                    task.reasons[reason] = task.reasons.get(reason, 0) + 1
                if run_s is not None:
                    runs += 1
                    spent_s += run_s
                    queue.started += 1
                    task.started += 1
                    queue.busy_s += run_s
                    task.run_s += run_s
                    queue.run.add(run_s)
                    if wait_s is not None:
                        queue.wait.add(wait_s)
                if redelivered:
                    queue.redelivered += 1
            self.processed += runs
            if runs:
                mean_s = spent_s / runs
                known = self.recent_run_s
                # Rises at once, falls slowly: claiming too far ahead harms others, claiming too little only costs a round trip.
                self.recent_run_s = (
                    mean_s if known is None or mean_s > known else known + (mean_s - known) * min(1.0, runs / 20)
                )

    def queue_totals(self, running: Iterable[tuple[str, float]] = ()) -> dict[str, QueueTotals]:
        """By queue, for the heartbeat; `running` is (queue, seconds so far) of each task that runs now."""
        with self._lock:
            extra: dict[str, float] = {}
            for name, seconds in running:
                extra[name] = extra.get(name, 0.0) + seconds
            return {
                name: QueueTotals(
                    received=q.received, started=q.started, redelivered=q.redelivered,
                    succeeded=q.states.get("succeeded", 0) + q.states.get("ignored", 0), failed=q.states.get("failed", 0),
                    retried=q.states.get("retried", 0), rejected=q.states.get("rejected", 0),
                    revoked=q.states.get("revoked", 0) + q.states.get("expired", 0), dead_lettered=q.states.get("dead_lettered", 0),
                    busy_s=round(q.busy_s + extra.get(name, 0.0), 6), wait_s=round(q.wait.sum, 6), waits=sum(q.wait.counts),
                )
                for name, q in self.queues.items()
            }  # fmt: skip

    def queue_waits(self) -> dict[str, tuple[int, ...]]:
        """By queue, for the heartbeat: counts of waits by bucket of `WAIT_BUCKETS_S`, zeros at the end cut; no queue without any."""
        with self._lock:
            return {name: counts for name, queue in self.queues.items() if (counts := _cut(queue.wait.counts))}

    def task_totals(self) -> dict[str, TaskTotals]:
        """By task, for the heartbeat; a task on several queues is named for the one it ran on most."""
        with self._lock:
            found: dict[str, TaskTotals] = {}
            for (queue, name), task in sorted(self.tasks.items(), key=lambda item: item[1].started):
                old = found.get(name, TaskTotals())
                found[name] = TaskTotals(
                    queue=queue, started=old.started + task.started,
                    succeeded=old.succeeded + task.states.get("succeeded", 0) + task.states.get("ignored", 0),
                    failed=old.failed + task.states.get("failed", 0), retried=old.retried + task.states.get("retried", 0),
                    throttled=old.throttled + task.throttled, run_s=round(old.run_s + task.run_s, 6),
                )  # fmt: skip
            return found

    def _queue(self, name: str) -> _Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = _Queue()
        return queue

    def _task(self, queue: str, name: str) -> _Task:
        task = self.tasks.get((queue, name))
        if task is None:
            if len(self.tasks) >= self._max_task_names:
                name = OTHER
                task = self.tasks.get((queue, name))
            if task is None:
                task = self.tasks[(queue, name)] = _Task(queue)
        return task


def _cut(counts: Sequence[int]) -> tuple[int, ...]:
    """Without the zeros at the end."""
    kept = len(counts)
    while kept and not counts[kept - 1]:
        kept -= 1
    return tuple(counts[:kept])
