"""How tasks report that they ran: each process counts in a file of its own in the folder BENCH_TALLY, in shared memory.

One record a process: how many, when the first, when the last (monotonic seconds, the same clock for all processes of the
machine). It costs about half a microsecond a task, so that counting does not measure itself.
"""

import mmap
import os
import struct
import threading
import time
from pathlib import Path

RECORD = struct.Struct("=Qdd")
_FOLDER = Path(os.environ["BENCH_TALLY"])

_lock = threading.Lock()
_file: mmap.mmap | None = None
_seen = 0
_first = 0.0


def tick() -> None:
    """Count one execution."""
    global _seen, _first  # noqa: PLW0603 - one process, one tally
    at = time.monotonic()
    with _lock:
        _seen += 1
        _first = _first or at
        RECORD.pack_into(_file or _opened(), 0, _seen, _first, at)


def began() -> None:
    """A task that takes time has begun: the first of them starts the clock, `tick` counts it when it is done."""
    global _first  # noqa: PLW0603
    with _lock:
        _first = _first or time.monotonic()


def stamp(since: float) -> None:
    """Count one execution, and keep how long after `since` (epoch seconds) it ran, for the latency."""
    took_s = time.time() - since
    with (_FOLDER / "delays").open("a") as delays:
        delays.write(f"{took_s}\n")
    tick()


def _opened() -> mmap.mmap:
    global _file  # noqa: PLW0603
    path = _FOLDER / f"{os.getpid()}.tally"
    path.write_bytes(bytes(RECORD.size))
    with path.open("r+b") as file:
        _file = mmap.mmap(file.fileno(), RECORD.size)
    return _file


def _forget() -> None:
    """A forked child counts for itself."""
    global _file, _seen, _first, _lock
    _file, _seen, _first, _lock = None, 0, 0.0, threading.Lock()


os.register_at_fork(after_in_child=_forget)
