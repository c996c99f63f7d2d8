"""The guide's import path of the registry: `from celeriac import registry; registry.tasks[AddTask.name]`."""

from collections.abc import Iterator, Mapping

from celeriac.app.task import Task
from celeriac.compat import current_app
from celeriac.exceptions import NotRegistered


class TaskRegistry(Mapping[str, Task]):
    """Names to tasks, of whichever app is the current one."""

    NotRegistered = NotRegistered

    def __getitem__(self, name: str) -> Task:
        """A task by its name. Raises NotRegistered, a KeyError."""
        task: Task = current_app().find(name)
        return task

    def __iter__(self) -> Iterator[str]:
        return iter(current_app().tasks)

    def __len__(self) -> int:
        return len(current_app().tasks)

    def register(self, task: Task | type[Task]) -> None:
        """Register a task by hand, e.g. one whose class is abstract."""
        current_app().register_task(task)

    def __repr__(self) -> str:
        return repr(dict(self))


tasks = TaskRegistry()

__all__ = ["NotRegistered", "TaskRegistry", "tasks"]
