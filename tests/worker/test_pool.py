"""Pools: who runs bodies, how many at once, and what can still be taken back."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deliveries import delivery
from processes import wait_until

from celeriac import Celeriac, signals
from celeriac.broker.codec import content_types
from celeriac.policy.outcome import Failed, Succeeded
from celeriac.policy.settlement import Rules
from celeriac.worker.executor import Executor, Job
from celeriac.worker.pool import SoloPool, ThreadPool


class Bench:
    """An app whose tasks are functions of the test, and an executor for them."""

    def __init__(self) -> None:
        self.app = Celeriac("shop", broker="memory://", set_as_current=False)
        self.executor = Executor(self.app, hostname="w", accept=content_types(["json"]), encode=None)

    def job(self, body: Callable[..., Any], *args: Any) -> Job:
        return Job(self.app.task(body, name=f"t{id(body)}"), delivery("t", args), Rules(ignore_result=True))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def threads(bench: Bench) -> Iterator[ThreadPool]:
    pool = ThreadPool(bench.executor, 3, lambda: None)
    yield pool
    pool.stop()


def collected(pool: Any, count: int) -> list[Any]:
    done: list[Any] = []
    wait_until(lambda: done.extend(pool.finished()) or len(done) >= count, timeout_s=5, every_s=0.005)
    return done


# -- solo


def test_solo_runs_nothing_unless_told_to_and_then_in_order_in_this_thread(bench: Bench) -> None:
    pool, seen = SoloPool(bench.executor), []
    pool.submit(
        [bench.job(lambda number=number: seen.append((number, threading.current_thread()))) for number in range(3)]
    )
    assert (pool.waiting(), seen, pool.finished()) == (3, [], [])

    pool.run(5.0)

    assert seen == [(number, threading.current_thread()) for number in range(3)]
    assert [type(done.outcome) for done in pool.finished()] == [Succeeded] * 3
    assert (pool.waiting(), pool.finished(), pool.running()) == (0, [], [])


def test_solo_stops_after_its_slice_but_ends_the_body_it_runs(bench: Bench) -> None:
    pool = SoloPool(bench.executor)
    pool.submit([bench.job(lambda: time.sleep(0.02)) for _ in range(5)])

    pool.run(0.03)
    first = len(pool.finished())
    pool.run(0.0)

    assert first == 2
    assert pool.waiting() == 3
    assert pool.finished() == []


def test_solo_tells_another_thread_what_runs_and_since_when(bench: Bench) -> None:
    pool, gate, seen = SoloPool(bench.executor), threading.Event(), []
    job = bench.job(lambda: gate.wait(5))
    pool.submit([job, bench.job(lambda: None)])

    def look() -> None:
        wait_until(pool.running)
        [(running, since, pid)] = pool.running()
        seen.append((running is job, 0 <= time.monotonic() - since < 5, pid == os.getpid(), pool.waiting()))
        gate.set()

    looking = threading.Thread(target=look)
    looking.start()
    pool.run(0.0001)
    looking.join()

    assert seen == [(True, True, True, 1)]
    assert pool.running() == []


def test_solo_gives_back_what_has_not_started_even_while_a_body_runs(bench: Bench) -> None:
    pool, ran = SoloPool(bench.executor), []
    taken: list[Job] = []
    later = [bench.job(lambda: ran.append("later")) for _ in range(3)]

    pool.submit([bench.job(lambda: taken.extend(pool.take_back())), *later])
    pool.run(5.0)

    assert taken == later
    assert ran == []
    assert (len(pool.finished()), pool.waiting()) == (1, 0)


# -- threads


def test_threads_run_as_many_bodies_at_once_as_there_are_slots_and_no_more(bench: Bench, threads: ThreadPool) -> None:
    together, peak, lock = [0], [0], threading.Lock()

    def body() -> None:
        with lock:
            together[0] += 1
            peak[0] = max(peak[0], together[0])
        time.sleep(0.03)
        with lock:
            together[0] -= 1

    threads.submit([bench.job(body) for _ in range(9)])
    done = collected(threads, 9)

    assert peak == [3]
    assert len(done) == 9
    assert (threads.waiting(), threads.running()) == (0, [])


def test_threads_start_at_once_what_comes_one_by_one(bench: Bench, threads: ThreadPool) -> None:
    meet = threading.Barrier(3)

    for _ in range(3):
        threads.submit([bench.job(lambda: meet.wait(5) and None)])

    assert [type(done.outcome) for done in collected(threads, 3)] == [Succeeded] * 3


def test_threads_give_back_what_has_not_started_in_order(bench: Bench, threads: ThreadPool) -> None:
    gate, ran = threading.Event(), []
    later = [bench.job(lambda: ran.append(1)) for _ in range(4)]
    threads.submit([*(bench.job(lambda: gate.wait(5)) for _ in range(3))])
    wait_until(lambda: len(threads.running()) == 3)
    threads.submit(later)

    assert threads.waiting() == 4
    assert threads.take_back() == later
    assert threads.take_back() == []
    gate.set()
    collected(threads, 3)
    time.sleep(0.02)

    assert ran == []


def test_a_thread_outlives_whatever_its_bodies_raise(bench: Bench, threads: ThreadPool) -> None:
    def raising(error: BaseException) -> Callable[[], None]:
        def body() -> None:
            raise error

        return body

    errors = [SystemExit(1), KeyError("k"), GeneratorExit(), KeyboardInterrupt(), MemoryError(), RecursionError()]
    threads.submit([bench.job(raising(error)) for error in errors])
    assert [type(done.outcome) for done in collected(threads, len(errors))] == [Failed] * len(errors)

    meet = threading.Barrier(3)
    threads.submit([bench.job(lambda: meet.wait(5) and None) for _ in range(3)])

    assert len(collected(threads, 3)) == 3


@pytest.mark.parametrize("name", ["task_prerun", "task_success", "task_postrun"])
@pytest.mark.parametrize("pool_of", [SoloPool, lambda executor: ThreadPool(executor, 1, lambda: None)])
def test_a_receiver_that_calls_exit_costs_neither_the_task_nor_the_slot(bench: Bench, name: str, pool_of: Any) -> None:
    def leaves(**_: Any) -> None:
        raise SystemExit(3)

    pool, signal = pool_of(bench.executor), getattr(signals, name)
    signal.connect(leaves)
    try:
        pool.submit([bench.job(lambda: None) for _ in range(2)])
        wait_until(lambda: (pool.run(1.0), pool.waiting() == 0)[1])
        done = collected(pool, 2)
    finally:
        signal.disconnect(leaves)
        pool.stop()

    assert [type(one.outcome) for one in done] == [Succeeded] * 2


@pytest.mark.parametrize("pool_of", [SoloPool, lambda executor: ThreadPool(executor, 1, lambda: None)])
def test_what_is_raised_outside_of_a_body_is_its_task_s_failure(bench: Bench, pool_of: Any) -> None:
    def leaves(**_: Any) -> None:
        raise KeyboardInterrupt

    pool = pool_of(bench.executor)
    signals.task_prerun.connect(leaves)
    try:
        pool.submit([bench.job(lambda: None) for _ in range(2)])
        wait_until(lambda: (pool.run(1.0), pool.waiting() == 0)[1])
        done = collected(pool, 2)
    finally:
        signals.task_prerun.disconnect(leaves)
        pool.stop()

    assert [type(one.outcome) for one in done] == [Failed] * 2


def test_threads_say_when_something_is_done(bench: Bench) -> None:
    woken = threading.Event()
    pool = ThreadPool(bench.executor, 1, woken.set)

    pool.submit([bench.job(lambda: None)])

    assert woken.wait(5)
    assert len(pool.finished()) == 1
    pool.stop()


def test_threads_end_once_they_are_idle(bench: Bench) -> None:
    before = set(threading.enumerate())
    pool = ThreadPool(bench.executor, 4, lambda: None)
    gate = threading.Event()
    pool.submit([bench.job(lambda: gate.wait(5))])
    wait_until(pool.running)

    pool.stop()
    wait_until(lambda: len(set(threading.enumerate()) - before) == 1)
    gate.set()
    wait_until(lambda: set(threading.enumerate()) <= before)

    assert len(pool.finished()) == 1
