"""What bodies print goes to the log: standard output and error as files that log their lines."""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

#: Characters of one record; a longer line is several.
LONGEST = 65_536


class LoggedStream(io.TextIOBase):
    """A text file whose lines become log records. A record that cannot be logged goes to the stream that it stands for, never round again."""

    def __init__(self, logger: logging.Logger, level: int, instead_of: TextIO) -> None:
        self._logger, self._level, self._stream = logger, level, instead_of
        self._mine = threading.local()

    def write(self, text: str) -> int:
        """Log the lines that end in it; what is left waits for its end, in each thread for itself."""
        mine = self._mine
        if getattr(mine, "logging", False):  # logging's own words about a handler that failed
            return self._stream.write(text)
        start, end = 0, text.find("\n")
        while end >= 0:
            self._log(self._taken() + text[start:end])
            start, end = end + 1, text.find("\n", end + 1)
        if start < len(text):
            parts = mine.__dict__.setdefault("parts", [])
            parts.append(text[start:])
            if sum(map(len, parts)) > LONGEST:  # a body that never ends its line is not to fill the memory
                self._log(self._taken())
        return len(text)

    def _taken(self) -> str:
        """This thread's line so far, which begins anew."""
        parts = self._mine.__dict__.pop("parts", ())
        return "".join(parts)

    def flush(self) -> None:
        """Log a line that has not ended."""
        self._log(self._taken())

    def _log(self, line: str) -> None:
        if not line or line.isspace():
            return
        self._mine.logging = True
        try:
            for start in range(0, len(line), LONGEST):
                self._logger.log(self._level, "%s", line[start : start + LONGEST].rstrip())
        finally:
            self._mine.logging = False

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Nobody sits at a log."""
        return False

    def fileno(self) -> int:
        """The file's own: what a child process writes there is not logged."""
        return self._stream.fileno()

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

    @property
    def buffer(self) -> Any:
        """The stream's: bytes are no lines."""
        return self._stream.buffer


@contextmanager
def redirected(logger: logging.Logger, level: str) -> Iterator[None]:
    """Log what is written to sys.stdout and sys.stderr meanwhile, at that level. Handlers made before keep their own stream."""
    before = sys.stdout, sys.stderr
    number = logging.getLevelNamesMapping()[level]
    sys.stdout, sys.stderr = (LoggedStream(logger, number, stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
