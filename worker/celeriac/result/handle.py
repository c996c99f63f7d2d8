"""AsyncResult: the handle of a call that was sent."""

import logging
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from celeriac import states
from celeriac.backends.base import ResultBackend
from celeriac.exceptions import DecodeError, IncompleteStream, TimeoutError  # noqa: A004 - ours is the builtin's child
from celeriac.wire.result import ResultMeta, exception_from_wire

if TYPE_CHECKING:  # `AsyncResult` alone means any value: a default, which Python itself has since 3.13
    from typing_extensions import TypeVar

    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    R = TypeVar("R")

log = logging.getLogger(__name__)

#: Gives the app of a handle that was made from an id alone; set by `compat`, where the one global lives.
apps: list[Callable[[], Any]] = []

#: What `allow_join_result` and `denied_join_result` say of this context; None: whether a task runs here decides.
_may_wait: ContextVar[bool | None] = ContextVar("celeriac_may_wait", default=None)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Within it, a task may wait for results. It holds a slot meanwhile: with all slots waiting, nothing runs."""
    token = _may_wait.set(True)
    try:
        yield
    finally:
        _may_wait.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Within it, nobody may wait for results."""
    token = _may_wait.set(False)
    try:
        yield
    finally:
        _may_wait.reset(token)


class ResultBase:
    """Base of all handles."""

    __slots__ = ()


