"""The guide's import path of the classes: `from celeriac.task.base import Task`."""

from celeriac.app.context import Request as Context
from celeriac.app.task import Task

#: The guide's names. A class registers itself when it is defined (`Task.__init_subclass__`), without a metaclass.
BaseTask = Task
TaskType = type(Task)

__all__ = ["BaseTask", "Context", "Task", "TaskType"]
