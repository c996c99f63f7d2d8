"""Logging as a worker sets it up: one line an event, for people or as JSON."""

import json
import logging
import logging.handlers
import sys
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TextIO

from celeriac import signals
from celeriac.config import Settings

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStyle:
    """How lines look, in logging's words. None: as we have it. hijack: take other handlers of the root logger away.

    task_format, task_datefmt  of lines that a task's logger has written. color: None on a terminal.
    """

    format: str | None = None
    datefmt: str | None = None
    task_format: str | None = None
    task_datefmt: str | None = None
    color: bool | None = None
    hijack: bool = True


class TextFormatter(logging.Formatter):
    """One line for people; of what a task's logger has written, with the task's name and id."""

    FORMAT = "%(asctime)s %(levelname)s %(name)s%(call)s: %(message)s"
    COLORS = MappingProxyType({"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"})

    def __init__(self, style: LogStyle = LogStyle(), *, color: bool = False) -> None:
        super().__init__(style.format or self.FORMAT, style.datefmt)
        self._color = color
        self._task: logging.Formatter | None = None
        if style.task_format or style.task_datefmt:
            self._task = logging.Formatter(
                style.task_format or style.format or self.FORMAT, style.task_datefmt or style.datefmt
            )

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback where there is one."""
        task_id = getattr(record, "task_id", None)
        record.call = f" {record.task_name}[{task_id}]" if task_id else ""  # type: ignore[attr-defined]
        if self._task is None or not record.name.startswith("celeriac.task"):
            return super().format(record)
        record.task_id, record.task_name = task_id or "???", getattr(record, "task_name", None) or "???"
        return self._painted(record, self._task.format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        return self._painted(record, super().formatMessage(record))

    def _painted(self, record: logging.LogRecord, line: str) -> str:
        paint = self.COLORS.get(record.levelname) if self._color else None
        return f"{paint}{line}\x1b[0m" if paint else line


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


def set_up(
    level: str, *, as_json: bool = False, stream: TextIO | None = None, logfile: str | None = None, style: LogStyle = LogStyle()
) -> None:  # fmt: skip
    """Send everything from `level` up to standard error, or to a file. Raises ValueError for a level nobody knows.

    A receiver of the signal `setup_logging` does it instead; receivers of after_setup_logger and after_setup_task_logger add to it.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} does not exist; choose one of: {', '.join(LEVELS)}")
    number = LEVELS[level.lower()]
    out = stream or sys.stderr
    color = not logfile and (out.isatty() if style.color is None else style.color)
    told: dict[str, Any] = {
        "loglevel": number,
        "logfile": logfile,
        "format": style.format or TextFormatter.FORMAT,
        "colorize": color,
    }
    if signals.setup_logging.receivers:
        for _, answer in signals.setup_logging.send(sender=None, **told):
            if isinstance(answer, BaseException):  # a worker without its log is not to run
                raise answer
        return
    if style.hijack or not logging.getLogger().handlers:
        handler = logging.handlers.WatchedFileHandler(logfile) if logfile else logging.StreamHandler(out)
        handler.setFormatter(JsonFormatter() if as_json else TextFormatter(style, color=color))
        logging.basicConfig(level=number, handlers=[handler], force=True)
    else:  # the app's own handlers stay, and decide where to and how
        logging.getLogger("celeriac").setLevel(number)
    logging.getLogger("amqp").setLevel(max(logging.INFO, number))
    signals.after_setup_logger.send(sender=None, logger=logging.getLogger(), **told)
    signals.after_setup_task_logger.send(sender=None, logger=logging.getLogger("celeriac.task"), **told)


def style_of(conf: Settings) -> LogStyle:
    """The style that the settings say."""
    return LogStyle(
        format=conf.worker_log_format,
        datefmt=conf.worker_log_datefmt,
        task_format=conf.worker_task_log_format,
        task_datefmt=conf.worker_task_log_datefmt,
        color=conf.worker_log_color,
        hijack=conf.worker_hijack_root_logger,
    )
