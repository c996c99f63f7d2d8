"""Time limits in pools that cannot kill: raised inside the body at either limit, settled at the hard one, and nowhere else."""

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deliveries import delivery
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.codec import content_types
from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celeriac.policy.outcome import Failed, Outcome, Succeeded
from celeriac.policy.settlement import Rules
from celeriac.policy.timelimit import UNLIMITED, Limits
from celeriac.worker.aio import AsyncioPool
from celeriac.worker.executor import Executor, Job
from celeriac.worker.pool import Pool, SoloPool, ThreadPool

APP = Celeriac("shop", broker="memory://", set_as_current=False)
EXECUTOR = Executor(APP, hostname="w", accept=content_types(["json"]), encode=None)
#: Short, so that the tests are; everything below allows for a slow machine.
SOFT, HARD = Limits(soft=0.05), Limits(hard=0.15)


def job(body: Callable[..., Any], limits: Limits = UNLIMITED, **headers: Any) -> Job:
    name = f"t{id(body)}"
    return Job(APP.task(body, name=name), delivery(name, **headers), Rules(ignore_result=True), limits=limits)


class Driven:
    """A pool and what a worker does for it: bodies of solo in this thread, the tending in another."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.outcomes: dict[str, Outcome] = {}
        self._stopped = threading.Event()
        self._tending = threading.Thread(target=self._tend)
        self._tending.start()

    def _tend(self) -> None:
        while not self._stopped.wait(0.005):
            self.pool.tend(time.monotonic())

    def run(self, *jobs: Job) -> list[Outcome]:
        self.pool.submit(list(jobs))
        ids = [each.delivery.headers["id"] for each in jobs]
        wait_until(lambda: self.look() and all(one in self.outcomes for one in ids), timeout_s=20, every_s=0.002)
        return [self.outcomes[one] for one in ids]

    def look(self) -> bool:
        self.pool.run(0.001)
        for done in self.pool.finished():
            one = done.job.delivery.headers["id"]
            assert one not in self.outcomes, "settled twice"
            self.outcomes[one] = done.outcome
        return True

    def close(self) -> None:
        self._stopped.set()
        self._tending.join()
        self.pool.stop()


def driven(name: str, slots: int) -> Driven:
    if name == "solo":
        return Driven(SoloPool(EXECUTOR))
    return Driven((ThreadPool if name == "threads" else AsyncioPool)(EXECUTOR, slots, lambda: None))


@pytest.fixture
def any_pool(request: pytest.FixtureRequest) -> Iterator[Driven]:
    found = driven(request.param, 2)
    yield found
    found.close()


each_pool = pytest.mark.parametrize("any_pool", ["solo", "threads", "asyncio"], indirect=True)


def spin(seconds: float = 10.0) -> None:
    """Work that the interpreter can be interrupted in."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def doze(seconds: float = 10.0) -> None:
    await asyncio.sleep(seconds)


# -- at the soft limit


@each_pool
@pytest.mark.parametrize("body", [spin, doze])
def test_at_the_soft_limit_the_body_is_told(any_pool: Driven, body: Any) -> None:
    [outcome] = any_pool.run(job(body, SOFT))

    assert isinstance(outcome, Failed)
    assert type(outcome.error) is SoftTimeLimitExceeded
    assert f"in {body.__name__}" in outcome.traceback
    assert any_pool.pool.lost == 0


@each_pool
def test_a_body_may_tidy_up_at_its_soft_limit_and_succeed(any_pool: Driven) -> None:
    def plain() -> None:
        with contextlib.suppress(SoftTimeLimitExceeded):
            spin()

    async def coroutine() -> None:
        try:
            await asyncio.sleep(10)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.01)

    assert [type(outcome) for outcome in any_pool.run(job(plain, SOFT), job(coroutine, SOFT))] == [Succeeded] * 2


