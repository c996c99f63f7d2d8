"""The guide's import path of calls as values: `from celeriac.task.sets import subtask, TaskSet`."""

from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.canvas import Signature, group, signature
from celeriac.compat import current_app
from celeriac.result import GroupResult, TaskSetResult


def subtask(
    task: Any = None, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, options: Any = None, **more: Any
) -> Signature:  # fmt: skip
    """A call as a value, or one again that JSON has made a plain dict of. As in the guide, further named values are the task's own.

    (Those of `celeriac.signature` are options, as in Celery today.)
    """
    if isinstance(task, Mapping):
        return signature(task)
    return signature(task, tuple(args or ()), {**(kwargs or {}), **more}, options)


class TaskSet(list[Any]):
    """Calls that run at once: `TaskSet(tasks=[add.subtask((2, 2)), …]).apply_async()`. Today's way is `group`."""

    def __init__(self, tasks: Iterable[Any] | None = None, app: Any = None, **_: Any) -> None:
        super().__init__(subtask(each) for each in tasks or ())
        self._app = app

    @property
    def tasks(self) -> "TaskSet":
        """The calls."""
        return self

    @property
    def total(self) -> int:
        """How many they are."""
        return len(self)

    def apply_async(self, *, taskset_id: str | None = None, **options: Any) -> GroupResult:
        """Send them; their results, in order. taskset_id: their `request.taskset`."""
        if taskset_id is not None:
            options["task_id"] = taskset_id
        sent: GroupResult = self._group().apply_async(**options)
        return sent

    def apply(self, *, taskset_id: str | None = None, **options: Any) -> GroupResult:
        """Run them here."""
        done: GroupResult = self._group().apply(**options)
        if taskset_id is not None:
            done.id = taskset_id
        return done

    def _group(self) -> Signature:
        return group(list(self), app=self._app if self._app is not None else current_app())


__all__ = ["TaskSet", "TaskSetResult", "group", "subtask"]
