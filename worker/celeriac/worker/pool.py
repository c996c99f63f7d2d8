"""Where bodies run: in the main thread (solo), or in threads. A pool takes jobs, runs them, and hands back what was done."""

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from celeriac.exceptions import NotSupported
from celeriac.policy.timelimit import UNLIMITED
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.interrupt import INTERRUPT, Run
from celeriac.worker.limited import Limited

NEVER = float("inf")


class Running(NamedTuple):
    """A body that runs now. started: monotonic seconds. pid: of the process it runs in."""

    job: Job
    started: float
    pid: int


class Pool(Protocol):
    """What the loop needs of a pool. Called under the settler's lock or from the loop; `running`, `unstarted` and `waiting` from any thread."""

    name: str
    #: Whether bodies run in the thread that calls run().
    in_caller: bool

    @property
    def size(self) -> int:
        """Bodies that are to run at once, as `resize` was told."""

    @property
    def slots(self) -> int:
        """Bodies that can run at once: `size` without those slots that are lost, and without child processes that are not ready."""

    @property
    def lost(self) -> int:
        """Slots whose body has not come back after its hard time limit; `slots` does not count them."""

    def slotless_s(self, now: float) -> float:
        """Seconds for which no body could have started, 0.0 while one can; NEVER when none will until a body comes back. now: monotonic seconds."""

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


class InProcessPool(ABC):
    """What pools have in common whose bodies run in the worker's own process: see Pool."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._jobs: deque[Job] = deque()
        self._done: deque[Done] = deque()
        self._limited = Limited(executor)

    def finished(self) -> list[Done]:
        done = self._done
        return [done.popleft() for _ in range(len(done))]

    def take_back(self) -> list[Job]:
        return emptied(self._jobs)

    def waiting(self) -> int:
        return len(self._jobs)

    def unstarted(self) -> list[Job]:
        return list(self._jobs.copy())

    def fileno(self) -> int | None:
        return None

    def tend(self, now: float) -> float:
        if now >= self._limited.look_at:
            self._limited.enforce(now, self._jobs, self._lose)
        return self._limited.look_at

    def pids(self) -> list[int]:
        return [os.getpid()]

    @abstractmethod
    def _lose(self, slot: int, done: Done) -> None:
        """A body has not come back after its hard limit: it is settled as this, and its slot is lost until it does."""


class SoloPool(InProcessPool):
    """One body at a time, in the caller's thread. Another thread tends it."""

    name = "solo"
    in_caller = True

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self.size = self.slots = 1
        self.lost = 0
        self._execute = executor.execute
        self._current: tuple[Job, float] | None = None

    def submit(self, jobs: list[Job]) -> None:
        self._jobs.extend(jobs)
        for job in jobs:
            if job.limits is not UNLIMITED:
                self._limited.expect(jobs)
                break

    def slotless_s(self, now: float) -> float:
        return 0.0 if self.slots else NEVER

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
            if job.limits is UNLIMITED:
                done.append(execute(job))
            else:
                self._run_limited(job, now)
            now = monotonic()
        self._current = None

    def _run_limited(self, job: Job, now: float) -> None:
        run = Run(now)
        if threading.current_thread() is threading.main_thread():
            signal.signal(INTERRUPT, run.on_signal)
        self._limited.begin(0, job, run)
        done = self._execute(job, run)
        if self._limited.end(0, run):
            self._done.append(done)
        else:
            self.slots, self.lost = 1, 0

    def running(self) -> list[Running]:
        current = self._current
        return [Running(*current, os.getpid())] if current is not None and not self.lost else []

    def _lose(self, slot: int, done: Done) -> None:
        self.slots, self.lost = 0, 1
        self._done.append(done)

    def resize(self, slots: int) -> None:
        raise NotSupported("the solo pool runs one body at a time; use threads, prefork or asyncio for more")

    def terminate(self, task_id: str, signum: int) -> bool:
        raise NotSupported("the solo pool cannot end a body; only prefork can, and asyncio cancels coroutines")

    def halt(self) -> None:
        """Nothing that can be cut off."""

    def stop(self) -> None:
        self._executor.leave_thread()


