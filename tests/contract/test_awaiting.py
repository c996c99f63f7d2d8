"""Results that are waited for together, in coroutines and elsewhere, on every store: one connection serves them all."""

import asyncio
import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import wait_until

from celeriac import Celeriac, states
from celeriac.backends.watching import FIRST_LOOK_S, Asked, Watcher, watcher_of
from celeriac.exceptions import BackendUnavailable, DecodeError
from celeriac.result import AsyncResult, ResultSet
from celeriac.wire.result import ResultMeta, exception_to_wire

every = pytest.mark.parametrize("store", ["redis", "valkey", "memory"], indirect=True)
listening = pytest.mark.parametrize("store", ["redis", "valkey"], indirect=True)


@dataclass(slots=True, kw_only=True)
class Store:
    app: Celeriac
    server: Any = None
    stored: list[str] = field(default_factory=list)

    def put(self, task_id: str, status: str = states.SUCCESS, result: Any = None) -> None:
        [refused] = self.app.backend.store([(ResultMeta(task_id, status, result), None)])
        assert refused is None

    def handle(self, task_id: str | None = None) -> AsyncResult[Any]:
        return self.app.AsyncResult(task_id or uuid.uuid4().hex)

    def connections(self) -> int:
        """How many listen."""
        with redis.Redis.from_url(self.server.url) as client:
            return sum(entry["sub"] != "0" for entry in client.client_list())


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    kind = request.param
    server = request.getfixturevalue(f"{kind}_server") if kind != "memory" else None
    url = server.url if server is not None else "cache+memory://"
    app = Celeriac("shop", broker="memory://", backend=url, set_as_current=False)
    yield Store(app=app, server=server)
    app.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "celeriac-results"] == []


def later(store: Store, *puts: tuple[Any, ...], after_s: float = 0.05) -> threading.Timer:
    timer = threading.Timer(after_s, lambda: [store.put(*put) for put in puts])
    timer.start()
    return timer


@every
def test_a_coroutine_gets_what_is_stored_before_it_waits_and_after(store: Store) -> None:
    before, after = store.handle(), store.handle()
    store.put(before.id, result=[1, 2])
    timer = later(store, (after.id, states.STARTED, {}), (after.id, states.SUCCESS, {"a": 3}))

    async def main() -> Any:
        return await before, await after, await after

    assert asyncio.run(main()) == ([1, 2], {"a": 3}, {"a": 3})
    timer.join()


@every
def test_a_coroutine_gets_the_tasks_own_error(store: Store) -> None:
    failed = store.handle()
    store.put(failed.id, states.FAILURE, exception_to_wire(KeyError("lamp")))

    async def main() -> Any:
        with pytest.raises(KeyError, match="lamp"):
            await failed
        return await failed.aget(propagate=False)

    assert isinstance(asyncio.run(main()), KeyError)


@every
def test_a_coroutine_waits_as_long_as_it_is_told_to_and_leaves_nothing(store: Store) -> None:
    async def main() -> float:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not ready within 0\.1 s"):
            await store.handle().aget(timeout=0.1)
        waiting = asyncio.create_task(store.handle().aget())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return time.monotonic() - started

    assert asyncio.run(main()) < 2.0
    assert watcher_of(store.app.backend)._watches == {}


@every
def test_many_coroutines_wait_at_once_and_the_loop_turns_meanwhile(store: Store) -> None:
    handles = [store.handle() for _ in range(3000)]
    timer = later(store, *[(handle.id, states.SUCCESS, place) for place, handle in enumerate(handles)], after_s=0.3)
    listeners = []

    async def main() -> list[Any]:
        waiting = [asyncio.create_task(handle.aget(timeout=90)) for handle in handles]
        await asyncio.sleep(0.2)
        if store.server is not None:
            listeners.append(await asyncio.to_thread(store.connections))
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == list(range(3000))
    assert listeners in ([], [1])
    timer.join()


