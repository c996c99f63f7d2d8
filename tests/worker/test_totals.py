"""Counts of what a worker has done: by queue and task, bounded, and never decreasing."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.telemetry.totals import MAX_REASONS, Histogram, Observation, Totals


def seen(state: str, **fields: object) -> Observation:
    return Observation(**{"queue": "q", "task": "t", "state": state, "run_s": 0.5, "wait_s": 2.0, **fields})  # type: ignore[arg-type]


def test_what_ended_is_counted_by_queue_and_by_task() -> None:
    totals = Totals()

    totals.received("q", 7)
    totals.settled(
        [seen("succeeded"), seen("failed"), seen("retried", reason="OSError"), seen("ignored"), seen("rejected")]
    )
    totals.settled(
        [
            seen("expired", run_s=None, wait_s=None),
            seen("revoked", run_s=None),
            seen("dead_lettered", run_s=None, redelivered=True),
        ]
    )

    queue, task = totals.queue_totals()["q"], totals.task_totals()["t"]
    assert (queue.received, queue.started, queue.succeeded, queue.failed, queue.retried, queue.rejected) == (
        7,
        5,
        2,
        1,
        1,
        1,
    )
    assert (queue.revoked, queue.dead_lettered, queue.redelivered) == (2, 1, 1)
    assert (queue.busy_s, queue.wait_s, queue.waits) == (2.5, 10.0, 5)
    assert (task.queue, task.started, task.succeeded, task.failed, task.retried, task.run_s) == ("q", 5, 2, 1, 1, 2.5)
    assert totals.processed == 5


def test_time_that_running_bodies_have_spent_so_far_is_included() -> None:
    totals = Totals()
    totals.settled([seen("succeeded")])

    assert totals.queue_totals([("q", 3.0), ("q", 0.25), ("other", 9.0)])["q"].busy_s == 3.75
    assert totals.queue_totals()["q"].busy_s == 0.5


def test_waits_are_counted_by_bucket_for_each_queue_that_has_any() -> None:
    totals = Totals()
    totals.known(["q", "r", "idle"], ["t"])

    totals.settled([seen("succeeded", wait_s=wait_s) for wait_s in (0.0, 0.05, 0.2, 0.25, 0.25)])
    totals.settled(
        [seen("succeeded", queue="r", wait_s=9_999.0), seen("revoked", run_s=None), seen("failed", wait_s=None)]
    )

    waits = totals.queue_waits()
    assert waits == {"q": (2, 0, 3), "r": (0,) * 15 + (1,)}
    assert {queue: sum(counts) for queue, counts in waits.items()} == {"q": totals.queue_totals()["q"].waits, "r": 1}


def test_what_is_known_starts_at_zero() -> None:
    totals = Totals()

    totals.known(["q", "r"], ["t", "u"])

    assert set(totals.queue_totals()) == {"q", "r"}
    assert {name: task.started for name, task in totals.task_totals().items()} == {"t": 0, "u": 0}


def test_a_task_on_two_queues_is_added_up_and_named_for_the_busier() -> None:
    totals = Totals()
    totals.throttled("r", "t", 4)
    totals.settled([seen("succeeded"), seen("succeeded", queue="r"), seen("failed", queue="r")])

    task = totals.task_totals()["t"]

    assert (task.queue, task.started, task.succeeded, task.failed, task.throttled) == ("r", 3, 2, 1, 4)


def test_more_task_names_than_allowed_are_one() -> None:
    totals = Totals(max_task_names=3)

    totals.settled([seen("succeeded", task=f"t{number}") for number in range(10)])

    started = {name: task.started for name, task in totals.task_totals().items()}
    assert started == {"t0": 1, "t1": 1, "t2": 1, "other": 7}


def test_more_reasons_than_allowed_are_one() -> None:
    totals = Totals()

    totals.settled([seen("retried", reason=f"E{number}") for number in range(MAX_REASONS + 5)])

    reasons = totals.tasks["q", "t"].reasons
    assert len(reasons) == MAX_REASONS + 1
    assert reasons["other"] == 5


def test_the_recent_run_time_rises_at_once_and_falls_slowly() -> None:
    totals = Totals()
    assert totals.recent_run_s is None

    totals.settled([seen("succeeded", run_s=1.0)])
    assert totals.recent_run_s == 1.0
    totals.settled([seen("succeeded", run_s=0.0)] * 5)
    assert totals.recent_run_s == pytest.approx(0.75)
    totals.settled([seen("succeeded", run_s=4.0)])
    assert totals.recent_run_s == 4.0
    totals.settled([seen("succeeded", run_s=0.1)] * 20)
    assert totals.recent_run_s == pytest.approx(0.1)
    totals.settled([seen("expired", run_s=None)])
    assert totals.recent_run_s == pytest.approx(0.1)


@given(values=st.lists(st.floats(0, 100), max_size=50))
def test_each_value_is_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))

    for value in values:
        histogram.add(value)

    cumulative = [sum(histogram.counts[: place + 1]) for place in range(4)]
    assert cumulative == [sum(value <= bound for value in values) for bound in (0.1, 1.0, 10.0, float("inf"))]
    assert histogram.sum == pytest.approx(sum(values))


def test_counts_survive_many_threads() -> None:
    totals = Totals()

    def work() -> None:
        for _ in range(500):
            totals.settled([seen("succeeded"), seen("failed")])
            totals.received("q", 1)
            totals.queue_totals()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    queue = totals.queue_totals()["q"]
    assert (queue.received, queue.succeeded, queue.failed) == (2000, 2000, 2000)
