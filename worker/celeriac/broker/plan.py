"""Which queues there are and how each is declared, as task_queues and its neighbours say it. Opens nothing."""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import kombu

from celeriac.exceptions import ImproperlyConfigured, QueueNotFound

#: Options of a queue in a mapping: what kombu.Queue takes, and the guide's names for some of it.
_OPTIONS = {name for name, _ in kombu.Queue.attrs} | {
    "binding_key", "exchange_type", "exchange_durable", "exchange_auto_delete", "exchange_arguments", "queue_durable", "queue_auto_delete",
    "delivery_mode",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlan:
    """Queues by name, and what is done about others.

    named     those that task_queues names, and the default queue where it names none. aliases: of broadcast queues.
    missing   whether others may be used; missing_type and missing_exchange_type say how they are declared on RabbitMQ.
    """

    named: dict[str, kombu.Queue] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    missing: bool = True
    missing_type: str = "classic"
    missing_exchange_type: str = "direct"
    max_priority: int | None = None

    def queue(self, name: str) -> kombu.Queue:
        """The queue to declare."""
        found = self.named.get(name)
        if found is not None:
            return found
        exchange = kombu.Exchange(name, type=self.missing_exchange_type)
        return _bounded(
            kombu.Queue(name, exchange, routing_key=name, queue_arguments=_arguments(self.missing_type)),
            self.max_priority,
        )

    def way(self, name: str, routing_key: str | None = None) -> tuple[str, str, str, str]:
        """(queue, exchange, routing key, exchange type) of a message for a queue; a direct exchange is left out: the name does.

        Raises QueueNotFound for one that may not be used.
        """
        name = self.aliases.get(name, name)
        queue = self.named.get(name)
        if queue is None:
            if not self.missing:
                raise QueueNotFound(self._unknown(name))
            if self.missing_exchange_type == "direct":
                return name, "", "", ""
            queue = self.queue(name)
        kind = queue.exchange.type or "direct"
        if kind == "direct":
            return name, "", "", ""
        return name, queue.exchange.name, routing_key or queue.routing_key or name, kind

    def adopt(self, given: Any) -> str:
        """The name of a queue that is no name: kombu's, declared from now on as it says, unless the plan has one of that name."""
        name = str(getattr(given, "name", given))
        if isinstance(given, kombu.Queue) and name not in self.named and given.exchange and given.exchange.name:
            self.named[name] = _bounded(_queue(given), self.max_priority)
        return name

    def select(self, names: Iterable[str]) -> list[str]:
        """The queues that a worker was asked to read, by their real names. Raises ImproperlyConfigured for one that may not be used."""
        chosen = [self.aliases.get(name, name) for name in names]
        for name in chosen:
            if not self.missing and name not in self.named:
                raise ImproperlyConfigured(self._unknown(name))
        return list(dict.fromkeys(chosen))

    def on(self, exchange: str) -> list[str]:
        """Names of the queues that this plan binds to an exchange."""
        return [name for name, queue in self.named.items() if queue.exchange.name == exchange]

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted({*self.named, *self.aliases}))
        return f"the queue {name!r} is not in task_queues ({known}), and task_create_missing_queues is off"


def queue_plan(
    queues: Any, *, default_queue: str, default_exchange: str | None = None, default_exchange_type: str = "direct",
    default_routing_key: str | None = None, default_queue_type: str = "classic", max_priority: int | None = None, missing: bool = True,
    missing_type: str = "classic", missing_exchange_type: str | None = None,
) -> QueuePlan:  # fmt: skip
    """The plan that the settings make. queues: task_queues. Raises ImproperlyConfigured for what is no queue.

    A queue without an exchange is bound to the default one by the default routing key, as Celery has it.
    """
    exchange = kombu.Exchange(default_exchange or default_queue, type=default_exchange_type)
    routing_key = default_routing_key or default_queue
    if not queues:
        queues = [
            kombu.Queue(
                default_queue, exchange, routing_key=routing_key, queue_arguments=_arguments(default_queue_type)
            )
        ]
    named: dict[str, kombu.Queue] = {}
    aliases: dict[str, str] = {}
    for queue in _queues(queues):
        if not queue.exchange.name and not queue.routing_key:
            queue.exchange, queue.routing_key = exchange, routing_key
        named[queue.name] = _bounded(queue, max_priority)
        if queue.alias:
            aliases[queue.alias] = queue.name
    return QueuePlan(
        named=named, aliases=aliases, missing=missing, missing_type=missing_type,
        missing_exchange_type=missing_exchange_type or "direct", max_priority=max_priority,
    )  # fmt: skip


def worker_direct(hostname: str) -> kombu.Queue:
    """The queue that one worker alone reads, as Celery names and binds it."""
    return kombu.Queue(f"{hostname}.dq", kombu.Exchange("C.dq2"), routing_key=hostname)


def _queues(queues: Any) -> list[kombu.Queue]:
    if isinstance(queues, str):
        queues = [part.strip() for part in queues.split(",") if part.strip()]
    if isinstance(queues, Mapping):
        return [_queue(options, name) for name, options in queues.items()]
    if not isinstance(queues, Iterable):
        raise ImproperlyConfigured(
            f"setting task_queues={queues!r} cannot be used: expected a list of queues, or a mapping"
        )
    return [_queue(each) for each in queues]


def _queue(given: Any, name: str | None = None) -> kombu.Queue:
    if isinstance(given, kombu.Queue):
        queue = copy(given)  # the project's own stays as it is
        queue.exchange = queue.exchange or kombu.Exchange()
        return queue
    if isinstance(given, str) and name is None:
        return kombu.Queue(given, kombu.Exchange(given), routing_key=given)
    options = dict(given) if isinstance(given, Mapping) else {} if given is None else None
    name = name or (options or {}).pop("name", None)
    if options is None or not name:
        raise ImproperlyConfigured(
            f"setting task_queues: {given!r} is no queue: use kombu.Queue, a name, or a mapping of names to"
            " {exchange, exchange_type, routing_key, queue_arguments}"
        )
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise ImproperlyConfigured(
            f"setting task_queues: the queue {name!r} has no option {', '.join(unknown)}; it takes {', '.join(sorted(_OPTIONS))}"
        )
    if not (options.get("binding_key") or options.get("routing_key")):
        options["routing_key"] = name
    if not isinstance(options.get("exchange", ""), str):  # kombu's own
        exchange = options.pop("exchange")
        queue = kombu.Queue.from_dict(name, **options)
        queue.exchange = exchange
        return queue
    options.setdefault("exchange", name)
    return kombu.Queue.from_dict(name, **{"exchange_type": "direct", **options})


def _arguments(kind: str) -> dict[str, Any] | None:
    return {"x-queue-type": "quorum"} if kind == "quorum" else None


def _bounded(queue: kombu.Queue, max_priority: int | None) -> kombu.Queue:
    """With x-max-priority, where it has none; quorum queues refuse it."""
    arguments = queue.queue_arguments or {}
    if max_priority is not None and "x-max-priority" not in arguments and arguments.get("x-queue-type") != "quorum":
        queue.queue_arguments = {**arguments, "x-max-priority": max_priority}
    return queue


#: Every queue as Celery declares it when nothing is set.
USUAL_PLAN = QueuePlan()
