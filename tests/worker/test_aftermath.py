"""Failures that a body cannot tell itself: its hooks and receivers hear of them all the same, once."""

import time
from typing import Any

import pytest
from processes import wait_until

from celeriac.exceptions import TimeLimitExceeded, WorkerLostError


def told(site: Any) -> list[str]:
    path = site.ledger.path
    return sorted(path.read_text().splitlines()) if path.exists() else []


def expected(task: str, kind: str, args: str, kwargs: str) -> list[str]:
    return sorted(
        [
            f"on_failure {kind} {args} {kwargs} True {kind}",
            f"after_return FAILURE {kind}",
            f"postrun FAILURE {kind}",
            f"task_failure untold.{task} {kind}",
        ]
    )


@pytest.mark.parametrize(
    ("pool", "task", "deaf"),
    [
        pytest.param("prefork", "hangs", False, id="prefork kills it"),
        pytest.param("threads", "hangs", False, id="a thread comes back"),
        pytest.param("threads", "hangs", True, id="a thread does not come back for long"),
        pytest.param("solo", "hangs", False, id="solo"),
        pytest.param("asyncio", "hangs", False, id="a plain function beside asyncio"),
        pytest.param("asyncio", "waits", False, id="a coroutine"),
        pytest.param("asyncio", "waits", True, id="a coroutine that goes on"),
    ],
)
def test_a_hard_time_limit_is_told_of_once(site: Any, pool: str, task: str, deaf: bool) -> None:
    site.worker("-P", pool, "-c", "1", app="untold")
    handle = site.client().send_task(f"untold.{task}", [1.5], {"deaf": deaf})

    with pytest.raises(TimeLimitExceeded):
        handle.get(timeout=20)
    wait_until(lambda: len(told(site)) >= 4, timeout_s=1.0 if deaf else 5.0, what="all that are told")
    time.sleep(1.6 if deaf else 0.3)  # the body comes back meanwhile

    assert told(site) == expected(task, "TimeLimitExceeded", "[1.5]", f"{{'deaf': {deaf}}}")


def test_a_lost_process_is_told_of_once_and_not_while_it_runs_again(site: Any) -> None:
    site.worker(
        "-P",
        "prefork",
        "-c",
        "1",
        app="untold",
        task_acks_late="1",
        task_reject_on_worker_lost="1",
        task_max_deliveries="3",
    )
    handle = site.client().send_task("untold.dies")

    with pytest.raises(WorkerLostError):
        handle.get(timeout=20)
    wait_until(lambda: len(told(site)) >= 4, what="all that are told")
    time.sleep(0.2)

    assert told(site) == expected("dies", "WorkerLostError", "[]", "{}")


def test_a_lost_process_of_a_task_that_was_acknowledged_is_told_of(site: Any) -> None:
    worker = site.worker("-P", "prefork", "-c", "1", app="untold", task_acks_late="0")
    handle = site.client().send_task("untold.dies")

    with pytest.raises(WorkerLostError):
        handle.get(timeout=20)
    wait_until(lambda: len(told(site)) >= 4, what="all that are told")

    assert told(site) == expected("dies", "WorkerLostError", "[]", "{}")
    assert worker.terminate(timeout_s=10) == 0
