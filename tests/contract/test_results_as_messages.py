"""Results that are sent to who called, over RabbitMQ: rpc://."""

import asyncio
import functools
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import Place, start_worker
from processes import wait_until
from sites import Site

from celeriac import Celeriac, states
from celeriac.backends import open_backend
from celeriac.backends.rpc import RpcBackend
from celeriac.broker.connection import BrokerAddress
from celeriac.exceptions import BackendUnavailable, DecodeError, ImproperlyConfigured, NotSupported
from celeriac.wire.chord import ChordStart
from celeriac.wire.result import ResultMeta, exception_to_wire


def opened(url: str, *, expires_s: float | None = 3600.0) -> RpcBackend:
    backend = open_backend("rpc://", expires_s=expires_s, broker=BrokerAddress(url=url))
    assert isinstance(backend, RpcBackend)
    return backend


@pytest.fixture
def caller(rabbitmq: Any) -> Iterator[RpcBackend]:
    """Who sends calls."""
    backend = opened(rabbitmq.url)
    yield backend
    backend.close()


@pytest.fixture
def worker(rabbitmq: Any) -> Iterator[RpcBackend]:
    """Who stores their results."""
    backend = opened(rabbitmq.url)
    yield backend
    backend.close()


def send(worker: RpcBackend, to: str, status: str, result: Any, task_id: str = "") -> str:
    task_id = task_id or str(uuid.uuid4())
    assert worker.store([(ResultMeta(task_id, status, result, reply_to=to), None)]) == [None]
    return task_id


@pytest.mark.parametrize(
    ("status", "result"),
    [
        pytest.param(states.SUCCESS, {"t\u00fcr": [1, None]}, id="success"),
        pytest.param(states.SUCCESS, "x" * 3_000_000, id="a large one"),
        pytest.param(states.FAILURE, exception_to_wire(ValueError("lamp")), id="failure"),
        pytest.param(states.REVOKED, exception_to_wire(ValueError("revoked")), id="revoked"),
    ],
)
def test_a_record_reaches_the_caller_as_it_was_stored(
    caller: RpcBackend, worker: RpcBackend, status: str, result: Any
) -> None:
    task_id = send(worker, caller.expect(), status, result)
    found = caller.wait(task_id, 5.0, 0.5)
    assert found is not None
    assert (found.task_id, found.status, found.result) == (task_id, status, result)
    assert caller.fetch(task_id) == found
    assert caller.fetch_many([task_id, "other"]) == {task_id: found}


def test_states_on_the_way_are_seen_and_a_success_stays(caller: RpcBackend, worker: RpcBackend) -> None:
    task_id = send(worker, caller.expect(), "PROGRESS", {"done": 40})
    deadline = time.monotonic() + 5
    while caller.fetch(task_id) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert caller.wait(task_id, 0.1, 0.1) is None
    send(worker, caller.expect(), states.SUCCESS, 1, task_id)
    assert caller.wait(task_id, 5.0, 0.5).result == 1  # type: ignore[union-attr]
    send(worker, caller.expect(), states.FAILURE, {}, task_id)
    last = send(worker, caller.expect(), states.SUCCESS, 2)
    caller.wait(last, 5.0, 0.5)
    assert caller.fetch(task_id).status == states.SUCCESS  # type: ignore[union-attr]


def test_who_waits_is_told_at_once(caller: RpcBackend, worker: RpcBackend) -> None:
    to, task_id, told = caller.expect(), str(uuid.uuid4()), []
    waiting = threading.Thread(target=lambda: (caller.wait(task_id, 10.0, 5.0), told.append(time.monotonic())))
    waiting.start()
    time.sleep(0.3)
    sent_at = time.monotonic()
    send(worker, to, states.SUCCESS, 1, task_id)
    waiting.join()
    assert told[0] - sent_at < 0.3


def test_a_caller_that_is_gone_costs_its_worker_nothing(caller: RpcBackend, worker: RpcBackend) -> None:
    gone = [(ResultMeta(str(n), states.SUCCESS, n, reply_to="nobody"), None) for n in range(3)]
    here = (ResultMeta("here", states.SUCCESS, 7, reply_to=caller.expect()), None)
    nobody = (ResultMeta("none", states.SUCCESS, 7), None)

    assert worker.store([*gone, here, nobody]) == [None] * 5

    assert worker.dropped == 3
    assert caller.wait("here", 5.0, 0.5) is not None


def test_a_closed_caller_leaves_no_queue(rabbitmq: Any) -> None:
    backend = opened(rabbitmq.url)
    queue = backend.expect()
    vhost = rabbitmq.url.rpartition("/")[2]
    names = {each["name"]: each for each in rabbitmq.node.api("GET", f"queues/{vhost}?disable_stats=true&enable_queue_totals=true")}  # fmt: skip
    assert queue in names
    backend.close()
    assert queue not in {
        each["name"] for each in rabbitmq.node.api("GET", f"queues/{vhost}?disable_stats=true&enable_queue_totals=true")
    }


@pytest.mark.parametrize(("expires_s", "auto_delete", "arguments"), [(3600.0, False, {"x-expires": 3_600_000}), (None, True, {})])  # fmt: skip
def test_the_queue_expires_with_its_results_or_ends_with_its_connection(
    rabbitmq: Any, expires_s: float | None, auto_delete: bool, arguments: Any
) -> None:
    backend = opened(rabbitmq.url, expires_s=expires_s)
    queue = backend.expect()
    vhost = rabbitmq.url.rpartition("/")[2]
    found = rabbitmq.node.api("GET", f"queues/{vhost}/{queue}")
    assert (found["durable"], found["auto_delete"], found["arguments"]) == (True, auto_delete, arguments)
    backend.close()


