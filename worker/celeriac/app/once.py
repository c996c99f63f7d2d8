"""Publishing a unique call: it takes its key, or is the call that holds it."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from celeriac.broker.coordination import Coordination
from celeriac.broker.producer import Producer, RedisProducer
from celeriac.exceptions import NotSupported
from celeriac.policy.unique import Unique, refused_option, unique_key
from celeriac.wire.message import UNIQUE, USUAL, TaskMessage


class Shop(Protocol):
    """What is needed of the app."""

    @property
    def coordination(self) -> Coordination | None: ...
    @property
    def producer(self) -> Producer: ...


def check_alone(name: str, options: Mapping[str, Any]) -> None:
    """Raise NotSupported for a unique call that somebody waits for under its own id."""
    part = refused_option(options)
    if part is not None:
        raise NotSupported(
            f"task {name} has unique_for and cannot be part of a {part.removesuffix('_id')}: a call that is left out would be waited for for ever"
        )


def check_many(tasks: Iterable[Any]) -> None:
    """Raise NotSupported when calls of one of these types, None for those not known here, cannot be sent in one go with others."""
    for task in tasks:
        if task is not None and task._unique is not None:
            raise NotSupported(
                f"task {task.name} has unique_for: its calls are sent one by one, with delay or apply_async"
            )


def publish_once(app: Shop, message: TaskMessage, unique: Unique, signature: Any, lent: Producer | None) -> str | None:
    """Publish the message; or, when another call holds its key, do not: that call's id. On Redis both in one step.

    Raises NotSupported without a store to keep keys in, ValueError for a call without a key.
    """
    store = app.coordination
    name = message.headers["task"]
    if store is None:
        raise NotSupported(
            f"task {name}: unique_for needs a Redis or Valkey that all share: the broker, coordination_url, or the result_backend"
        )
    key = message.headers[UNIQUE] = unique_key(name, unique, message.body[0], message.body[1], signature)
    for_s = unique.for_s + max(0.0, (message.due_at or 0.0) - message.headers["celeriac_sent_at"])
    producer = lent or app.producer
    terms = message.terms or USUAL
    if isinstance(producer, RedisProducer) and not terms.mandatory and not message.exchange:
        holder = producer.publish_unique(message, key, for_s)
    else:
        holder = store.hold(key, message.id, for_s)
        if holder is None:
            try:
                producer.publish(message)
            except BaseException:
                store.let_go([(key, message.id)])
                raise
    return None if holder == message.id else holder
