"""One child of the prefork pool, as the worker sees it: the jobs it has and has not read, its time limits, and how it is ended.

A job goes out as one datagram and comes back as one; the worker keeps a copy of the child's own end, so that it can take back, atomically,
what the child has not read. So of a child that is gone it is known exactly what it ran: the one job that it had read and not answered.
"""

import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from celeriac.exceptions import TimeLimitExceeded
from celeriac.policy import dispatch
from celeriac.policy.outcome import Failed, Lost, Outcome
from celeriac.policy.timelimit import HARD, SOFT, UNLIMITED, next_step
from celeriac.worker.board import Place
from celeriac.worker.executor import Job
from celeriac.worker.parcel import pack_job, send, taken_back
from celeriac.worker.pool import NEVER

#: Between two looks at children that have jobs behind the one they run, or one that may reach its limit.
LOOK_S = 0.02
#: A child that a signal has stopped for so long is replaced.
STOPPED_S = 30.0
#: A child that does not listen after so long is replaced: a receiver of worker_process_init hangs.
READY_S = 60.0
#: Room in a socket, where the system grants it.
_BUFFER_BYTES = 1_048_576


class Ending(NamedTuple):
    """Why we have ended a child ourselves, by which signal, and its job then."""

    number: int
    outcome: Outcome
    signum: int


