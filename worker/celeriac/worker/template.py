"""The template: a process with one thread that has imported the app, from which the children of the prefork pool are forked.

A process with threads cannot fork safely: a lock that another thread holds stays locked for ever in the copy. The worker has threads;
the template has none, since it is forked before they start. It does four things: it forks a child, signals one (it alone knows which
processes are still its children: only it reaps them), says which have ended or were stopped, and kills them all when the worker is gone.
"""

import array
import ctypes
import gc
import logging
import marshal
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

from celeriac.worker.child import Child, leave

log = logging.getLogger(__name__)

_FORK, _KILL = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: Signals that end the worker in an orderly way are for the worker alone; a terminal sends them to all its processes. SIGUSR1 is for children.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_DEFAULT = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)
#: Added to a child's score with the kernel's out-of-memory killer: better one body than the worker.
_OOM_SCORE = 200


class Forked(NamedTuple):
    """A child lives. place: as it was asked for."""

    place: int
    pid: int


class NotForked(NamedTuple):
    """The system refused."""

    place: int
    why: str


class Ended(NamedTuple):
    """A child is gone. exit_code: negative for a signal. peak_bytes: the most memory it had."""

    pid: int
    exit_code: int
    peak_bytes: int


class Stopped(NamedTuple):
    """A child was stopped by a signal (SIGSTOP), or goes on again."""

    pid: int
    stopped: bool


News = Forked | NotForked | Ended | Stopped
_KINDS: dict[str, type[News]] = {"forked": Forked, "not": NotForked, "ended": Ended, "stopped": Stopped}


class Template:
    """The worker's side. Raises ConnectionError when the template is gone."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._control = control

    def fork(self, place: int, road: socket.socket) -> None:
        """Ask for a child that serves this end of a road; `Forked` tells when it lives."""
        rights = array.array("i", [road.fileno()])
        message = marshal.dumps((_FORK, place))
        self._control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def kill(self, pid: int, signum: int) -> None:
        """Signal a child, if it still is one."""
        self._control.send(marshal.dumps((_KILL, pid, int(signum))))

    def news(self) -> list[News]:
        """What has happened since the last call."""
        found: list[News] = []
        while True:
            try:
                data = self._control.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            if not data:
                if found:
                    return found  # the end comes again
                raise ConnectionResetError("the template process is gone")
            kind, *fields = marshal.loads(data)
            found.append(_KINDS[kind](*fields))

    def fileno(self) -> int:
        """What turns readable when there are news."""
        return self._control.fileno()

    def close(self) -> None:
        """Let it kill what is left of its children and end, and wait for it."""
        self._control.close()
        until = time.monotonic() + 2.0
        try:
            while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() >= until:  # it was stopped; its children die with it
                    os.kill(self.pid, signal.SIGKILL)
                time.sleep(0.002)
        except ChildProcessError:  # somebody in this process has waited for it
            return


def start(child: Child) -> Template:
    """Fork the template from this process, which should have no other threads yet."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        log.warning(
            "the app has started threads before the prefork pool was forked: %s. They do not run in its children, and a lock that one"
            " of them holds now stays locked there; start threads in a receiver of worker_process_init",
            ", ".join(others),
        )
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or each child would write what is left in it once more
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return Template(pid, ours)
    try:
        ours.close()
        _tie(libc, parent, b"celeriac-templ")
        _serve(theirs, child, libc)
    except BaseException:
        log.exception("the template process of the prefork pool failed")
    os._exit(1)


def _serve(control: socket.socket, child: Child, libc: ctypes.CDLL) -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # the children's collectors leave these pages alone, so they stay shared
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    living: set[int] = set()
    while True:
        poll.poll()
        try:
            os.read(woken, 4096)
        except BlockingIOError:
            pass  # it was the control socket
        try:
            _reap(control, living)
            going_on = _heed(control, child, living, libc, (woken, wake))
        except ConnectionError:
            going_on = False
        if not going_on:  # the worker is gone: bodies that ran on would run twice
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)


def _heed(control: socket.socket, child: Child, living: set[int], libc: ctypes.CDLL, pipe: tuple[int, int]) -> bool:
    """Do what the worker asks for; whether it is still there."""
    while True:
        try:
            data, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if not data:
            return False
        what, number, *rest = marshal.loads(data)
        if what == _KILL:
            if number in living:
                os.kill(number, rest[0])
            continue
        descriptors = array.array("i", ancillary[0][2])
        road = socket.socket(fileno=descriptors[0])
        template = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            control.send(marshal.dumps(("not", number, str(error))))
            road.close()
            continue
        if pid == 0:
            control.close()
            _become_child(child, number, road, libc, template, pipe)
        road.close()
        living.add(pid)
        control.send(marshal.dumps(("forked", number, pid)))


def _become_child(
    child: Child, number: int, road: socket.socket, libc: ctypes.CDLL, template: int, pipe: tuple[int, int]
) -> None:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in _DEFAULT:
            signal.signal(signum, signal.SIG_DFL)
        for end in pipe:
            os.close(end)
        _tie(libc, template, b"celeriac-child")
        try:
            with open("/proc/self/oom_score_adj", "r+") as file:
                score = int(file.read())
                file.seek(0)
                file.write(str(min(1000, score + _OOM_SCORE)))
        except OSError as error:
            log.debug("the out-of-memory score of a child stays as it is: %s", error)
        child.serve(number, road)
        code = 0
    except BaseException:
        log.exception("a child process of the prefork pool failed")
    leave(code)


def _reap(control: socket.socket, living: set[int]) -> None:
    while living:
        pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            control.send(marshal.dumps(("stopped", pid, os.WIFSTOPPED(status))))
            continue
        living.discard(pid)
        exit_code = os.waitstatus_to_exitcode(status)
        control.send(marshal.dumps(("ended", pid, exit_code, usage.ru_maxrss * 1024)))


def _tie(libc: ctypes.CDLL, parent: int, name: bytes) -> None:
    """Be killed when the process that forked this one is gone, and be told apart in `ps` and in the kernel's log."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, name, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it went away before we asked
