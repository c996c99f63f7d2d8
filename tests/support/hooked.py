"""Tasks whose hooks and receivers write down what they find in the result store. The app is `app`; settings as for jobs.py."""

import os
from typing import Any

from celeriac import Celeriac, Task, signals

app = Celeriac("hooked", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def note(what: str, task_id: str, told: Any) -> None:
    """`<what> <state in the store> <what was told>`, in one write."""
    line = f"{what} {app.AsyncResult(task_id).state} {told!r}\n"
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


class Noting(Task):
    abstract = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note("on_success", task_id, retval)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_failure", task_id, exc)

    def on_retry(self, exc: BaseException | None, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_retry", task_id, exc)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("after_return", task_id, retval)


@signals.task_postrun.connect
def postrun(task_id: str, retval: Any, **_: Any) -> None:
    note("postrun", task_id, retval)


@app.task(base=Noting)
def works() -> int:
    return 5


@app.task(base=Noting)
async def works_async() -> int:
    return 5


@app.task(base=Noting)
def fails() -> None:
    raise KeyError("k")


@app.task(base=Noting, bind=True, max_retries=1)
def tries(self: Any) -> None:
    raise self.retry(exc=KeyError("k"), countdown=0)
