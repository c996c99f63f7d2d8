"""Many waiters, one thread: whoever watches an id is told of each record stored under it, until it stops watching.

A store that speaks by itself is listened to on one connection for all; any other is asked for all ids at once, every so often.
"""

import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from celeriac.backends.base import ResultBackend
from celeriac.exceptions import BackendUnavailable, CeleriacError, DecodeError
from celeriac.wire.result import ResultMeta

log = logging.getLogger(__name__)

#: What a watcher calls: with each record, or once with why there will be none.
Tell = Callable[[ResultMeta | Exception], None]

#: Without anybody to tell, the thread and its connection stay for so long.
LINGER_S = 5.0
#: After an outage, until the next attempt.
PAUSE_S = 0.5
#: Looks at a store that has to be asked: soon at first, then more rarely.
FIRST_LOOK_S, LAST_LOOK_S = 0.02, 0.5


class Source(Protocol):
    """Where records come from, for one thread alone. Every method raises BackendUnavailable."""

    #: Seconds until the next `read` though nothing was heard.
    pause_s: float

    def add(self, ids: Sequence[str]) -> None:
        """Tell of these from now on, and of what is stored already."""

    def remove(self, ids: Sequence[str]) -> None:
        """No more of these."""

    def fileno(self) -> int | None:
        """Readable when there is something to read."""

    def read(self) -> Iterable[tuple[str, ResultMeta | Exception]]:
        """What is new, by id: a record, or why it cannot be read. Never waits for more."""

    def close(self) -> None:
        """Disconnect."""