@each_pool
def test_a_sleeping_coroutine_and_what_it_waits_for_are_told_at_once(any_pool: Driven) -> None:
    inner: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            inner.append("cancelled")
            raise

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            tasks.create_task(child())

    async def gathered() -> None:
        await asyncio.gather(child(), child())

    async def timed() -> None:
        async with asyncio.timeout(9):
            await child()

    outcomes = any_pool.run(*(job(body, SOFT) for body in (group, gathered, timed)))

    assert [type(outcome.error) for outcome in outcomes if isinstance(outcome, Failed)] == [SoftTimeLimitExceeded] * 3
    assert inner == ["cancelled"] * 5


def test_solo_is_told_while_it_sleeps() -> None:
    solo = driven("solo", 1)
    started = time.monotonic()

    [outcome] = solo.run(job(lambda: time.sleep(10), SOFT))
    solo.close()

    assert isinstance(outcome, Failed)
    assert type(outcome.error) is SoftTimeLimitExceeded
    assert time.monotonic() - started < 5


# -- at the hard limit


@each_pool
@pytest.mark.parametrize("body", [spin, doze])
def test_at_the_hard_limit_the_task_has_failed_and_the_slot_works_on(any_pool: Driven, body: Any) -> None:
    [outcome] = any_pool.run(job(body, HARD))

    assert isinstance(outcome, Failed)
    assert outcome.error.args == (0.15,)
    assert type(outcome.error) is TimeLimitExceeded
    assert f"in {body.__name__}" in outcome.traceback
    wait_until(lambda: any_pool.look() and any_pool.pool.lost == 0, timeout_s=5)
    assert [type(each) for each in any_pool.run(*(job(lambda: None) for _ in range(8)))] == [Succeeded] * 8


@each_pool
def test_no_except_exception_keeps_a_body_running_beyond_its_hard_limit(any_pool: Driven) -> None:
    tidied = threading.Event()

    def stubborn() -> None:
        try:
            while True:
                with contextlib.suppress(Exception):
                    spin(1)
        finally:
            tidied.set()

    [outcome] = any_pool.run(job(stubborn, Limits(hard=0.15, soft=0.05)))

    assert isinstance(outcome, Failed)
    assert type(outcome.error) is TimeLimitExceeded
    assert tidied.wait(5)


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_thread_that_does_not_come_back_is_a_lost_slot_until_it_does(pool: str) -> None:
    threads = driven(pool, 2)
    gate = threading.Event()

    [outcome] = threads.run(job(lambda: gate.wait(20), HARD))
    lost = (threads.pool.slots, threads.pool.lost, threads.pool.running())
    [other] = threads.run(job(lambda: None))
    gate.set()
    wait_until(lambda: threads.look() and threads.pool.lost == 0, timeout_s=5)
    late = (threads.pool.slots, list(threads.outcomes.values()))
    threads.close()

    assert isinstance(outcome, Failed)
    assert lost == (1, 1, [])
    assert isinstance(other, Succeeded)
    assert late == (2, [outcome, other])


def test_a_solo_body_that_does_not_come_back_is_settled_by_the_thread_that_tends_it() -> None:
    pool, seen = SoloPool(EXECUTOR), []

    def unwilling() -> None:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            with contextlib.suppress(BaseException):
                spin(until - time.monotonic())

    def keep() -> None:
        wait_until(lambda: pool.tend(time.monotonic()) and pool.lost, timeout_s=5, every_s=0.005)
        seen.append((pool.slots, [type(done.outcome) for done in pool.finished()], pool.running()))

    keeper = threading.Thread(target=keep)
    keeper.start()
    pool.submit([job(unwilling, HARD)])
    pool.run(1.0)
    keeper.join()

    assert seen == [(0, [Failed], [])]
    assert (pool.slots, pool.lost, pool.finished()) == (1, 0, [])


def test_a_coroutine_that_never_awaits_ends_soon_after_its_hard_limit_and_frees_the_others() -> None:
    pool = driven("asyncio", 10)

    async def greedy() -> None:
        spin(20)

    async def modest() -> str:
        await asyncio.sleep(0)
        return "ran"

    started = time.monotonic()
    outcomes = pool.run(job(greedy, HARD), job(modest), job(modest))
    took = time.monotonic() - started
    pool.close()

    assert [type(outcome) for outcome in outcomes] == [Failed, Succeeded, Succeeded]
    assert took < 10


