"""Tasks that keep a ledger: each writes when it starts and when it ends, so that a test can count both. The app is `app`.

BROKER, BACKEND, LEDGER come from the environment; settings from CELERIAC_*. Lines: `start|end <number> <pid> <time>`.
"""

import faulthandler
import os
import signal
import time

from celeriac import Celeriac, Task

# `kill -USR1` prints where every thread of a worker is.
faulthandler.register(signal.SIGUSR1)

app = Celeriac("jobs", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def note(what: str, number: int) -> None:
    """One line, in one write, which no SIGKILL can split."""
    line = f"{what} {number} {os.getpid()} {time.time()}\n"
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


@app.task
def work(number: int, seconds: float = 0.02) -> int:
    note("start", number)
    time.sleep(seconds)
    note("end", number)
    return number


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def moved(self: Task, queue: str) -> None:
    """Asks to run again on another queue."""
    raise self.retry(queue=queue, countdown=0)


@app.task
def unwritable() -> object:
    return object()


# Known to the tests alone: a worker does not set CLIENT.
if os.environ.get("CLIENT"):

    @app.task
    def stranger() -> None:
        raise AssertionError("a worker ran it")
