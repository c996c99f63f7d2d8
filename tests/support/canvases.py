"""Tasks for workflows that real workers run, of every kind of end. The app is `app`; BROKER, BACKEND and LEDGER as in jobs.py.

Callbacks write what they are given: `told(path, ...)` a line into the file `path`.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celeriac import Celeriac, Task, chain, chord, group
from celeriac.exceptions import Reject

app = Celeriac("canvases", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def write(path: str, *what: Any) -> None:
    with Path(path).open("a") as lines:
        lines.write(json.dumps(what) + "\n")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def same(value: Any) -> Any:
    return value


@app.task
def slow(value: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return value


@app.task(ignore_result=True)
def quiet(value: Any) -> Any:
    return value


@app.task
def fails(*_: Any) -> None:
    raise ValueError("no")


@app.task(bind=True, max_retries=5)
def flaky(self: Task, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True)
def puts_back(self: Any, value: int) -> int:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not now", requeue=True)
    return value


@app.task
def rejects() -> None:
    raise Reject("not mine", requeue=False)


@app.task(time_limit=0.4)
def endless() -> None:
    while True:
        time.sleep(0.02)


@app.task
def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def becomes(self: Task, what: str) -> Any:
    """Is replaced by a workflow of this kind."""
    return self.replace({
        "task": add.s(20, 1),
        "chain": add.s(20, 1) | add.s(1),
        "group": group(add.s(20, 1), add.s(20, 2)),
        "chord": chord([add.s(20, 1), add.s(20, 2)], total.s()),
        "itself": becomes.s("task"),
        "nested": chain(add.s(1, 1), group(add.s(1), becomes.si("chord"))),
    }[what])  # fmt: skip


@app.task(bind=True)
def grows(self: Task) -> int:
    self.add_to_chord(add.s(10, 10))
    return 1


@app.task
def told(path: str, *what: Any) -> None:
    write(path, *what)


@app.task
def told_the_id(failed_id: str, path: str) -> None:
    write(path, failed_id)


@app.task
def told_all(request: Any, error: BaseException, traceback: str | None, path: str) -> None:
    write(path, request.id, request.task, type(error).__name__)


@app.task(bind=True)
def stamped(self: Task, *_: Any) -> dict[str, Any]:
    return {name: self.request.stamps[name] for name in self.request.stamped_headers or ()}


@app.task(bind=True)
def noted_total(self: Task, values: list[int], path: str) -> int:
    """As `total`; writes its id and what it was given."""
    write(path, self.request.id, values)
    return sum(values)


if os.environ.get("DIE_AT"):
    from dying import die_at

    die_at(os.environ["DIE_AT"])
