"""The app and its tasks: what users define and call."""

from celeriac.app.base import Celeriac
from celeriac.app.task import Task

__all__ = ["Celeriac", "Task"]
