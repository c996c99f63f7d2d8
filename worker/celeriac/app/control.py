"""`app.control`: commands to workers, and questions. Celery's Control and Inspect, names and answers alike."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.broker.mailbox import Mailbox
from celeriac.broker.purge import purge
from celeriac.exceptions import BackendUnavailable
from celeriac.wire.control import Command

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

log = logging.getLogger(__name__)

Answers = list[dict[str, Any]]


class Control:
    """Sends commands to the workers of an app's broker. Each raises BrokerUnavailable.

    What changes something takes `destination=` (node names), `pattern=` with `matcher=` (glob or pcre), `reply=` (wait for answers),
    `timeout=` (seconds to wait), `limit=` (answers that are enough) and `callback=` (called with each), and returns
    [{node: answer}] with reply=True, else None.
    """

    def __init__(self, app: "Celeriac") -> None:
        self._app = app
        self._box: tuple[Any, Mailbox] | None = None

    @property
    def mailbox(self) -> Mailbox:
        """The connection that commands go out on: one for each broker that the app has had."""
        address = self._app.broker_address()
        if self._box is None or self._box[0] != address:
            self.close()
            self._box = (
                address,
                Mailbox(
                    address.url, transport_options=address.transport_options, ssl=address.ssl, signed=self._app.signs
                ),
            )
        return self._box[1]

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        box, self._box = self._box, None
        if box is not None:
            box[1].close()

    def broadcast(
        self, command: str, arguments: Mapping[str, Any] | None = None, destination: Sequence[str] | None = None, connection: Any = None,
        reply: bool = False, timeout: float = 1.0, limit: int | None = None, callback: Callable[[Any], None] | None = None, channel: Any = None,
        pattern: str | None = None, matcher: str | None = None, **extra: Any,
    ) -> Answers | None:  # fmt: skip
        """Send any command. `connection` and `channel` are accepted and not used: this has its own."""
        if destination is not None and (isinstance(destination, str) or not isinstance(destination, Sequence)):
            raise ValueError(f"destination must be a list of node names, got {destination!r}")
        asked = Command(
            method=command, arguments={**(arguments or {}), **extra}, destination=destination, pattern=pattern, matcher=matcher
        )  # fmt: skip
        if reply:
            return self.mailbox.answers(asked, timeout_s=timeout, limit=limit, heard=callback)
        self.mailbox.send(asked)
        return None

    def inspect(
        self, destination: Sequence[str] | str | None = None, timeout: float = 1.0, callback: Callable[[Any], None] | None = None,
        connection: Any = None, app: Any = None, limit: int | None = None, pattern: str | None = None, matcher: str | None = None,
    ) -> "Inspect":  # fmt: skip
        """Questions to these workers, or to all."""
        return Inspect(self, destination, timeout, callback, limit, pattern, matcher)

    def ping(self, destination: Sequence[str] | None = None, timeout: float = 1.0, **options: Any) -> Answers:
        """[{node: {"ok": "pong"}}]."""
        return self.broadcast("ping", destination=destination, timeout=timeout, reply=True, **options) or []

    def purge(self, connection: Any = None) -> int:
        """Delete all messages that wait in the app's queues (task_queues, else the default one); how many."""
        address = self._app.broker_address()
        return sum(purge(address, list(address.plan.named)).values())

    discard_all = purge

    def revoke(
        self, task_id: str | Sequence[str], destination: Sequence[str] | None = None, terminate: bool = False, signal: str = "SIGTERM", **options: Any
    ) -> Answers | None:  # fmt: skip
        """Do not run the tasks of these ids; with terminate, end them by this signal where they run already.

        Where there is a coordination store, workers that start later know of it, too.
        """
        if destination is None and self._app.coordination is not None:
            try:
                self._app.coordination.revoke([task_id] if isinstance(task_id, str) else task_id)
            except BackendUnavailable as error:
                log.warning("%s; only workers that run now hear of the revoke", error)
        arguments = {"task_id": task_id, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", arguments, destination, **options)

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], destination: Sequence[str] | None = None, terminate: bool = False, signal: str = "SIGTERM", **options: Any
    ) -> Answers | None:  # fmt: skip
        """Do not run tasks that carry one of these stamps."""
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **options)

    def terminate(
        self, task_id: str | Sequence[str], destination: Sequence[str] | None = None, signal: str = "SIGTERM", **options: Any
    ) -> Answers | None:  # fmt: skip
        """revoke with terminate."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **options)

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Sequence[str] | None = None, **options: Any
    ) -> Answers | None:
        """Change a task type's rate limit, e.g. "5/s"; 0 lifts it."""
        return self.broadcast("rate_limit", {"task_name": task_name, "rate_limit": rate_limit}, destination, **options)

    def time_limit(
        self, task_name: str, soft: float | None = None, hard: float | None = None, destination: Sequence[str] | None = None, **options: Any
    ) -> Answers | None:  # fmt: skip
        """Change a task type's time limits, in seconds; None lifts one."""
        return self.broadcast(
            "time_limit", {"task_name": task_name, "hard": hard, "soft": soft}, destination, **options
        )

    def add_consumer(
        self, queue: str, exchange: str | None = None, exchange_type: str = "direct", routing_key: str | None = None,
        options: Mapping[str, Any] | None = None, destination: Sequence[str] | None = None, **more: Any,
    ) -> Answers | None:  # fmt: skip
        """Consume one more queue."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination, **more)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Consume one queue less."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **options)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Run n more tasks at once."""
        return self.broadcast("pool_grow", {"n": n}, destination, **options)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Run n tasks fewer at once."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **options)

    def pool_restart(
        self, modules: Sequence[str] | None = None, reload: bool = False, reloader: Any = None,
        destination: Sequence[str] | None = None, **options: Any,
    ) -> Answers | None:  # fmt: skip
        """Restart the pools of Celery's workers; ours answer that a Deployment is rolled out instead."""
        return self.broadcast("pool_restart", {"modules": modules, "reload": reload}, destination, **options)

    def autoscale(self, max: int, min: int, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Change the bounds of --autoscale."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **options)

    def shutdown(self, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """End workers, as SIGTERM does."""
        return self.broadcast("shutdown", {}, destination, **options)

    def heartbeat(self, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Have heartbeats sent now."""
        return self.broadcast("heartbeat", {}, destination, **options)

    def enable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Have task events sent."""
        return self.broadcast("enable_events", {}, destination, **options)

    def disable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Answers | None:
        """Have no more task events sent."""
        return self.broadcast("disable_events", {}, destination, **options)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Have Celery's workers elect one of them to do something."""
        self.broadcast("election", {"id": id, "topic": topic, "action": action})

    def drain(
        self, destination: Sequence[str] | None = None, *, ttl_s: float = 60.0, mark: str = "by-hand", epoch: int = 0, **options: Any
    ) -> Answers | None:  # fmt: skip
        """Ours: claim nothing, give back, finish, turn not ready, for so many seconds or until undrain."""
        return self.broadcast("drain", {"id": mark, "epoch": epoch, "ttl_s": ttl_s}, destination, **options)

    def undrain(self, destination: Sequence[str] | None = None, *, epoch: int = 0, **options: Any) -> Answers | None:
        """Ours: claim again."""
        return self.broadcast("undrain", {"epoch": epoch}, destination, **options)


class Inspect:
    """Questions to workers: each answers {node: answer}, or None when nobody did. For one node named by a str, its answer alone."""

    def __init__(
        self, control: Control, destination: Sequence[str] | str | None, timeout: float, callback: Callable[[Any], None] | None,
        limit: int | None, pattern: str | None, matcher: str | None,
    ) -> None:  # fmt: skip
        self._control, self._timeout, self._callback, self._limit = control, timeout, callback, limit
        self._one = destination if isinstance(destination, str) else None
        self._destination = [destination] if isinstance(destination, str) else destination
        self._pattern, self._matcher = pattern, matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        answers = self._control.broadcast(
            command, arguments, self._destination, reply=True, timeout=self._timeout, limit=self._limit, callback=self._callback,
            pattern=self._pattern, matcher=self._matcher,
        )  # fmt: skip
        if not answers:
            return None
        by_node = {node: answer for one in answers for node, answer in one.items()}
        return by_node if self._one is None else by_node.get(self._one)

    def active(self, safe: bool | None = None) -> Any:
        """Tasks that run now."""
        return self._request("active", safe=safe)

    def active_queues(self) -> Any:
        """Queues consumed now."""
        return self._request("active_queues")

    def clock(self) -> Any:
        """The logical clock."""
        return self._request("clock")

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings that differ from their defaults, or all; secrets hidden."""
        return self._request("conf", with_defaults=with_defaults)

    def dead(self) -> Any:
        """Ours: {queue: dead letters} of the worker's queues."""
        return self._request("dead")

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """What a worker that starts asks the others."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memdump(self, samples: int = 10) -> Any:
        """The memory samples taken so far."""
        return self._request("memdump", samples=samples)

    def memsample(self) -> Any:
        """The memory in use now."""
        return self._request("memsample")

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Celery's workers draw their objects; ours say that a profiler does it better."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)

    def ping(self, destination: Sequence[str] | str | None = None) -> Any:
        """Who answers."""
        if destination is not None:
            self._one = destination if isinstance(destination, str) else None
            self._destination = [destination] if isinstance(destination, str) else destination
        return self._request("ping")

    def query_task(self, *ids: Any) -> Any:
        """{id: [state, request]} of these tasks."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            ids = tuple(ids[0])
        return self._request("query_task", ids=list(ids))

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of the tasks known, each with these attributes."""
        return self._request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    def report(self) -> Any:
        """Versions and settings as text."""
        return self._request("report")

    def reserved(self, safe: bool | None = None) -> Any:
        """Tasks that are claimed and have not started."""
        return self._request("reserved")

    def revoked(self) -> Any:
        """Ids that were revoked."""
        return self._request("revoked")

    def scheduled(self, safe: bool | None = None) -> Any:
        """Tasks that the worker keeps for their time."""
        return self._request("scheduled")

    def stats(self) -> Any:
        """Numbers of the process, its pool and its broker."""
        return self._request("stats")