@every
def test_a_group_is_awaited_as_a_whole(store: Store) -> None:
    one, two, three = (store.handle() for _ in range(3))
    whole = ResultSet([one, ResultSet([two]), three])
    timer = later(store, *[(handle.id, states.SUCCESS, place) for place, handle in enumerate((one, two, three))])

    assert asyncio.run(whole.aget(timeout=10)) == [0, [1], 2]
    timer.join()
    failed = store.handle()
    store.put(failed.id, states.FAILURE, exception_to_wire(KeyError("lamp")))

    async def main() -> None:
        with pytest.raises(KeyError, match="lamp"):
            await ResultSet([one, failed, store.handle()])
        with pytest.raises(TimeoutError, match=r"1 of 2 tasks were not ready within 0\.1 s"):
            await ResultSet([one, store.handle()]).aget(timeout=0.1)

    asyncio.run(main())
    assert watcher_of(store.app.backend)._watches == {}


@every
@pytest.mark.parametrize("awaited", [False, True])
def test_who_waits_for_a_group_hears_of_a_failure_before_the_others_have_ended(store: Store, awaited: bool) -> None:
    never, failing = store.handle(), store.handle()
    whole = ResultSet([never, failing])
    timer = later(store, (failing.id, states.FAILURE, exception_to_wire(KeyError("lamp"))), after_s=0.3)
    begun = time.monotonic()

    with pytest.raises(KeyError, match="lamp"):
        asyncio.run(whole.aget(timeout=20)) if awaited else whole.get(timeout=20)

    assert time.monotonic() - begun < 5
    timer.join()
    with pytest.raises(KeyError, match="lamp"):  # it is known already
        whole.get(timeout=20)
    assert watcher_of(store.app.backend)._watches == {}


@every
def test_a_group_tells_what_happens_in_it_while_it_is_waited_for(store: Store) -> None:
    one, two, three = (store.handle() for _ in range(3))
    store.put(one.id, states.SUCCESS, 1)
    heard: list[tuple[str, str, Any]] = []
    rounds: list[int] = []
    ended: list[tuple[str, Any]] = []
    failure = exception_to_wire(KeyError("lamp"))
    timer = later(
        store, (three.id, "PROGRESS", {"done": 40}), (three.id, states.SUCCESS, 3), (two.id, states.FAILURE, failure), after_s=0.3
    )  # fmt: skip

    values = ResultSet([one, ResultSet([two]), three]).get(
        timeout=20,
        propagate=False,
        interval=0.02,
        on_message=lambda record: heard.append((record["task_id"], record["status"], record["result"])),
        on_interval=lambda: rounds.append(1),
        callback=lambda *told: ended.append(told),
    )

    assert repr(values) == "[1, [KeyError('lamp')], 3]"
    assert [told for told in heard if told[1] == "SUCCESS"] == [(one.id, "SUCCESS", 1), (three.id, "SUCCESS", 3)]
    assert [repr(told[2]) for told in heard if told[0] == two.id] == ["KeyError('lamp')"]
    assert rounds
    assert sorted(task_id for task_id, _ in ended) == sorted(handle.id for handle in (one, two, three))
    timer.join()
    assert watcher_of(store.app.backend)._watches == {}


@every
def test_a_callback_may_come_before_its_caller_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that calls back may be the faster one, as on a busy machine."""
    handle, told = store.handle(), []
    store.put(handle.id, states.SUCCESS, 5)
    watch = Watcher.watch

    def slow(self: Watcher, task_id: str, tell: Any) -> Any:
        cancel = watch(self, task_id, tell)
        time.sleep(0.2)
        return cancel

    monkeypatch.setattr(Watcher, "watch", slow)
    handle.then(lambda done: told.append(done.get()))

    wait_until(lambda: told, what="the callback")
    assert told == [5]
    assert watcher_of(store.app.backend)._watches == {}


@every
@pytest.mark.parametrize("task_id", ["\ud800", 123])
def test_an_id_that_no_store_can_have_is_its_callers_error_alone(store: Store, task_id: Any) -> None:
    other = store.handle()

    async def main() -> Any:
        waiting = asyncio.create_task(other.aget(timeout=10))
        await asyncio.sleep(0.1)
        with pytest.raises((TypeError, ValueError)):
            await store.app.AsyncResult(task_id).aget(timeout=10)
        store.put(other.id, states.SUCCESS, 5)
        return await waiting

    assert asyncio.run(main()) == 5


def test_a_record_that_cannot_be_read_is_looked_at_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a store that has to be asked."""
    app = Celeriac("shop", broker="memory://", backend=f"db+sqlite:///{tmp_path}/results.db", set_as_current=False)
    told: list[Any] = []
    with app:
        app.backend.store([(ResultMeta("a1", states.SUCCESS, 1), None)])
        with contextlib.closing(sqlite3.connect(tmp_path / "results.db")) as database, database:
            database.execute("update celery_taskmeta set result = x'00ff'")

        app.AsyncResult("a1").then(told.append)
        wait_until(lambda: caplog.records, what="the complaint")
        wait_until(lambda: not watcher_of(app.backend)._watches, what="the end of the watch")
        with pytest.raises(DecodeError):
            asyncio.run(app.AsyncResult("a1").aget(timeout=10))

    assert (told, len(caplog.records)) == ([], 1)
    assert "the result of a1 cannot be read" in caplog.text


