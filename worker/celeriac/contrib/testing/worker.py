"""A real worker in a thread of the test's process: `with start_worker(app): …`."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from celeriac import signals
from celeriac.app.base import Celeriac
from celeriac.exceptions import TimeoutError  # noqa: A004 - ours is the builtin's child
from celeriac.worker.assemble import Options, run_worker
from celeriac.worker.loop import Loop

#: What a worker needs to begin, on a busy machine.
START_S = 30.0
#: What a body that was told to end at once may take before the test is told.
COLD_S = 2.0
_OPTIONS = frozenset(field.name for field in fields(Options))


class TestWorker:
    """The worker that runs beside the test."""

    __test__ = False  # no test class, whatever pytest makes of its name

    def __init__(self, app: Celeriac, loop: Loop) -> None:
        self.app = app
        self.loop = loop
        self.hostname = loop.hostname

    def reload(self) -> None:
        """Know the tasks that were defined since it started."""
        self.loop.in_loop(self.loop.intake.learn_types)

    def ensure_started(self) -> None:
        """It has: `start_worker` returns no earlier."""

    def wait_until_idle(self, timeout: float = 10.0) -> None:
        """Return when nothing runs and nothing is due in its queues. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        still = 0
        while still < 3:  # what is between two queues, or between queue and slot, is seen at the next look
            if time.monotonic() > deadline:
                busy = ", ".join(job.task.name or "" for job, _ in self.loop.running())
                raise TimeoutError(f"the worker was not idle within {timeout:g} s; running: {busy or 'nothing'}")
            still = still + 1 if self.loop.in_loop(self.loop.at_rest) else 0
            time.sleep(0.01)

    def __repr__(self) -> str:
        return f"<TestWorker {self.hostname}>"


@contextmanager
def start_worker(
    app: Celeriac, concurrency: int = 1, pool: str = "solo", loglevel: str | int | None = None, logfile: str | None = None,
    perform_ping_check: bool = True, ping_task_timeout: float = 10.0, shutdown_timeout: float = 10.0, **options: Any,
) -> Iterator[TestWorker]:  # fmt: skip
    """Within it a worker runs in a thread of this process, on the app's own broker and result store; it has ended when this has.

    pool      solo, threads or asyncio; prefork forks, which a process with threads cannot do safely.
    loglevel  of the logger `celeriac` meanwhile; None leaves it alone. logfile: means nothing, the test's own handlers get the records.
    options   of a worker's command line: queues, hostname, time_limit_s, without_control …

    Raises what the worker raises when it starts; RuntimeError when it has not ended within shutdown_timeout; TimeoutError when
    perform_ping_check finds that it does not answer.
    """
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(
            f"start_worker() does not know {', '.join(sorted(unknown))}; it takes {', '.join(sorted(_OPTIONS))}"
        )
    if pool in {"prefork", "processes"}:
        raise ValueError("start_worker(pool='prefork') would fork a process with threads: use solo, threads or asyncio")
    given: dict[str, Any] = {"without_mingle": True, **options, "pool": pool, "concurrency": concurrency}
    log = logging.getLogger("celeriac")
    level_before = log.level
    if loglevel is not None:
        log.setLevel(loglevel.upper() if isinstance(loglevel, str) else loglevel)
    before = set(threading.enumerate())
    try:
        with app.conf.pinned({"worker_http_port": 0}):
            thread = _Thread(app, Options(**given))
            worker = thread.begin()
            try:
                if perform_ping_check and app.backend.keeps_results:
                    _ping(app, worker, ping_task_timeout)
                yield worker
            finally:
                thread.end(worker.loop, shutdown_timeout, before)
    finally:
        if loglevel is not None:
            log.setLevel(level_before)


def _ping(app: Celeriac, worker: TestWorker, timeout: float) -> None:
    answer = app.send_task("celery.ping", queue=worker.loop.queues[0]).get(timeout=timeout, disable_sync_subtasks=False)
    if answer != "pong":
        raise RuntimeError(f"{worker!r} answered celery.ping with {answer!r}")


class _Thread:
    """The worker's thread, and what came of it."""

    def __init__(self, app: Celeriac, options: Options) -> None:
        self._app = app
        self._options = options
        self._ready = threading.Event()
        self._loop: Loop | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="celeriac-worker", daemon=True)

    def _run(self) -> None:
        signals.worker_ready.connect(self._is_ready, weak=False)
        try:
            run_worker(self._app, self._options)
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            self._error = error
        finally:
            signals.worker_ready.disconnect(self._is_ready)
            self._ready.set()

    def _is_ready(self, sender: Loop, **_: Any) -> None:
        if threading.current_thread() is self._thread:  # and no other worker of this process
            self._loop = sender
            self._ready.set()

    def begin(self) -> TestWorker:
        self._thread.start()
        if not self._ready.wait(START_S):
            raise TimeoutError(f"the worker was not ready within {START_S:g} s")
        if self._error is not None:
            raise self._error
        if self._loop is None:
            raise RuntimeError("the worker has ended before it was ready")
        return TestWorker(self._app, self._loop)

    def end(self, loop: Loop, timeout_s: float, before: set[threading.Thread]) -> None:
        """Stop it, and wait for its threads. Raises what it raised; RuntimeError for bodies that do not end."""
        deadline = time.monotonic() + timeout_s
        loop.stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            running = ", ".join(f"{job.task.name} for {run_s:.1f} s" for job, run_s in loop.running())
            loop.stop(cold=True)
            self._thread.join(COLD_S)
            raise RuntimeError(f"the worker did not end within {timeout_s:g} s; running: {running or 'nothing'}")
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("celeriac-"):
                thread.join(max(0.1, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
