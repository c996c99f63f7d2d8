"""Tasks that either library runs unchanged: LIBRARY (celery or celeriac) says which, BROKER and BACKEND where."""

import os
import time
from pathlib import Path

if os.environ["LIBRARY"] == "celery":
    from celery import Celery
else:
    from celeriac import Celery

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_track_started=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)
if os.environ.get("SIGNED_KEY"):
    app.conf.update(
        task_serializer="auth",
        result_serializer="auth",
        accept_content=["auth"],
        security_key=os.environ["SIGNED_KEY"],
        security_certificate=os.environ["SIGNED_CERTIFICATE"],
        security_cert_store=os.environ["SIGNED_STORE"],
    )
    app.setup_security()


class OutOfStock(Exception):
    """An exception of the user's own, which the other side has to rebuild from its module, name and arguments."""


@app.task
def add(x, y):
    return x + y


@app.task
def echo(*args, **kwargs):
    return [list(args), kwargs]


@app.task
def reserve(article, pieces):
    raise OutOfStock(article, pieces)


@app.task
def divide(x, y):
    return x / y


@app.task(bind=True, max_retries=5)
def flaky(self, failures):
    """Fails that many times, then says how often it had been retried."""
    if self.request.retries < failures:
        raise self.retry(exc=OutOfStock("try", self.request.retries), countdown=0.2)
    return self.request.retries


@app.task(bind=True, max_retries=1)
def exhausted(self):
    raise self.retry(exc=OutOfStock("for good"), countdown=0.1)


@app.task(bind=True, max_retries=1)
def retry_in(self, countdown):
    """Stays in RETRY for `countdown` seconds, then succeeds."""
    if self.request.retries == 0:
        raise self.retry(exc=OutOfStock("later"), countdown=countdown)
    return "done"


@app.task
def now():
    return time.time()


@app.task
def nap(seconds):
    time.sleep(seconds)


@app.task
def wait_for_file(path):
    """Runs until `path` exists, so that a test decides how long it is seen as started."""
    deadline = time.monotonic() + 30
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)
    return "released"


@app.task(bind=True)
def mark(self, ledger, number):
    """Leaves one line `number worker` in the file `ledger`."""
    with Path(ledger).open("a") as lines:
        lines.write(f"{number} {self.request.hostname}\n")
    time.sleep(0.002)


@app.task(bind=True)
def request_fields(self):
    request = self.request
    return {
        "id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": request.retries,
        "args": list(request.args),
        "kwargs": dict(request.kwargs),
        "hostname": request.hostname,
        "routing_key": request.delivery_info["routing_key"],
        "called_directly": request.called_directly,
        "is_eager": request.is_eager,
        "origin": request.origin,
        "correlation_id": request.correlation_id,
    }


# Known to the client alone: a worker does not set CLIENT.
if os.environ.get("CLIENT"):

    @app.task
    def stranger():
        raise AssertionError("a worker ran it")
