"""`get_task_logger`: a logger under the worker's task log."""

import logging


def get_task_logger(name: str) -> logging.Logger:
    """The logger to use inside tasks."""
    return logging.getLogger(f"celeriac.task.{name}")