class AsyncResult(ResultBase, Generic[R]):
    """A task's state and value, by its id.

    Reads the store at each question until the task is ready, then keeps what it read. `await result` is `get` for coroutines.

    backend, app   where it is stored; of an id alone, the current app says it. parent: the handle of the call before it in a chain.
    ignored        its value is stored nowhere: `get` gives None at once.
    """

    __slots__ = (
        "_app",
        "_backend",
        "_cache",
        "_children",
        "_guard",
        "_name",
        "deduplicated",
        "id",
        "ignored",
        "parent",
    )

    #: What `get` raises when its time is over.
    TimeoutError: ClassVar[type[TimeoutError]] = TimeoutError

    def __init__(
        self,
        id: str,
        backend: ResultBackend | None = None,
        task_name: str | None = None,
        app: Any = None,
        parent: "AsyncResult[Any] | None" = None,
        *,
        name: str | None = None,
        guard: Callable[[], None] | None = None,
        ignored: bool = False,
        deduplicated: bool = False,
    ) -> None:
        if id is None:
            raise ValueError(f"{type(self).__name__} needs the id of a call, not None")
        if backend is None:
            app = app if app is not None else apps[-1]()
            backend = app.backend
            guard = guard or app.guard
        self.id = id
        #: Whether the call was not sent, because this one, with the same key, waits or runs (unique_for).
        self.deduplicated = deduplicated
        self.parent = parent
        self.ignored = ignored
        self._name = name or task_name
        self._app = app
        self._backend: ResultBackend = backend
        self._cache: ResultMeta | None = None
        self._guard = guard

    def _meta(self) -> ResultMeta:
        if self._cache is not None:
            return self._cache
        meta = self._backend.fetch(self.id)
        if meta is None:
            return ResultMeta(self.id, states.PENDING)
        if meta.status in states.READY_STATES:
            self._cache = meta
        return meta

    # -- waiting

    def get(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, no_ack: bool = True,
        follow_parents: bool = True, callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None, on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:  # fmt: skip
        """The task's value, once it is ready; raises what the task raised, unless propagate is False.

        timeout     seconds; None waits for ever. interval: seconds between two looks where the store cannot tell by itself.
        on_message  called with each record that is stored meanwhile, as a dict: STARTED, PROGRESS … and the last one.
        on_interval is called every `interval` seconds, callback with (id, value) at the end.
        follow_parents  what is raised is the error of the call before it that failed: of a chord's body the member's own, and not the
                        ChordError that is stored for the body. With on_message or on_interval it is raised as soon as it is stored.

        Raises TimeoutError; RuntimeError inside a task, unless disable_sync_subtasks is False or `allow_join_result` says otherwise.
        """
        if self.ignored:
            return None  # type: ignore[return-value]  # as Celery does
        self._may_be_waited_for(disable_sync_subtasks)
        meta = self._cache
        if meta is None:
            if on_message is None and on_interval is None:
                meta = self._backend.wait(self.id, timeout, interval)
            else:
                meta = self._watched(timeout, interval, on_message, on_interval, follow_parents and propagate)
        if meta is None:
            raise self._too_late(timeout)
        self._cache = meta
        if propagate and follow_parents and meta.status in states.PROPAGATE_STATES:
            self._raise_of_parents()
        value: R = self.maybe_throw(propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    wait = get

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, *, disable_sync_subtasks: bool = True
    ) -> R:
        """`get` for coroutines: the loop runs on meanwhile. All waiters of a process share one connection."""
        if self.ignored:
            return None  # type: ignore[return-value]
        self._may_be_waited_for(disable_sync_subtasks)
        if self._cache is None:
            from celeriac.backends.awaiting import ready  # asyncio, only for who has a loop

            meta = await ready(self._backend, self.id, timeout)
            if meta is None:
                raise self._too_late(timeout)
            self._cache = meta
        if propagate and self.parent is not None and self._cache.status in states.PROPAGATE_STATES:
            import asyncio

            await asyncio.to_thread(self._raise_of_parents)
        value: R = self.maybe_throw(propagate)
        return value

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def then(
        self, callback: "Callable[[AsyncResult[R]], Any]", on_error: "Callable[[AsyncResult[R]], Any] | None" = None, weak: bool = False
    ) -> "AsyncResult[R]":  # fmt: skip
        """Have this called with the handle when the task has ended; with on_error, that one where it has ended badly.

        It is called in a thread of its own, which serves all handles: be short there. What it raises is logged, and so is a record that
        cannot be read, of which nobody is told. weak: means nothing.
        """
        from celeriac.backends.watching import watcher_of

        cancels: list[Callable[[], None]] = []
        over = False

        def tell(meta: ResultMeta | Exception) -> None:
            nonlocal over
            if over or (isinstance(meta, ResultMeta) and meta.status not in states.READY_STATES):
                return
            if isinstance(meta, ResultMeta):
                over = True
                end()
                self._cache = meta
                failed = on_error is not None and meta.status in states.PROPAGATE_STATES
                (on_error if failed and on_error is not None else callback)(self)
            elif isinstance(meta, DecodeError):
                over = True
                end()
                log.error("the result of %s cannot be read, so nobody is called back: %s", self.id, meta)

        def end() -> None:
            for cancel in cancels:
                cancel()

        cancels.append(watcher_of(self._backend).watch(self.id, tell))
        if over:  # the thread was faster than we are
            end()
        return self

    def _may_be_waited_for(self, disable_sync_subtasks: bool) -> None:
        allowed = _may_wait.get()
        if allowed is False:
            raise RuntimeError("nobody may wait for results within denied_join_result()")
        if allowed is None and disable_sync_subtasks and self._guard is not None:
            self._guard()

    def _watched(
        self, timeout: float | None, interval: float, on_message: Callable[[dict[str, Any]], Any] | None, on_interval: Callable[[], Any] | None,
        follow_parents: bool,
    ) -> ResultMeta | None:  # fmt: skip
        """As the store's `wait`, telling of what happens meanwhile."""
        from celeriac.backends.watching import watcher_of

        told: queue.SimpleQueue[ResultMeta | Exception] = queue.SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        cancel = watcher_of(self._backend).watch(self.id, told.put)
        try:
            while True:
                if follow_parents:
                    self._raise_of_parents()
                left_s = interval if deadline is None else min(interval, deadline - time.monotonic())
                try:
                    meta = told.get(timeout=max(0.0, left_s))
                except queue.Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        return None
                    if on_interval is not None:
                        on_interval()
                    continue
                if isinstance(meta, Exception):
                    raise meta
                if on_message is not None:
                    on_message(as_read(meta))
                if meta.status in states.READY_STATES:
                    return meta
        finally:
            cancel()

    def _raise_of_parents(self) -> None:
        parent = self.parent
        while parent is not None:
            parent.maybe_throw()
            parent = parent.parent

    def _too_late(self, timeout: float | None) -> Exception:
        return TimeoutError(f"task {self.id} was not ready within {timeout} s; its state is {self._meta().status}")

    # -- what is known now

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """The value, raising the task's error when its state is one that propagates."""
        meta = self._meta()
        if propagate and meta.status in states.PROPAGATE_STATES:
            error = exception_from_wire(meta.result, sys.modules)
            if meta.traceback:
                error.add_note(f"in the worker:\n{meta.traceback}")
            raise error
        value = self._value(meta)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _value(self, meta: ResultMeta) -> Any:
        return exception_from_wire(meta.result, sys.modules) if meta.status in states.EXCEPTION_STATES else meta.result

    @property
    def state(self) -> str:
        """PENDING for an id that nothing is known of."""
        return self._meta().status

    status = state

    @property
    def result(self) -> Any:
        """The value, the exception, or a state's meta; never raises the task's error."""
        return self._value(self._meta())

    info = result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text."""
        return self._meta().traceback

    @property
    def date_done(self) -> datetime | None:
        """When it ended; None until it has."""
        done = self._meta().date_done
        return datetime.fromisoformat(done) if isinstance(done, str) else done

    @property
    def name(self) -> str | None:
        """The task's name, where the handle was made by a call, or with `result_extended`."""
        return self._name or self._extended("name")

    @property
    def args(self) -> Any:
        """With `result_extended`, and None without, as all that follow: its arguments as text."""
        return self._extended("args")

    @property
    def kwargs(self) -> Any:
        """Its named arguments as text."""
        return self._extended("kwargs")

    @property
    def worker(self) -> Any:
        """The node that ran it."""
        return self._extended("worker")

    @property
    def retries(self) -> Any:
        """How often it was retried."""
        return self._extended("retries")

    @property
    def queue(self) -> Any:
        """The queue it came from."""
        return self._extended("queue")

    def _extended(self, name: str) -> Any:
        return self._meta().extra.get(name)

    def ready(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it has ended well."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it has ended with an error."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anything is stored under this id."""
        return self._backend.fetch(self.id) is not None

    # -- what came of it: the calls it made

    @property
    def children(self) -> "list[AsyncResult[Any]] | None":
        """Handles of the calls that its body made; None until it has ended."""
        meta = self._meta()
        if meta.status not in states.READY_STATES:
            return None
        from celeriac.result.group import result_from_tuple  # a child may be a group, which knows handles

        return [result_from_tuple(child, self._app, self._backend, self._guard) for child in meta.children or ()]

    def iterdeps(self, intermediate: bool = False) -> "Iterator[tuple[AsyncResult[Any] | None, AsyncResult[Any]]]":
        """(parent, handle) of this and of all that came of it, the nearest first. intermediate: also while some have not ended.

        Raises IncompleteStream where one has not.
        """
        waiting: deque[tuple[AsyncResult[Any] | None, AsyncResult[Any]]] = deque([(None, self)])
        while waiting:
            parent, handle = waiting.popleft()
            yield parent, handle
            if handle.ready():
                waiting.extend((handle, child) for child in handle.children or ())
            elif not intermediate:
                raise IncompleteStream(f"task {handle.id} has not ended")

    def collect(self, intermediate: bool = False, **waiting: Any) -> "Iterator[tuple[AsyncResult[Any], Any]]":
        """(handle, value) of this and of all that came of it, waiting for each; `waiting` goes to `get`."""
        for _, handle in self.iterdeps(intermediate):
            yield handle, handle.get(**waiting)

    def get_leaf(self) -> Any:
        """The value of the last call that came of this one."""
        return [value for _, value in self.collect()][-1]

    @property
    def graph(self) -> "dict[AsyncResult[Any], list[AsyncResult[Any]]]":
        """Which call made which: each handle with its children."""
        made: dict[AsyncResult[Any], list[AsyncResult[Any]]] = {}
        for parent, handle in self.iterdeps(intermediate=True):
            made.setdefault(handle, [])
            if parent is not None:
                made[parent].append(handle)
        return made

    # -- doing something about it

    def forget(self) -> None:
        """Delete the record, and those of the calls before it in its chain."""
        self._cache = None
        if self.parent is not None:
            self.parent.forget()
        self._backend.forget(self.id)

    def revoke(
        self, connection: Any = None, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> Any:  # fmt: skip
        """Have no worker run it; with terminate, end it by this signal where it runs. wait: for the workers' answers, and return them.

        Raises BrokerUnavailable, RuntimeError for a handle without an app.
        """
        if self._app is None:
            raise RuntimeError(f"{self!r} belongs to no app: use app.AsyncResult(id).revoke()")
        return self._app.control.revoke(
            self.id, terminate=terminate, signal=signal or "SIGTERM", reply=wait, timeout=timeout or 1.0
        )

    def revoke_by_stamped_headers(self, headers: Any, **options: Any) -> Any:
        """Have no worker run calls that carry one of these stamps. Raises RuntimeError for a handle without an app."""
        if self._app is None:
            raise RuntimeError(f"{self!r} belongs to no app: use app.control.revoke_by_stamped_headers")
        return self._app.control.revoke_by_stamped_headers(headers, **options)

    # -- the handle itself

    @property
    def supports_native_join(self) -> bool:
        """Whether the store is read for many at a time: always."""
        return True

    @property
    def backend(self) -> ResultBackend:
        """Where its record is."""
        return self._backend

    @property
    def app(self) -> Any:
        """The app it was called by."""
        return self._app

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    def as_tuple(self) -> Any:
        """Celery's form for storing a handle: ((id, parent), None)."""
        return (self.id, self.parent.as_tuple() if self.parent else None), None

    def as_list(self) -> list[str]:
        """The ids of this call and of those before it in its chain."""
        return [self.id, *(self.parent.as_list() if self.parent else ())]

    def __reduce__(self) -> Any:
        return _unpickled, (self.id, self._name, self.parent)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


class EagerResult(AsyncResult[R]):
    """The result of a call that ran where it was made."""

    __slots__ = ()

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:  # fmt: skip
        from celeriac.backends.disabled import DisabledBackend

        super().__init__(id, DisabledBackend(), name=name)
        self._cache = ResultMeta(id, state, ret_value, traceback)

    def __reduce__(self) -> Any:
        meta = self._meta()
        return type(self), (self.id, meta.result, meta.status, meta.traceback, self._name)

    def get(self, timeout: float | None = None, propagate: bool = True, *_: Any, **__: Any) -> R:
        """The value, or the task's own exception."""
        assert self._cache is not None
        value: R = self._cache.result
        if propagate and self._cache.status in states.PROPAGATE_STATES and isinstance(value, BaseException):
            raise value
        return value

    wait = get

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, *, disable_sync_subtasks: bool = True
    ) -> R:
        """As `get`."""
        return self.get(timeout, propagate)

    def then(
        self, callback: Callable[[AsyncResult[R]], Any], on_error: Callable[[AsyncResult[R]], Any] | None = None, weak: bool = False
    ) -> AsyncResult[R]:  # fmt: skip
        """Call it at once."""
        (on_error if on_error is not None and self.state in states.PROPAGATE_STATES else callback)(self)
        return self

    def forget(self) -> None:
        """Nothing is stored."""

    def revoke(self, *_: Any, **__: Any) -> None:
        """It has run already."""


def as_read(meta: ResultMeta) -> dict[str, Any]:
    """The record as a dict for those who look at it; an error is an exception."""
    record = meta.to_wire()
    if meta.status in states.EXCEPTION_STATES:
        record["result"] = exception_from_wire(meta.result, sys.modules)
    return record


def _unpickled(id: str, name: str | None, parent: Any) -> AsyncResult[Any]:
    return AsyncResult(id, name=name, parent=parent)
