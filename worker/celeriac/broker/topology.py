"""Names of queues to kombu's exchanges and queues, declared as Celery declares them, so that neither side meets a 406."""

from typing import Any

import kombu
from kombu.exceptions import KombuError

DEAD_SUFFIX = ".dead"


def dead_queue_name(queue: str) -> str:
    """Where a queue's dead letters wait."""
    return queue + DEAD_SUFFIX


def celery_queue(name: str) -> kombu.Queue:
    """The queue as Celery declares it: durable, classic, bound to a direct exchange of its own name."""
    return kombu.Queue(name, kombu.Exchange(name, type="direct"), routing_key=name)


def declare_queue(channel: Any, name: str) -> kombu.Queue:
    """The queue, bound to the channel: one that exists is used as it is, whatever its arguments."""
    queue = celery_queue(name)(channel)
    if not hasattr(channel, "_size") and _exists(channel, name):  # AMQP: a passive declare on a channel of its own
        return queue
    queue.declare()
    return queue


def _exists(channel: Any, name: str) -> bool:
    connection = channel.connection
    probe = connection.channel()
    try:
        probe.queue_declare(queue=name, passive=True)
        return True
    except (*_not_found(), KombuError):
        return False
    finally:
        if probe.is_open:
            probe.close()


def _not_found() -> tuple[type[BaseException], ...]:
    from amqp.exceptions import ChannelError

    return (ChannelError,)
