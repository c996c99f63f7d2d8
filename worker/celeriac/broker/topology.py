"""Names of queues to kombu's exchanges and queues, declared as Celery declares them, so that neither side meets a 406."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu
from kombu.exceptions import KombuError

from celeriac.broker.plan import USUAL_PLAN, QueuePlan

log = logging.getLogger(__name__)

DEAD_SUFFIX = ".dead"


def dead_queue_name(queue: str) -> str:
    """Where a queue's dead letters wait."""
    return queue + DEAD_SUFFIX


def described(name: str, plan: QueuePlan = USUAL_PLAN) -> dict[str, Any]:
    """The queue as Celery's active_queues shows it."""
    return dict(plan.queue(name).as_dict(recurse=True))


def declare_queue(channel: Any, name: str, plan: QueuePlan = USUAL_PLAN) -> kombu.Queue:
    """The queue, bound to the channel: one that exists is used as it is, whatever its arguments.

    On AMQP every attempt has a channel of its own: a refusal closes the channel on which it came.
    """
    wanted = plan.queue(name)
    queue = wanted(channel)
    if hasattr(channel, "_size"):  # kombu's virtual transports: Redis, memory
        queue.declare()
        return queue
    connection = channel.connection
    exists = queue_exists(connection, name)
    if exists and name not in plan.named:
        return queue
    try:
        with connection.channel() as attempt:
            if exists:  # its binding may be new
                wanted(attempt).exchange.declare()
                wanted(attempt).queue_bind()
            else:
                wanted(attempt).declare()
    except _refused() as error:
        # The exchange of that name is another kind, or ours to use and not to declare; we publish without it.
        log.info("the exchange of the queue %s is left as it is: %s", name, error)
        with connection.channel() as attempt:
            if not exists:
                wanted(attempt).queue_declare()
    return queue


def queue_exists(connection: Any, name: str) -> bool:
    """Whether a queue is there, on an AMQP connection."""
    with _probe(connection) as probe:
        try:
            probe.queue_declare(queue=name, passive=True)
        except _refused():
            return False
        return True


def consumer_count(connection: Any, name: str) -> int:
    """How many consume a queue, on an AMQP connection; 0 when it is not there."""
    with _probe(connection) as probe:
        try:
            return int(probe.queue_declare(queue=name, passive=True).consumer_count)
        except _refused():
            return 0


def exchange_exists(connection: Any, name: str) -> bool:
    """Whether an exchange is there, on an AMQP connection."""
    with _probe(connection) as probe:
        try:
            probe.exchange_declare(name, "topic", passive=True)
        except _refused():
            return False
        return True


@contextmanager
def _probe(connection: Any) -> Iterator[Any]:
    """A channel for one question: the broker closes the one on which it refuses."""
    channel = connection.channel()
    try:
        yield channel
    finally:
        if channel.is_open:
            channel.close()


def _refused() -> tuple[type[BaseException], ...]:
    from amqp.exceptions import ChannelError

    return (ChannelError, KombuError)
