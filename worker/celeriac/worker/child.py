"""A child process of the prefork pool: it runs one body after the other, and answers each with one datagram.

It knows no broker. What user code needs of one (delay() in a body, a state stored from it) is opened here, when it is asked for.
"""

import faulthandler
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback as tracebacks
from dataclasses import dataclass
from types import FrameType

from celeriac import signals
from celeriac.app.base import Celeriac
from celeriac.exceptions import EncodeError, NotRegistered, SoftTimeLimitExceeded
from celeriac.policy.lost import CANNOT_ANSWER
from celeriac.policy.outcome import Failed, RetryAsked, Unreadable
from celeriac.policy.settlement import next_run
from celeriac.worker.board import Board, Place
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.interrupt import Run
from celeriac.worker.parcel import READY, Sent, number_of, pack_done, receive, send, unpack_job
from celeriac.worker.settling import UNKNOWN

log = logging.getLogger(__name__)

#: Our socket moves up here: a body that closes what it believes to be its own starts from below, and new files take the lowest free number.
_OUT_OF_THE_WAY = 480


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What every child of a worker is. max_tasks: it ends after so many; max_memory_kib: after the job at which it had more."""

    app: Celeriac
    hostname: str
    accept: frozenset[str]
    board: Board
    max_tasks: int | None = None
    max_memory_kib: int | None = None

    def serve(self, number: int, road: socket.socket) -> None:
        """Run what comes along the road until it ends, or this child has done enough. number: its place on the board."""
        place = self.board.place(number)
        self.app.forked()
        self.app.begin_process()
        backend = self.app.backend
        executor = Executor(
            self.app,
            hostname=self.hostname,
            accept=self.accept,
            encode=backend.encode if backend.keeps_results else None,
            store=backend.store if backend.keeps_results else None,
        )
        soft = _SoftLimit(place, executor)
        signal.signal(signal.SIGUSR1, soft.heard)
        try:
            faulthandler.enable()  # a crash in native code shows where
        except (RuntimeError, ValueError, OSError) as error:
            log.debug("crashes of this child will not show where: %s", error)
        road = _out_of_the_way(road)
        signals.worker_process_init.send(sender=self.hostname)
        send(road, READY)
        self._run(road, place, executor, soft)
        signals.worker_process_shutdown.send(sender=self.hostname, pid=os.getpid(), exitcode=0)

    def _run(self, road: socket.socket, place: Place, executor: Executor, soft: "_SoftLimit") -> None:
        tasks, ran, leaving = self.app.tasks, 0, False
        while not leaving:
            data = receive(road)
            number = number_of(data)
            if not data or not place.take(number):
                return
            place.begin(number, time.monotonic())
            sent = unpack_job(data)
            job = Job(tasks.get(sent.task, UNKNOWN), sent.delivery, sent.rules, limits=sent.limits)
            # Only a run that may be told has to be kept apart from what follows its body.
            run = soft.run = None if sent.limits.soft is None else Run(time.monotonic())
            soft.body = number
            done = _executed(executor, job, run)
            soft.body = 0
            ran += 1
            leaving = place.is_last or self._enough(ran)
            answer = _answer(sent, done, leaving=leaving)
            try:
                send(road, answer)
            except OSError as error:
                task_id = sent.delivery.headers.get("id")
                log.error("%s[%s] has run, and its outcome cannot be told: %s", sent.task, task_id, error)
                os._exit(CANNOT_ANSWER)

    def _enough(self, ran: int) -> bool:
        if self.max_tasks is not None and ran >= self.max_tasks:
            return True
        if self.max_memory_kib is None:
            return False
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self.max_memory_kib


class _SoftLimit:
    """Raises SoftTimeLimitExceeded in the body whose limit is over, and in no other.

    body   the job that runs, 0 between two. run: of a job that has a soft limit; another one is told only when somebody asks for it.
    """

    def __init__(self, place: Place, executor: Executor) -> None:
        self._place, self._executor = place, executor
        self.body = 0
        self.run: Run | None = None

    def heard(self, signum: int, frame: FrameType | None) -> None:
        if self.body and self._place.soft == self.body:
            self._place.soft = 0
            if self._executor.tell_coroutine(SoftTimeLimitExceeded):
                return
            if self.run is None:
                raise SoftTimeLimitExceeded
            self.run.due = SoftTimeLimitExceeded
            self.run.on_signal(signum, frame)


def _executed(executor: Executor, job: Job, run: Run | None) -> Done:
    """What execute() gives; and should a signal's exception escape it between two of its steps, that is the task's failure."""
    started_at, started = time.time(), time.monotonic()
    if job.task is UNKNOWN:
        problem = NotRegistered(job.delivery.headers["task"])  # registered after the template was forked
        return Done(job, Unreadable(problem, "unknown_task"), started_at, 0.0)
    try:
        return executor.execute(job, run)
    except BaseException as error:  # noqa: BLE001 - a child that ended here would lose its task
        return Done(job, Failed(error, tracebacks.format_exc()), started_at, time.monotonic() - started)


def _answer(sent: Sent, done: Done, *, leaving: bool) -> bytes:
    """The datagram; what cannot be written as it was asked for is the task's failure."""
    outcome, delivery = done.outcome, sent.delivery
    try:
        if isinstance(outcome, RetryAsked):
            again = next_run(outcome, delivery.headers, sent.rules, delivery.queue, time.time())
            outcome = outcome._replace(again=again)
        return pack_done(sent.number, outcome, done.started_at, done.run_s, stored=done.stored, leaving=leaving)
    except (EncodeError, ValueError, TypeError, OverflowError) as error:
        failed = Failed(error, tracebacks.format_exc())
        return pack_done(sent.number, failed, done.started_at, done.run_s, stored=False, leaving=leaving)


def _out_of_the_way(road: socket.socket) -> socket.socket:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = _OUT_OF_THE_WAY if most == resource.RLIM_INFINITY or most > _OUT_OF_THE_WAY + 16 else 3
    moved = socket.socket(fileno=fcntl.fcntl(road.fileno(), fcntl.F_DUPFD_CLOEXEC, least))
    moved.setblocking(True)
    road.close()
    return moved


def leave(code: int) -> None:
    """End this process without the handlers of the one it was forked from."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed by the body, or nobody reads it any more
            continue
    os._exit(code)
