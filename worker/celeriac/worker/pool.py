"""Where bodies run: in the main thread (solo), or in threads. A pool takes jobs, runs them, and hands back what was done."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from celeriac.worker.executor import Done, Executor, Job


class Pool(Protocol):
    """What the loop needs of a pool."""

    name: str
    slots: int
    #: Whether bodies run in the thread that calls run().
    in_caller: bool

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs to be run, in order."""

    def run(self, for_s: float) -> None:
        """Run queued bodies in this thread for about so long; pools with threads of their own do nothing."""

    def finished(self) -> list[Done]:
        """What was done since the last call."""

    def take_back(self) -> list[Job]:
        """Jobs that have not started, in order; they will not run."""

    def waiting(self) -> int:
        """Jobs that have not started."""

    def unstarted(self) -> list[Job]:
        """The jobs that have not started."""

    def running(self) -> list[tuple[Job, float]]:
        """(job, monotonic start) of each body that runs now."""

    def stop(self) -> None:
        """End the threads once they are idle; what runs is not waited for."""


class SoloPool:
    """One body at a time, in the caller's thread."""

    name = "solo"
    slots = 1
    in_caller = True

    def __init__(self, executor: Executor) -> None:
        self._execute = executor.execute
        self._jobs: deque[Job] = deque()
        self._done: deque[Done] = deque()
        self._current: tuple[Job, float] | None = None

    def submit(self, jobs: list[Job]) -> None:
        self._jobs.extend(jobs)

    def run(self, for_s: float) -> None:
        jobs, done, execute, monotonic = self._jobs, self._done, self._execute, time.monotonic
        now = monotonic()
        until = now + for_s
        while now < until:
            try:
                job = jobs.popleft()  # another thread may take jobs back at any time
            except IndexError:
                break
            self._current = (job, now)
            done.append(execute(job))
            now = monotonic()
        self._current = None

    def finished(self) -> list[Done]:
        done = self._done
        return [done.popleft() for _ in range(len(done))]

    def take_back(self) -> list[Job]:
        return _emptied(self._jobs)

    def waiting(self) -> int:
        return len(self._jobs)

    def unstarted(self) -> list[Job]:
        return list(self._jobs.copy())

    def running(self) -> list[tuple[Job, float]]:
        current = self._current
        return [current] if current is not None else []

    def stop(self) -> None:
        """No threads of its own."""


class ThreadPool:
    """`slots` threads that run bodies; `wake` is called when one is done."""

    name = "threads"
    in_caller = False

    def __init__(self, executor: Executor, slots: int, wake: Callable[[], None]) -> None:
        self.slots = slots
        self._execute = executor.execute
        self._wake = wake
        self._jobs: deque[Job] = deque()
        self._done: deque[Done] = deque()
        self._running: dict[int, tuple[Job, float]] = {}
        self._ready = threading.Semaphore(0)
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"celeriac-task-{slot}", daemon=True)
            for slot in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: list[Job]) -> None:
        self._jobs.extend(jobs)
        if jobs:
            self._ready.release(min(len(jobs), self.slots))

    def run(self, for_s: float) -> None:
        """The threads do."""

    def _work(self, slot: int) -> None:
        jobs, running = self._jobs, self._running
        while True:
            self._ready.acquire()
            if self._stopped:
                return
            while True:
                try:
                    job = jobs.popleft()
                except IndexError:
                    break
                running[slot] = (job, time.monotonic())
                done = self._execute(job)
                del running[slot]
                self._done.append(done)
                self._wake()

    def finished(self) -> list[Done]:
        done = self._done
        return [done.popleft() for _ in range(len(done))]

    def take_back(self) -> list[Job]:
        return _emptied(self._jobs)

    def waiting(self) -> int:
        return len(self._jobs)

    def unstarted(self) -> list[Job]:
        return list(self._jobs.copy())

    def running(self) -> list[tuple[Job, float]]:
        return list(self._running.copy().values())

    def stop(self) -> None:
        self._stopped = True
        self._ready.release(self.slots)


def _emptied(jobs: deque[Job]) -> list[Job]:
    taken = []
    while True:
        try:
            taken.append(jobs.popleft())
        except IndexError:
            return taken
