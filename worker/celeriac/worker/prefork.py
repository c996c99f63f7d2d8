"""The prefork pool: bodies run in child processes, which a time limit, a signal or a crash ends without harm to anything else.

This is the worker's side: who gets the next job, what has come back, and children that come and go. What one child has and does is in
process.py. An answer that lies in the socket counts, however its child ended.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque

from celeriac import signals
from celeriac.broker.codec import JSON
from celeriac.exceptions import NotSupported, WorkerLostError
from celeriac.policy import dispatch, lost
from celeriac.policy.outcome import Failed, Lost, Outcome, Revoked
from celeriac.policy.timelimit import UNLIMITED
from celeriac.worker import template as templates
from celeriac.worker.child import Child
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.memory import OutOfMemory, own_events
from celeriac.worker.parcel import READY, number_of, receive, unpack_done
from celeriac.worker.pool import NEVER, Running
from celeriac.worker.process import LOOK_S, Process

log = logging.getLogger(__name__)

#: How long stop() and halt() wait for children to end.
END_S = 2.0


class PreforkPool:
    """See Pool. Forks its template when it is made: make it before there are threads and connections."""

    name = "prefork"
    lost = 0
    in_caller = False

    def __init__(self, child: Child, slots: int) -> None:
        if not hasattr(os, "memfd_create") or not sys.platform.startswith("linux"):
            raise NotSupported(f"-P prefork needs Linux, this is {sys.platform}; use -P threads")
        if slots > child.board.places:
            raise NotSupported(f"-P prefork runs at most {child.board.places} children; {slots} were asked for")
        self.size = slots
        #: Children that listen, up to `size`. Without any: since when.
        self.slots = 0
        self._slotless_since: float | None = time.monotonic()
        self.max_tasks_per_child = child.max_tasks
        self._lock = threading.RLock()
        #: Runs nothing here: it reads what error callbacks a lost task's message names.
        self._executor = Executor(child.app, hostname=child.hostname, accept=child.accept, encode=None)
        self._template = templates.start(child)
        self._epoll = select.epoll()
        self._epoll.register(self._template, select.EPOLLIN)
        self._board = child.board
        self._places = list(range(child.board.places - 1, -1, -1))
        self._processes: dict[int, Process] = {}  # by the descriptor of our end
        self._by_pid: dict[int, Process] = {}
        self._backlog: deque[Job] = deque()
        self._done: list[Done] = []
        self._cut: list[Running] = []
        self._numbers = 0
        self._outstanding = 0
        self._run_s: dict[str, float] = {}
        self._look_at = self._rest_until = 0.0
        #: (when, how many failures before) of children to be forked later.
        self._later: list[tuple[float, int]] = []
        self._memory = OutOfMemory(own_events())
        self._halted = self._broken = False
        self._flushed = False
        for _ in range(slots):
            self._fork(0)

    # -- jobs

    def submit(self, jobs: list[Job]) -> None:
        with self._lock:
            self._backlog.extend(jobs)
            self._outstanding += len(jobs)
            self._dispatch(time.monotonic())

    def run(self, for_s: float) -> None:
        """The children do."""

    def finished(self) -> list[Done]:
        now = time.monotonic()
        if now < self._rest_until:
            return []
        with self._lock:
            self._collect(now)
            self._flushed = True
            done, self._done = self._done, []
            self._outstanding -= len(done)
        return done

    def take_back(self) -> list[Job]:
        with self._lock:
            for process in list(self._processes.values()):
                self._unread(process)
            jobs = list(self._backlog)
            self._backlog.clear()
            self._outstanding -= len(jobs)
        return jobs

    def waiting(self) -> int:
        with self._lock:
            return max(0, self._outstanding - len(self._done) - self._busy())

    def unstarted(self) -> list[Job]:
        with self._lock:
            running = {id(run.job) for run in self.running()}
            sent = [job for process in self._processes.values() for job in process.jobs.values()]
            return [job for job in [*sent, *self._backlog] if id(job) not in running]

    def running(self) -> list[Running]:
        with self._lock:
            found, now = list(self._cut), time.monotonic()
            for process in self._processes.values():
                jobs = process.jobs
                if jobs:
                    number = process.place.begun
                    if number in jobs:
                        found.append(Running(jobs[number], process.place.started, process.pid or 0))
                    else:  # it is about to begin, or its answer is on the way
                        found.append(Running(next(iter(jobs.values())), now, process.pid or 0))
            return found

    def fileno(self) -> int | None:
        return self._template.fileno() if self._rest_until > time.monotonic() else self._epoll.fileno()

    def pids(self) -> list[int]:
        with self._lock:
            return list(self._by_pid)

    def _busy(self) -> int:
        return sum(1 for process in self._processes.values() if process.jobs)

    # -- out

    def _dispatch(self, now: float) -> None:
        backlog, behind = self._backlog, False
        while backlog:
            process = self._next_process()
            if process is None:
                break
            job = backlog[0]
            self._numbers += 1
            if not process.send(self._numbers, job, self._run_s):
                process.full = True
                continue
            backlog.popleft()
            if job.limits is not UNLIMITED or len(process.jobs) > 1:
                behind = True
        if behind and self._look_at > now + LOOK_S:
            self._look_at = now + LOOK_S
        self._rest(now)

    def _next_process(self) -> Process | None:
        """One that is idle, else the one with the least work of those that may have more."""
        best, least = None, dispatch.UNKNOWN
        for process in self._processes.values():
            if process.takes():
                if not process.jobs:
                    return process
                if process.load_s < least:
                    best, least = process, process.load_s
        return best

    def _rest(self, now: float) -> None:
        rest_s = dispatch.rest_s((process.load_s, len(process.jobs)) for process in self._processes.values())
        self._rest_until = now + rest_s if rest_s else 0.0

    # -- back

    def _collect(self, now: float) -> None:
        for descriptor, _ in self._epoll.poll(0):
            process = self._processes.get(descriptor)
            if process is not None:
                self._read(process)
            elif descriptor == self._template.fileno():
                self._heed(now)
        self._dispatch(now)

    def _read(self, process: Process) -> None:
        """All answers that lie in its socket."""
        jobs, run_s = process.jobs, self._run_s
        while process.open:
            try:
                data = receive(process.road, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                return  # it ended with jobs unread in its socket: we have its end, too, so this is only said once
            if not data:
                return
            number = number_of(data)
            job = jobs.get(number)
            if job is None:
                if data == READY:
                    process.ready = True
                    self._count()
                    continue
                log.error(
                    "a child process sent what is no answer (does a task write to the worker's sockets?): %r", data[:40]
                )
                continue
            try:
                outcome, started_at, ran_s, stored, leaving = unpack_done(data)
            except (ValueError, EOFError, TypeError) as error:
                log.error("a child process sent an answer that cannot be read: %r", error)
                continue
            name = job.delivery.headers["task"]
            was_s = run_s.get(name, dispatch.UNKNOWN)
            run_s[name] = dispatch.learned(was_s, ran_s)
            process.answered(number, run_s, was_s)
            self._done.append(Done(job, outcome, started_at, ran_s, stored))
            if leaving:
                self._let_go(process)

    def _unread(self, process: Process) -> None:
        """What the child has not read goes back to the front of the backlog."""
        self._backlog.extendleft(reversed(process.take_back(self._run_s)))

    # -- children come and go

    def _fork(self, failures: int) -> None:
        at = self._places.pop()
        place = self._board.place(at)
        place.clear()
        if signals.worker_before_create_process.receivers:
            signals.worker_before_create_process.send(sender=self)
        process = Process(at, place, failures, self._kill)
        self._processes[process.road.fileno()] = process
        self._epoll.register(process.road, select.EPOLLIN)
        self._look_at = min(self._look_at, process.ready_by())
        try:
            self._template.fork(at, process.twin)
        except OSError:
            self._break()

    def _let_go(self, process: Process) -> None:
        """It takes no more jobs and ends after its body; another takes its place at once."""
        if process.leaving:
            return
        self._unread(process)
        process.leave()
        self._count()
        self._refill(0)

    def _count(self) -> None:
        self.slots = min(self.size, sum(process.ready and not process.leaving for process in self._processes.values()))
        if self.slots:
            self._slotless_since = None
        elif self._slotless_since is None:
            self._slotless_since = time.monotonic()

    def slotless_s(self, now: float) -> float:
        since = self._slotless_since
        return 0.0 if since is None else now - since

    def _refill(self, failures: int) -> None:
        if self._halted or self._broken:
            return
        wanted = self.size - sum(1 for process in self._processes.values() if not process.leaving) - len(self._later)
        for _ in range(wanted):
            pause_s = lost.restart_pause_s(failures)
            if pause_s:
                self._later.append((time.monotonic() + pause_s, failures))
                self._look_at = 0.0
            elif self._places:
                self._fork(0)

    def _heed(self, now: float) -> None:
        """What the template tells."""
        try:
            news = self._template.news()
        except ConnectionError:
            self._break()
            return
        for new in news:
            match new:
                case templates.Forked(at, pid):
                    process = next((p for p in self._processes.values() if p.at == at and p.pid is None), None)
                    if process is not None:
                        process.pid = pid
                        self._by_pid[pid] = process
                case templates.NotForked(at, why):
                    log.error("a child process could not be forked: %s", why)
                    process = next((p for p in self._processes.values() if p.at == at and p.pid is None), None)
                    if process is not None:
                        self._bury(process, None, 0)
                case templates.Ended(pid, exit_code, peak_bytes):
                    process = self._by_pid.pop(pid, None)
                    if process is not None:
                        self._bury(process, exit_code, peak_bytes)
                case templates.Stopped(pid, stopped):
                    process = self._by_pid.get(pid)
                    if process is not None:
                        process.stopped_at = now if stopped else None
                        self._look_at = 0.0
                        if stopped:
                            log.warning(
                                "child process %d was stopped by a signal; if it does not go on, it is replaced", pid
                            )
                            self._unread(process)

    def _bury(self, process: Process, exit_code: int | None, peak_bytes: int) -> None:
        """A child is gone: what it had answered counts, what it had not read goes to another, what it ran is settled."""
        started, last = process.place.begun, process.place.started
        self._read(process)
        self._unread(process)
        self._close(process)
        for number, job in process.jobs.items():  # at most one: read and not answered
            if number != started:
                self._backlog.appendleft(job)  # read, and not begun: no start
                continue
            if self._halted and process.ending is None:
                self._cut.append(Running(job, last, process.pid or 0))
                continue
            fate = self._with_callbacks(job, self._fate(process, number, exit_code, peak_bytes))
            self._done.append(Done(job, fate, *_since(last), untold=True))
        process.jobs.clear()
        self._count()
        never_ready = not process.ready and not process.leaving
        if never_ready and exit_code is not None and not self._halted:
            log.error(
                "child process %s %s, %d in a row; another is forked in %.2g s", process.pid,
                lost.how_it_never_began(exit_code, late_s=process.late_s), process.failures + 1,
                lost.restart_pause_s(process.failures + 1),
            )  # fmt: skip
        elif exit_code and process.ending is None and not self._halted:
            how = lost.how_it_ended(exit_code, peak_bytes=peak_bytes)
            log.warning("child process %s %s; another takes its place", process.pid, how)
        failed = never_ready or (exit_code != 0 and not started and process.ending is None)  # it had begun nothing
        self._refill(process.failures + 1 if failed else 0)

    def _fate(self, process: Process, number: int, exit_code: int | None, peak_bytes: int) -> Outcome:
        if process.ending is not None and process.ending.number == number:
            return process.ending.outcome
        how = lost.how_it_ended(exit_code, peak_bytes=peak_bytes, out_of_memory=self._memory.killed())
        return Lost(f"the process that ran it (pid {process.pid}) {how}")

    def _with_callbacks(self, job: Job, fate: Outcome) -> Outcome:
        """With the error callbacks that the message names. Only a body of plain JSON is read here: nothing is unpickled in the worker."""
        if isinstance(fate, Failed | Lost) and job.delivery.content_type == JSON:
            failed = self._executor.failed(job, WorkerLostError(), "", 0.0, 0.0).outcome
            if isinstance(failed, Failed) and failed.follow:
                return fate._replace(follow=failed.follow, chords=failed.chords)
        return fate

    def _close(self, process: Process) -> None:
        if not process.open:
            return
        del self._processes[process.road.fileno()]
        self._epoll.unregister(process.road)
        process.close()
        self._places.append(process.at)

    def _break(self) -> None:
        """The template is gone, and its children with it."""
        if self._broken:
            return
        self._broken = True
        self._flushed = False
        if not self._halted:
            log.critical("the template process of the prefork pool is gone, and all children with it: this worker ends")
        self._epoll.unregister(self._template)
        time.sleep(0.05)  # the kernel kills them now; what they have answered by then counts
        for process in list(self._processes.values()):
            self._bury(process, None, 0)
        self._by_pid.clear()
        self._look_at = 0.0

    # -- time

    def tend(self, now: float) -> float:
        """See Pool. Raises WorkerLostError when the template is gone and what its children had done has been collected."""
        if now < self._look_at:
            return min(self._look_at, self._rest_until) if self._rest_until > now else self._look_at
        with self._lock:
            if self._broken and not self._halted:
                if self._flushed:
                    raise WorkerLostError("the template process of the prefork pool is gone: start the worker again")
                return now
            look_at = NEVER
            for process in list(self._processes.values()):
                if process.due():
                    look_at = min(look_at, process.look_after(now))
                    if process.long and len(process.jobs) > 1:
                        self._unread(process)
            due = [failures for at, failures in self._later if at <= now]
            self._later = [entry for entry in self._later if entry[0] > now]
            self._look_at = min([look_at, *(at for at, _ in self._later)])
            for failures in due:
                if not self._halted and self._places:
                    self._fork(failures)
            self._dispatch(now)
        return min(self._look_at, self._rest_until) if self._rest_until > now else self._look_at

    def _kill(self, pid: int, signum: int) -> None:
        try:
            self._template.kill(pid, signum)
        except OSError:
            self._break()

    # -- control

    def resize(self, slots: int) -> None:
        if not 1 <= slots <= self._board.places:
            raise NotSupported(f"the prefork pool can have 1 to {self._board.places} children, not {slots}")
        with self._lock:
            self.size = slots
            stays = [process for process in self._processes.values() if not process.leaving]
            for process in sorted(stays, key=lambda process: bool(process.jobs))[: max(0, len(stays) - slots)]:
                self._let_go(process)
            self._count()
            self._refill(0)
            self._dispatch(time.monotonic())

    def terminate(self, task_id: str, signum: int) -> bool:
        with self._lock:
            for process in self._processes.values():
                number = process.place.begun
                job = process.jobs.get(number)
                if job is not None and job.delivery.headers.get("id") == task_id and process.pid is not None:
                    return process.terminate(number, Revoked("terminated", None, signum), signum)
        return False

    def halt(self) -> None:
        """Kill all children now. What they have answered is still to be collected; what they ran, running() goes on to tell."""
        with self._lock:
            self._halted = True
            self._rest_until = 0.0
            for pid in list(self._by_pid):
                self._kill(pid, signal.SIGKILL)
            self._await_end()

    def stop(self) -> None:
        with self._lock:
            if self._epoll.closed:
                return
            self._halted = True
            self._rest_until = 0.0
            for process in list(self._processes.values()):
                if not process.leaving:
                    process.leave()
            if not self._busy():
                self._await_end()
            if not self._broken:
                self._epoll.unregister(self._template)
            self._template.close()
            for process in list(self._processes.values()):
                self._bury(process, None, 0)
            self._epoll.close()

    def _await_end(self) -> None:
        until = time.monotonic() + END_S
        while self._processes and not self._broken and time.monotonic() < until:
            select.select([self._template], [], [], max(0.0, until - time.monotonic()))
            self._heed(time.monotonic())


def _since(started: float) -> tuple[float, float]:
    """(seconds since the epoch at which it began, seconds that it took) of a body that began at this monotonic time."""
    ran_s = max(0.0, time.monotonic() - started)
    return time.time() - ran_s, ran_s
