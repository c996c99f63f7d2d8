"""Failures whose messages are not done with: dead letters beside the result, late calls that run again, lost ones that are retried."""

from collections.abc import Iterator
from typing import Any

import pytest
from processes import wait_until
from turning import TurningWorker

from celeriac import Celeriac, chord
from celeriac.broker.deadletters import dead_letters
from celeriac.exceptions import Reject

QUEUE = "celery"


def make(**settings: Any) -> Celeriac:
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False, task_acks_late=True, **settings)  # fmt: skip

    @app.task(name="fail")
    def fail(*_: Any) -> None:
        raise KeyError("no")

    @app.task(name="refuse")
    def refuse(*_: Any) -> None:
        raise Reject("no room")

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return app


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = make()
    yield app
    app.close()


@pytest.mark.parametrize(
    ("options", "settings", "dies"),
    [
        pytest.param({}, {}, False, id="as usual"),
        pytest.param({"acks_on_failure": False}, {}, True, id="the task says so"),
        pytest.param({"acks_on_failure_or_timeout": False}, {}, True, id="by the old name"),
        pytest.param({}, {"task_acks_on_failure": False}, True, id="the setting says so"),
        pytest.param({}, {"task_acks_on_failure_or_timeout": False}, True, id="the old setting says so"),
        pytest.param({}, {"CELERY_ACKS_ON_FAILURE_OR_TIMEOUT": False, "task_acks_on_failure": True}, False, id="the new one stands above"),
        pytest.param({"acks_on_failure": True}, {"task_acks_on_failure": False}, False, id="the task stands above"),
        pytest.param({"acks_late": False, "acks_on_failure": False}, {}, False, id="only where it is acknowledged late"),
    ],
)  # fmt: skip
def test_a_failure_that_is_not_acknowledged_is_stored_and_its_message_is_a_dead_letter(
    options: dict[str, Any], settings: dict[str, Any], dies: bool
) -> None:
    app = make(**settings)

    @app.task(name="t", **options)
    def fails() -> None:
        raise KeyError("gone")

    worker = TurningWorker(app, queue=QUEUE)
    result = worker.until_ready(fails.delay())

    assert result.state == "FAILURE"
    letters = dead_letters(app.broker_address(), QUEUE)  # the memory broker is this process's: others' are there, too
    assert [letter.reason for letter in letters if letter.id == result.id] == (["failed"] if dies else [])
    worker.close()
    app.close()


def test_a_chord_whose_member_rejects_its_message_fails_instead_of_waiting_for_ever(app: Celeriac) -> None:
    worker = TurningWorker(app, queue=QUEUE)

    result = chord([app.tasks["add"].s(1, 1), app.tasks["refuse"].s()], app.tasks["total"].s()).apply_async()

    with pytest.raises(Reject, match="no room"):
        worker.until_ready(result).get(timeout=1)
    worker.close()


def test_who_waits_for_a_call_that_rejects_its_message_is_told_and_its_errback_runs(app: Celeriac) -> None:
    seen: list[str] = []
    app.task(seen.append, name="told")
    worker = TurningWorker(app, queue=QUEUE)

    result = app.tasks["refuse"].apply_async(link_error=app.signature("told"))

    with pytest.raises(Reject):
        worker.until_ready(result).get(timeout=1)
    worker.until_idle()
    assert seen == [result.id]
    letters = dead_letters(app.broker_address(), QUEUE)  # the memory broker is this process's: others' are there, too
    assert [letter.reason for letter in letters if letter.id == result.id] == ["rejected"]
    worker.close()


def test_a_call_whose_process_is_lost_is_retried_after_its_delay_and_then_has_failed(site: Any) -> None:
    site.worker("-P", "prefork", "-c", "1", app="bodies", task_acks_late="0", task_retry_on_worker_lost="1")
    client = site.client()

    result = client.send_task("bodies.is_killed_and_retried", [3])

    wait_until(result.ready, timeout_s=15, what="its end")
    assert result.state == "FAILURE"
    assert "SIGKILL" in str(result.result)
    assert site.ledger.starts()[3] == 3  # max_retries=2


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_late_call_runs_again_up_to_the_cap_and_leaves_a_dead_letter(site: Any, pool: str) -> None:
    flags = ("-P", pool, "-c", "1")
    site.worker(*flags, app="bodies", task_acks_on_timeout="0", task_max_deliveries="2")
    client = site.client()

    result = client.send_task("bodies.dozes", [4, 1.0], time_limit=0.3)

    wait_until(lambda: dead_letters(client.broker_address(), "celery"), timeout_s=15, what="the dead letter")
    [letter] = dead_letters(client.broker_address(), "celery")
    assert (letter.reason, letter.starts) == ("time_limit", 2)
    assert result.state == "FAILURE"
    assert site.ledger.starts()[4] == 2
