"""Logging as a worker sets it up: one line an event, for people or as JSON."""

import json
import logging
import sys
import time
from typing import TextIO

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(level: str, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send everything from `level` up to standard error. Raises ValueError for a level nobody knows."""
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} does not exist; choose one of: {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=LEVELS[level.lower()], handlers=[handler], force=True)
    logging.getLogger("amqp").setLevel(max(logging.INFO, LEVELS[level.lower()]))
