"""Workers that are ended or killed, brokers that die or fall silent, all under load: the ledger shows that nothing is lost."""

import signal
import time
from collections import Counter

import pytest
from processes import Child, wait_until

from celeriac.broker.depth import DepthProbe

both = pytest.mark.parametrize("site", ["redis", "rabbitmq"], indirect=True)
POOLS = {"solo": ["-P", "solo"], "threads": ["-P", "threads", "-c", "4"], "prefork": ["-P", "prefork", "-c", "4"]}
pools = pytest.mark.parametrize("pool", list(POOLS.values()), ids=list(POOLS))


def submit(site, count: int, seconds: float = 0.02) -> None:
    client = site.client()
    for number in range(count):
        client.send_task("jobs.work", [number, seconds])


def wait_for_ends(site, count: int, *, timeout_s: float = 40.0) -> None:
    what = f"{count} different tasks ended"
    wait_until(lambda: len(site.ledger.ends()) >= count, timeout_s=timeout_s, what=what, every_s=0.05)


def assert_nothing_is_left(site) -> None:
    """Neither waiting nor claimed nor dead."""
    probe = DepthProbe(site.broker)

    def left() -> tuple[int, ...]:
        depth = probe.probe({"celery": 0.0})["celery"]
        return depth.ready, depth.leased, depth.delayed, depth.throttled, depth.dead

    try:
        wait_until(lambda: left() == (0, 0, 0, 0, 0), timeout_s=10, what="an empty queue")
    finally:
        probe.close()


def once(count: int) -> Counter[int]:
    return Counter(range(count))


@both
@pools
def test_sigterm_under_load_finishes_what_runs_and_returns_the_rest(site, pool: list[str]) -> None:
    submit(site, 150)
    first = site.worker(*pool)
    wait_for_ends(site, 20)

    asked_at = time.monotonic()
    assert first.terminate(timeout_s=10) == 0

    assert time.monotonic() - asked_at < 5
    assert site.ledger.starts() == site.ledger.ends()
    done = len(site.ledger.ends())
    assert done < 150
    site.worker(*pool)
    wait_for_ends(site, 150)
    assert_nothing_is_left(site)
    assert site.ledger.starts() == once(150)


@both
@pools
def test_sigterm_ends_in_time_even_when_a_task_does_not_and_its_message_is_free_at_once(site, pool: list[str]) -> None:
    submit(site, 1, seconds=30)
    worker = site.worker(*pool, worker_shutdown_grace_s="1", task_lease="30")
    wait_until(site.ledger.starts, what="the start of the long task")

    asked_at = time.monotonic()
    assert worker.terminate(timeout_s=10) == 0

    assert 0.9 < time.monotonic() - asked_at < 3.5
    site.worker(*pool, task_lease="30")
    wait_until(
        lambda: site.ledger.starts()[0] == 2, timeout_s=5, what="the second start, long before the lease is over"
    )


@both
@pools
def test_a_killed_workers_tasks_are_done_by_another_within_a_lease(site, pool: list[str]) -> None:
    submit(site, 150)
    first, second = site.worker(*pool), site.worker(*pool)
    wait_for_ends(site, 20)

    first.kill()
    killed_at = time.monotonic()
    wait_for_ends(site, 150)
    took_s = time.monotonic() - killed_at

    assert second.returncode is None
    assert_nothing_is_left(site)
    starts, ends = site.ledger.starts(), site.ledger.ends()
    assert set(ends) == set(range(150))
    # Only what the killed worker had claimed may have run twice: its slots and 20 ms of work ahead.
    assert sum(starts.values()) - 150 <= 12, starts
    assert took_s < 20


