"""Time limits of bodies that share their worker's process: told at the soft limit, settled at the hard one, whether or not they come back."""

import logging
import math
import threading
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType

from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celeriac.policy.timelimit import HARD, SOFT, UNLIMITED, next_step
from celeriac.worker.executor import Done, Executor, Job, body_frames
from celeriac.worker.interrupt import CutOff, Run

log = logging.getLogger(__name__)

#: A body that still runs so long after its hard limit is raised in once more, and its slot is said to be lost.
PATIENCE_S = 1.0


class Limited:
    """The limited bodies of one pool, by slot. One lock decides between a body's end and its hard limit.

    look_at   monotonic seconds when `enforce` has something to do again.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._runs: dict[int, tuple[Job, Run]] = {}
        self._lock = threading.Lock()
        self.look_at = math.inf

    def expect(self, jobs: Iterable[Job]) -> None:
        """Take the limits of jobs into account that may start from now on."""
        for job in jobs:
            if job.limits is not UNLIMITED:
                with self._lock:
                    self.look_at = min(
                        self.look_at, time.monotonic() + next_step(job.limits, ran_s=0.0, told=False).wait_s
                    )

    def begin(self, slot: int, job: Job, run: Run) -> None:
        """A body starts."""
        with self._lock:
            self._runs[slot] = (job, run)

    def end(self, slot: int, run: Run) -> bool:
        """A body has ended; whether its outcome counts. If not, its job was settled at its hard limit, and the slot was lost until now."""
        with self._lock:
            job, _ = self._runs.pop(slot)
        if run.settled:
            late_s = time.monotonic() - run.started - (job.limits.hard or 0.0)
            if late_s > PATIENCE_S:
                log.warning(
                    "%s[%s] came back %.1f s after its hard limit: its slot is free again",
                    job.task.name, job.delivery.headers.get("id"), late_s,
                )  # fmt: skip
        return not run.settled

    def enforce(self, now: float, waiting: deque[Job], lose: Callable[[int, Done], None]) -> None:
        """Do what is due. waiting: jobs that may start until the next look. lose: called with each slot that has reached its hard limit."""
        due: list[tuple[Run, type[BaseException]]] = []
        with self._lock:
            look_at = math.inf
            for job in waiting.copy():
                if job.limits is not UNLIMITED:
                    look_at = min(look_at, now + next_step(job.limits, ran_s=0.0, told=False).wait_s)
            for slot, (job, run) in self._runs.items():
                if run.settled:
                    look_at = min(look_at, self._insist(job, run, now))
                    continue
                step = next_step(job.limits, ran_s=now - run.started, told=run.told)
                look_at = min(look_at, now + step.wait_s)
                if step.do == SOFT:
                    run.told = True
                    due.append((run, SoftTimeLimitExceeded))
                    log.warning(
                        "%s[%s] has run for its soft limit of %g s", job.task.name, job.delivery.headers.get("id"), job.limits.soft
                    )  # fmt: skip
                elif step.do == HARD:
                    run.settled = True
                    look_at = min(look_at, now + PATIENCE_S)
                    lose(slot, self._over(job, run, now))
                    due.append((run, CutOff))
            self.look_at = look_at
        for run, kind in due:
            run.interrupt(kind)

    def _over(self, job: Job, run: Run, now: float) -> Done:
        error = TimeLimitExceeded(job.limits.hard)
        where = "".join(
            tracebacks.StackSummary.extract(
                (frame, frame.f_lineno) for frame in body_frames(_outermost_first(run))
            ).format()
        )
        text = (
            f"Where the body was at its hard limit (most recent call last):\n{where}{type(error).__name__}: {error}\n"
        )
        done = self._executor.failed(job, error, text, run.started_at, now - run.started)
        return done._replace(untold=run.may_tell())

    def _insist(self, job: Job, run: Run, now: float) -> float:
        """When to look again at a body that was settled and has not come back."""
        again_at = run.started + (job.limits.hard or 0.0) + PATIENCE_S
        if run.given_up or now < again_at:
            return math.inf if run.given_up else again_at
        run.given_up = True
        log.error(
            "%s[%s] still runs %.1f s after its hard limit: its slot is lost until it ends (only the prefork pool can kill)",
            job.task.name, job.delivery.headers.get("id"), now - run.started - (job.limits.hard or 0.0),
        )  # fmt: skip
        run.insist()
        return math.inf


def _outermost_first(run: Run) -> list[FrameType]:
    frames = []
    frame = run.frame()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1] + run.coroutine_frames()
