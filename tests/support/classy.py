"""Tasks that are classes, as the guide writes them. Each `__init__` writes `init <class> <pid>` into the ledger. The app is `app`."""

import os
from typing import Any

from celeriac import Celeriac
from celeriac.exceptions import Ignore, Reject
from celeriac.task import Task, task

app = Celeriac("classy", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


def note(line: str) -> None:
    """One line, in one write."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, f"{line}\n".encode())
    finally:
        os.close(ledger)


class NaiveAuthenticateServer(Task):
    """The guide's: it keeps state between requests."""

    def __init__(self) -> None:
        note(f"init {type(self).__name__} {os.getpid()}")
        self.users = {"george": "password"}
        self.asked = 0

    def run(self, username: str, password: str) -> list[Any]:
        self.asked += 1
        return [self.users.get(username) == password, self.asked, os.getpid()]


class DatabaseTask(Task):
    """The guide's: it connects once, when it is first asked."""

    abstract = True
    _db: Any = None

    @property
    def db(self) -> Any:
        if self._db is None:
            note(f"connect {os.getpid()}")
            self._db = object()
        return self._db


@task(base=DatabaseTask)
def process_rows() -> int:
    assert process_rows.db is process_rows.db
    return os.getpid()


class Executes(Task):
    """Looks at each call in the worker's main process."""

    def execute(self, request: Any, pool: Any, loglevel: int, logfile: str | None, **kw: Any) -> None:
        what = request.kwargs["what"]
        note(
            f"execute {what} {request.name} {request.id} {os.getpid()} {pool.name} {loglevel} {logfile} {kw['consumer'].hostname}"
        )
        if what == "ignore":
            raise Ignore
        if what == "reject":
            raise Reject("not today")
        if what == "fail":
            raise KeyError("execute")
        if what == "run":
            super().execute(request, pool, loglevel, logfile, **kw)

    def run(self, what: str) -> int:
        note(f"ran {what} {os.getpid()}")
        return os.getpid()


class Late(Executes):
    acks_late = True


@app.task(bind=True)
def context(self: Any) -> dict[str, Any]:
    self.get_logger().warning("in the body")
    return {"loglevel": self.request.loglevel, "logfile": self.request.logfile, "hostname": self.request.hostname}
