"""What ends the loop's sleep: a pipe that other threads and signal handlers write to."""

import os
import select
from collections.abc import Callable, Iterable


class Wake:
    """A pipe that ends the loop's sleep from another thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._sleeping = False

    def set(self) -> None:
        """End the sleep, or the next one. From a signal handler too."""
        try:
            os.write(self._write, b"x")
        except BlockingIOError:
            return  # it is full: the loop wakes up all the same

    def done(self) -> None:
        """As set(), but only when the loop sleeps: for the pool, once a task."""
        if self._sleeping:
            self.set()

    def wait(self, fds: Iterable[int | None], timeout_s: float, already: Callable[[], bool]) -> None:
        """Sleep until set(), until one of `fds` is readable, or until the time is over; not at all when `already()`."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        for fd in fds:
            if fd is not None:
                poll.register(fd, select.POLLIN)
        self._sleeping = True
        try:
            if not already():
                poll.poll(max(0, int(timeout_s * 1000 + 0.999)))
        finally:
            self._sleeping = False
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            return