def test_results_that_came_while_the_connection_was_broken_are_there_when_it_is_back(
    rabbitmq: Any, caller: RpcBackend, worker: RpcBackend
) -> None:
    to = caller.expect()
    send(worker, to, states.SUCCESS, 1)
    rabbitmq.node.evaluate('[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].')
    task_id = send(worker, to, states.SUCCESS, 2)  # on a new connection
    found = caller.wait(task_id, 20.0, 0.5)
    assert found is not None
    assert found.result == 2


def test_only_the_process_that_sent_may_wait(rabbitmq: Any, worker: RpcBackend) -> None:
    with pytest.raises(NotSupported, match="goes to the process that sent the call"):
        worker.wait("a", 1.0, 0.5)
    assert worker.fetch("a") is None


def test_chords_and_groups_say_which_stores_keep_them(rabbitmq: Any, worker: RpcBackend) -> None:
    with pytest.raises(NotSupported, match="redis://"):
        worker.open_chords([ChordStart("g", 1)])
    with pytest.raises(NotSupported, match="redis://"):
        worker.save_group("g", [])


def test_of_many_results_that_nobody_asks_for_the_oldest_are_forgotten(
    caller: RpcBackend, worker: RpcBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for one of those is told, at once."""
    monkeypatch.setattr("celeriac.backends.rpc.MOST_BYTES", 12_000)
    monkeypatch.setattr("celeriac.backends.rpc.MOST_FORGOTTEN", 3)
    to = caller.expect()
    ids = [send(worker, to, states.SUCCESS, n) for n in range(15)]
    caller.wait(ids[-1], 5.0, 0.5)
    assert sorted(caller.fetch_many(ids[5:])) == sorted(ids[5:])
    assert (caller.fetch(ids[0]), caller.fetch(ids[1])) == (None, None)
    for ask in (caller.fetch, lambda task_id: caller.wait(task_id, None, 0.5)):
        with pytest.raises(DecodeError, match=f"the result of {ids[4]} came, and was forgotten"):
            ask(ids[4])
    again = send(worker, to, states.SUCCESS, 7, ids[4])
    wait_until(lambda: ids[4] in caller._inbox._records, what="it to come again")  # type: ignore[union-attr]
    assert caller.wait(again, 5.0, 0.5) is not None
    for task_id in ids:
        caller.forget(task_id)
    assert (caller._inbox._bytes, caller._inbox._sizes) == (0, {})  # type: ignore[union-attr]


def test_without_a_broker_that_carries_them_results_cannot_be_sent() -> None:
    app = Celeriac("x", broker="redis://localhost/0", backend="rpc://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="rpc:// needs RabbitMQ"):
        app.send_task("a")


def test_the_old_name_means_the_same_with_a_warning(rabbitmq: Any) -> None:
    with pytest.warns(UserWarning, match="say rpc://"):
        backend = open_backend("amqp", broker=BrokerAddress(url=rabbitmq.url))
    assert isinstance(backend, RpcBackend)
    backend.close()


def test_an_unreachable_broker_is_a_clear_error() -> None:
    backend = opened("amqp://guest:sesame@127.0.0.1:1//")
    with pytest.raises(BackendUnavailable) as raised:
        backend.expect()
    assert "sesame" not in str(raised.value)
    backend.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_last_of_a_chain_answers_who_sent_the_first(rabbitmq: Any, tmp_path: Path, pool: str) -> None:
    site = Site(broker=rabbitmq.url, backend="rpc://", server=rabbitmq, folder=tmp_path)
    with site.closing:
        site.worker("-P", pool, "-c", "2")
        app = site.client()
        add = functools.partial(app.signature, "jobs.add")
        result = (add((1, 2)) | add((3,)) | add((4,))).apply_async()
        assert result.get(timeout=15) == 10
        assert result.parent.get(timeout=15) == 6


PROGRESS = """
import os, time
from celeriac import Celeriac

app = Celeriac("telling", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])

@app.task(name="tell", bind=True)
def tell(self, path):
    self.update_state(state="PROGRESS", meta={"done": 40})
    while not os.path.exists(path):
        time.sleep(0.01)
    return "told"
"""


def test_a_body_in_a_child_process_tells_its_state(rabbitmq: Any, tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(PROGRESS)
    site = Site(broker=rabbitmq.url, backend="rpc://", server=rabbitmq, folder=tmp_path)
    with site.closing:
        place = Place(name="", broker=rabbitmq.url, backend="rpc://")
        log = tmp_path / "telling.log"
        worker = start_worker("celeriac", place, log, "-P", "prefork", "-c", "1", app="telling", modules=tmp_path)
        site.closing.callback(worker.kill)
        result = site.client().send_task("tell", (str(tmp_path / "go"),))
        wait_until(lambda: result.state == "PROGRESS")
        assert result.info == {"done": 40}
        (tmp_path / "go").touch()
        assert result.get(timeout=15) == "told"


def test_a_call_whose_result_is_ignored_asks_for_no_answer(rabbitmq: Any) -> None:
    app = Celeriac("x", broker=rabbitmq.url, backend="rpc://", set_as_current=False)
    task = app.task(name="quiet", ignore_result=True)(lambda: None)
    task.delay()
    assert app.backend._inbox is None  # type: ignore[attr-defined]
    app.close()


def test_what_a_coroutine_waits_for_comes_by_message_too(rabbitmq: Any, tmp_path: Path) -> None:
    site = Site(broker=rabbitmq.url, backend="rpc://", server=rabbitmq, folder=tmp_path)
    with site.closing:
        site.worker("-P", "threads")
        app = site.client()

        async def ask() -> Any:
            return await app.send_task("jobs.add", (1, 2))

        assert asyncio.run(asyncio.wait_for(ask(), 15)) == 3
