"""`get_task_logger`: a logger under the worker's task log, whose records know the call they were made in."""

import logging

from celeriac.app.context import task_logger


def get_task_logger(name: str) -> logging.Logger:
    """The logger to use inside tasks: records have task_name and task_id."""
    return task_logger(name)


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, under `celeriac`."""
    return logging.getLogger(name if name.partition(".")[0] == "celeriac" else f"celeriac.{name}")
