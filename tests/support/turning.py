"""A worker's own loop on the memory broker and store, in the test's thread: turned by hand until nothing is left to do."""

import time
from typing import Any

from celeriac import Celeriac
from celeriac.broker.codec import content_types
from celeriac.broker.consumer import Consumer, open_consumer
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Totals
from celeriac.worker.executor import Executor
from celeriac.worker.loop import Loop
from celeriac.worker.pool import SoloPool
from celeriac.worker.wake import Wake


class TurningWorker:
    """Solo, late ack. `until_ready(result)` and `until_idle()` turn the loop; nothing runs in between. Close it."""

    def __init__(self, app: Celeriac, *, queue: str) -> None:
        self.app = app
        self.consumer: Consumer = open_consumer(
            app.broker_address(), (queue,), node="turning@here", lease_s=60.0, prefetch=1
        )
        backend = app.backend
        executor = Executor(
            app,
            hostname="turning@here",
            accept=content_types(app.conf.accept_content),
            encode=backend.encode,
            store=backend.store,
        )
        self.wake = Wake()
        self.pool = SoloPool(executor)
        self.totals = Totals()
        self.loop = Loop(
            app=app, consumer=self.consumer, backend=backend, pool=self.pool, totals=self.totals,
            events=TaskEvents("turning@here", 1, lambda: 1, enabled=False), hostname="turning@here", queues=[queue], grace_s=5.0, wake=self.wake,
        )  # fmt: skip

    def turn(self) -> bool:
        """One round; whether anything moved."""
        return self.loop._turn(time.monotonic())

    def until_idle(self, *, quiet: int = 3) -> None:
        """Until so many rounds have moved nothing."""
        still = 0
        while still < quiet:
            still = 0 if self.turn() or self.pool.waiting() else still + 1

    def until_ready(self, result: Any, *, timeout_s: float = 10.0) -> Any:
        """The same handle, once it has ended; then until nothing is left to do. Raises AssertionError when it never does."""
        deadline = time.monotonic() + timeout_s
        while not result.ready():
            assert time.monotonic() < deadline, f"{result!r} was not ready after {timeout_s} s"
            self.turn()
        self.until_idle()
        return result

    def close(self) -> None:
        self.loop.aftermath.stop()
        self.consumer.close()
