"""Tasks that end badly, one of each kind, for workers that must outlive them. The app is `app`; each start is a line in the ledger."""

import asyncio
import ctypes
import os
import resource
import signal
import sys
import time
from typing import Any

from jobs import note

from celeriac import Celeriac
from celeriac.signals import worker_process_init

app = Celeriac("bodies", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


@worker_process_init.connect(weak=False)
def bound_the_memory(**_: Any) -> None:
    """So that a body that takes all it can get finds an end, on a machine of any size."""
    if os.environ.get("MOST_BYTES"):
        resource.setrlimit(resource.RLIMIT_AS, (int(os.environ["MOST_BYTES"]), resource.RLIM_INFINITY))


@worker_process_init.connect(weak=False)
def begin_badly(**_: Any) -> None:
    """As a child process whose start hangs, or fails."""
    if os.environ.get("INIT") == "hangs":
        time.sleep(60)
    if os.environ.get("INIT") == "exits":
        sys.exit(7)


class Unpicklable(Exception):
    def __init__(self, text: str, handle: object) -> None:
        super().__init__(text, handle)

    def __reduce__(self) -> Any:
        raise TypeError("never")


@app.task
def fine(number: int) -> int:
    note("start", number)
    return number


@app.task(time_limit=0.5)
def never_returns() -> None:
    while True:
        time.sleep(10)


@app.task
def takes_all_memory() -> None:
    taken = []
    while True:
        taken.append(bytearray(50_000_000))


@app.task
def exits(number: int = 0) -> None:
    note("start", number)
    os._exit(9)


@app.task
def is_killed(number: int = 0) -> None:
    note("start", number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(max_retries=2, default_retry_delay=0.1)
def is_killed_and_retried(number: int = 0) -> None:
    note("start", number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def crashes() -> None:
    ctypes.string_at(0)


@app.task
def closes_descriptors() -> None:
    os.closerange(3, 4096)


@app.task
def forks() -> bool:
    return os.fork() == 0


@app.task
def raises_the_unpicklable() -> None:
    raise Unpicklable("no", object())


@app.task
def returns_the_unwritable() -> object:
    return object()


@app.task
def prints_a_lot() -> int:
    for _ in range(100):
        sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
    return 100_000_000


@app.task
def recurses(depth: int = 0) -> int:
    return recurses.run(depth + 1) + 1


@app.task
def says_exit() -> None:
    sys.exit(3)


@app.task
def dozes(number: int, seconds: float) -> int:
    note("start", number)
    time.sleep(seconds)
    note("end", number)
    return number


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise TypeError("never")


@app.task
def raises_the_unprintable() -> None:
    raise Unprintable(1)


@app.task
def interrupts() -> None:
    raise KeyboardInterrupt


class Rude(app.Task):  # type: ignore[misc,name-defined]
    abstract = True

    def before_start(self, *_: Any) -> None:
        raise SystemExit(1)

    def on_success(self, *_: Any) -> None:
        raise KeyboardInterrupt

    def after_return(self, *_: Any) -> None:
        raise Unprintable(2)


@app.task(base=Rude)
def has_rude_hooks() -> int:
    return 7


@app.task
def sends_from_a_copy(number: int) -> None:
    copy = os.fork()
    fine.delay(number if copy else number + 1)
    if copy:
        os.waitpid(copy, 0)


@app.task
async def naps(number: int, seconds: float) -> int:
    note("start", number)
    await asyncio.sleep(seconds)
    note("end", number)
    return number
