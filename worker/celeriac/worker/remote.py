"""Remote control: what each command does and answers. Celery's names, arguments and answers; `drain` and `undrain` are ours."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from celeriac.broker.connection import redacted
from celeriac.worker.executor import Job
from celeriac.worker.loop import Loop

Handler = Callable[..., Any]

#: Revoked ids are kept this long, and so many at most.
REVOKE_TTL_S = 10_800.0
MAX_REVOKED = 50_000


class Remote:
    """The commands of one worker. Called from the control thread."""

    def __init__(
        self, loop: Loop, *, app: Any, events: Any, clock: Callable[[], int], beat: Callable[[], None]
    ) -> None:
        self._loop, self._app, self._events, self._clock, self._beat = loop, app, events, clock, beat
        self._started_at = time.time()

    def handlers(self) -> Mapping[str, Handler]:
        """Command names to functions."""
        return {
            name: getattr(self, name)
            for name in (
                "ping", "stats", "active", "reserved", "scheduled", "registered", "registered_tasks", "active_queues",
                "revoked", "conf", "report", "clock", "hello", "query_task",
                "heartbeat", "revoke", "rate_limit", "shutdown", "enable_events", "disable_events", "add_consumer",
                "cancel_consumer", "drain", "undrain",
            )
        }  # fmt: skip

    # -- inspect

    def ping(self, **_: Any) -> Any:
        """Say pong."""
        return {"ok": "pong"}

    def stats(self, **_: Any) -> Any:
        """Numbers about the process, its pool and its broker."""
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        totals = {name: totals.started for name, totals in self._loop._totals.task_totals().items() if totals.started}
        address = self._app.broker_address()
        return {
            "total": totals,
            "pid": os.getpid(),
            "clock": str(self._clock()),
            "uptime": int(time.time() - self._started_at),
            "pool": {
                "implementation": f"celeriac.worker.pool:{type(self._loop._pool).__name__}",
                "max-concurrency": self._loop.slots,
                "processes": [os.getpid()],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [0, 0],
                "writes": {},
            },
            "broker": {"transport": address.scheme, "hostname": redacted(address.url)},
            "prefetch_count": self._loop.slots + self._loop.intake.reserved(),
            "rusage": {name.removeprefix("ru_"): getattr(usage, name) for name in dir(usage) if name.startswith("ru_")},
        }

    def active(self, safe: bool = False, **_: Any) -> Any:
        """Tasks that run now."""
        return [self._info(job, started=time.time() - seconds) for job, seconds in self._loop.running()]

    def reserved(self, **_: Any) -> Any:
        """Tasks that are claimed and not started: known by number only while they are in the pool's queue."""
        return [self._info(job) for job in self._loop.intake.unstarted()]

    def scheduled(self, **_: Any) -> Any:
        """Tasks that this worker keeps for their time (the broker keeps them on Redis)."""
        return [
            {
                "eta": delivery.headers.get("eta"),
                "priority": 6,
                "request": _request(delivery.headers, delivery, self._loop.hostname),
            }
            for _, delivery in self._loop.intake.scheduled()
        ]

    def registered(self, taskinfoitems: Any = None, builtins: bool = False, **_: Any) -> Any:
        """Names of the tasks known here, each with what was asked for."""
        wanted = taskinfoitems or ("rate_limit",)
        found = []
        for name, task in sorted(self._app.tasks.items()):
            shown = [f"{item}={getattr(task, item)}" for item in wanted if getattr(task, item, None) is not None]
            found.append(f"{name} [{' '.join(shown)}]" if shown else name)
        return found

    registered_tasks = registered

    def active_queues(self, **_: Any) -> Any:
        """Queues consumed now."""
        return [
            {
                "name": name,
                "exchange": {"name": name, "type": "direct", "durable": True},
                "routing_key": name,
                "durable": True,
            }
            for name in self._loop.queues
        ]

    def revoked(self, **_: Any) -> Any:
        """Ids that were revoked here."""
        return list(self._loop.intake.revoked)

    def query_task(self, ids: Any = (), **_: Any) -> Any:
        """Where the tasks of these ids are, as far as this worker has them."""
        wanted = {ids} if isinstance(ids, str) else set(ids)
        found = {}
        for state, jobs in (("active", self.active()), ("reserved", self.reserved())):
            found.update({job["id"]: [state, job] for job in jobs if job["id"] in wanted})
        return found

    def conf(self, with_defaults: bool = False, **_: Any) -> Any:
        """The settings, passwords hidden."""
        return {
            name: redacted(value) if isinstance(value, str) else repr(value)
            for name in self._app.conf
            if (value := self._app.conf[name]) is not None
        }

    def report(self, **_: Any) -> Any:
        """The settings as text."""
        return {"ok": "\n".join(f"{name}: {value}" for name, value in self.conf().items())}

    def clock(self, **_: Any) -> Any:
        """The Lamport clock."""
        return {"clock": self._clock()}

    def hello(self, from_node: str = "", revoked: Any = None, **_: Any) -> Any:
        """What a worker that starts wants to know of the others."""
        if from_node == self._loop.hostname:
            return None
        return {"revoked": list(self._loop.intake.revoked), "clock": self._clock()}

    # -- control

    def heartbeat(self, **_: Any) -> Any:
        """Send a heartbeat now."""
        self._beat()

    def revoke(self, task_id: Any = None, terminate: bool = False, **_: Any) -> Any:
        """Do not run these ids when they are claimed here."""
        now = time.time()
        known = self._loop.intake.revoked
        for one in [task_id] if isinstance(task_id, str) else list(task_id or ()):
            known[one] = now
        while known and (len(known) > MAX_REVOKED or next(iter(known.values())) < now - REVOKE_TTL_S):
            del known[next(iter(known))]
        if terminate:
            return {"error": "revoked; but this pool cannot terminate: if it runs already, it runs on"}
        return {"ok": "tasks unknown" if not task_id else f"revoked {task_id}"}

    def rate_limit(self, task_name: str = "", rate_limit: Any = None, scope: str | None = None, **_: Any) -> Any:
        """Change a task type's limit."""
        try:
            self._loop.set_rate_limit(task_name, rate_limit, scope)
        except KeyError:
            return {"error": "unknown task"}
        except ValueError as error:
            return {"error": str(error)}
        return {"ok": "new rate limit set successfully" if rate_limit else "rate limit disabled successfully"}

    def shutdown(self, **_: Any) -> Any:
        """End, as SIGTERM does."""
        self._loop.stop()
        return {"ok": "shutting down"}

    def enable_events(self, **_: Any) -> Any:
        """Send task events."""
        was, self._events.enabled = self._events.enabled, True
        return {"ok": "task events already enabled" if was else "task events enabled"}

    def disable_events(self, **_: Any) -> Any:
        """Send no more task events."""
        was, self._events.enabled = self._events.enabled, False
        return {"ok": "task events disabled" if was else "task events already disabled"}

    def add_consumer(self, queue: str = "", **_: Any) -> Any:
        """Consume one more queue."""
        if queue in self._loop.queues:
            return {"ok": f"already consuming from {queue!r}"}
        self._loop.set_queues([*self._loop.queues, queue])
        return {"ok": f"add consumer {queue}"}

    def cancel_consumer(self, queue: str = "", **_: Any) -> Any:
        """Consume one queue less."""
        left = [name for name in self._loop.queues if name != queue]
        if not left:
            return {"error": f"{queue!r} is the only queue; use drain to stop claiming"}
        self._loop.set_queues(left)
        return {"ok": f"no longer consuming from {queue}"}

    def drain(self, id: str = "", epoch: int = 0, ttl_s: float = 60.0, **_: Any) -> Any:
        """Stop claiming, give back, finish, turn not ready; until the mark expires or is lifted."""
        heeded = self._loop.heard_drain(mark=id, epoch=epoch, ttl_s=ttl_s)
        self._beat()
        return {"ok": self._loop.state} if heeded else {"error": f"epoch {epoch} is older than the last leader's"}

    def undrain(self, epoch: int = 0, **_: Any) -> Any:
        """Claim again."""
        heeded = self._loop.heard_undrain(epoch=epoch)
        self._beat()
        return {"ok": self._loop.state} if heeded else {"error": f"epoch {epoch} is older than the last leader's"}

    def _info(self, job: Job, started: float | None = None) -> dict[str, Any]:
        headers = job.delivery.headers
        return {
            **_request(headers, job.delivery, self._loop.hostname),
            "time_start": started,
            "acknowledged": job.acked,
            "worker_pid": os.getpid(),
        }


def _request(headers: Mapping[str, Any], delivery: Any, hostname: str) -> dict[str, Any]:
    return {
        "id": headers.get("id"), "name": headers.get("task"), "args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr"),
        "type": headers.get("task"), "hostname": hostname, "acknowledged": False, "time_start": None, "worker_pid": None,
        "delivery_info": {
            "exchange": "", "routing_key": delivery.queue, "priority": delivery.properties.get("priority"), "redelivered": delivery.redelivered,
        },
    }  # fmt: skip
