"""One call on its way: its message, the publish, its handle. Here are methods of `Celeriac`, as functions of the app."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app.context import current
from celeriac.app.modules import imported
from celeriac.app.once import check_alone, publish_once
from celeriac.app.options import embedded, moment
from celeriac.app.task import Task
from celeriac.broker.producer import Producer, lent_producer
from celeriac.exceptions import ImproperlyConfigured, NotRoutable, NotSupported
from celeriac.ids import new_id
from celeriac.policy.calling import check_priority, priority_of, terms_of, type_terms
from celeriac.policy.routing import Router, prepared, route
from celeriac.result import AsyncResult
from celeriac.wire.message import USUAL, TaskMessage, bound, compose

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def send_task(
    app: "Celeriac", name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, task_type: Task | None = None,
    countdown: float | None = None, eta: datetime | None = None, expires: Any = None, task_id: str | None = None, **options: Any,
) -> AsyncResult:  # fmt: skip
    """Send a task by name; see Task.apply_async for the options."""
    producer: Producer | None = None
    to_parent = True
    if options:
        to_parent = options.pop("add_to_parent", True)
        producer = lent(app, name, options.pop("connection", None), options.pop("producer", None))
        required = options.pop("require_consumer", None)
    else:
        required = None
    if required is None and task_type is not None:
        required = task_type.require_consumer
    unique = task_type._unique if task_type is not None else None
    if unique is not None:
        check_alone(name, options)
    message = app.message(
        name,
        args or (),
        kwargs or {},
        task_type,
        countdown=countdown,
        eta=eta,
        expires=expires,
        task_id=task_id,
        options=options,
    )
    if required:
        require_consumer(app, message)
    if signals.before_task_publish.receivers:
        tell(signals.before_task_publish, message)
    if unique is not None and task_type is not None:
        holder = publish_once(app, message, unique, task_type._key_signature, producer)
        if holder is not None:
            return AsyncResult(holder, app.store_of(task_type), name=name, guard=no_waiting, app=app, deduplicated=True)
    else:
        (producer or app._producer or app.producer).publish(message)
    if app._sent_events is not None:
        app._sent_events.tell(message)
    return _published(app, message, to_parent)


async def asend_task(
    app: "Celeriac", name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, task_type: Task | None = None,
    countdown: float | None = None, eta: datetime | None = None, expires: Any = None, task_id: str | None = None, **options: Any,
) -> AsyncResult:  # fmt: skip
    """`send_task` for coroutines. Receivers of the publishing signals are called in the caller's context, and should not wait."""
    asks = bool(options.keys() & {"connection", "producer", "require_consumer"})
    if asks or (task_type is not None and (task_type.require_consumer or task_type._unique)):  # the broker, first
        import asyncio  # only for who has a loop

        send = partial(
            app.send_task,
            name,
            args,
            kwargs,
            task_type=task_type,
            countdown=countdown,
            eta=eta,
            expires=expires,
            task_id=task_id,
        )
        return await asyncio.to_thread(send, **options)
    to_parent = options.pop("add_to_parent", True)
    message = app.message(
        name,
        args or (),
        kwargs or {},
        task_type,
        countdown=countdown,
        eta=eta,
        expires=expires,
        task_id=task_id,
        options=options,
    )
    if signals.before_task_publish.receivers:
        tell(signals.before_task_publish, message)
    await app._sending_thread().publish(message)
    return _published(app, message, to_parent)


