"""Dead letters: looking at them, and sending them back to work. They wait in `<queue>.dead`, an ordinary queue."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from celeriac.broker.connection import BrokerAddress, broker_errors, connect
from celeriac.broker.producer import KombuProducer, confirming, raw_envelope
from celeriac.broker.topology import dead_queue_name
from celeriac.wire.message import DEATH, STARTS

#: Moves one dead letter back to work, or does nothing when somebody else has moved it.
_REPLAY = """
-- KEYS: dead list, list     ARGV: dead envelope, envelope
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that ended without being done.

    id, task   None where the message has none. reason: unknown_task, malformed, content_disallowed, unsupported, too_many_starts,
               rejected, result_refused … detail: the error as text. at: seconds since the epoch. by: the worker. starts: runs that lost theirs.
    """

    queue: str
    id: str | None
    task: str | None
    reason: str
    detail: str
    at: float
    by: str
    starts: int
    headers: Mapping[str, Any]


def dead_letters(address: BrokerAddress, queue: str, most: int = 100) -> list[DeadLetter]:
    """The dead letters of a queue, oldest first. Raises BrokerUnavailable."""
    found = []
    with _opened(address, queue) as messages:
        for headers, _ in messages(most):
            found.append(_letter(queue, headers))
    return found


def replay(
    address: BrokerAddress, queue: str, wanted: Callable[[DeadLetter], bool], most: int = 10_000
) -> list[DeadLetter]:
    """Send the wanted dead letters back to their queue, as if they had never been started; those that were.

    Raises BrokerUnavailable; what was sent before that stays sent, and nothing is lost.
    """
    sent = []
    with _opened(address, queue) as messages:
        for headers, back in messages(most):
            letter = _letter(queue, headers)
            kept = {name: value for name, value in headers.items() if name not in (DEATH, STARTS, "redelivered")}
            if wanted(letter) and back(kept):
                sent.append(letter)
    return sent


Back = Callable[[Mapping[str, Any]], bool]
Messages = Callable[[int], Iterator[tuple[Mapping[str, Any], Back]]]


@contextmanager
def _opened(address: BrokerAddress, queue: str) -> Iterator[Messages]:
    """A function that gives (headers, how to send it back) of each dead letter; what is not sent back stays."""
    with broker_errors(address):
        connection = connect(confirming(address))
        try:
            yield _in_redis(connection, queue) if address.is_redis else _in_amqp(address, connection, queue)
        finally:
            connection.release()  # what was only looked at goes back to its queue


def _in_redis(connection: Any, queue: str) -> Messages:
    from celeriac.broker.transport.redis import RedisQueues  # redis-py is an extra

    queues = RedisQueues(connection)
    script = queues.client.register_script(_REPLAY)
    dead = queues.list_key(dead_queue_name(queue), 0)

    def messages(most: int) -> Iterator[tuple[Mapping[str, Any], Back]]:
        for envelope in reversed(queues.client.lrange(dead, -most, -1)):
            try:
                message = orjson.loads(envelope)
                headers, own = message["headers"], message["properties"]
            except (ValueError, KeyError, TypeError):
                continue  # not ours: somebody else pushed it there by hand

            def back(
                kept: Mapping[str, Any], envelope: bytes = envelope, message: Any = message, own: Any = own
            ) -> bool:
                again = raw_envelope(
                    queue, message["body"], kept,
                    content_type=message.get("content-type") or "", content_encoding=message.get("content-encoding") or "utf-8", properties=own,
                )  # fmt: skip
                step = queues.step_of(own.get("priority"))
                return bool(script(keys=[dead, queues.list_key(queue, step)], args=[envelope, again]))

            yield headers, back

    return messages


def _in_amqp(address: BrokerAddress, connection: Any, queue: str) -> Messages:
    from amqp.exceptions import NotFound
    from kombu.exceptions import ChannelError

    producer = KombuProducer(address, connection=connection)

    def messages(most: int) -> Iterator[tuple[Mapping[str, Any], Back]]:
        channel = connection.channel()
        for _ in range(most):
            try:
                message = channel.basic_get(dead_queue_name(queue), no_ack=False)
            except (NotFound, ChannelError):
                return  # no dead letter was ever written
            if message is None:
                return
            if not hasattr(
                message, "content_type"
            ):  # kombu's memory transport gives its own class, py-amqp the plain one
                message = channel.message_to_python(message)

            def back(kept: Mapping[str, Any], message: Any = message) -> bool:
                producer.publish_raw(
                    queue, message.body, kept,
                    content_type=message.content_type, content_encoding=message.content_encoding, properties=message.properties,
                )  # fmt: skip
                channel.basic_ack(message.delivery_tag)
                return True

            yield message.headers or {}, back

    return messages


def _letter(queue: str, headers: Mapping[str, Any]) -> DeadLetter:
    death = headers.get(DEATH)
    told: Mapping[str, Any] = death if isinstance(death, Mapping) else {}
    return DeadLetter(
        queue=queue,
        id=headers.get("id"),
        task=headers.get("task"),
        reason=str(told.get("reason") or "unknown"),
        detail=str(told.get("detail") or ""),
        at=float(told.get("at") or 0.0),
        by=str(told.get("by") or ""),
        starts=int(told.get("starts") or 0),
        headers={name: value for name, value in headers.items() if name != DEATH},
    )
