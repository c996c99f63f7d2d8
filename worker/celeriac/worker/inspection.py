"""Questions to a worker over remote control, and what it answers: Celery's names, arguments and answers (research/celery.md 2G)."""

import os
import resource
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.app.builtins import is_built_in
from celeriac.app.report import report
from celeriac.broker.codec import content_types, decode
from celeriac.broker.connection import described as broker_described
from celeriac.broker.consumer import Delivery, payload
from celeriac.broker.depth import DepthProbe
from celeriac.broker.topology import described as queue_described
from celeriac.wire.message import split_body
from celeriac.worker.loop import Loop
from celeriac.worker.pool import Pool

#: What `registered` shows of a task when nothing is asked for.
_TASK_ITEMS = ("exchange", "routing_key", "rate_limit")


class Inspection:
    """Answers about one worker. Called from the control thread; changes nothing."""

    def __init__(self, loop: Loop, *, app: Celeriac, pool: Pool, clock: Any) -> None:
        self._loop, self._app, self._pool, self._clock = loop, app, pool, clock
        self._started_at = time.time()
        self._accept = content_types(app.conf.accept_content)
        self._samples: deque[str] = deque(maxlen=1000)

    def ping(self, **_: Any) -> Any:
        """Say pong."""
        return {"ok": "pong"}

    def clock(self, **_: Any) -> Any:
        """The Lamport clock."""
        return {"clock": self._clock.value}

    # -- tasks

    def active(self, safe: bool = False, **_: Any) -> Any:
        """Tasks that run now. safe: arguments as text."""
        now = time.monotonic()
        return [
            self._info(
                run.job.delivery, acknowledged=run.job.acked, started=time.time() - (now - run.started), pid=run.pid, safe=safe
            )
            for run in self._pool.running()
        ]  # fmt: skip

    def reserved(self, **_: Any) -> Any:
        """Tasks that are claimed and have not started."""
        return [self._info(job.delivery, acknowledged=job.acked) for job in self._loop.intake.unstarted()]

    def scheduled(self, **_: Any) -> Any:
        """Tasks that this worker keeps for their time; where the broker keeps them there are none."""
        return [
            {"eta": datetime.fromtimestamp(due_at, UTC).isoformat(), "priority": 6, "request": self._info(delivery)}
            for due_at, delivery in self._loop.intake.scheduled()
        ]

    def query_task(self, ids: Any = (), **_: Any) -> Any:
        """{id: [state, request]} of those that this worker has."""
        wanted = {ids} if isinstance(ids, str) else set(ids)
        places = (
            ("active", self.active()),
            ("reserved", self.reserved()),
            ("scheduled", [entry["request"] for entry in self.scheduled()]),
        )
        return {info["id"]: [state, info] for state, infos in places for info in infos if info["id"] in wanted}

    def registered(self, taskinfoitems: Any = None, builtins: bool = False, **_: Any) -> Any:
        """Names of the tasks known here, each with what was asked for."""
        wanted = [item for item in taskinfoitems or _TASK_ITEMS if isinstance(item, str) and not item.startswith("_")]
        found = []
        for name, task in sorted(self._app.tasks.items()):
            if is_built_in(name) and not builtins:
                continue
            shown = [f"{item}={getattr(task, item)}" for item in wanted if getattr(task, item, None) is not None]
            found.append(f"{name} [{' '.join(shown)}]" if shown else name)
        return found

    def revoked(self, **_: Any) -> Any:
        """Ids that were revoked, as far as this worker knows them."""
        return list(self._loop.intake.revoked)

    # -- queues

    def active_queues(self, **_: Any) -> Any:
        """Queues consumed now."""
        plan = self._app.broker_address().plan
        return [queue_described(name, plan) for name in self._loop.queues]

    def dead(self, **_: Any) -> Any:
        """{queue: dead letters} of the queues consumed here."""
        address = self._app.broker_address()
        probe = DepthProbe(address.url, transport_options=address.transport_options, ssl=address.ssl)
        try:
            return {name: depth.dead for name, depth in probe.probe(dict.fromkeys(self._loop.queues, 0.0)).items()}
        finally:
            probe.close()

    # -- the process

    def stats(self, **_: Any) -> Any:
        """Numbers about the process, its pool and its broker."""
        usage, conf, pool = resource.getrusage(resource.RUSAGE_SELF), self._app.conf, self._pool
        return {
            "total": {name: totals.started for name, totals in self._loop.task_totals().items() if totals.started},
            "pid": os.getpid(),
            "clock": str(self._clock.value),
            "uptime": int(time.time() - self._started_at),
            "pool": {
                "implementation": f"{type(pool).__module__}:{type(pool).__name__}",
                "max-concurrency": pool.size,
                "processes": pool.pids(),
                "max-tasks-per-child": conf.get("worker_max_tasks_per_child") or "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [conf.get("task_soft_time_limit") or 0, conf.get("task_time_limit") or 0],
                "writes": {},
            },
            "broker": broker_described(self._app.broker_address()),
            "prefetch_count": pool.slots + self._loop.intake.reserved(),
            "rusage": {name.removeprefix("ru_"): getattr(usage, name) for name in dir(usage) if name.startswith("ru_")},
        }

    def memsample(self, **_: Any) -> Any:
        """The memory in use now, e.g. "41.5MB"; kept for memdump."""
        self._samples.append(_resident())
        return self._samples[-1]

    def memdump(self, samples: int = 10, **_: Any) -> Any:
        """The last samples that memsample took, and one of now."""
        kept = [f"- rss: {sample}" for sample in list(self._samples)[-int(samples) :]]
        return "\n".join([*kept, f"- rss (now): {_resident()}"])

    def objgraph(self, **_: Any) -> Any:
        """Not here: say what does it better."""
        return {"error": "objgraph is not available: attach memray or py-spy to the process instead"}

    # -- settings

    def conf(self, with_defaults: bool = False, **_: Any) -> Any:
        """Settings that differ from their defaults, or all of them; secrets hidden."""
        return self._app.conf.table(with_defaults)

    def report(self, **_: Any) -> Any:
        """Versions and changed settings as text."""
        return {"ok": report(self._app)}

    # --

    def _info(
        self, delivery: Delivery, *, acknowledged: bool = False, started: float | None = None, pid: int | None = None, safe: bool = False
    ) -> dict[str, Any]:  # fmt: skip
        headers = delivery.headers
        args, kwargs = (headers.get("argsrepr"), headers.get("kwargsrepr")) if safe else self._arguments(delivery)
        return {
            "id": headers.get("id"),
            "name": headers.get("task"),
            "args": args,
            "kwargs": kwargs,
            "type": headers.get("task"),
            "hostname": self._loop.hostname,
            "time_start": started,
            "acknowledged": acknowledged,
            "delivery_info": delivery.info,
            "worker_pid": pid,
        }

    def _arguments(self, delivery: Delivery) -> tuple[Any, Any]:
        """What it is called with; as the message's headers show it when its body cannot be read."""
        try:
            body = decode(
                payload(delivery), delivery.content_type, delivery.content_encoding, self._accept, delivery.headers.get("compression")
            )  # fmt: skip
            args, kwargs, _ = split_body(body)
        except Exception:  # noqa: BLE001 - whatever is wrong with it: the executor says so when it runs
            return delivery.headers.get("argsrepr"), delivery.headers.get("kwargsrepr")
        return args, kwargs


def _resident() -> str:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1024 / 1024:.1f}MB"
