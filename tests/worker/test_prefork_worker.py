"""A worker of the prefork pool as its users run it: what bad bodies do to it, and how it and its children end."""

import os
import signal
import time
from pathlib import Path

import pytest
from processes import Child, wait_until

from celeriac.broker.deadletters import dead_letters

PREFORK = ("-P", "prefork", "-c", "2")

BAD = [
    pytest.param("never_returns", "TimeLimitExceeded", "0.5", id="never returns"),
    pytest.param("takes_all_memory", "MemoryError", "", id="takes all memory"),
    pytest.param("exits", "WorkerLostError", "exit code 9", id="os._exit"),
    pytest.param("is_killed", "WorkerLostError", "SIGKILL", id="SIGKILL"),
    pytest.param("crashes", "WorkerLostError", "SIGSEGV", id="a crash in native code"),
    pytest.param("closes_descriptors", "WorkerLostError", "closed", id="closes all file descriptors"),
    pytest.param("raises_the_unpicklable", "Unpicklable", "no", id="an exception that cannot be pickled"),
    pytest.param("returns_the_unwritable", "EncodeError", "object", id="a result that cannot be written"),
    pytest.param("recurses", "RecursionError", "depth", id="recursion without end"),
    pytest.param("says_exit", "RuntimeError", "exit(3)", id="sys.exit"),
]


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += family(int(child))
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def worker(site) -> Child:
    os.environ["MOST_BYTES"] = "1000000000"
    try:
        return site.worker(*PREFORK, app="bodies", task_acks_late="0")
    finally:
        del os.environ["MOST_BYTES"]


def test_every_bad_body_is_settled_with_a_reason_and_the_next_task_runs(site, worker: Child) -> None:
    client = site.client()
    handles = {row.values[0]: client.send_task(f"bodies.{row.values[0]}") for row in BAD}
    forked, printed = client.send_task("bodies.forks"), client.send_task("bodies.prints_a_lot")
    after = [client.send_task("bodies.fine", [number]) for number in range(20)]

    assert [handle.get(timeout=20) for handle in after] == list(range(20))
    for row in BAD:
        name, kind, says = row.values
        handle = handles[name]
        wait_until(handle.ready, timeout_s=10, what=f"the end of {name}")
        assert handle.state == "FAILURE", name
        assert type(handle.result).__name__ == kind, name
        assert says in str(handle.result), name
    assert forked.get(timeout=10) is False
    assert printed.get(timeout=10) == 100_000_000
    assert worker.returncode is None
    assert len([pid for pid in family(worker.pid) if running(pid)]) == 4  # the template and two children
    assert worker.terminate(timeout_s=10) == 0


def test_a_task_that_kills_its_process_runs_again_up_to_the_cap_then_dies_with_the_signal_s_name(site) -> None:
    site.worker(*PREFORK, app="bodies", profile="kubernetes", task_max_deliveries="3", worker_http_port="0")
    client = site.client()

    client.send_task("bodies.is_killed", [7])
    wait_until(lambda: dead_letters(client.broker_address(), "celery"), timeout_s=10, what="the dead letter")

    letter = dead_letters(client.broker_address(), "celery")[0]
    assert site.ledger.starts()[7] == 3
    assert "SIGKILL" in str(letter)
    assert "worker_lost" in str(letter)


def test_a_worker_whose_children_cannot_begin_takes_nothing_from_the_others(
    site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INIT", "exits")
    lame = site.worker(*PREFORK, app="bodies", task_lease="30")
    client = site.client()
    wait_until(lambda: "2 in a row" in lame.text(), what="the word of it")
    waiting = [client.send_task("bodies.fine", [number]) for number in range(5)]
    time.sleep(0.3)
    assert not any(handle.ready() for handle in waiting)

    monkeypatch.setenv("INIT", "")
    site.worker("-P", "solo", app="bodies", task_lease="30")

    assert [handle.get(timeout=2) for handle in waiting] == list(range(5))
    assert lame.terminate(timeout_s=10) == 0


def test_no_child_outlives_a_worker_that_was_killed(site) -> None:
    worker = site.worker(*PREFORK, app="bodies")
    site.client().send_task("bodies.dozes", [1, 30])
    wait_until(lambda: site.ledger.starts()[1] == 1, what="the start")
    pids = family(worker.pid)
    assert len(pids) == 4

    os.kill(worker.pid, signal.SIGKILL)

    wait_until(lambda: not any(running(pid) for pid in pids[1:]), timeout_s=1.0, what="the end of all children")


def test_sigterm_finishes_what_runs_and_a_second_one_cuts_it_off_and_gives_it_back(site) -> None:
    warm = site.worker(*PREFORK, app="bodies")
    client = site.client()
    short = client.send_task("bodies.dozes", [1, 0.5])
    wait_until(lambda: site.ledger.starts()[1] == 1, what="the start")
    assert warm.terminate(timeout_s=10) == 0
    assert short.get(timeout=5) == 1

    cold = site.worker(*PREFORK, app="bodies", task_lease="30")
    client.send_task("bodies.dozes", [2, 60])
    wait_until(lambda: site.ledger.starts()[2] == 1, what="the start")
    pids = family(cold.pid)
    cold.send(signal.SIGTERM)
    time.sleep(0.2)
    asked_at = time.monotonic()
    assert cold.terminate(timeout_s=10) == 0
    assert time.monotonic() - asked_at < 3
    assert not any(running(pid) for pid in pids)

    site.worker(*PREFORK, app="bodies", task_lease="30")
    wait_until(
        lambda: site.ledger.starts()[2] == 2, timeout_s=5, what="the second start, long before the lease is over"
    )


def test_ctrl_c_reaches_the_worker_alone_and_its_children_finish(site) -> None:
    worker = site.worker(*PREFORK, app="bodies")
    handle = site.client().send_task("bodies.dozes", [1, 0.5])
    wait_until(lambda: site.ledger.starts()[1] == 1, what="the start")

    os.killpg(worker.pid, signal.SIGINT)  # as a terminal sends it

    assert worker.wait(timeout_s=10) == 0
    assert handle.get(timeout=5) == 1


def test_a_worker_whose_template_is_killed_ends_and_says_why(site) -> None:
    worker = site.worker(*PREFORK, app="bodies")
    template = family(worker.pid)[1]

    os.kill(template, signal.SIGKILL)

    assert worker.wait(timeout_s=10) == 1
    assert "template" in worker.text()
