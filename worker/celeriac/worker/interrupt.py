"""Raising inside a body that runs: in its thread, in the main thread by a signal, or where a coroutine waits.

The difficulty is to raise nowhere else. An exception that arrived a moment after the body's end would hit the worker's own code or the next
body, so whoever raises and the body's thread agree without a lock, which such an exception could leave locked.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from types import FrameType
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.exceptions import SoftTimeLimitExceeded

#: What ends a sleep of the main thread. A real-time signal where there is one: SIGUSR1 belongs to users.
INTERRUPT: int = getattr(signal, "SIGRTMIN", signal.SIGUSR1)


class CutOff(BaseException):
    """Raised inside a body whose hard limit is over. No `except Exception` of the body's keeps it running."""


class _Last(BaseException):
    """Raised by a thread in itself, behind which nothing else is on its way."""


class SoftInCoroutine(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What a soft limit raises in a coroutine: also a cancellation, so that task groups that wait there cancel what they wait for."""


class Run:
    """A body that may be interrupted, from `call` on until that returns.

    started     monotonic seconds. told: its soft limit was raised. settled: it has failed already, at its hard limit.
    given_up    it has not come back since. terminated: the signal somebody sent for it.
    """

    __slots__ = (
        "_open", "_raising", "_sent", "_teller", "_thread", "due", "given_up", "settled", "started", "started_at", "steered", "terminated", "told",
    )  # fmt: skip

    def __init__(self, started: float) -> None:
        self.started, self.started_at = started, time.time()
        self.told = self.settled = self.given_up = False
        self.terminated: int | None = None
        self.steered: Steered | None = None
        #: What the signal's handler raises.
        self.due: type[BaseException] | None = None
        self._thread = threading.get_ident()
        self._open = self._raising = self._sent = False
        self._teller = threading.Lock()

    def may_tell(self) -> bool:
        """Whether the caller is the one that calls the hooks of this run's end: the first to ask, the body's thread or who enforces limits."""
        return self._teller.acquire(blocking=False)

    def call(self, body: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the body returns; while it runs, `interrupt` raises in it. In the thread that made this run."""
        try:
            try:
                self._open = True
                return body(*args, **kwargs)
            finally:
                self._close()
        except BaseException:
            self._close()  # the first call may have been interrupted before it did anything
            raise

    def _close(self) -> None:
        """From here on nothing is raised. An interruption that comes too late ends here."""
        while True:
            try:
                self._open = False
                while self._raising:  # the other side has looked at _open before
                    time.sleep(0)
                if self._sent:
                    # One may still be on its way. Taking it back would leave the interpreter looking for it for ever, at each turn of
                    # each thread: so another takes its place, and is waited for.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Last))
                    while True:
                        time.sleep(0)
                return
            except (SoftTimeLimitExceeded, CutOff):
                continue
            except _Last:
                self._sent = False
                return

    def interrupt(self, kind: type[BaseException]) -> None:
        """Raise this inside the body, if it still runs. From any other thread. C code is not interrupted, but for a wait in the main thread."""
        if self.steered is not None:
            self.steered.throw(in_coroutines(kind))
        else:
            self._raise_in_thread(kind)

    def insist(self) -> None:
        """Raise CutOff in the thread of a coroutine that waits for nothing, so that `interrupt` could not reach it."""
        if self.steered is not None:
            self._raise_in_thread(CutOff)

    def _raise_in_thread(self, kind: type[BaseException]) -> None:
        self._raising = True
        try:
            if not self._open and (self.steered is None or not self.steered.steps_now()):
                return
            if self._thread == threading.main_thread().ident:
                self.due = kind
                signal.pthread_kill(self._thread, INTERRUPT)
            else:
                self._sent = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(kind))
        finally:
            self._raising = False

    def on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        """The handler of INTERRUPT: raises in the main thread what is due there."""
        kind, self.due = self.due, None
        if kind is not None and self._open:
            raise kind

    def frame(self) -> FrameType | None:
        """Where its thread is now; None for a coroutine, which shares it."""
        return None if self.steered is not None else sys._current_frames().get(self._thread)

    def coroutine_frames(self) -> list[FrameType]:
        """Where its coroutine waits, the outermost first."""
        return self.steered.frames() if self.steered is not None else []


def in_coroutines(kind: type[BaseException]) -> type[BaseException]:
    """What is raised in a coroutine instead: something that is also a cancellation."""
    return SoftInCoroutine if kind is SoftTimeLimitExceeded else asyncio.CancelledError if kind is CutOff else kind


class Steered:
    """Awaits a coroutine, and can raise any exception inside it where it waits; asyncio by itself only cancels."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._due: type[BaseException] | None = None
        #: Whether the coroutine is over; it is not when its loop was left under it.
        self.ended = False
        self._forks = Forks.count

    def throw(self, kind: type[BaseException]) -> None:
        """Raise this inside the coroutine where it waits next, if it still runs. From any thread."""
        self._due = kind
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def steps_now(self) -> bool:
        """Whether it is this coroutine that its loop runs at this moment. From any thread."""
        return self._task is not None and self._loop is not None and asyncio.current_task(self._loop) is self._task

    def frames(self) -> list[FrameType]:
        """Where it waits, the outermost first; of what it waits for only coroutines show."""
        found, step = [], self._coroutine
        while step is not None and getattr(step, "cr_frame", None) is not None:
            found.append(step.cr_frame)  # type: ignore[attr-defined]
            step = step.cr_await  # type: ignore[attr-defined]
        return found

    def _wake(self) -> None:
        if self._due is not None and self._task is not None:
            self._task.cancel()  # so that whatever it waits for is cancelled first

    def __await__(self) -> Generator[Any, Any, Any]:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            result = yield from self._steps()
        finally:
            self._task = None
            self.ended = True
        return result

    def _steps(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        sent: Any = None
        raised: BaseException | None = None
        while True:
            if self._due is not None:
                raised, self._due = self._due(), None
                if self._task is not None:
                    while (
                        self._task.cancelling()
                    ):  # it was not cancelled but told something: timeouts inside count on that
                        self._task.uncancel()
            try:
                waits_for = coroutine.send(sent) if raised is None else coroutine.throw(raised)
            except StopIteration as end:
                return end.value
            if self._forks != Forks.count:
                leave_copy(0)
            sent = raised = None
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                raised = error


# -- forks


class Forks:
    """`count` grows in a process that was forked off: a body that sees it grow is a copy of itself.

    apps    leave their connections to the process that they were opened in.
    """

    count = 0
    apps: "weakref.WeakSet[Celeriac]" = weakref.WeakSet()

    @classmethod
    def happened(cls) -> None:
        """Count one."""
        cls.count += 1
        for app in cls.apps:
            app.forked()


os.register_at_fork(after_in_child=Forks.happened)


def leave_copy(code: int) -> None:
    """End a forked copy of the worker whose body is over: it shares the worker's connections and must not settle anything."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
