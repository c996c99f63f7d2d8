"""AsyncResult: the handle of a call that was sent."""

import sys
from collections.abc import Callable
from typing import Any

from celeriac import states
from celeriac.backends.base import ResultBackend
from celeriac.exceptions import TimeoutError  # noqa: A004 - ours is the builtin's child
from celeriac.wire.result import ResultMeta, exception_from_wire


class AsyncResult:
    """A task's state and value, by its id.

    Reads the store at each question until the task is ready, then keeps what it read.
    """

    __slots__ = ("_app", "_backend", "_cache", "_children", "_guard", "deduplicated", "id", "name", "parent")

    def __init__(
        self,
        id: str,
        backend: ResultBackend,
        *,
        name: str | None = None,
        parent: "AsyncResult | None" = None,
        guard: Callable[[], None] | None = None,
        app: Any = None,
        deduplicated: bool = False,
    ) -> None:
        self.id = id
        #: Whether the call was not sent, because this one, with the same key, waits or runs (unique_for).
        self.deduplicated = deduplicated
        self.name = name
        self.parent = parent
        self._app = app
        self._backend = backend
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

    def get(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, no_ack: bool = True,
        follow_parents: bool = True, disable_sync_subtasks: bool = True,
    ) -> Any:  # fmt: skip
        """The task's value, once it is ready; raises what the task raised, unless propagate is False.

        timeout   seconds; None waits for ever. interval: seconds between two looks where the store cannot tell by itself.

        Raises TimeoutError; RuntimeError inside a task, unless disable_sync_subtasks is False.
        """
        if disable_sync_subtasks and self._guard is not None:
            self._guard()
        meta = self._cache or self._backend.wait(self.id, timeout, interval)
        if meta is None:
            raise TimeoutError(f"task {self.id} was not ready within {timeout} s; its state is {self._meta().status}")
        self._cache = meta
        if propagate:
            self.maybe_throw()
        return self._value(meta)

    wait = get

    def maybe_throw(self, propagate: bool = True) -> Any:
        """The value, raising the task's error when its state is one that propagates."""
        meta = self._meta()
        if propagate and meta.status in states.PROPAGATE_STATES:
            error = exception_from_wire(meta.result, sys.modules)
            if meta.traceback:
                error.add_note(f"in the worker:\n{meta.traceback}")
            raise error
        return self._value(meta)

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
    def date_done(self) -> str | None:
        """ISO 8601, None until ready."""
        return self._meta().date_done

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

    def forget(self) -> None:
        """Delete the record."""
        self._cache = None
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

    def as_tuple(self) -> Any:
        """Celery's form for storing a handle: ((id, parent), None)."""
        return (self.id, self.parent.as_tuple() if self.parent else None), None

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class EagerResult(AsyncResult):
    """The result of a call that ran where it was made."""

    __slots__ = ()

    def __init__(self, id: str, meta: ResultMeta, *, name: str | None = None) -> None:
        from celeriac.backends.disabled import DisabledBackend

        super().__init__(id, DisabledBackend(), name=name)
        self._cache = meta

    def get(self, timeout: float | None = None, propagate: bool = True, *_: Any, **__: Any) -> Any:
        """The value, or the task's own exception."""
        assert self._cache is not None
        if (
            propagate
            and self._cache.status in states.PROPAGATE_STATES
            and isinstance(self._cache.result, BaseException)
        ):
            raise self._cache.result
        return self._cache.result

    wait = get
