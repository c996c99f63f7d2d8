"""Messages that RabbitMQ keeps until they are due: kombu's native delayed delivery, made to work with direct exchanges too.

28 queues, each with a time to live of a power of two seconds, dead-letter into the next one (`celery_delayed_27` … `_0`) and at last into the
exchange `celery_delayed_delivery`. A message's routing key names the ones it passes: 28 bits, then its queue. No plug-in, no process of ours.
"""

import logging
import math
import struct
from typing import Any

from amqp.exceptions import ChannelError
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE as DELIVERY_EXCHANGE,
)
from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from celeriac.broker.topology import exchange_exists

log = logging.getLogger(__name__)

#: The exchange that what is due comes by.
DELIVERIES_FROM: str = DELIVERY_EXCHANGE

#: Eight and a half years; what is due later comes back to a worker then, and is parked again.
LONGEST_S: int = 2**MAX_NUMBER_OF_BITS_TO_USE - 1


def delay_s(due_at: float, now: float) -> int:
    """Whole seconds to keep a message so that it is never early and less than one late; 0: it is due."""
    return min(LONGEST_S, max(0, math.ceil(due_at - now)))


def parked_under(queue: str, seconds: int) -> tuple[str, str]:
    """(exchange, routing key) under which a message for `queue` waits that long. seconds: 1 to LONGEST_S.

    It enters at the first level at which it has to wait.
    """
    return level_name(seconds.bit_length() - 1), calculate_routing_key(seconds, queue)


def declare_delays(connection: Any, queue_type: str) -> None:
    """Declare the levels unless they are there: those that Celery made are used as they are.

    connection  kombu's. queue_type: quorum (nothing is lost with a node) or classic, of levels that are not there yet.
    """
    raw = connection.connection
    if not exchange_exists(raw, DELIVERY_EXCHANGE):  # the last that is declared
        log.info("declaring %d %s queues for messages that are not due", MAX_NUMBER_OF_BITS_TO_USE, queue_type)
        declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type)
    with raw.channel() as channel:  # whoever declared them may have been stopped before this step
        channel.exchange_bind(DELIVERY_EXCHANGE, level_name(0), "*." * MAX_LEVEL + "0.#")


def bind_delays(raw: Any, queue: str) -> None:
    """Let what was parked for a queue come to it.

    The pattern has one star for each bit. kombu's `#.<queue>` would hand what is parked for `shop.mail` to a queue named `mail` as well.
    """
    with raw.channel() as channel:  # its own: a refusal closes it
        channel.queue_bind(queue, DELIVERY_EXCHANGE, "*." * MAX_NUMBER_OF_BITS_TO_USE + queue)


def bind_again(raw: Any, queue: str) -> None:
    """Bind a queue that was just declared, should there be delays: if it is not the first of its name, messages may be parked for it."""
    if not exchange_exists(raw, DELIVERY_EXCHANGE):
        return
    try:
        bind_delays(raw, queue)
    except (ChannelError, struct.error) as error:  # no permission; a name too long to be a part of a routing key
        log.info("the queue %s is not bound to what is parked for it: %s", queue, error)
