"""The asyncio pool: coroutines, hundreds at once on one loop in a thread of its own; plain functions in threads beside it."""

import asyncio
import itertools
import logging
import os
import threading
import time
import traceback as tracebacks
from collections.abc import Callable
from functools import partial

from celeriac.exceptions import NotSupported
from celeriac.policy.timelimit import UNLIMITED
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.interrupt import Run
from celeriac.worker.pool import NEVER, InProcessPool, Running, ThreadPool

log = logging.getLogger(__name__)

#: Threads for tasks whose bodies are plain functions: they would hold up every coroutine.
MOST_THREADS = 64
#: What still runs when the pool is stopped has so long to be cancelled.
LEAVE_S = 1.0


class AsyncioPool(InProcessPool):
    """`slots` coroutines at once; `wake` is called when one is done. A body that does not await holds up all others."""

    name = "asyncio"
    in_caller = False

    def __init__(self, executor: Executor, slots: int, wake: Callable[[], None]) -> None:
        super().__init__(executor)
        self._wake = wake
        self.size = slots
        self._plain = ThreadPool(executor, min(slots, MOST_THREADS), wake)
        self._numbers = itertools.count()
        self._running: dict[int, tuple[Job, Run]] = {}
        self._lost: set[int] = set()
        self._tasks: set[asyncio.Task[Done]] = set()
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="celeriac-asyncio", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        return len(self._lost) + self._plain.lost

    @property
    def slots(self) -> int:
        return max(0, self.size - self.lost)

    def slotless_s(self, now: float) -> float:
        return 0.0 if self.slots else NEVER

    def submit(self, jobs: list[Job]) -> None:
        plain = [job for job in jobs if not job.task._is_async]
        if plain:
            self._plain.submit(plain)
        if len(plain) < len(jobs):
            coroutines = [job for job in jobs if job.task._is_async]
            self._limited.expect(coroutines)
            self._jobs.extend(coroutines)
            self._loop.call_soon_threadsafe(self._fill)

    def run(self, for_s: float) -> None:
        """The loop and the threads do."""

    # -- in the loop's thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._stopped:
            try:
                self._loop.run_forever()
            except BaseException:  # exit() in something that a body has started: the others run on
                log.exception("the loop of the asyncio pool was left; it goes on")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=LEAVE_S))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _fill(self) -> None:
        while len(self._running) < self.size and not self._stopped:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            number, run = next(self._numbers), Run(time.monotonic())
            self._running[number] = (job, run)
            if job.limits is not UNLIMITED:
                self._limited.begin(number, job, run)
                self._wake()  # the worker's loop may sleep longer than the limit
            task = self._loop.create_task(self._executor.execute_async(job, run))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, number, job, run))

    def _ended(self, number: int, job: Job, run: Run, task: "asyncio.Task[Done]") -> None:
        self._tasks.discard(task)
        if self._stopped:
            return
        try:
            done = task.result()
        except BaseException as error:  # noqa: BLE001 - somebody cancelled it outside of its body
            done = self._executor.failed(
                job, error, tracebacks.format_exc(), run.started_at, time.monotonic() - run.started
            )
        if job.limits is UNLIMITED or self._limited.end(number, run):
            del self._running[number]
            self._done.append(done)
        else:
            self._lost.discard(number)
        self._wake()
        self._fill()

    # -- from elsewhere

    def finished(self) -> list[Done]:
        return super().finished() + self._plain.finished()

    def take_back(self) -> list[Job]:
        return super().take_back() + self._plain.take_back()

    def waiting(self) -> int:
        return super().waiting() + self._plain.waiting()

    def unstarted(self) -> list[Job]:
        return super().unstarted() + self._plain.unstarted()

    def running(self) -> list[Running]:
        pid = os.getpid()
        return [Running(job, run.started, pid) for job, run in self._running.copy().values()] + self._plain.running()

    def tend(self, now: float) -> float:
        return min(super().tend(now), self._plain.tend(now))

    def _lose(self, slot: int, done: Done) -> None:
        del self._running[slot]
        self._lost.add(slot)
        self._done.append(done)

    def resize(self, slots: int) -> None:
        self.size = slots
        self._plain.resize(min(slots, MOST_THREADS))
        self._loop.call_soon_threadsafe(self._fill)

    def terminate(self, task_id: str, signum: int) -> bool:
        """Cancel the coroutine that runs under this id: whether there was one. It is no kill: a body may go on all the same."""
        for job, run in self._running.copy().values():
            if job.delivery.headers.get("id") == task_id:
                run.terminated = signum
                run.interrupt(asyncio.CancelledError)
                return True
        if any(running.job.delivery.headers.get("id") == task_id for running in self._plain.running()):
            raise NotSupported(
                "the asyncio pool cancels coroutines; a plain function runs in a thread, which only prefork could kill"
            )
        return False

    def halt(self) -> None:
        """The process ends now: nothing is cancelled that might run on for a moment and be run again elsewhere."""

    def stop(self) -> None:
        self._plain.stop()
        if not self._stopped:
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