def message(
    app: "Celeriac", name: str, args: Sequence[Any], kwargs: Mapping[str, Any], task_type: Task | None, *, countdown: float | None,
    eta: datetime | None, expires: Any, task_id: str | None, options: dict[str, Any],
) -> TaskMessage:  # fmt: skip
    """The message of one call: routed, with ids and times. Everything that varies is rolled here."""
    conf = app.conf
    if task_type is not None and task_type._models is not None:
        args, kwargs = task_type._models.dumped(args, kwargs, options.get("serializer") or task_type.serializer)
    terms = app._usual_terms
    if task_type is not None and (task_type.mandatory or task_type.delivery_mode is not None):
        terms = type_terms(name, task_type, terms)
    urgency = None
    if options:
        terms = terms_of(name, options, terms)
        urgency = options.pop("urgency", None)
    wall = time.time()
    if expires is None and task_type is not None:
        expires = task_type.expires
    if countdown is not None or eta is not None or expires is not None:
        now = datetime.fromtimestamp(wall, UTC)
        eta = moment(countdown, now) if countdown is not None else moment(eta, now)
        expires = moment(expires, now)
    queue: Any = options.pop("queue", None)
    priority = options.pop("priority", None)
    if urgency is not None:
        if priority is not None:
            raise TypeError(f"task {name}: give priority (the broker's own number) or urgency (a word), not both")
        priority = _priority(app, name, urgency)
    exchange, routing_key = options.pop("exchange", None), options.pop("routing_key", None)
    if task_type is not None:
        queue = queue or task_type.queue
        priority = task_type.priority if priority is None else priority
        if priority is None and task_type.urgency is not None:
            priority = _priority(app, name, task_type.urgency)
        exchange, routing_key = exchange or task_type.exchange, routing_key or task_type.routing_key
    if conf.task_routes and queue is None:
        found = dict(route(name, _routers(app, conf.task_routes), args, kwargs, options, task_type))
        queue = found.pop("queue", None)
        priority = found.pop("priority", None) if priority is None else priority
        exchange, routing_key = (
            exchange or found.pop("exchange", None),
            routing_key or found.pop("routing_key", None),
        )
        if found:
            options |= {option: value for option, value in found.items() if option not in options}
            terms = terms_of(name, options, terms)
    if priority is None and conf.task_inherit_parent_priority and (parent := current.get()) is not None:
        priority = (parent.delivery_info or {}).get("priority")
    if priority is not None:
        check_priority(name, priority)
    if exchange is not None and not isinstance(exchange, str):  # kombu's, which knows its type
        terms = (terms or USUAL)._replace(exchange_type=exchange.type or "")
        exchange = exchange.name
    if queue is None and not exchange:
        queue = conf.task_default_queue
        if routing_key and not app._plan.way(queue)[3]:  # by a direct exchange: the key is the queue's name
            queue = routing_key
    if queue is not None:
        if not isinstance(queue, str):
            queue = app._plan.adopt(queue)
        way = app._ways.get(queue) if routing_key is None else app._plan.way(queue, routing_key)
        if way is None:
            way = app._ways[queue] = app._plan.way(queue)
        queue, exchange, routing_key, kind = way
        if kind:
            terms = (terms or USUAL)._replace(exchange_type=kind)
    hard_s = options.pop("time_limit", task_type.time_limit if task_type else None)
    soft_s = options.pop("soft_time_limit", task_type.soft_time_limit if task_type else None)
    if isinstance(hard_s, timedelta):
        hard_s = hard_s.total_seconds()
    if isinstance(soft_s, timedelta):
        soft_s = soft_s.total_seconds()
    if hard_s and soft_s and soft_s > hard_s:
        raise ValueError(
            f"{name}: soft_time_limit {soft_s:g} s is above time_limit {hard_s:g} s; it would never be raised"
        )
    headers = options.pop("headers", None)
    if "argsrepr" in options or "kwargsrepr" in options:  # what monitors and logs may show of the arguments
        shown = {name: str(options.pop(name)) for name in ("argsrepr", "kwargsrepr") if name in options}
        headers = {**shown, **(headers or {})}
    if task_type is not None and task_type._keys:
        headers = {**task_type.limit_keys(args, kwargs), **(headers or {})}
    parent = current.get()
    ignore_result = options.pop("ignore_result", None)
    if ignore_result is None:
        ignore_result = task_type.ignore_result if task_type is not None else False
    reply_to = options.pop("reply_to", "")
    backend = app._backend or app.backend
    if task_type is not None and task_type._own_backend is not None:
        backend = app.store_of(task_type)
    if backend.answers and not reply_to and not ignore_result:
        reply_to = backend.expect()
    message = compose(
        id=task_id or new_id(),
        task=name,
        args=args,
        kwargs=kwargs,
        queue=queue or routing_key or conf.task_default_queue,
        exchange=exchange or "",
        routing_key=routing_key or "",
        origin=app._origin or app._name_origin(),
        sent_at=wall,
        priority=priority if priority is not None else conf.task_default_priority or 0,
        serializer=options.pop("serializer", None)
        or (task_type.serializer if task_type else None)
        or conf.task_serializer,
        compression=options.pop("compression", None)
        or (task_type.compression if task_type else None)
        or conf.task_compression,
        reply_to=reply_to,
        eta=eta,
        expires=expires,
        retries=options.pop("retries", 0),
        time_limit=hard_s,
        soft_time_limit=soft_s,
        root_id=options.pop("root_id", None) or (parent.root_id or parent.id if parent is not None else None),
        parent_id=options.pop("parent_id", None) or (parent.id if parent is not None else None),
        group=options.pop("group_id", None),
        group_index=options.pop("group_index", None),
        shadow=options.pop("shadow", None),
        ignore_result=bool(ignore_result),
        headers=headers,
        embed=embedded(name, options) if options else None,
        terms=terms,
    )
    return message if message.serializer != "auth" else bound(message)


