"""One measurement of one library: start a worker or a client, watch it, return figures.

Messages for the drains were published once by the real Celery and are pushed back word for word before each run, so
both libraries consume the same bytes. CPU seconds are user and system time of the whole process tree.
"""

import json
import os
import statistics
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from compat_env import ROOT, celery_python
from processes import Child, wait_until
from servers import RedisServer

RECORD = struct.Struct("=Qdd")  # as in tasks.py
QUEUE = "celery"
LIBRARIES = ("celery", "celeriac")

#: The best of a short search over Celery's settings: less to do beside the tasks, default prefetch.
CELERY_FLAGS = ("-Ofair", "--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run showed. Rates and CPU are per task; since, until: monotonic, the span for the probe."""

    since: float
    until: float
    tasks: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    broker_cpu_s: float = 0.0
    cold_s: float = 0.0
    rss_mb: float = 0.0
    pss_mb: float = 0.0
    delays_ms: tuple[float, ...] = field(default=())


class Failed(Exception):
    """A measurement that gave no figure; the message ends with the process's own words."""


class Bench:
    """A private Redis, a folder for tallies and logs, and the two libraries' Pythons."""

    def __init__(self, folder: Path, redis: RedisServer, *, profile: str) -> None:
        self.folder = folder
        self.redis = redis
        self.profile = profile
        self.tally = folder / "tally"
        self.messages: dict[bool, list[bytes]] = {}

    def drain(self, library: str, *, pool: str, concurrency: int, count: int, results: bool = False) -> Run:
        """`count` no-op tasks from a filled queue, first to last execution. A fresh worker process."""
        self._fill(count, results=results)
        started_at = time.monotonic()
        worker = self._worker(library, pool, concurrency, results=results)
        try:
            self._await(worker, 1, 60)
            seen, first_at, _ = self._read()
            cpu, broker = _cpu_s(worker.pid), _cpu_s(self._redis_pid)
            self._await(worker, count, 180)
            # The last acknowledgements and stores are part of the work.
            time.sleep(0.15)
            cpu, broker = _cpu_s(worker.pid) - cpu, _cpu_s(self._redis_pid) - broker
            _, _, last_at = self._read()
            self._await_empty(worker)
        finally:
            worker.kill()
        share = count / max(1, count - seen)  # what had run before the first look at the clock
        return Run(
            since=first_at, until=last_at, tasks=count, wall_s=last_at - first_at,
            cpu_s=cpu * share, broker_cpu_s=broker * share, cold_s=first_at - started_at,
        )  # fmt: skip

    def enqueue(self, library: str, *, count: int) -> Run:
        """`delay()`, one by one, from one client process."""
        self._empty()
        since, broker = time.monotonic(), _cpu_s(self._redis_pid)
        answer = self._client(library, "enqueue", count)
        return Run(
            since=since, until=time.monotonic(), tasks=count, wall_s=answer["wall_s"], cpu_s=answer["cpu_s"],
            broker_cpu_s=_cpu_s(self._redis_pid) - broker,
        )  # fmt: skip

    def latency(self, library: str, *, count: int) -> Run:
        """From before `delay()` to the task's body at 50 a second, an idle solo worker; the first ten are dropped."""
        self._empty()
        delays = Path(f"{self.tally}.delays")
        delays.unlink(missing_ok=True)
        worker = self._worker(library, "solo", 1)
        try:
            since = time.monotonic()
            self._client(library, "pace", count)
            self._await(worker, count, 30)
        finally:
            worker.kill()
        values = [1000 * float(line) for line in delays.read_text().splitlines()]
        return Run(since=since, until=time.monotonic(), tasks=count, delays_ms=tuple(values[10:]))

    def idle(self, library: str) -> Run:
        """Memory of a solo worker's process tree, two seconds after its first task."""
        self._fill(1)
        since = time.monotonic()
        worker = self._worker(library, "solo", 1)
        try:
            self._await(worker, 1, 60)
            time.sleep(2)
            memory = [process.memory_full_info() for process in _tree(worker.pid)]
        finally:
            worker.kill()
        return Run(
            since=since, until=time.monotonic(),
            rss_mb=sum(each.rss for each in memory) / 1e6, pss_mb=sum(getattr(each, "pss", 0) for each in memory) / 1e6,
        )  # fmt: skip

    def import_time(self, library: str) -> Run:
        """Wall and CPU seconds of importing the library's app class, in a fresh interpreter with warm bytecode."""
        name = {"celery": "Celery", "celeriac": "Celeriac"}[library]
        code = (
            "import time, json; w, c = time.perf_counter(), time.process_time()\n"
            f"from {library} import {name}\n"
            "print(json.dumps({'wall_s': time.perf_counter() - w, 'cpu_s': time.process_time() - c}))"
        )
        since = time.monotonic()
        answer = self._run(library, "-c", code)
        return Run(since=since, until=time.monotonic(), tasks=1, wall_s=answer["wall_s"], cpu_s=answer["cpu_s"])

    # -- the parts

    @property
    def _redis_pid(self) -> int:
        assert self.redis.child is not None
        return self.redis.child.pid

    def _fill(self, count: int, *, results: bool = False) -> None:
        self._empty()
        if len(self.messages.get(results, ())) < count:
            self._client("celery", "fill", count, results=results)
            with self.redis.client() as client:
                client.connection_pool.connection_kwargs["decode_responses"] = False
                self.messages[results] = [
                    m if isinstance(m, bytes) else m.encode() for m in client.lrange(QUEUE, 0, -1)
                ]
            self._empty()
        oldest_first = self.messages[results][-count:][::-1]
        with self.redis.client() as client:
            for start in range(0, count, 1000):
                client.lpush(QUEUE, *oldest_first[start : start + 1000])

    def _empty(self) -> None:
        with self.redis.client() as client:
            client.flushall()
        self.tally.write_bytes(bytes(RECORD.size))

    def _env(self, library: str, *, results: bool) -> dict[str, str | None]:
        path = [ROOT / "bench"] if library == "celery" else [ROOT / "bench", ROOT / "worker"]
        return {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "LIBRARY": library,
            "BROKER": self.redis.url,
            "BACKEND": self.redis.url.replace("/0", "/1"),
            "BENCH_TALLY": str(self.tally),
            "BENCH_RESULTS": "1" if results else "0",
            "CELERIAC_BROKER_URL": None,
            "CELERIAC_RESULT_BACKEND": None,
            "CELERIAC_PROFILE": self.profile,
            "CELERIAC_WORKER_HTTP_PORT": "0",
        }

    def _worker(self, library: str, pool: str, concurrency: int, *, results: bool = False) -> Child:
        flags = CELERY_FLAGS if library == "celery" else ()
        command = [_python(library), "-m", library, "-A", "tasks", "worker", "-P", pool, "-c", str(concurrency)]
        return Child(
            [*command, "-Q", QUEUE, "-l", "error", *flags],
            log=self.folder / f"{library}.log", env=self._env(library, results=results), cwd=self.folder,
        )  # fmt: skip

    def _client(self, library: str, what: str, count: int, *, results: bool = False) -> dict[str, float]:
        return self._run(library, str(ROOT / "bench" / "client.py"), what, str(count), results=results)

    def _run(self, library: str, *arguments: str, results: bool = False) -> dict[str, float]:
        child = Child(
            [_python(library), *arguments],
            log=self.folder / "client.log", env=self._env(library, results=results), cwd=self.folder,
        )  # fmt: skip
        try:
            if child.wait(timeout_s=120) != 0:
                raise Failed(f"the {library} client failed: {child.text()[-2000:]}")
        finally:
            child.kill()
        answer: dict[str, float] = json.loads(child.text().splitlines()[-1])
        return answer

    def _read(self) -> tuple[int, float, float]:
        seen, first_at, last_at = RECORD.unpack(self.tally.read_bytes())
        return seen, first_at, last_at

    def _await(self, worker: Child, count: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (seen := self._read()[0]) < count:
            if worker.returncode is not None or time.monotonic() > deadline:
                raise Failed(f"{seen} of {count} tasks ran: {worker.command}: {worker.text()[-2000:]}")
            time.sleep(0.005)

    def _await_empty(self, worker: Child) -> None:
        """All acknowledged: a drain that leaves messages unacknowledged has not done its work."""
        with self.redis.client() as client:
            try:
                wait_until(lambda: not client.hlen("unacked") and not client.llen(QUEUE), timeout_s=5)
            except AssertionError:
                left = f"{client.hlen('unacked')} unacknowledged, {client.llen(QUEUE)} waiting"
                raise Failed(f"after the drain: {left}: {worker.command}: {worker.text()[-2000:]}") from None


def _python(library: str) -> Path:
    return celery_python() if library == "celery" else Path(sys.executable)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in _tree(pid)))


def percentile(values: tuple[float, ...], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
