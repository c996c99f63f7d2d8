"""Bounds and revokes as whole workers keep them, on Redis, and on RabbitMQ with a Redis beside it."""

import time
from typing import Any

import pytest
from processes import Child, wait_until
from sites import Site

from celeriac import Celeriac

both = pytest.mark.parametrize("site", ["redis", "rabbitmq"], indirect=True)
THREADS = ("-P", "threads", "-c", "4")


def lines(site: Site) -> list[tuple[str, int, float]]:
    """(start or end, number, seconds since the epoch) of the ledger, in order."""
    path = site.ledger.path
    found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(what, int(number), float(at)) for what, number, _, at in found]


def send(client: Celeriac, name: str, *calls: list[Any]) -> None:
    for args in calls:
        client.send_task(f"bounded.{name}", args)


@both
def test_a_rate_of_the_cluster_holds_over_two_workers_and_is_reached(site: Site) -> None:
    for _ in range(2):
        site.worker(*THREADS, app="bounded")

    send(site.client(), "shared", *([number] for number in range(30)))
    wait_until(lambda: len(lines(site)) == 30, timeout_s=20)

    starts = sorted(at for _, _, at in lines(site))
    spent_s = starts[-1] - starts[0]
    assert 20 * (spent_s + 0.1) + 2 >= 30  # no more than the rate allows, and what a tenth of a second may make up for
    assert spent_s < 30 / 20 * 1.5  # a busy machine looks late


@pytest.mark.parametrize(("site", "early"), [("redis", True), ("redis", False), ("rabbitmq", True)], indirect=["site"])
def test_no_more_calls_run_at_once_than_may_over_two_workers(site: Site, early: bool) -> None:
    settings = {"task_acks_late": "0" if early else "1"}
    for _ in range(2):
        site.worker(*THREADS, app="bounded", **settings)

    send(site.client(), "narrow", *([number] for number in range(10)))
    wait_until(lambda: len(site.ledger.ends()) == 10, timeout_s=20)

    running = most = 0
    for what, _, _ in sorted(lines(site), key=lambda line: line[2]):
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert most == 2
    assert sorted(site.ledger.starts().values()) == [1] * 10


@both
def test_places_of_a_worker_that_was_killed_become_free(site: Site) -> None:
    first = site.worker(*THREADS, app="bounded", task_acks_late="0")
    send(site.client(), "narrow", [0, 60], [1, 60], [2])
    wait_until(lambda: len(site.ledger.starts()) == 2)

    first.kill()
    site.worker(*THREADS, app="bounded")

    wait_until(lambda: site.ledger.ends()[2] == 1, timeout_s=10)


def test_each_account_has_its_own_rate_worked_out_by_the_client(site: Site) -> None:
    client = site.client()
    task = client.task(lambda order: None, name="bounded.by_account", rate_limit="6/m", rate_limit_key="order.account")
    site.worker(*THREADS, app="bounded")

    for account in (1, 2, 1, 3, 2, 1):
        task.delay({"account": account})

    wait_until(lambda: len(lines(site)) == 3, timeout_s=10)
    time.sleep(0.3)
    assert sorted(number for _, number, _ in lines(site)) == [1, 2, 3]


@both
def test_what_was_revoked_before_a_worker_started_does_not_run_even_where_nobody_can_tell_it(site: Site) -> None:
    client = site.client()
    revoked, runs = (client.send_task("jobs.work", [number, 0]) for number in range(2))
    client.control.revoke(revoked.id)

    site.worker("-P", "solo", "--without-remote-control")

    assert runs.get(timeout=10) == 1
    wait_until(lambda: revoked.state == "REVOKED", timeout_s=5)
    assert site.ledger.starts() == {1: 1}


@pytest.mark.parametrize(
    ("site", "pool", "late"),
    [("redis", "threads", "1"), ("redis", "prefork", "1"), ("rabbitmq", "threads", "0")],
    indirect=["site"],
)
def test_what_is_claimed_and_waits_behind_a_body_does_not_run_once_it_is_revoked(
    site: Site, pool: str, late: str
) -> None:
    client = site.client()
    calls = [client.send_task("jobs.work", [number, seconds]) for number, seconds in enumerate([2, 0, 0])]
    site.worker("-P", pool, "-c", "1", "--prefetch-multiplier", "4", task_acks_late=late)
    wait_until(lambda: site.ledger.starts() == {0: 1})
    inspect = client.control.inspect(timeout=0.3)
    wait_until(lambda: [len(found) for found in (inspect.reserved() or {}).values()] == [2])

    client.control.revoke(calls[1].id)

    wait_until(lambda: calls[1].state == "REVOKED", timeout_s=1)
    assert calls[2].get(timeout=10) == 2
    assert calls[1].state == "REVOKED"
    assert site.ledger.starts() == {0: 1, 2: 1}


@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_whose_body_holds_its_only_thread_answers_at_once(site: Site) -> None:
    client = site.client()
    call = client.send_task("jobs.work", [0, 30])
    site.worker("-P", "solo")
    wait_until(lambda: site.ledger.starts() == {0: 1} and client.control.ping(timeout=0.5, limit=1))

    def answer(command: str, **arguments: Any) -> Any:
        (said,) = client.control.broadcast(command, arguments, reply=True, timeout=2.0, limit=1)
        return said["w1@test"]

    assert "the solo pool cannot end a body" in answer("revoke", task_id=call.id, terminate=True)["error"]
    assert answer("time_limit", task_name="jobs.work", hard=5) == {"ok": "time limits set successfully"}
    assert "a number of seconds" in answer("time_limit", task_name="jobs.work", hard="5")["error"]
    assert (
        "neither 'worker' nor 'cluster'"
        in answer("rate_limit", task_name="jobs.work", rate_limit=5, scope="all")["error"]
    )


def failed_start(site: Site, **settings: str) -> Child:
    worker = site.worker(app="bounded", await_ready=False, **settings)
    wait_until(lambda: worker.returncode is not None, timeout_s=15)
    return worker


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_without_a_store_a_worker_says_what_nobody_would_keep_and_does_not_start(site: Site) -> None:
    site.backend = None

    worker = failed_start(site)

    assert worker.returncode != 0
    assert "max_concurrency of bounded.narrow cannot be kept" in worker.text()
    assert "set coordination_url" in worker.text()
    assert "guest:guest" not in worker.text()


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_without_a_store_rates_hold_for_each_worker_and_it_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend = None
    monkeypatch.setenv("BOUNDED", "rates")
    client = site.client()
    task = client.task(lambda order: None, name="bounded.by_account", rate_limit="6/m", rate_limit_key="order.account")
    for account in (1, 2, 1):
        task.delay({"account": account})

    worker = site.worker(*THREADS, "--statedb", "/nowhere/state", app="bounded")

    wait_until(lambda: len(lines(site)) == 2, timeout_s=10)
    assert sorted(number for _, number, _ in lines(site)) == [1, 2]
    assert "the rate limits of bounded.by_account, bounded.shared hold for each worker" in worker.text()
    assert "--statedb /nowhere/state: nothing is written there" in worker.text()


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_a_coordination_url_keeps_what_the_broker_does_not(site: Site) -> None:
    url, site.backend = str(site.backend), None
    for _ in range(2):
        site.worker(*THREADS, app="bounded", coordination_url=url)

    send(site.client(), "narrow", *([number, 0.05] for number in range(6)))

    wait_until(lambda: len(site.ledger.ends()) == 6, timeout_s=10)
