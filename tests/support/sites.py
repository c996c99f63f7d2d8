"""Workers of jobs.py on a private broker, and a client of it in this process: what tests of a whole worker stand on."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger import Ledger
from libraries import Place, start_worker
from processes import Child

from celeriac import Celeriac

SUPPORT = Path(__file__).resolve().parent


@dataclass(slots=True, kw_only=True)
class Site:
    """A broker, a ledger, and the workers and clients that a test starts on them."""

    broker: str
    backend: str | None
    server: Any
    folder: Path
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    workers: int = 0

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger")

    def client(self) -> Celeriac:
        app = Celeriac("client", broker=self.broker, backend=self.backend, set_as_current=False)
        self.closing.callback(app.close)
        return app

    def worker(
        self, *flags: str, await_ready: bool = True, broker: str = "", app: str = "jobs", variables: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Child:  # fmt: skip
        """A worker of jobs.py; settings as `task_lease="2"`, variables of its environment."""
        self.workers += 1
        env = {
            **(variables or {}),
            "LEDGER": str(self.ledger.path),
            "CELERIAC_TASK_ACKS_LATE": "1",
            "CELERIAC_TASK_LEASE": "2",
            "CELERIAC_WORKER_HTTP_PORT": "0",
        }
        if self.backend is None:
            env["BACKEND"] = "disabled"
        env |= {f"CELERIAC_{name.upper()}": value for name, value in settings.items()}
        place = Place(name="", broker=broker or self.broker, backend=self.backend or "")
        name = ("-n", f"w{self.workers}@test")
        log = self.folder / f"worker{self.workers}.log"
        worker = start_worker(
            "celeriac", place, log, *name, *flags, app=app, modules=SUPPORT, env=env, await_ready=await_ready
        )
        self.closing.callback(worker.kill)
        return worker