class Asked:
    """Any store, asked for all ids at once."""

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend
        self._seen: dict[str, ResultMeta | str | None] = {}
        self.pause_s = FIRST_LOOK_S

    def add(self, ids: Sequence[str]) -> None:
        self._seen.update(dict.fromkeys(ids))
        self.pause_s = FIRST_LOOK_S

    def remove(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._seen.pop(task_id, None)

    def fileno(self) -> int | None:
        return None

    def read(self) -> list[tuple[str, ResultMeta | Exception]]:
        begun = time.monotonic()
        found = read_each(self._backend, list(self._seen))
        took_s = time.monotonic() - begun
        marks = {task_id: told if isinstance(told, ResultMeta) else str(told) for task_id, told in found.items()}
        new = [(task_id, found[task_id]) for task_id, mark in marks.items() if self._seen[task_id] != mark]
        self._seen.update(marks)
        # Many ids are much to ask for: at most a third of the time is spent with it.
        self.pause_s = max(FIRST_LOOK_S if new else min(LAST_LOOK_S, self.pause_s * 1.5), 2 * took_s)
        return new

    def close(self) -> None:
        """Nothing is open but the store itself."""


def read_each(backend: ResultBackend, ids: Sequence[str]) -> Mapping[str, ResultMeta | Exception]:
    """The records that are stored, in one go; one that cannot be read is its own watchers' error alone."""
    if not ids:
        return {}
    try:
        return backend.fetch_many(ids)
    except DecodeError:
        return {task_id: told for task_id in ids if (told := _one(backend, task_id)) is not None}


def _one(backend: ResultBackend, task_id: str) -> ResultMeta | Exception | None:
    try:
        return backend.fetch(task_id)
    except DecodeError as error:
        return error


class _Watch:
    """One who watches. reached: whether the store was, since; before, an outage is an answer, and after it is waited out."""

    __slots__ = ("reached", "tell")

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.reached = False


class Watcher:
    """Serves all who watch records of one store in this process. Its thread begins with the first and ends after the last."""

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = weakref.ref(backend)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._watches: dict[str, list[_Watch]] = {}
        self._added: list[str] = []
        self._removed: list[str] = []
        self._thread: threading.Thread | None = None
        self._closing = False
        #: Whether the thread has slept for so long that it may end.
        self._idle = False

    def watch(self, task_id: str, tell: Tell) -> Callable[[], None]:
        """Call `tell`, in the watcher's thread, with the record under this id, if there is one, and with each that is stored later.

        Returns what ends it. `tell` gets BackendUnavailable or DecodeError instead where the record cannot be had; an outage after the
        first contact is waited out. Raises ValueError or TypeError for an id that no store can have: it must not reach the thread.
        """
        if not isinstance(task_id, str):
            raise TypeError(f"the id of a call is text, not {task_id!r}")
        task_id.encode()
        if (
            self._pid != os.getpid()
        ):  # forked: the thread and those it served are in the process that this one came from
            self._begin()
        watch = _Watch(tell)
        with self._lock:
            self._watches.setdefault(task_id, []).append(watch)
            self._added.append(task_id)  # also when somebody watches it already: what is stored is told anew
            if self._thread is None:
                self._closing = False
                self._ring, self._rung = socket.socketpair()
                self._ring.setblocking(False)
                self._thread = threading.Thread(target=self._serve, name="celeriac-results", daemon=True)
                self._thread.start()
            elif len(self._added) + len(self._removed) == 1:
                self._wake()
        return lambda: self._end(task_id, watch)

    def _end(self, task_id: str, watch: _Watch) -> None:
        if self._pid != os.getpid():  # its lock may have been taken when this process was forked, and stay so
            return
        with self._lock:
            watches = self._watches.get(task_id, [])
            if watch in watches:
                watches.remove(watch)
                if not watches:
                    del self._watches[task_id]
                    self._removed.append(task_id)
                    if len(self._added) + len(self._removed) == 1 and self._thread is not None:
                        self._wake()

    def close(self) -> None:
        """End the thread. Whoever still watches hears nothing more."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread, self._closing = self._thread, True
            if thread is None:
                return
            self._wake()
        if thread is not threading.current_thread():
            thread.join()

    def _wake(self) -> None:
        try:
            self._ring.send(b"!")
        except BlockingIOError:  # it is rung already
            pass

    # -- the thread

    def _serve(self) -> None:
        source: Source | None = None
        try:
            while True:
                try:
                    source = source or self._open()
                    if source is None or self._changes(source):
                        return
                    for task_id, told in source.read():
                        self._tell(task_id, told)
                    self._sleep(source.fileno(), source.pause_s if self._watches else LINGER_S)
                except CeleriacError as error:
                    if source is not None:
                        source.close()
                        source = None
                    self._broken(error)
        finally:
            if source is not None:
                source.close()
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            left = [watch for watches in self._watches.values() for watch in watches]
            self._watches.clear()
            self._thread = None
            self._ring.close()
            self._rung.close()
        for watch in left:
            _call(watch, BackendUnavailable("the result store was closed while its results were waited for"))

    def _open(self) -> Source | None:
        """None when the store is gone, and with it everybody who could ask."""
        backend = self._backend()
        if backend is None or self._closing:
            return None
        listen = getattr(backend, "listen", None)
        source: Source = listen() if listen is not None else Asked(backend)
        with self._lock:
            self._added, self._removed = list(self._watches), []
        return source

    def _changes(self, source: Source) -> bool:
        """Pass on who has come and gone; whether to end, for want of anybody."""
        with self._lock:
            if self._closing or (not self._watches and not self._removed and self._idle):
                return True
            gone = [task_id for task_id in self._removed if task_id not in self._watches]
            new = [task_id for task_id in self._added if task_id in self._watches]
            self._added, self._removed = [], []
        if gone:
            source.remove(gone)
        if new:
            source.add(new)
            with self._lock:
                for task_id in new:
                    for watch in self._watches.get(task_id, ()):
                        watch.reached = True
        return False

    def _sleep(self, fileno: int | None, pause_s: float) -> None:
        poll = select.poll()  # not select: a descriptor may be above 1023
        poll.register(self._rung, select.POLLIN)
        if fileno is not None:
            poll.register(fileno, select.POLLIN)
        heard = {number for number, _ in poll.poll(pause_s * 1000)}
        if self._rung.fileno() in heard:
            self._rung.recv(4096)
        self._idle = not heard

    def _tell(self, task_id: str, told: ResultMeta | Exception) -> None:
        with self._lock:
            watches = list(self._watches.get(task_id, ()))
        for watch in watches:
            _call(watch, told)

    def _broken(self, error: CeleriacError) -> None:
        """Tell those who have never reached the store; the others wait on."""
        with self._lock:
            waiting = sum(map(len, self._watches.values()))
            fresh = [watch for watches in self._watches.values() for watch in watches if not watch.reached]
        if waiting > len(fresh):
            log.warning("%s; still waiting for %d results", error, waiting - len(fresh))
        for watch in fresh:
            _call(watch, error)
        self._sleep(None, PAUSE_S)


def _call(watch: _Watch, told: ResultMeta | Exception) -> None:
    try:
        watch.tell(told)
    except Exception:
        log.exception("a callback of a result has raised")


_watchers: "weakref.WeakKeyDictionary[ResultBackend, Watcher]" = weakref.WeakKeyDictionary()
_making = threading.Lock()


def watcher_of(backend: ResultBackend) -> Watcher:
    """The one watcher of this store."""
    watcher = _watchers.get(backend)
    if watcher is None:
        with _making:
            watcher = _watchers.setdefault(backend, Watcher(backend))
    return watcher


def stop_watching(backend: ResultBackend) -> None:
    """End the store's watcher, if it has one: before the store is closed."""
    watcher = _watchers.get(backend)
    if watcher is not None:
        watcher.close()
