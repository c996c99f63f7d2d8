"""The guide's import path: `from celeriac.task import task`, bound to the current app."""

from celeriac.app.task import Task
from celeriac.compat import current_task as current
from celeriac.compat import shared_task as task

__all__ = ["Task", "current", "task"]
