"""One measurement of one contender: start a worker or a client, watch it, give figures.

Figures are named with their units. Rates end in `_per_s` and CPU seconds in `cpu_s_per_10k` (user and system time of the whole
process tree, for 10,000 tasks): those two kinds are scaled to the undisturbed machine later, see report.py.
"""

import contextlib
import json
import os
import shutil
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from compat_env import ROOT
from contenders import APPS, Contender
from places import Place, RedisPlace
from processes import Child
from servers import free_port

RECORD = struct.Struct("=Qdd")  # as in apps/tally.py

#: No client and no drain takes longer; most end in a few seconds.
LIMIT_S = 120.0


class Failed(Exception):
    """A measurement that gave no figure; the message ends with the process's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one measurement showed. since, until: monotonic seconds, the span in which the machine's speed counts."""

    figures: Mapping[str, float]
    since: float
    until: float
    others_cpus: float = 0.0  # CPUs that processes outside of this benchmark used meanwhile, on average


@dataclass(slots=True)
class Bench:
    """Measures contenders in `folder` on the places by name; scale: multiplies the counts of tasks."""

    folder: Path
    places: Mapping[str, Place]
    scale: float = 1.0
    _patterns: dict[tuple[str, str, bool], Any] = field(default_factory=dict)
    _kept: dict[tuple[str, str, bool, int], dict[bytes, bytes]] = field(default_factory=dict)

    def run(self, what: str, contender: Contender) -> Run:
        """One measurement by name. Raises Failed, CannotMake."""
        if what not in MEASUREMENTS:
            raise ValueError(f"there is no measurement {what!r}; there are {', '.join(MEASUREMENTS)}")
        self._place(contender).empty()
        self._reset_tally()
        before = time.monotonic(), _busy_s(), _cpu_s(os.getpid())
        run = MEASUREMENTS[what](self, contender)
        spent_s = time.monotonic() - before[0]
        others = (_busy_s() - before[1]) - (_cpu_s(os.getpid()) - before[2])
        return Run(figures=run.figures, since=run.since, until=run.until, others_cpus=max(0.0, others / spent_s))

    # -- client

    def enqueue(self, contender: Contender) -> Run:
        """The library's plain call, one by one, from one client process."""
        return self._timed_client(contender, "enqueue", self._count(min(contender.tasks, 10_000)))

    def bulk(self, contender: Contender) -> Run:
        """The library's way to send many at once."""
        return self._timed_client(contender, "bulk", self._count(min(contender.tasks, 20_000)))

    def _timed_client(self, contender: Contender, what: str, count: int) -> Run:
        since, broker = time.monotonic(), _cpu_s(self._place(contender).pid)
        answer = self._client(contender, what, count)
        broker = _cpu_s(self._place(contender).pid) - broker
        return Run(
            figures={
                "per_s": count / answer["wall_s"],
                "cpu_s_per_10k": 1e4 / count * answer["cpu_s"],
                "broker_cpu_s_per_10k": 1e4 / count * broker,
            },
            since=since,
            until=time.monotonic(),
        )

    # -- worker

    def drain(self, contender: Contender, *, results: bool = False) -> Run:
        """No-op tasks from a filled queue, first to last execution, by a fresh worker."""
        count = self._count(contender.tasks // (2 if results else 1))
        self._fill(contender, count, results=results)
        place, started_at = self._place(contender), time.monotonic()
        with self._worker(contender, results=results) as worker:
            self._await_first(contender, worker)
            seen, first_at, _ = self._tally()
            cpu, broker = _cpu_s(worker.pid), _cpu_s(place.pid)
            self._await(worker, count)
            # The last acknowledgements and stores are part of the work.
            time.sleep(0.15)
            cpu, broker = _cpu_s(worker.pid) - cpu, _cpu_s(place.pid) - broker
            _, first_at, last_at = self._tally()
            if contender.messages and place.name == "redis" and contender.library != "raw":
                self._await_settled(contender, worker)
            if contender.messages and place.name == "amqp" and contender.library != "raw":
                # In an orderly way: a RabbitMQ that is behind never reads the last acknowledgements of a socket that is reset.
                with contextlib.suppress(AssertionError):
                    worker.terminate(timeout_s=4)
        if contender.messages and place.name == "amqp" and (left := place.waiting()) > count // 100:
            raise Failed(f"{contender.name} left {left} of {count} messages unacknowledged: {_end_of(worker)}")
        measured = max(1, count - seen)  # what ran before the first look at the clock is not in the CPU time
        return Run(
            figures={
                "per_s": count / max(1e-6, last_at - first_at),
                "cpu_s_per_10k": 1e4 / measured * cpu,
                "broker_cpu_s_per_10k": 1e4 / measured * broker,
                "start_s": first_at - started_at,
            },
            since=first_at,
            until=last_at,
        )

    def results(self, contender: Contender) -> Run:
        """The same with a small result kept in Redis for each task."""
        return self.drain(contender, results=True)

    def latency(self, contender: Contender) -> Run:
        """From before the call to the task's body at 50 a second, an idle worker; the first ten are dropped.

        CPU seconds for 10,000 tasks at that pace, of the worker and of the client.
        """
        count = max(60, self._count(300))
        self._fill(contender, 1)
        with self._worker(contender) as worker:
            self._await_first(contender, worker)
            time.sleep(0.7)
            since, cpu = time.monotonic(), _cpu_s(worker.pid)
            answer = self._client(contender, "pace", count)
            self._await(worker, 1 + count, limit_s=30)
            cpu = _cpu_s(worker.pid) - cpu
        delays_ms = [1000 * delay for delay in self._delays()][10:]
        return Run(
            figures={
                "p50_ms": _percentile(delays_ms, 50),
                "p95_ms": _percentile(delays_ms, 95),
                "p99_ms": _percentile(delays_ms, 99),
                "cpu_s_per_10k": 1e4 / count * cpu,
                "client_cpu_s_per_10k": 1e4 / count * answer["cpu_s"],
            },
            since=since,
            until=time.monotonic(),
        )

    def idle(self, contender: Contender) -> Run:
        """Start of the process to its first task, memory two seconds after it, CPU with nothing to do. Ours serves metrics."""
        self._fill(contender, 1)
        started_at = time.monotonic()
        with self._worker(contender, metrics=True) as worker:
            self._await_first(contender, worker)
            _, first_at, _ = self._tally()
            time.sleep(2)
            memory = _memory_mb(worker.pid)
            cpu, since = _cpu_s(worker.pid), time.monotonic()
            time.sleep(3)
            percent = 100 * (_cpu_s(worker.pid) - cpu) / (time.monotonic() - since)
        return Run(
            figures={"start_s": first_at - started_at, **memory, "idle_cpu_percent": percent},
            since=started_at,
            until=time.monotonic(),
        )

    # -- by rows of their own

    def naps(self, contender: Contender) -> Run:
        """1,000 tasks that sleep for a second: the beginning of the first to the end of the last."""
        count = contender.tasks  # at any scale: it is one second
        self._client(contender, "naps", count)
        with self._worker(contender) as worker:
            self._await(worker, count, limit_s=60)
            _, first_at, last_at = self._tally()
            memory = _memory_mb(worker.pid)
            processes = len(_tree(worker.pid))
        return Run(
            figures={"wall_s": last_at - first_at, "processes": float(processes), **memory},
            since=first_at,
            until=last_at,
        )

    def limited(self, contender: Contender) -> Run:
        """The rate of an unlimited type alone, and with every 50th message of a type limited to 6 a minute; at most 10 s each."""
        count, place = self._count(contender.tasks), self._place(contender)
        noop, limited = self._pattern(contender, "fill"), self._pattern(contender, "limited")
        rates, costs = [], []
        since = time.monotonic()
        for patterns in ([noop], [limited, *[noop] * 49]):
            unlimited = count // len(patterns) * max(1, len(patterns) - 1)
            place.empty()
            place.fill(patterns, count)
            self._reset_tally()
            with self._worker(contender) as worker:
                self._await_first(contender, worker)
                before, cpu = self._tally()[0], _cpu_s(worker.pid)
                with contextlib.suppress(TimeoutError):
                    self._await(worker, unlimited, limit_s=10, or_else=TimeoutError)
                cpu = _cpu_s(worker.pid) - cpu
                seen, first_at, last_at = self._tally()
            # A worker that stands still for the rest of the ten seconds has that rate, not the one it began with.
            until = last_at if seen >= unlimited else max(last_at, first_at + 10)
            rates.append(seen / max(1e-6, until - first_at))
            costs.append(1e4 / max(1, seen - before) * cpu)
        return Run(
            figures={
                "alone_per_s": rates[0],
                "per_s": rates[1],
                "ratio": rates[1] / rates[0],
                "alone_cpu_s_per_10k": costs[0],
                "cpu_s_per_10k": costs[1],
            },
            since=since,
            until=time.monotonic(),
        )

    def eta(self, contender: Contender) -> Run:
        """100,000 messages due in an hour come to an idle worker: what it holds, what memory it takes, and how late tasks begin
        that fall due meanwhile. It has 90 seconds to take the messages."""
        count, due = self._count(contender.tasks), 20
        place = self._place(contender)
        assert isinstance(place, RedisPlace)
        if contender.messages:
            pattern = self._pattern(contender, "eta")
        else:
            kept = self._filled_by(contender, "eta", count, limit_s=400)
        place.empty()
        self._fill(contender, 1)
        with self._worker(contender) as worker:
            self._await_first(contender, worker)
            time.sleep(1)
            before, since = _memory_mb(worker.pid), time.monotonic()
            if contender.messages:
                place.fill([pattern], count)
            else:
                place.put_back(kept)
            deadline = since + 90
            while place.waiting() and time.monotonic() < deadline:
                time.sleep(0.1)
            taken_s = time.monotonic() - since
            time.sleep(2)
            self._client(contender, "due", due)
            self._await(worker, 1 + due, limit_s=30)
            delays_s = self._delays()
            after = _memory_mb(worker.pid)
            held = place.held()
        return Run(
            figures={
                "held": float(held),
                "taken_s": taken_s,
                "rss_growth_mb": after["rss_mb"] - before["rss_mb"],
                "rss_mb": after["rss_mb"],
                "late_p50_s": _percentile(delays_s, 50),
                "late_max_s": max(delays_s),
            },
            since=since,
            until=time.monotonic(),
        )

    def soak(self, contender: Contender) -> Run:
        """1,000,000 tasks, the queue never empty and never longer than 20,000: the slope of memory after the first tenth."""
        count = self._count(contender.tasks)
        place = self._place(contender)
        self._fill(contender, 20_000)
        pattern = self._pattern(contender, "fill")
        samples: list[tuple[float, float]] = []
        step = count // 50
        sent = 20_000
        with self._worker(contender) as worker:
            self._await_first(contender, worker)
            deadline = time.monotonic() + 1800
            while (seen := self._tally()[0]) < count:
                if worker.returncode is not None or time.monotonic() > deadline:
                    raise Failed(f"{seen} of {count} tasks ran: {_end_of(worker)}")
                if sent - seen < 15_000 and sent < count:
                    place.fill([pattern], 5_000)
                    sent += 5_000
                if seen >= step * (len(samples) + 1):
                    samples.append((float(seen), _memory_mb(worker.pid)["rss_mb"]))
                time.sleep(0.02)
            _, first_at, last_at = self._tally()
        settled = samples[len(samples) // 10 :]
        slope = statistics.linear_regression([x for x, _ in settled], [y for _, y in settled]).slope
        return Run(
            figures={
                "slope_mb_per_100k": slope * 1e5,
                "rss_first_mb": settled[0][1],
                "rss_mb": settled[-1][1],
                "per_s": count / (last_at - first_at),
            },
            since=first_at,
            until=last_at,
        )

    # -- the parts

    def _count(self, tasks: int) -> int:
        return max(100, int(tasks * self.scale))

    def _place(self, contender: Contender) -> Place:
        return self.places[contender.broker]

    def _pattern(self, contender: Contender, what: str, *, results: bool = False) -> Any:
        """A message of the real Celery's, by what its client is told to send."""
        key = (contender.broker, what, results)
        if key not in self._patterns:
            self._client(_celerys(contender), what, 1, results=results)
            self._patterns[key] = self._place(contender).take_one()
            self._place(contender).empty()
        return self._patterns[key]

    def _fill(self, contender: Contender, count: int, *, results: bool = False) -> None:
        """No-op tasks in an empty queue."""
        place = self._place(contender)
        if contender.messages:
            place.fill([self._pattern(contender, "fill", results=results)], count)
        elif isinstance(place, RedisPlace):
            place.put_back(self._filled_by(contender, "fill", count, results=results))
        else:
            self._client(contender, "fill", count, results=results)
        self._reset_tally()

    def _filled_by(
        self, contender: Contender, what: str, count: int, *, results: bool = False, limit_s: float = LIMIT_S
    ) -> dict[bytes, bytes]:
        """What the contender's client leaves in an empty Redis; made once."""
        place = self._place(contender)
        assert isinstance(place, RedisPlace)
        key = (contender.name, what, results, count)
        if key not in self._kept:
            place.empty()
            self._client(contender, what, count, results=results, limit_s=limit_s)
            self._kept[key] = place.keep()
            place.empty()
        return self._kept[key]

    def _env(self, contender: Contender, *, results: bool, metrics: bool) -> dict[str, str | None]:
        place = self._place(contender)
        path = [APPS, ROOT / "worker"] if contender.library == "celeriac" else [APPS]
        serves = metrics or contender.profile == "kubernetes"
        return {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": None,
            "BENCH_APP": contender.app,
            "BENCH_BROKER": place.url,
            "BENCH_BACKEND": place.backend_url if results else None,
            "BENCH_TALLY": str(self._tally_folder),
            "CELERIAC_BROKER_URL": None,
            "CELERIAC_RESULT_BACKEND": None,
            "CELERIAC_WORKER_HTTP_HOST": "127.0.0.1",
            "CELERIAC_WORKER_HTTP_PORT": str(free_port()) if serves else "0",
            **contender.env,
        }

    @contextlib.contextmanager
    def _worker(self, contender: Contender, *, results: bool = False, metrics: bool = False) -> Iterator[Child]:
        place = self._place(contender)
        command = [contender.python, *(part.format(broker=place.url) for part in contender.worker)]
        worker = Child(
            command, log=self.folder / f"{contender.library}.log", cwd=self.folder,
            env=self._env(contender, results=results, metrics=metrics),
        )  # fmt: skip
        try:
            yield worker
        finally:
            _end(worker)

    def _client(
        self, contender: Contender, what: str, count: int, *, results: bool = False, limit_s: float = LIMIT_S
    ) -> dict[str, float]:
        self._tally_folder.mkdir(exist_ok=True)
        child = Child(
            [contender.python, APPS / "client.py", what, str(count)],
            log=self.folder / "client.log", cwd=self.folder, env=self._env(contender, results=results, metrics=False),
        )  # fmt: skip
        try:
            code = child.wait(timeout_s=limit_s)
        except AssertionError as error:
            raise Failed(str(error)) from None
        finally:
            child.kill()
        if code != 0:
            raise Failed(f"the client of {contender.library} ({what} {count}) ended with {code}: {_end_of(child)}")
        # Some libraries go on talking when their client ends.
        answers = [line for line in child.text().splitlines() if line.startswith('{"wall_s"')]
        if not answers:
            raise Failed(f"the client of {contender.library} ({what} {count}) gave no figures: {_end_of(child)}")
        answer: dict[str, float] = json.loads(answers[-1])
        return answer

    @property
    def _tally_folder(self) -> Path:
        return self.folder / "tally"

    def _reset_tally(self) -> None:
        shutil.rmtree(self._tally_folder, ignore_errors=True)
        self._tally_folder.mkdir()

    def _tally(self) -> tuple[int, float, float]:
        """Tasks that ran, when the first, when the last, over all processes."""
        records = []
        for path in self._tally_folder.glob("*.tally"):
            data = path.read_bytes()
            if len(data) == RECORD.size:
                records.append(RECORD.unpack(data))
        records = [record for record in records if record[0]]
        if not records:
            return 0, 0.0, 0.0
        return sum(r[0] for r in records), min(r[1] for r in records), max(r[2] for r in records)

    def _delays(self) -> list[float]:
        return [float(line) for line in (self._tally_folder / "delays").read_text().splitlines()]

    def _await(
        self, worker: Child, count: int, *, limit_s: float = LIMIT_S, or_else: Callable[[str], Exception] = Failed
    ) -> None:
        deadline = time.monotonic() + limit_s
        while (seen := self._tally()[0]) < count:
            if worker.returncode is not None:
                raise Failed(
                    f"the worker ended with {worker.returncode} after {seen} of {count} tasks: {_end_of(worker)}"
                )
            if time.monotonic() > deadline:
                raise or_else(f"{seen} of {count} tasks ran within {limit_s:.0f} s: {_end_of(worker)}")
            time.sleep(0.01)

    def _await_first(self, contender: Contender, worker: Child) -> None:
        """One task ran, in a worker that has the processes that its row says."""
        self._await(worker, 1)
        if contender.processes > 1 and (running := len(_tree(worker.pid))) < contender.processes:
            raise Failed(f"{running} process instead of {contender.processes}: {_end_of(worker)}")

    def _await_settled(self, contender: Contender, worker: Child) -> None:
        """All acknowledged: a drain that leaves messages unacknowledged has not done its work."""
        place, deadline = self._place(contender), time.monotonic() + 5
        while place.held() or place.waiting():
            if time.monotonic() > deadline:
                left = f"{place.held()} unacknowledged, {place.waiting()} waiting"
                raise Failed(f"after the drain of {contender.name}: {left}: {_end_of(worker)}")
            time.sleep(0.02)


#: By name, in the order in which they are run and shown.
MEASUREMENTS: dict[str, Callable[[Bench, Contender], Run]] = {
    "enqueue": Bench.enqueue,
    "bulk": Bench.bulk,
    "drain": Bench.drain,
    "results": Bench.results,
    "latency": Bench.latency,
    "idle": Bench.idle,
    "naps": Bench.naps,
    "limited": Bench.limited,
    "eta": Bench.eta,
    "soak": Bench.soak,
}


def _celerys(contender: Contender) -> Contender:
    """The real Celery's client on the same broker."""
    from contenders import contenders

    return next(each for each in contenders() if each.library == "celery" and each.broker == contender.broker)


def _end_of(child: Child) -> str:
    return child.text().strip()[-1000:] or "it said nothing"


def _end(worker: Child) -> None:
    """SIGKILL to the whole tree: some start their processes in sessions of their own."""
    tree = _tree(worker.pid)
    worker.kill()
    for process in tree[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(pid: int) -> float:
    """User and system time of a process tree, of children that have ended too."""
    total = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _busy_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "irq", 0) + getattr(times, "softirq", 0))


def _memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process tree."""
    rss = pss = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            info = process.memory_full_info()
            rss += info.rss / 1e6
            pss += getattr(info, "pss", 0) / 1e6
    return {"rss_mb": rss, "pss_mb": pss}


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
