"""Where bodies run: in the main thread (solo), or in threads. A pool takes jobs, runs them, and hands back what was done."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from celeriac.exceptions import NotSupported
from celeriac.worker.executor import Done, Executor, Job

NEVER = float("inf")


class Running(NamedTuple):
    """A body that runs now. started: monotonic seconds. pid: of the process it runs in."""

    job: Job
    started: float
    pid: int


class Pool(Protocol):
    """What the loop needs of a pool. Called under the settler's lock or from the loop; `running`, `unstarted` and `waiting` from any thread."""

    name: str
    slots: int
    #: Slots whose body does not come back: threads that cannot be ended.
    lost: int
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

    def running(self) -> list[Running]:
        """Each body that runs now."""

    def fileno(self) -> int | None:
        """What turns readable when `finished()` may have something; None: the pool calls `wake` instead."""

    def tend(self, now: float) -> float:
        """Enforce time limits and replace what is dead. now: monotonic seconds; returns when to be called again (NEVER: no need)."""

    def resize(self, slots: int) -> None:
        """Run so many bodies at once from now on; what runs is not cut off. Raises NotSupported."""

    def terminate(self, task_id: str, signum: int) -> bool:
        """End the body that runs under this id, and no other, by this signal; whether there was one. Raises NotSupported."""

    def pids(self) -> list[int]:
        """Processes in which bodies run."""

    def halt(self) -> None:
        """Cut off what runs, where that can be done: `running` then tells what was. For a shutdown whose time is over."""

    def stop(self) -> None:
        """End the threads or processes once they are idle; what runs is not waited for."""


class SoloPool:
    """One body at a time, in the caller's thread."""

    name = "solo"
    slots = 1
    lost = 0
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

    def running(self) -> list[Running]:
        current = self._current
        return [Running(*current, os.getpid())] if current is not None else []

    def fileno(self) -> int | None:
        return None

    def tend(self, now: float) -> float:
        return NEVER

    def resize(self, slots: int) -> None:
        raise NotSupported("the solo pool runs one body at a time; use threads, prefork or asyncio for more")

    def terminate(self, task_id: str, signum: int) -> bool:
        raise NotSupported("the solo pool cannot end a body; only prefork can")

    def pids(self) -> list[int]:
        return [os.getpid()]

    def halt(self) -> None:
        """Nothing that can be cut off."""

    def stop(self) -> None:
        """No threads of its own."""


class ThreadPool:
    """`slots` threads that run bodies; `wake` is called when one is done."""

    name = "threads"
    lost = 0
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

    def running(self) -> list[Running]:
        pid = os.getpid()
        return [Running(*run, pid) for run in self._running.copy().values()]

    def fileno(self) -> int | None:
        return None

    def tend(self, now: float) -> float:
        return NEVER

    def resize(self, slots: int) -> None:
        raise NotSupported("the threads pool cannot change its size yet")

    def terminate(self, task_id: str, signum: int) -> bool:
        raise NotSupported("the threads pool cannot end a body; only prefork can")

    def pids(self) -> list[int]:
        return [os.getpid()]

    def halt(self) -> None:
        """Threads cannot be cut off."""

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
