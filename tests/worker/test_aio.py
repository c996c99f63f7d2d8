"""Coroutines: hundreds at once in the asyncio pool, one at a time in the others; each knows its own call."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deliveries import delivery
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.codec import content_types
from celeriac.exceptions import NotSupported, TaskRevokedError
from celeriac.policy.outcome import Failed, Outcome, RetryAsked, Revoked, Succeeded
from celeriac.policy.settlement import Rules
from celeriac.worker.aio import AsyncioPool
from celeriac.worker.executor import Executor, Job
from celeriac.worker.pool import Pool, SoloPool, ThreadPool


class Bench:
    """An app whose tasks are functions of the test, and a pool for them."""

    def __init__(self, kind: str, slots: int) -> None:
        self.app = Celeriac("shop", broker="memory://", set_as_current=False)
        executor = Executor(self.app, hostname="w", accept=content_types(["json"]), encode=None)
        self.pool: Pool
        if kind == "solo":
            self.pool = SoloPool(executor)
        else:
            self.pool = (ThreadPool if kind == "threads" else AsyncioPool)(executor, slots, lambda: None)

    def job(self, body: Callable[..., Any], *args: Any, id: str = "", **options: Any) -> Job:
        task = self.app.task(body, name=f"t{id}{len(self.app.tasks)}", **options)
        headers = {"id": id} if id else {}
        return Job(task, delivery(task.name, args, **headers), Rules(ignore_result=True))

    def collect(self, count: int) -> list[Outcome]:
        """Outcomes in the order of their jobs' ids' appearance."""
        done: list[Any] = []

        def look() -> bool:
            self.pool.run(0.01)
            done.extend(self.pool.finished())
            return len(done) >= count

        wait_until(look, timeout_s=20, every_s=0.002)
        assert len(done) == count
        return [each.outcome for each in done]

    def run(self, *jobs: Job) -> list[Outcome]:
        self.pool.submit(list(jobs))
        return self.collect(len(jobs))


@pytest.fixture
def aio() -> Iterator[Bench]:
    bench = Bench("asyncio", 500)
    yield bench
    bench.pool.stop()


@pytest.fixture(params=["solo", "threads", "asyncio"])
def any_pool(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param, 2)
    yield bench
    bench.pool.stop()


def test_hundreds_of_coroutines_run_at_once_and_no_more_than_there_are_slots(aio: Bench) -> None:
    together, peak, threads = [0], [0], set()

    async def body() -> None:
        together[0] += 1
        peak[0] = max(peak[0], together[0])
        threads.add(threading.get_ident())
        await asyncio.sleep(0.2)
        together[0] -= 1

    started = time.monotonic()
    outcomes = aio.run(*(aio.job(body) for _ in range(600)))

    assert {type(outcome) for outcome in outcomes} == {Succeeded}
    assert peak == [500]
    assert len(threads) == 1
    assert time.monotonic() - started < 10  # one by one: two minutes


def test_each_coroutine_knows_its_own_call_whatever_runs_between(any_pool: Bench) -> None:
    seen: list[tuple[str, str, str, bool]] = []

    async def body(self: Any, name: str) -> None:
        before = self.request.id
        await asyncio.sleep(0.001 * (hash(name) % 5))
        inside = await asyncio.create_task(inner(self))
        seen.append((name, before, self.request.id, inside == name))

    async def inner(task: Any) -> str:
        await asyncio.sleep(0)
        return str(task.request.id)

    any_pool.run(*(any_pool.job(body, f"id{n}", id=f"id{n}", bind=True) for n in range(30)))

    assert sorted(seen) == sorted((f"id{n}", f"id{n}", f"id{n}", True) for n in range(30))


def test_a_coroutine_retries_fails_and_exits_as_a_function_does(any_pool: Bench) -> None:
    async def again(self: Any) -> None:
        await asyncio.sleep(0)
        raise self.retry(countdown=5)

    async def sometimes(self: Any) -> None:
        raise ConnectionError("away")

    async def exits() -> None:
        raise SystemExit(3)

    async def stops() -> None:
        raise KeyboardInterrupt

    [asked] = any_pool.run(any_pool.job(again, bind=True))
    [by_itself] = any_pool.run(any_pool.job(sometimes, bind=True, autoretry_for=(ConnectionError,)))
    [left] = any_pool.run(any_pool.job(exits))
    [stopped] = any_pool.run(any_pool.job(stops))
    [after] = any_pool.run(any_pool.job(again, bind=True))

    assert isinstance(asked, RetryAsked)
    assert isinstance(by_itself, RetryAsked)
    assert isinstance(by_itself.error, ConnectionError)
    assert isinstance(left, Failed)
    assert "exit(3)" in str(left.error)
    assert isinstance(stopped, Failed)
    assert isinstance(after, RetryAsked)


def test_a_traceback_starts_in_the_coroutine(any_pool: Bench) -> None:
    async def body() -> None:
        await asyncio.sleep(0)
        raise KeyError("k")

    [outcome] = any_pool.run(any_pool.job(body))

    assert isinstance(outcome, Failed)
    assert "asyncio" not in outcome.traceback
    assert "celeriac/worker" not in outcome.traceback
    assert "in body" in outcome.traceback


@pytest.mark.parametrize("kind", ["solo", "threads"])
def test_in_other_pools_a_thread_keeps_its_loop_from_body_to_body(kind: str) -> None:
    bench, loops = Bench(kind, 1), []

    async def body() -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    bench.run(*(bench.job(body) for _ in range(3)))
    open_until_then = not loops[0].is_closed()
    bench.pool.stop()

    assert len(set(loops)) == 1
    assert open_until_then
    wait_until(loops[0].is_closed, timeout_s=5)


def test_plain_functions_run_beside_the_loop_and_hold_nothing_up(aio: Bench) -> None:
    gate, threads = threading.Event(), []

    def plain() -> None:
        threads.append(threading.current_thread().name)
        gate.wait(10)

    async def coroutine() -> None:
        threads.append(threading.current_thread().name)

    aio.pool.submit([aio.job(plain) for _ in range(3)])
    wait_until(lambda: len(aio.pool.running()) == 3)
    aio.run(aio.job(coroutine))
    gate.set()
    aio.collect(3)

    assert threads[-1] == "celeriac-asyncio"
    assert len(set(threads)) == 4


def test_a_coroutine_can_be_cancelled_by_its_id_and_no_other(aio: Bench) -> None:
    ended = []

    async def body(name: str) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(name)

    aio.pool.submit([aio.job(body, name, id=name) for name in ("a", "b", "c")])
    wait_until(lambda: len(aio.pool.running()) == 3)
    time.sleep(0.05)

    found = [aio.pool.terminate("b", 15), aio.pool.terminate("stranger", 15)]
    outcomes = aio.collect(1)

    assert found == [True, False]
    assert outcomes == [Revoked("terminated", None, 15)]
    assert ended == ["b"]
    assert {running.job.delivery.headers["id"] for running in aio.pool.running()} == {"a", "c"}


def test_a_plain_function_is_not_said_to_be_cancelled(aio: Bench) -> None:
    gate = threading.Event()
    aio.pool.submit([aio.job(lambda: gate.wait(10) and None, id="plain")])
    wait_until(aio.pool.running)

    with pytest.raises(NotSupported, match="prefork"):
        aio.pool.terminate("plain", 9)
    gate.set()

    assert [type(outcome) for outcome in aio.collect(1)] == [Succeeded]


def test_whoever_cancels_all_tasks_of_the_loop_ends_bodies_but_not_the_worker(aio: Bench) -> None:
    async def body() -> None:
        await asyncio.sleep(10)

    async def vandal() -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def leaver() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    async def lets_go() -> None:
        asyncio.get_running_loop().call_soon(os_exit)
        await asyncio.sleep(0.01)

    def os_exit() -> None:
        raise SystemExit(1)

    aio.pool.submit([aio.job(body) for _ in range(3)])
    wait_until(lambda: len(aio.pool.running()) == 3)
    time.sleep(0.05)
    alone = aio.run(aio.job(leaver), aio.job(lets_go))
    aio.pool.submit([aio.job(vandal)])
    together = aio.collect(4)

    assert [type(outcome) for outcome in alone] == [Succeeded] * 2
    assert sorted(type(outcome).__name__ for outcome in together) == ["Failed"] * 3 + ["Succeeded"]


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_a_pool_grows_and_shrinks_without_cutting_anything_off(kind: str) -> None:
    bench, peak, together = Bench(kind, 2), [0], [0]

    async def coroutine() -> None:
        together[0] += 1
        peak[0] = max(peak[0], together[0])
        await asyncio.sleep(0.03)
        together[0] -= 1

    def plain() -> None:
        asyncio.run(coroutine())

    body = plain if kind == "threads" else coroutine

    def at_once(jobs: int) -> int:
        peak[0] = 0
        assert {type(outcome) for outcome in bench.run(*(bench.job(body) for _ in range(jobs)))} == {Succeeded}
        return peak[0]

    sizes = [at_once(8)]
    bench.pool.resize(6)
    sizes.append(at_once(12))
    bench.pool.resize(1)
    sizes.append(at_once(4))
    bench.pool.resize(3)
    sizes.append(at_once(9))
    slots = bench.pool.slots
    bench.pool.stop()

    assert sizes == [2, 6, 1, 3]
    assert slots == 3


def test_what_has_not_started_is_given_back_in_order(aio: Bench) -> None:
    aio.pool.resize(1)

    async def body() -> None:
        await asyncio.sleep(0.2)

    jobs = [aio.job(body, id=f"n{number}") for number in range(4)]
    aio.pool.submit(jobs)
    wait_until(aio.pool.running)

    assert (aio.pool.waiting(), aio.pool.unstarted()) == (3, jobs[1:])
    assert aio.pool.take_back() == jobs[1:]
    aio.collect(1)
    assert (aio.pool.waiting(), aio.pool.running()) == (0, [])


def test_eager_calls_of_coroutines_return_what_they_return_inside_a_loop_too() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False, task_always_eager=True)

    @app.task(bind=True)
    async def double(self: Any, number: int) -> int:
        await asyncio.sleep(0)
        assert self.request.is_eager
        return 2 * number

    async def within() -> Any:
        return double.delay(4).get()

    assert (double.delay(3).get(), asyncio.run(within())) == (6, 8)


# -- a whole worker


def test_an_asyncio_worker_runs_hundreds_at_once_in_one_process_and_cancels_the_one_it_is_told_to(site: Any) -> None:
    worker = site.worker("-P", "asyncio", "-c", "300", app="bodies")
    client = site.client()
    long = client.send_task("bodies.naps", [1000, 60])

    started = time.monotonic()
    results = [client.send_task("bodies.naps", [number, 1.0]) for number in range(299)]
    assert [result.get(timeout=30) for result in results] == list(range(299))
    took = time.monotonic() - started
    client.control.terminate(long.id)
    with pytest.raises(TaskRevokedError):
        long.get(timeout=10)

    assert took < 29.9  # a tenth of one by one
    assert {line.split()[2] for line in site.ledger.path.read_text().splitlines()} == {str(worker.pid)}
    assert worker.terminate(timeout_s=10) == 0


# -- forks


@pytest.mark.parametrize("kind", ["solo", "threads", "asyncio"])
def test_a_copy_that_a_body_forks_ends_with_the_body_and_settles_nothing(kind: str, tmp_path: Any) -> None:
    bench = Bench(kind, 2)
    ledger = tmp_path / "ledger"

    def plain() -> int:
        child = os.fork()
        if not child:
            ledger.write_text(str(os.getpid()))
        return child

    async def coroutine() -> int:
        child = plain()
        await asyncio.sleep(0)
        return child

    children: list[int] = []

    class Kept(bench.app.Task):  # type: ignore[misc,name-defined]
        abstract = True

        def on_success(self, retval: int, *_: Any) -> None:
            children.append(retval)

    job = bench.job(coroutine if kind == "asyncio" else plain, base=Kept)
    parent = os.getpid()
    bench.pool.submit([job])
    [outcome] = bench.collect(1)
    bench.pool.stop()

    assert os.getpid() == parent, "the copy came back"
    assert isinstance(outcome, Succeeded)
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert ledger.read_text() == str(children[0])