def test_a_store_that_has_to_be_asked_for_much_is_asked_less_often(tmp_path: Path) -> None:
    app = Celeriac("shop", broker="memory://", backend=f"db+sqlite:///{tmp_path}/results.db", set_as_current=False)
    with app:
        source = Asked(app.backend)
        source.add([str(number) for number in range(50_000)])
        source.read()  # makes the tables
        begun = time.monotonic()
        source.read()
        took_s = time.monotonic() - begun

    assert took_s > FIRST_LOOK_S, "else this shows nothing"
    assert source.pause_s > 1.5 * took_s


@every
def test_a_group_calls_back_once_all_have_ended(store: Store) -> None:
    told: list[tuple[str, Any]] = []
    handles = [store.handle() for _ in range(3)]
    good = ResultSet(handles).then(lambda whole: told.append(("good", whole.get())))
    bad = ResultSet([handles[0], failed := store.handle()])
    bad.then(lambda _: told.append(("never", None)), on_error=lambda whole: told.append(("bad", whole.failed())))

    for place, handle in enumerate(handles):
        store.put(handle.id, states.SUCCESS, place)
    wait_until(lambda: told, what="the first callback")
    store.put(failed.id, states.FAILURE, exception_to_wire(KeyError("lamp")))
    wait_until(lambda: len(told) == 2, what="the second callback")
    ResultSet([]).then(lambda _: told.append(("empty", None)))

    assert told == [("good", [0, 1, 2]), ("bad", True), ("empty", None)]
    assert good.completed_count() == 3


@every
def test_one_loop_after_the_other_may_wait_and_two_at_once(store: Store) -> None:
    values = []

    def wait(handle: AsyncResult[Any]) -> None:
        values.append(asyncio.run(handle.aget(timeout=10)))

    first, second, third = store.handle(), store.handle(), store.handle()
    threads = [threading.Thread(target=wait, args=(handle,)) for handle in (first, second)]
    for thread in threads:
        thread.start()
    for handle in (first, second, third):
        store.put(handle.id, result=handle.id)
    for thread in threads:
        thread.join()
    wait(third)

    assert sorted(values) == sorted([first.id, second.id, third.id])


@listening
def test_an_outage_is_waited_out_by_those_who_waited_and_told_to_those_who_come(store: Store) -> None:
    handle = store.handle()

    async def main() -> Any:
        waiting = asyncio.create_task(handle.aget(timeout=30))
        await asyncio.to_thread(wait_until, lambda: store.connections() == 1)
        await asyncio.to_thread(store.server.stop)
        with pytest.raises(BackendUnavailable):
            await store.handle().aget(timeout=20)
        await asyncio.to_thread(store.server.start)
        await asyncio.to_thread(store.put, handle.id, states.SUCCESS, "back")
        return await waiting

    assert asyncio.run(main()) == "back"


@listening
def test_a_record_that_cannot_be_read_is_its_own_waiters_error_alone(store: Store) -> None:
    good, bad = store.handle(), store.handle()
    store.put(good.id, result=1)
    broken(store, bad.id)

    async def main() -> Any:
        return await asyncio.gather(bad.aget(timeout=10), good.aget(timeout=10), return_exceptions=True)

    error, value = asyncio.run(main())
    assert (type(error).__name__, value) == ("DecodeError", 1)