class ThreadPool(InProcessPool):
    """Up to `slots` threads that run bodies, started when they are needed; `wake` is called when one is done."""

    name = "threads"
    in_caller = False

    def __init__(self, executor: Executor, slots: int, wake: Callable[[], None]) -> None:
        super().__init__(executor)
        self.size = self.slots = slots
        self.lost = 0
        self._execute = executor.execute
        self._wake = wake
        self._running: dict[int, tuple[Job, float]] = {}
        self._ready = threading.Semaphore(0)
        self._stopped = False
        #: By slot; beyond `size` those that end when their body does. The lock holds it, `slots` and `lost`.
        self._threads: dict[int, threading.Thread] = {}
        self._lost: set[int] = set()
        self._counting = threading.Lock()

    def submit(self, jobs: list[Job]) -> None:
        self._jobs.extend(jobs)
        for job in jobs:
            if job.limits is not UNLIMITED:
                self._limited.expect(jobs)
                break
        if len(self._threads) < self.size:
            self._start_threads(len(self._running) + len(self._jobs) + self.lost)
        if jobs:
            self._ready.release(min(len(jobs), self.size))

    def _start_threads(self, needed: int) -> None:
        with self._counting:
            for slot in range(min(self.size, needed)):
                if slot not in self._threads:
                    thread = threading.Thread(
                        target=self._work, args=(slot,), name=f"celeriac-task-{slot}", daemon=True
                    )
                    self._threads[slot] = thread
                    thread.start()

    def slotless_s(self, now: float) -> float:
        return 0.0 if self.slots else NEVER

    def run(self, for_s: float) -> None:
        """The threads do."""

    def _work(self, slot: int) -> None:
        jobs, running = self._jobs, self._running
        while True:
            self._ready.acquire()
            while (slot < self.size and not self._stopped) or not self._leaves(slot):
                try:
                    job = jobs.popleft()
                except IndexError:
                    break
                now = time.monotonic()
                running[slot] = (job, now)
                if job.limits is UNLIMITED:
                    done = self._execute(job)
                    del running[slot]
                    self._done.append(done)
                else:
                    self._run_limited(slot, job, now)
                self._wake()
            else:
                self._ready.release()  # it was meant for a thread that stays
                self._executor.leave_thread()
                return

    def _leaves(self, slot: int) -> bool:
        if slot < self.size and not self._stopped:
            return False
        with self._counting:
            if slot < self.size and not self._stopped:
                return False
            del self._threads[slot]
        return True

    def _run_limited(self, slot: int, job: Job, now: float) -> None:
        self._wake()  # the loop may sleep longer than the limit
        run = Run(now)
        self._limited.begin(slot, job, run)
        done = self._execute(job, run)
        if self._limited.end(slot, run):
            del self._running[slot]
            self._done.append(done)
        else:
            with self._counting:
                self._lost.discard(slot)
                self._count()

    def running(self) -> list[Running]:
        pid = os.getpid()
        return [Running(*run, pid) for run in self._running.copy().values()]

    def _lose(self, slot: int, done: Done) -> None:
        self._running.pop(slot)
        with self._counting:
            self._lost.add(slot)
            self._count()
        self._done.append(done)

    def _count(self) -> None:
        self.lost = len(self._lost)
        self.slots = self.size - sum(slot < self.size for slot in self._lost)

    def resize(self, slots: int) -> None:
        with self._counting:
            fewer = self.size - slots
            self.size = slots
            self._count()
        if fewer > 0:
            self._ready.release(fewer)  # so that idle ones see it
        else:
            self._start_threads(len(self._running) + len(self._jobs) + self.lost)

    def terminate(self, task_id: str, signum: int) -> bool:
        raise NotSupported("the threads pool cannot end a body; only prefork can, and asyncio cancels coroutines")

    def halt(self) -> None:
        """Threads cannot be cut off."""

    def stop(self) -> None:
        self._stopped = True
        self._ready.release(len(self._threads) + 1)


def emptied(jobs: deque[Job]) -> list[Job]:
    """All of them, in order; another thread may take some at the same time."""
    taken = []
    while True:
        try:
            taken.append(jobs.popleft())
        except IndexError:
            return taken
