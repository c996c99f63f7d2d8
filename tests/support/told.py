"""Tasks of every fate, and receivers of every signal that write what they are told, as JSON. The app is `app`."""

import json
import os
import time
from typing import Any

from celeriac import Celeriac, Task, signals
from celeriac.exceptions import Reject

app = Celeriac("told", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def hear(signal: signals.Signal, sender: Any, **named: Any) -> None:
    """One line: {signal, pid, sender: what it says of itself, named: argument -> what it is}."""
    shown = {name: getattr(value, "name", None) or repr(value) for name, value in named.items()}
    request = named.get("request")
    if request is not None:
        shown["request"] = (
            [request.id, list(request.args), dict(request.kwargs)] if signal.name == "task_received" else request.id
        )
    who = {
        "type": type(sender).__name__,
        "hostname": getattr(sender, "hostname", None),
        "app": getattr(getattr(sender, "app", None), "main", None),
    }
    who["name"] = (
        getattr(sender, "name", None) if isinstance(sender, Task) else sender if isinstance(sender, str) else None
    )
    line = json.dumps({"signal": signal.name, "pid": os.getpid(), "sender": who, "named": shown}) + "\n"
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


for each in list(vars(signals).values()):
    if isinstance(each, signals.Signal) and each.name not in os.environ.get("UNHEARD", "").split(","):
        each.connect(hear, weak=False)


@signals.celeryd_after_setup.connect
def another_queue(instance: Any, **_: Any) -> None:
    instance.queues.append("another")


@signals.celeryd_init.connect(sender="told@test")
def by_name(conf: Any, **_: Any) -> None:
    conf.worker_concurrency = 1


@app.task
def works(x: int, y: int = 0) -> int:
    return x + y


@app.task
def fails() -> None:
    raise KeyError("k")


@app.task(bind=True, max_retries=1)
def tries(self: Any) -> None:
    if not self.request.retries:
        raise self.retry(countdown=0, exc=ValueError("again"))


@app.task
def rejects() -> None:
    raise Reject("no")


@app.task
def dozes(seconds: float) -> None:
    time.sleep(seconds)


class Broken(Task):
    """What it is called with cannot be looked at: an error beside the body."""

    name = "told.broken"

    def run(self) -> None:
        return None

    @classmethod
    def on_bound(cls, app: Any) -> None:
        def look(self: Any) -> Any:
            raise RuntimeError("beside the body")

        cls._hooked = property(look)  # type: ignore[misc,assignment]
