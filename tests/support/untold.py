"""Tasks whose body cannot tell how it ends, with hooks and receivers that write who is told. The app is `app`."""

import asyncio
import os
import signal
import time
from typing import Any

from celeriac import Celeriac, Task, current_task, signals

app = Celeriac("untold", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def note(*words: Any) -> None:
    """One line, in one write."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(ledger)


class Told(Task):
    abstract = True

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        task = current_task()
        assert task is not None
        note("on_failure", type(exc).__name__, list(args), kwargs, task.request.id == task_id, einfo.type.__name__)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("after_return", status, type(retval).__name__)


@signals.task_failure.connect
def failed(sender: Any, exception: BaseException, einfo: Any, **_: Any) -> None:
    note("task_failure", sender.name, type(exception).__name__)


@signals.task_postrun.connect
def ended(state: str, retval: Any, **_: Any) -> None:
    note("postrun", state, type(retval).__name__)


@app.task(base=Told, time_limit=0.4)
def hangs(seconds: float, *, deaf: bool = False) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.02)
        except BaseException:
            if not deaf:
                raise


@app.task(base=Told, time_limit=0.4)
async def waits(seconds: float, *, deaf: bool = False) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.02)
        except BaseException:
            if not deaf:
                raise


@app.task(base=Told)
def dies(signum: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), signum)


@app.task(base=Told)
def ends() -> None:
    return None