@pytest.mark.parametrize(
    ("site", "pool"),
    [
        pytest.param("redis", ["-P", "solo"], id="redis-solo"),
        pytest.param("redis", ["-P", "threads", "-c", "4"], id="redis-threads"),
        pytest.param("rabbitmq", ["-P", "threads", "-c", "4"], id="rabbitmq-threads"),
    ],
    indirect=["site"],
)
def test_a_broker_killed_under_load_loses_nothing(site, pool: list[str]) -> None:
    submit(site, 120)
    worker = site.worker(*pool)
    wait_for_ends(site, 20)

    site.server.kill()
    time.sleep(1.0)
    assert worker.returncode is None
    site.server.start()

    wait_for_ends(site, 120, timeout_s=60)
    assert_nothing_is_left(site)
    assert set(site.ledger.ends()) == set(range(120))
    assert worker.returncode is None
    assert worker.terminate() == 0


@both
def test_a_broker_that_falls_silent_for_a_while_loses_nothing(site) -> None:
    submit(site, 100)
    worker = site.worker("-P", "threads", "-c", "4", task_lease="3")
    wait_for_ends(site, 10)

    site.server.pause()
    time.sleep(4)
    site.server.resume()

    wait_for_ends(site, 100)
    assert_nothing_is_left(site)
    assert set(site.ledger.ends()) == set(range(100))
    assert worker.returncode is None


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_a_rabbitmq_that_misses_its_heartbeats_is_left_and_found_again(site) -> None:
    submit(site, 100)
    worker = site.worker("-P", "threads", "-c", "4", broker_heartbeat="1")
    wait_for_ends(site, 10)

    site.server.pause()
    worker.wait_for("cannot reach the broker", timeout_s=15)
    site.server.resume()

    wait_for_ends(site, 100)
    assert_nothing_is_left(site)
    assert set(site.ledger.ends()) == set(range(100))
    assert worker.returncode is None


@both
def test_sigterm_during_an_outage_ends_within_the_grace(site) -> None:
    submit(site, 100)
    worker = site.worker("-P", "threads", "-c", "2", worker_shutdown_grace_s="3")
    wait_for_ends(site, 5)
    site.server.kill()
    time.sleep(0.5)

    asked_at = time.monotonic()
    assert worker.terminate(timeout_s=15) == 0

    assert time.monotonic() - asked_at < 8
    site.server.start()
    site.worker("-P", "threads", "-c", "2")
    wait_for_ends(site, 100)
    assert_nothing_is_left(site)


def test_a_long_task_runs_once_although_it_outlasts_its_lease_many_times(site) -> None:
    submit(site, 1, seconds=7)
    workers = [site.worker("-P", "solo", task_lease="1.5") for _ in range(2)]

    wait_for_ends(site, 1)

    assert_nothing_is_left(site)
    assert site.ledger.starts() == once(1)
    assert [worker.returncode for worker in workers] == [None, None]


def test_a_message_that_kills_every_worker_ends_as_a_dead_letter(site) -> None:
    submit(site, 1, seconds=60)

    def killed(worker: Child, starts: int) -> None:
        wait_until(lambda: site.ledger.starts()[0] == starts, timeout_s=15, what=f"start {starts}")
        worker.send(signal.SIGKILL)
        worker.wait()

    for number in (1, 2, 3):
        killed(site.worker("-P", "solo", task_lease="1", task_max_deliveries="3"), number)
    last = site.worker("-P", "solo", task_lease="1", task_max_deliveries="3")

    last.wait_for("dead-lettered", timeout_s=15)
    assert site.ledger.starts()[0] == 3
    assert site.client().send_task("jobs.add", [1, 2]).get(timeout=10) == 3
    probe = DepthProbe(site.broker)
    depth = probe.probe({"celery": 0.0})["celery"]
    probe.close()
    assert (depth.ready, depth.leased, depth.dead) == (0, 0, 1)


def test_an_early_acked_task_that_was_not_started_is_never_lost_by_sigterm(site) -> None:
    submit(site, 150)
    first = site.worker("-P", "threads", "-c", "4", task_acks_late="0")
    wait_for_ends(site, 20)

    assert first.terminate(timeout_s=10) == 0

    assert site.ledger.starts() == site.ledger.ends()
    site.worker("-P", "threads", "-c", "4", task_acks_late="0")
    wait_for_ends(site, 150)
    assert_nothing_is_left(site)
    assert site.ledger.starts() == once(150)
