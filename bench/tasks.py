"""The tasks that both libraries run: LIBRARY says which, BENCH_TALLY names the file in which executions are counted.

The tally is one record in shared memory: how many, when the first, when the last. It costs about half a microsecond a
task, so that counting does not measure itself.
"""

import mmap
import os
import struct
import threading
import time
from pathlib import Path

if os.environ["LIBRARY"] == "celery":
    from celery import Celery
else:
    from celeriac import Celery

RECORD = struct.Struct("=Qdd")

_results = os.environ.get("BENCH_RESULTS") == "1"
app = Celery("bench", broker=os.environ["BROKER"], backend=os.environ["BACKEND"] if _results else None)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=not _results,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

with Path(os.environ["BENCH_TALLY"]).open("r+b") as _file:
    _tally = mmap.mmap(_file.fileno(), RECORD.size)
_lock = threading.Lock()
_seen = 0
_first = 0.0


def tick():
    """Count one execution."""
    global _seen, _first  # noqa: PLW0603 - one process, one tally
    at = time.monotonic()
    with _lock:
        _seen += 1
        _first = _first or at
        RECORD.pack_into(_tally, 0, _seen, _first, at)


@app.task(name="bench.noop")
def noop(number):
    tick()
    return {"number": number}


@app.task(name="bench.stamp")
def stamp(sent_at):
    """Append how long the message was under way."""
    took_s = time.time() - sent_at
    with Path(os.environ["BENCH_TALLY"] + ".delays").open("a") as delays:
        delays.write(f"{took_s}\n")
    tick()
