"""Tasks that can be asked to stop, and look whether they were: the guide's example of a state of one's own.

    @app.task(bind=True, base=AbortableTask)
    def index(self, rows):
        for row in rows:
            if self.is_aborted():
                return "stopped"
            …

    result = index.delay(rows)
    result.abort()

Any result store will do that both sides can read and write. To abort is to ask: it ends when the body looks. What has not started yet is
better revoked: a worker that stores STARTED writes over it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.app.task import P, Task
from celeriac.result import AsyncResult as Handle
from celeriac.result import EagerResult, R
from celeriac.wire.result import ResultMeta

#: The state of a task that was asked to stop. It is not ready: it ends with SUCCESS or FAILURE, as ever.
ABORTED = "ABORTED"


class AbortableAsyncResult(Handle[R]):
    """The handle of a call that can be aborted."""

    __slots__ = ()

    def is_aborted(self) -> bool:
        """Whether it was asked to stop, and has not ended since."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask it to stop. One that has ended well stays so. Raises BackendUnavailable, NotSupported where nothing is stored."""
        if self.ready():
            return
        [error] = self.backend.store([(ResultMeta(self.id, ABORTED), None)])
        if error is not None:
            raise error


class AbortableTask(Task[P, R]):
    """A task whose calls can be aborted."""

    abstract = True

    def AsyncResult(self, task_id: str) -> AbortableAsyncResult[R]:  # noqa: N802 - Celery's name
        """The handle of a call made before."""
        return _abortable(super().AsyncResult(task_id))

    def apply_async(self, *args: Any, **options: Any) -> Handle[R]:
        """As Task.apply_async; the handle is an AbortableAsyncResult."""
        handle = super().apply_async(*args, **options)
        return handle if isinstance(handle, EagerResult) else _abortable(handle)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Handle[R]:
        """As Task.aapply_async; the handle is an AbortableAsyncResult."""
        handle = await super().aapply_async(args, kwargs, **options)
        return handle if isinstance(handle, EagerResult) else _abortable(handle)

    def is_aborted(self, *, task_id: str | None = None) -> bool:
        """Whether the call that runs here was asked to stop: one look into the store. A call made in place cannot be."""
        request = self.request
        if task_id is None and (request.is_eager or request.called_directly):
            return False
        return self.AsyncResult(task_id or str(request.id)).is_aborted()

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """As Task.update_state; but a call that was asked to stop stays in that state."""
        if not self.is_aborted(task_id=task_id):
            super().update_state(task_id, state, meta)


def _abortable(handle: Handle[R]) -> AbortableAsyncResult[R]:
    return AbortableAsyncResult(
        handle.id, handle.backend, handle._name, handle.app, handle.parent, guard=handle._guard, ignored=handle.ignored
    )
