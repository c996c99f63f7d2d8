"""Unique tasks that keep jobs.py's ledger. The app is `app`, for workers and clients."""

import os
import time

from jobs import app, note

from celeriac import Task

__all__ = ["app"]


@app.task(unique_for=60, unique_key="number")
def index(number: int, seconds: float = 0.0) -> int:
    note("start", number)
    time.sleep(seconds)
    note("end", number)
    return number


@app.task(unique_for=60, unique_until="start")
def refresh(number: int, seconds: float = 0.0) -> None:
    note("start", number)
    time.sleep(seconds)
    note("end", number)


@app.task(unique_for=1.5, unique_until="expiry")
def window(number: int) -> None:
    note("start", number)


@app.task(bind=True, unique_for=60, unique_key="number", default_retry_delay=1.0)
def flaky(self: Task, number: int) -> None:
    note("start", number)
    if self.request.retries == 0:
        raise self.retry()
    note("end", number)


@app.task(unique_for=60)
def broken(number: int) -> None:
    note("start", number)
    raise ValueError(number)


@app.task(unique_for=3)
def killed(number: int) -> None:
    note("start", number)
    os.kill(os.getpid(), 9)
