"""A worker or a client of either library, the real Celery's or ours, as a process on a named broker.

Both run the same module of tasks, tests/compat/peer/shop.py, unless told otherwise.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compat_env import celery_python
from processes import Child

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "tests" / "compat" / "peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where both sides meet: the URLs of a broker and of a result store."""

    name: str
    broker: str
    backend: str


@functools.cache
def python_of(library: str) -> Path:
    return celery_python() if library == "celery" else Path(sys.executable)


def environment(library: str, place: Place, *, modules: Path = PEER) -> dict[str, str | None]:
    """What a process of `library` is given; `modules` is the folder with the tasks."""
    path = [str(modules)] if library == "celery" else [str(modules), str(ROOT / "worker")]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "LIBRARY": library,
        "BROKER": place.broker,
        "BACKEND": place.backend,
        # Ours reads these before the code's own settings; a developer's shell must not decide.
        "CELERIAC_BROKER_URL": None,
        "CELERIAC_RESULT_BACKEND": None,
        "CELERIAC_PROFILE": None,
    }


def start_worker(
    library: str,
    place: Place,
    log: Path,
    *flags: str,
    app: str = "shop",
    modules: Path = PEER,
    env: Mapping[str, str | None] | None = None,
    await_ready: bool = True,
) -> Child:
    """A worker of `library` with the solo pool, named `<library>@test`; later `flags` win. Both CLIs know the flags.

    app   the module with the app, in the folder `modules`.
    Ready: it has said so; with await_ready False it may still fail to start.
    """
    command = [
        python_of(library),
        "-m",
        library,
        "-A",
        app,
        "worker",
        "-P",
        "solo",
        "-n",
        f"{library}@test",
        "-l",
        "info",
    ]
    env = {**environment(library, place, modules=modules), **(env or {})}
    worker = Child([*command, *flags], log=log, env=env, cwd=log.parent)
    if await_ready:
        try:
            worker.wait_for(" ready")
        except AssertionError:
            worker.kill()
            raise
    return worker


class Client:
    """A client process of `library`: `send`, `get`, `look`, `ping` as driver.py says."""

    def __init__(self, library: str, place: Place, log: Path, *, driver: str = "driver.py") -> None:
        self.library = library
        self.child_env = {**environment(library, place), "CLIENT": "1"}
        self.child = Child([python_of(library), PEER / driver], log=log, env=self.child_env, cwd=log.parent, talks=True)
        try:
            self._answer()
        except AssertionError:
            self.close()
            raise

    def send(self, task: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        return self._ask(send=task, args=args, kwargs=kwargs or {}, options=options)["id"]

    def get(self, task_id: str, *, timeout_s: float = 15.0) -> Any:
        """`{"value": ...}` or `{"raised": {...}}`."""
        return self._ask(get=task_id, timeout_s=timeout_s)

    def look(self, task_id: str) -> dict[str, Any]:
        return self._ask(look=task_id)

    def look_until(self, task_id: str, state: str, *, timeout_s: float = 15.0) -> dict[str, Any]:
        """What the client sees once the state is `state`."""
        deadline = time.monotonic() + timeout_s
        while (seen := self.look(task_id))["state"] != state:
            assert time.monotonic() < deadline, f"{task_id} was still {seen} after {timeout_s} s"
            time.sleep(0.02)
        return seen

    def ping(self, nodes: list[str] | None = None, *, timeout_s: float = 2.0) -> Any:
        """What `inspect ping` answers: through Celery's `app.control`, through our command line."""
        if self.library == "celery":
            return self._ask(ping=nodes, timeout_s=timeout_s)["value"]
        destination = ["-d", ",".join(nodes)] if nodes else []
        asked = ["-A", "shop", "inspect", "ping", "--json", "-t", str(timeout_s), *destination]
        answer = subprocess.run(
            [python_of(self.library), "-m", "celeriac", *asked],
            env={**os.environ, **{name: value for name, value in self.child_env.items() if value is not None}},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def inspect(self, question: str, *args: Any, timeout_s: float = 1.0, **kwargs: Any) -> Any:
        """What `app.control.inspect().<question>(...)` returns."""
        return self._ask(inspect=question, args=args, kwargs=kwargs, timeout_s=timeout_s)["value"]

    def control(self, command: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The answers to `app.control.broadcast(command, arguments, reply=True)`."""
        return self._ask(control=command, arguments=dict(arguments or {}), options=options)["value"]

    def panel(self) -> dict[str, str | None]:
        """The commands of Celery's workers and their kinds; None for what is another's alias."""
        return self._ask(panel=True)["value"]

    def run(self, expression: str, *, timeout_s: float = 30.0) -> Any:
        """With canvas_driver.py: `{"value", "id"}` or `{"raised", "id"}` of the workflow that an expression makes."""
        return self._ask(run=expression, timeout_s=timeout_s)

    def save(self, expression: str) -> str:
        """The id of the group that an expression makes, sent and saved."""
        return self._ask(save=expression)["id"]

    def restore(self, group_id: str, *, timeout_s: float = 30.0) -> Any:
        """`{"value"}` of a group that was saved, by whomever."""
        return self._ask(restore=group_id, timeout_s=timeout_s)

    def close(self) -> None:
        self.child.kill()
        for pipe in (self.child.process.stdin, self.child.process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.child.process.stdin is not None
        self.child.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.child.process.stdout is not None
        line = self.child.process.stdout.readline()
        if not line:
            self.child.wait()
            raise AssertionError(f"the {self.library} client ended:\n{self.child.text()[-4000:]}")
        return json.loads(line)