def _published(app: "Celeriac", message: TaskMessage, to_parent: bool) -> AsyncResult:
    """The handle of a call that is on its way; the task that runs here, if one does, has it among its children."""
    if signals.after_task_publish.receivers:
        tell(signals.after_task_publish, message)
    running = current.get()
    if running is not None and to_parent:
        running.add_child(message.headers["id"])
    return handle(app, message)


def handle(app: "Celeriac", message: TaskMessage) -> AsyncResult:
    """The handle of a call, by its message; it reads from where the task's results are."""
    headers = message.headers
    backend = app._backend or app.backend
    if app.has_own_stores:
        backend = app.store_of(app._registry.tasks.get(headers["task"]))
    return AsyncResult(headers["id"], backend, headers["task"], app, guard=no_waiting, ignored=headers["ignore_result"])


def tell(signal: signals.Signal, message: TaskMessage) -> None:
    """What before_task_publish and after_task_publish say of a message. A receiver may change `headers` before it goes."""
    more: dict[str, Any] = {}
    if signal is signals.before_task_publish:
        properties = {
            "correlation_id": message.headers["id"],
            "reply_to": message.reply_to,
            "priority": message.priority,
        }
        more = {"properties": properties, "declare": [], "retry_policy": {}}
    signal.send(
        sender=message.headers["task"], body=message.body, headers=message.headers, exchange=message.exchange,
        routing_key=message.routing_key or message.queue, **more,
    )  # fmt: skip


def lent(app: "Celeriac", name: str, connection: Any, producer: Any) -> Producer | None:
    """A producer on a connection of the caller's; None when none is lent."""
    if connection is None and producer is None:
        return None
    if isinstance(producer, type(app.producer)):  # ours, from app.producer
        return producer
    lent = connection if connection is not None else getattr(producer, "connection", None)
    if not hasattr(lent, "channel"):
        raise TypeError(
            f"task {name}: connection and producer must be kombu's, got {producer if connection is None else connection!r};"
            " leave them out and the app's own connection, which is kept, is used"
        )
    return lent_producer(app.broker_address(), lent, timeout_s=app.conf.task_publish_timeout)


def require_consumer(app: "Celeriac", message: TaskMessage) -> None:
    """Raise NotRoutable when nobody consumes the queue now. A worker may end, or come, just after."""
    if message.exchange:
        raise NotSupported(
            f"task {message.headers['task']}: require_consumer asks about one queue, and the message goes to the exchange"
            f" {message.exchange!r}; name a queue, or use mandatory=True"
        )
    count = app.producer.consumers(message.queue)
    if count is None:  # the broker cannot tell: the workers can
        queues = app.control.inspect().active_queues() or {}
        count = sum(entry["name"] == message.queue for entries in queues.values() for entry in entries)
    if not count:
        raise NotRoutable(f"no worker consumes the queue {message.queue!r} now (celeriac worker -Q {message.queue})")


def _routers(app: "Celeriac", routes: Any) -> Sequence[Router]:
    """task_routes, prepared once. Raises ImproperlyConfigured."""
    if app._prepared[0] is not routes:
        try:
            app._prepared = (routes, prepared(routes, imported))
        except ValueError as error:
            raise ImproperlyConfigured(f"setting task_routes cannot be used: {error}") from error
    return app._prepared[1]


def _priority(app: "Celeriac", name: str, urgency: str) -> int:
    address = app.broker_address()
    lowest_first = address.is_redis or address.is_memory
    return priority_of(name, urgency, lowest_first=lowest_first, most=app.conf.get("task_queue_max_priority"))


def no_waiting() -> None:
    request = current.get()
    if request is not None and not request.called_directly and not request.is_eager:
        raise RuntimeError(
            "never call result.get() within a task: it can wait for ever; link the tasks, or pass disable_sync_subtasks=False"
        )
