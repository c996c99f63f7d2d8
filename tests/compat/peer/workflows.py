"""Tasks for workflows that either library runs unchanged: LIBRARY (celery or celeriac) says which, BROKER and BACKEND where."""

import os
import time
from pathlib import Path

if os.environ["LIBRARY"] == "celery":
    from celery import Celery, chain, chord, group
else:
    from celeriac import Celery, chain, chord, group

app = Celery("workflows", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    result_chord_join_timeout=20,
)


@app.task
def add(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)


@app.task
def same(value):
    return value


@app.task(bind=True)
def where(self, *_):
    """The library that runs it; for long enough that each worker gets a share."""
    time.sleep(0.02)
    return self.request.hostname.split("@")[0]


@app.task
def fails(*_):
    raise ValueError("no")


@app.task(bind=True)
def becomes(self, what):
    return self.replace({
        "task": add.s(20, 1),
        "chain": chain(add.s(20, 1), add.s(1)),
        "group": group(add.s(20, 1), add.s(20, 2)),
        "chord": chord([add.s(20, 1), add.s(20, 2)], total.s()),
    }[what])  # fmt: skip


@app.task(bind=True)
def stamp(self, *_):
    return (self.request.stamps or {}).get("order")


@app.task
def told(value, path):
    """A callback, or an error callback of the old kind."""
    with Path(path).open("a") as lines:
        lines.write(f"{value}\n")
    return value


@app.task
def told_all(request, exc, traceback, path):
    """An error callback of the new kind."""
    with Path(path).open("a") as lines:
        lines.write(f"{request.id} {type(exc).__name__} {exc}\n")