def broken(store: Store, task_id: str) -> None:
    with redis.Redis.from_url(store.server.url) as client:
        client.set(f"celery-task-meta-{task_id}", b'{"no": "record"}')


@every
def test_get_tells_of_each_state_on_the_way(store: Store) -> None:
    handle, told, rounds = store.handle(), [], []
    store.put(handle.id, states.STARTED, {"pid": 1})
    steps = [threading.Event() for _ in range(3)]

    def work() -> None:
        for number, step in enumerate(steps):
            assert step.wait(10)
            store.put(handle.id, "PROGRESS", {"current": number})
        store.put(handle.id, states.SUCCESS, "done")

    def hear(record: dict[str, Any]) -> None:
        if not told or told[-1] != (record["status"], record["result"]):  # what is stored may be told twice at first
            told.append((record["status"], record["result"]))
        if len(told) <= 3:
            steps[len(told) - 1].set()

    worker = threading.Thread(target=work)
    worker.start()
    value = handle.get(timeout=20, interval=0.01, on_message=hear, on_interval=lambda: rounds.append(1), callback=print)
    worker.join()

    assert value == "done"
    assert told[0] == (states.STARTED, {"pid": 1})
    assert ("PROGRESS", {"current": 1}) in told
    assert told[-1] == (states.SUCCESS, "done")


@every
def test_get_calls_back_while_it_waits_and_when_it_has_waited(store: Store) -> None:
    handle, rounds, ended = store.handle(), [], []

    def tick() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            store.put(handle.id, result=7)

    handle.get(timeout=10, interval=0.02, on_interval=tick, callback=lambda *told: ended.append(told))

    assert len(rounds) >= 3
    assert ended == [(handle.id, 7)]


@every
def test_then_is_called_once_with_the_handle(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    good, bad, both = store.handle(), store.handle(), store.handle()
    called: list[tuple[str, str]] = []
    good.then(lambda handle: called.append(("ended", handle.id)))
    bad.then(lambda handle: called.append(("ended", handle.id)), lambda handle: called.append(("failed", handle.id)))
    both.then(lambda _: 1 / 0)

    store.put(both.id, result=0)
    store.put(good.id, result=1)
    store.put(bad.id, states.FAILURE, exception_to_wire(ValueError("no")))

    wait_until(lambda: len(called) == 2)
    assert sorted(called) == sorted([("ended", good.id), ("failed", bad.id)])
    wait_until(lambda: "a callback of a result has raised" in caplog.text)


@every
def test_who_watches_hears_of_a_call_before_it_that_has_failed(store: Store) -> None:
    first = store.handle()
    second = AsyncResult(uuid.uuid4().hex, store.app.backend, parent=first)
    timer = later(store, (first.id, states.FAILURE, exception_to_wire(ValueError("first"))))

    with pytest.raises(ValueError, match="first"):
        second.get(timeout=10, interval=0.05, on_interval=lambda: None)
    with pytest.raises(TimeoutError):
        second.get(timeout=0.1, on_interval=lambda: None, follow_parents=False)
    timer.join()


@every
def test_closing_the_app_ends_the_waiting(store: Store) -> None:
    async def main() -> None:
        waiting = asyncio.create_task(store.handle().aget(timeout=20))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(store.app.close)
        with pytest.raises(BackendUnavailable, match="closed while"):
            await waiting

    asyncio.run(main())


@every
def test_a_fork_has_a_watcher_of_its_own(store: Store) -> None:
    """In the child, waiting works, though the thread that served its parent is not there."""
    import multiprocessing
    import warnings

    handle, told = store.handle(), threading.Event()
    store.put(handle.id, result=1)
    cancel = watcher_of(store.app.backend).watch(handle.id, lambda _: told.set())
    assert told.wait(10)  # and is at rest again: a lock that a thread holds during a fork stays locked in the child
    time.sleep(0.1)

    def child() -> None:
        store.put("of-the-child", result="here")
        assert asyncio.run(store.handle("of-the-child").aget(timeout=10)) == "here"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: that is what is tested
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    process.join(20)
    cancel()

    assert process.exitcode == 0
