"""The guide's import path: `from celeriac.task import task`, bound to the current app."""

from celeriac.app.periodic import PeriodicTask
from celeriac.app.task import Task
from celeriac.compat import current_task as current
from celeriac.compat import periodic_task
from celeriac.compat import shared_task as task

__all__ = ["PeriodicTask", "Task", "current", "periodic_task", "task"]