@each_pool
def test_a_late_body_calls_no_hooks_since_the_worker_does_at_the_hard_limit(any_pool: Driven) -> None:
    heard: list[Any] = []
    came_back: list[bool] = []

    class Hooked(APP.Task):  # type: ignore[misc,name-defined]
        abstract = True

        def on_success(self, *_: Any) -> None:
            heard.append("success")

        def on_failure(self, exc: BaseException, *_: Any) -> None:
            heard.append(exc)

    def late() -> str:
        with contextlib.suppress(BaseException):
            spin()
        came_back.append(True)
        return "done all the same"

    hooked = APP.task(late, name=f"hooked in {any_pool.pool.name}", base=Hooked)
    [outcome] = any_pool.run(job(late, HARD)._replace(task=hooked))
    wait_until(lambda: any_pool.look() and came_back and any_pool.pool.lost == 0, timeout_s=5)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TimeLimitExceeded)
    assert heard == []  # see test_aftermath.py


# -- nowhere else


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_limit_that_falls_on_the_end_of_a_body_hits_nothing_else(pool: str) -> None:
    """Hundreds of bodies that end just when they are due: each is settled once, no thread is lost, and those without limits succeed."""
    worker = driven(pool, 4)
    jobs = []
    for number in range(150):
        seconds = 0.004 + (number % 10) * 0.0005
        jobs.append(job(lambda seconds=seconds: spin(seconds), Limits(soft=0.006, hard=0.008)))
        jobs.append(job(lambda: sum(range(100))))

    outcomes = worker.run(*jobs)
    wait_until(lambda: worker.look() and worker.pool.lost == 0, timeout_s=5)
    after = worker.run(*(job(lambda: None) for _ in range(20)))
    worker.close()

    limited, free = outcomes[::2], outcomes[1::2]
    assert {type(outcome) for outcome in free + after} == {Succeeded}
    assert {type(each.error) for each in limited if isinstance(each, Failed)} <= {
        SoftTimeLimitExceeded,
        TimeLimitExceeded,
    }
    assert worker.pool.slots == (1 if pool == "solo" else 4)


# A socket that was being opened when the limit fell is closed when it is collected, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_limit_that_falls_on_a_publish_leaves_a_connection_that_works(redis_server: Any) -> None:
    app = Celeriac("loud", broker=redis_server.url, set_as_current=False)
    receiver = app.task(lambda number: None, name="receiver")
    threads = driven("threads", 2)
    numbers = itertools.count()

    def busy() -> None:
        while True:
            receiver.delay(next(numbers))

    outcomes = threads.run(*(job(busy, Limits(soft=0.01 + 0.001 * number)) for number in range(20)))
    threads.close()
    with redis_server.client() as redis:
        before = redis.llen("celery")
        for _ in range(10):
            receiver.delay(next(numbers))
        waiting = [json.loads(message) for message in redis.lrange("celery", 0, -1)]
    app.close()

    assert [type(each.error) for each in outcomes if isinstance(each, Failed)] == [SoftTimeLimitExceeded] * 20
    assert len(waiting) == before + 10
    assert all(message["headers"]["task"] == "receiver" for message in waiting)
    assert len({message["headers"]["id"] for message in waiting}) == len(waiting)


# -- a whole worker


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio", "prefork"])
def test_a_call_may_ask_for_limits_and_the_command_line_limits_the_rest(site: Any, pool: str) -> None:
    worker = site.worker("-P", pool, "-c", "2", "--time-limit", "0.6", app="bodies")
    client = site.client()

    told = client.send_task("bodies.naps", [1, 30], soft_time_limit=0.2)
    cut = client.send_task("bodies.naps", [2, 30])
    patient = client.send_task("bodies.naps", [3, 0.8], time_limit=20)

    with pytest.raises(SoftTimeLimitExceeded):
        told.get(timeout=20)
    with pytest.raises(TimeLimitExceeded, match=r"0\.6"):
        cut.get(timeout=20)
    assert patient.get(timeout=20) == 3
    assert ("cannot kill" in worker.text()) is (pool != "prefork")
