"""The import path of decorators before the guide's: `from celeriac.decorators import task, periodic_task`."""

from celeriac.compat import periodic_task
from celeriac.compat import shared_task as task

__all__ = ["periodic_task", "task"]