class Process:
    """One child, from the request to fork it until it is gone.

    at     its place on the board. kill: sends a signal to a child (pid, number). failures: how many before it in a row never listened.
    jobs   sent to it and not answered, by number, in order.
    """

    __slots__ = (
        "_kill", "_told", "at", "ending", "failures", "forked_at", "full", "jobs", "late_s", "leaving", "load_s", "long", "open", "pid",
        "place", "ready", "road", "stopped_at", "twin",
    )  # fmt: skip

    def __init__(self, at: int, place: Place, failures: int, kill: Callable[[int, int], None]) -> None:
        self.at = at
        self.place = place
        self.road, self.twin = _road()
        self.pid: int | None = None
        self.jobs: dict[int, Job] = {}
        #: Seconds of work that it has, by what is known of its jobs' types.
        self.load_s = 0.0
        #: It takes no further job: full until it answers; long while its body is; leaving when it was told to end, or said so.
        self.full = self.long = self.leaving = False
        #: Whether it has begun to listen: receivers of worker_process_init may take their time.
        self.ready = False
        self.forked_at = time.monotonic()
        #: Killed because it did not, after so long.
        self.late_s: float | None = None
        self.open = True
        self.ending: Ending | None = None
        self.stopped_at: float | None = None
        self.failures = failures
        self._kill = kill
        #: The job whose soft limit it was told of.
        self._told = 0

    # -- jobs

    def takes(self) -> bool:
        """Whether it may be sent one more."""
        if self.full or self.long or self.leaving or not self.ready or self.stopped_at is not None:
            return False
        return dispatch.may_follow(self.load_s, len(self.jobs))

    def send(self, number: int, job: Job, known_s: Mapping[str, float]) -> bool:
        """Send a job; False when its socket is full. known_s: what a type's next run will take."""
        name = job.delivery.headers["task"]
        try:
            send(self.road, pack_job(number, name, job.delivery, job.rules, job.limits))
        except BlockingIOError:
            return False
        self.jobs[number] = job
        self.load_s += known_s.get(name, dispatch.UNKNOWN) + dispatch.OVERHEAD_S
        return True

    def answered(self, number: int, known_s: Mapping[str, float], was_s: float) -> None:
        """It has answered a job. was_s: what was known of its type when it was sent."""
        del self.jobs[number]
        self.load_s = self.load_s - was_s - dispatch.OVERHEAD_S if self.jobs else 0.0
        if not self.load_s >= 0.0:  # inf - inf, or what was learned meanwhile
            self._weigh(known_s)
        self.full = self.long = False

    def take_back(self, known_s: Mapping[str, float]) -> list[Job]:
        """What it has not read, in order; it never will."""
        if not self.open:
            return []
        numbers = taken_back(self.twin)
        jobs = [self.jobs.pop(number) for number in numbers if number in self.jobs]
        self._weigh(known_s)
        return jobs

    def _weigh(self, known_s: Mapping[str, float]) -> None:
        self.load_s = sum(
            known_s.get(job.delivery.headers["task"], dispatch.UNKNOWN) + dispatch.OVERHEAD_S
            for job in self.jobs.values()
        )

    # -- time

    def due(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self.jobs) or self.stopped_at is not None or not self.ready

    def look_after(self, now: float) -> float:
        """See to limits, long bodies, and what was stopped or never listened; when to look again, by the monotonic clock.

        A body that has become long: `long` says so, and what waits behind it should be taken back.
        """
        if self.stopped_at is not None and now - self.stopped_at >= STOPPED_S:
            reason = (
                f"the process that ran it (pid {self.pid}) was stopped by a signal for {STOPPED_S:.0f} s and was killed"
            )
            self.end(self.place.begun, Lost(reason), signal.SIGKILL)
            self.stopped_at = None
            return NEVER
        look_at = NEVER if self.stopped_at is None else self.stopped_at + STOPPED_S
        if not self.ready:
            return min(look_at, self._await_ready(now))
        number, jobs = self.place.begun, self.jobs
        job = jobs.get(number)
        if job is None:  # between two
            limited = any(job.limits is not UNLIMITED for job in jobs.values())
            return min(look_at, now + LOOK_S) if len(jobs) > 1 or limited else look_at
        ran_s = now - self.place.started
        if len(jobs) > 1:
            if ran_s >= dispatch.LONG_S:
                self.long = True
            else:
                look_at = min(look_at, now + LOOK_S)
        if job.limits is not UNLIMITED:
            look_at = min(look_at, self._limit(number, job, ran_s, now))
        return look_at

    def ready_by(self) -> float:
        """When it must listen, by the monotonic clock."""
        return self.forked_at + READY_S

    def _await_ready(self, now: float) -> float:
        if now < self.ready_by():
            return self.ready_by()
        if self.pid is not None and self.late_s is None:
            self.late_s = READY_S
            self._kill(self.pid, signal.SIGKILL)
        return now + READY_S

    def _limit(self, number: int, job: Job, ran_s: float, now: float) -> float:
        ending = self.ending
        if ending is not None and ending.signum == signal.SIGKILL:
            return NEVER
        step = next_step(job.limits, ran_s=ran_s, told=self._told == number)
        if step.do == HARD and ending is not None and self.pid is not None:  # it did not heed the other signal
            self.ending = ending._replace(signum=signal.SIGKILL)
            self._kill(self.pid, signal.SIGKILL)
        elif step.do == HARD:
            hard = job.limits.hard or ran_s
            self.end(number, Failed(TimeLimitExceeded(hard), _too_long(job, hard)), signal.SIGKILL)
        elif step.do == SOFT and self.pid is not None:
            self._told = number
            self._tell_soft(number, self.pid)
        return now + step.wait_s

    # -- its end

    def terminate(self, number: int, outcome: Outcome, signum: int) -> bool:
        """End the body of this job from outside, as `end` does. SIGUSR1: its soft time limit is over."""
        if (
            signum == signal.SIGUSR1 and self.pid is not None
        ):  # Celery's way to raise SoftTimeLimitExceeded from outside
            self._tell_soft(number, self.pid)
            return True
        return self.end(number, outcome, signum)

    def end(self, number: int, outcome: Outcome, signum: int) -> bool:
        """End it by a signal while it runs this job, which then gets this outcome; False when it has ended that one meanwhile."""
        # From here on the child begins no other job: the signal cannot hit another body.
        if self.pid is None or not self.place.finish_after(number):
            return False
        self.ending = Ending(number, outcome, signum)
        self._kill(self.pid, signum)
        return True

    def leave(self) -> None:
        """Tell it to end after its body: nothing more will come."""
        self.leaving = True
        self.road.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends, when it is gone."""
        self.open = False
        self.road.close()
        self.twin.close()

    def _tell_soft(self, number: int, pid: int) -> None:
        self.place.soft = number
        self._kill(pid, signal.SIGUSR1)


def _road() -> tuple[socket.socket, socket.socket]:
    """Our end, and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    ours.setblocking(False)
    theirs.setblocking(True)  # the flag is shared with the child
    return ours, theirs


def _too_long(job: Job, hard: float) -> str:
    return f"{job.delivery.headers.get('task')} ran for {hard:g} s, its hard time limit, and its process was killed"


__all__ = ["LOOK_S", "Ending", "Process"]
