"""Bad bodies in pools that share the worker's process: each is settled with a reason and the worker goes on, or it dies and the message ends."""

import signal
import time
import urllib.error
import urllib.request

import pytest
from processes import wait_until
from servers import free_port

from celeriac.broker.deadletters import dead_letters

BAD = [
    pytest.param("never_returns", "TimeLimitExceeded", "0.5", id="never returns"),
    pytest.param("takes_all_memory", "MemoryError", "", id="takes all memory"),
    pytest.param("raises_the_unpicklable", "Unpicklable", "no", id="an exception that cannot be pickled"),
    pytest.param("raises_the_unprintable", "Unprintable", "", id="an exception without a text"),
    pytest.param("returns_the_unwritable", "EncodeError", "object", id="a result that cannot be written"),
    pytest.param("recurses", "RecursionError", "depth", id="recursion without end"),
    pytest.param("says_exit", "RuntimeError", "exit(3)", id="sys.exit"),
    pytest.param("interrupts", "KeyboardInterrupt", "", id="KeyboardInterrupt"),
]


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_every_bad_body_is_settled_with_a_reason_and_the_next_task_runs(
    site, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOST_BYTES", "1000000000")
    worker = site.worker("-P", pool, "-c", "3", app="bodies", task_acks_late="0")
    client = site.client()

    handles = {row.values[0]: client.send_task(f"bodies.{row.values[0]}") for row in BAD}
    forked, printed = client.send_task("bodies.forks"), client.send_task("bodies.prints_a_lot")
    rude = client.send_task("bodies.has_rude_hooks")
    client.send_task("bodies.sends_from_a_copy", [50])
    after = [client.send_task("bodies.fine", [number]) for number in range(20)]

    assert [handle.get(timeout=20) for handle in after] == list(range(20))
    for row in BAD:
        name, kind, says = row.values
        handle = handles[name]
        wait_until(handle.ready, timeout_s=15, what=f"the end of {name}")
        assert handle.state == "FAILURE", name
        assert type(handle.result).__name__ == kind, name
        if says:
            assert says in str(handle.result), name
    assert (forked.get(timeout=10), printed.get(timeout=10)) == (False, 100_000_000)
    assert str(rude.get(timeout=10, propagate=False)) == "the task called exit(1)", (
        "before_start is the task's, the others are not"
    )
    wait_until(lambda: {50, 51} <= site.ledger.starts().keys(), timeout_s=10, what="what both copies sent")
    assert worker.returncode is None
    assert worker.terminate(timeout_s=15) == 0


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_body_that_takes_its_worker_along_comes_back_and_ends_as_a_dead_letter(site, pool: str) -> None:
    client = site.client()
    flags = ("-P", pool, "-c", "2")
    client.send_task("bodies.exits", task_id="fatal")

    for _ in range(2):
        victim = site.worker(*flags, app="bodies", task_max_deliveries="2", task_lease="1", await_ready=False)
        assert victim.wait(timeout_s=20) == 9
    survivor = site.worker(*flags, app="bodies", task_max_deliveries="2", task_lease="1")
    wait_until(lambda: dead_letters(client.broker_address(), "celery"), timeout_s=15, what="the dead letter")

    [letter] = dead_letters(client.broker_address(), "celery")
    assert letter.id == "fatal"
    assert letter.reason == "too_many_starts"
    assert client.send_task("bodies.fine", [1]).get(timeout=10) == 1
    assert survivor.returncode is None


def test_a_worker_with_no_slot_left_gives_back_what_waits_and_ends_all_the_same(site) -> None:
    port = free_port()
    stuck = site.worker(
        "-P", "threads", "-c", "1", app="bodies", worker_prefetch_multiplier="4", task_lease="30", worker_http_port=str(port)
    )  # fmt: skip
    client = site.client()
    client.send_task("bodies.never_returns")
    wait_until(lambda: "still runs" in stuck.text(), timeout_s=10, what="the lost slot")

    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/livez")
    assert b"no slot is left" in refused.value.read()
    waiting = client.send_task("bodies.fine", [1])
    time.sleep(0.3)
    assert not waiting.ready()
    site.worker("-P", "solo", app="bodies", task_lease="30")

    assert waiting.get(timeout=10) == 1
    stuck.send(signal.SIGTERM)
    assert stuck.wait(timeout_s=10) == 0
