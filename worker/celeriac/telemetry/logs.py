"""Logging as a worker sets it up: one line an event, for people or as JSON."""

import json
import logging
import logging.handlers
import sys
import time
from typing import Any, TextIO

from celeriac import signals

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


class TextFormatter(logging.Formatter):
    """One line for people; of what a task's logger has written, with the task's name and id."""

    FORMAT = "%(asctime)s %(levelname)s %(name)s%(call)s: %(message)s"

    def __init__(self) -> None:
        super().__init__(self.FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        task_id = getattr(record, "task_id", None)
        record.call = f" {record.task_name}[{task_id}]" if task_id else ""  # type: ignore[attr-defined]
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "task_id", None):
            entry |= {"task": record.task_name, "task_id": record.task_id}  # type: ignore[attr-defined]
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(level: str, *, as_json: bool = False, stream: TextIO | None = None, logfile: str | None = None) -> None:
    """Send everything from `level` up to standard error, or to a file. Raises ValueError for a level nobody knows.

    A receiver of the signal `setup_logging` does it instead; receivers of after_setup_logger and after_setup_task_logger add to it.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} does not exist; choose one of: {', '.join(LEVELS)}")
    number = LEVELS[level.lower()]
    told: dict[str, Any] = {"loglevel": number, "logfile": logfile, "format": TextFormatter.FORMAT, "colorize": False}
    if signals.setup_logging.receivers:
        for _, answer in signals.setup_logging.send(sender=None, **told):
            if isinstance(answer, BaseException):  # a worker without its log is not to run
                raise answer
        return
    handler = logging.handlers.WatchedFileHandler(logfile) if logfile else logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.getLogger("amqp").setLevel(max(logging.INFO, number))
    signals.after_setup_logger.send(sender=None, logger=logging.getLogger(), **told)
    signals.after_setup_task_logger.send(sender=None, logger=logging.getLogger("celeriac.task"), **told)
