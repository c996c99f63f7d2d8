"""Deliveries: messages claimed from queues, and what may become of them. One Consumer protocol, a class for each kind of broker.

`open_consumer` chooses. A consumer may be called from several threads; its calls raise BrokerUnavailable when the broker is gone, and
work again after `reconnect()`.
"""

import logging
import threading
from base64 import b64decode
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import kombu
from kombu.utils.json import dumps as json_dumps

from celeriac.broker.connection import BrokerAddress, broker_errors, connect, recoverable
from celeriac.broker.producer import KombuProducer, Producer, confirming
from celeriac.broker.topology import dead_queue_name, declare_queue
from celeriac.exceptions import NotSupported
from celeriac.wire.message import DEATH, SENT_AT, STARTS, TaskMessage

log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """A message that was claimed and can be acknowledged.

    claim   the broker's handle. starts: runs that began before and lost their worker. step: its priority list (Redis).
    body    as it came; `body_encoding` says how it is wrapped (base64 or none).
    """

    claim: Any
    queue: str
    headers: dict[str, Any]
    properties: Mapping[str, Any]
    body: Any
    content_type: str
    content_encoding: str
    body_encoding: str | None = None
    starts: int = 0
    step: int = 0
    redelivered: bool = False

    @property
    def sent_at(self) -> float | None:
        """Seconds since the epoch when our client sent it; None from other clients."""
        sent = self.headers.get(SENT_AT)
        return sent if isinstance(sent, int | float) else None


class Settled(NamedTuple):
    """How a delivery ends: acknowledged, together with the messages that follow; or dead, with the reason."""

    delivery: Delivery
    publish: Sequence[TaskMessage] = ()
    death: Mapping[str, Any] | None = None


class Consumer(Protocol):
    """What the worker's loop needs of a broker."""

    #: Whether the broker keeps what is not due or throttled; else the worker holds it.
    keeps_waiting: bool
    #: Whether claims are leases that must be renewed.
    leased: bool

    def claim(self, limit: int) -> list[Delivery]:
        """Up to `limit` messages, at once: an empty list when nothing waits."""

    def arm(self) -> bool:
        """Ask for `fileno()` to become readable when something may be claimed; True: there is something already."""

    def fileno(self) -> int | None:
        """What to select on while idle; None: poll."""

    def settle(self, settled: Sequence[Settled]) -> None:
        """Publish what follows and acknowledge, in one go for each message."""

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return messages that were not started to the front of their queues."""

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Return messages to the back of their queues."""

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """Keep messages until their due times (seconds since the epoch)."""

    def throttle(self, deliveries: Sequence[Delivery]) -> None:
        """Keep messages of rate-limited tasks, first in, first out."""

    def claim_throttled(self, queue: str, task: str, limit: int) -> tuple[list[Delivery], int]:
        """(up to `limit` of them, how many are left)."""

    def count_throttled(self, queue: str, task: str) -> int:
        """How many of them wait."""

    def throttled_tasks(self, queue: str) -> list[str]:
        """Tasks of which any wait, those included that have no limit here."""

    def pause(self) -> None:
        """Let the broker push nothing more, and return what it has pushed and nobody has claimed; the next claim resumes."""

    def take(self, key: str, per_s: float, burst: int, wanted: int) -> tuple[int, float]:
        """(tokens granted, seconds until the next) of a cluster-wide limit."""

    def allow(self, count: int) -> None:
        """Let the broker hand out up to `count` unacknowledged messages: slots, what is claimed ahead, and what the worker holds."""

    def renew(self) -> list[Delivery]:
        """Renew all leases; the deliveries that are no longer ours."""

    def sweep(self) -> int:
        """Release what is due and restore what dead workers left; how many messages moved."""

    def open_claims(self) -> int:
        """Messages claimed and not settled."""

    def set_queues(self, queues: Sequence[str]) -> None:
        """Consume these queues from now on."""

    def reconnect(self) -> None:
        """Drop the connection and open another; what only lived in the old one is forgotten."""

    def close(self) -> None:
        """Return what is still claimed and unstarted, and disconnect."""


def open_consumer(
    address: BrokerAddress, queues: Sequence[str], *, node: str, lease_s: float, prefetch: int
) -> Consumer:
    """A consumer of `queues`. Raises BrokerUnavailable or ImproperlyConfigured.

    node      the worker's name, for the broker's own listings. lease_s: see task_lease. prefetch: slots, to begin with.
    """
    if address.is_redis:
        from celeriac.broker.redis_consumer import RedisConsumer  # redis-py is an extra

        return RedisConsumer(address, queues, node=node, lease_s=lease_s)
    return KombuConsumer(address, queues, prefetch=prefetch)


class KombuConsumer:
    """RabbitMQ and the memory transport, through kombu's Consumer. The broker pushes; one lock guards the connection.

    Unacknowledged messages come back when the connection ends. What is not due or throttled stays in the worker (Celery's way),
    with the prefetch count raised by as many.
    """

    keeps_waiting = False
    leased = False

    def __init__(self, address: BrokerAddress, queues: Sequence[str], *, prefetch: int) -> None:
        self._address = address
        self._queues = list(queues)
        self._lock = threading.RLock()
        self._ready: deque[Delivery] = deque()
        self._open: dict[int, Delivery] = {}
        self._prefetch = max(1, prefetch)
        self._generation = 0
        self._consuming = False
        self._connect()

    # -- claiming

    def claim(self, limit: int) -> list[Delivery]:
        with self._lock, broker_errors(self._address):
            if not self._consuming:
                self._consume()
            self._drain(limit)
            taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
            return [delivery for delivery in taken if not self._counted(delivery)]

    def _counted(self, delivery: Delivery) -> bool:
        """Whether it was redelivered, and is now on its queue again with one start more: published, confirmed, acknowledged.

        RabbitMQ's classic queues do not count. What we give back ourselves is a fresh copy, so only a lost worker's messages
        come here (what it had claimed and not started among them: the broker cannot tell).
        """
        if self._address.is_memory or not delivery.claim[1].delivery_info.get("redelivered"):
            return False
        self._copy(delivery, {**delivery.headers, STARTS: delivery.starts + 1, "redelivered": True})
        return True

    def _copy(self, delivery: Delivery, headers: Mapping[str, Any]) -> None:
        """Publish the message to the back of its queue, then acknowledge this one."""
        self._producer.publish_raw(
            delivery.queue, delivery.body, headers,
            content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
        )  # fmt: skip
        delivery.claim[1].ack()
        self._open.pop(id(delivery.claim[1]), None)

    def arm(self) -> bool:
        with self._lock:
            return bool(self._ready)

    def fileno(self) -> int | None:
        if self._address.is_memory:
            return None
        with self._lock, broker_errors(self._address):
            return int(self._live().sock.fileno())

    def _drain(self, limit: int) -> None:
        while len(self._ready) < limit:
            live = self._live()
            try:
                self._connection.transport.drain_events(live, timeout=0)
            except (TimeoutError, BlockingIOError, InterruptedError):
                return

    def _live(self) -> Any:
        """The connection under kombu's, if it still is one: kombu and py-amqp reconnect in silence, without our consumer."""
        if not getattr(self._raw, "connected", True):
            raise ConnectionResetError("the connection is gone")
        return self._raw

    def _received(self, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        starts = headers.get(STARTS) or 0
        info = message.delivery_info or {}
        delivery = Delivery(
            claim=(self._generation, message),
            queue=self._queue_by_tag.get(info.get("consumer_tag"), info.get("routing_key") or ""),
            headers=headers,
            properties=message.properties or {},
            body=message.body,
            content_type=message.content_type or "",
            content_encoding=message.content_encoding or "utf-8",
            starts=starts if isinstance(starts, int) else 0,
            redelivered=bool(info.get("redelivered") or headers.get("redelivered")),
        )
        self._open[id(message)] = delivery
        self._ready.append(delivery)

    # -- settling

    def settle(self, settled: Sequence[Settled]) -> None:
        with self._lock, broker_errors(self._address):
            for delivery, publish, death in settled:
                if not self._mine(delivery):
                    continue  # the connection it came on is gone: the broker delivers it again
                for message in publish:
                    self._producer.publish(message)
                if death is not None:
                    self._producer.publish_raw(
                        dead_queue_name(delivery.queue), delivery.body, {**delivery.headers, DEATH: dict(death)},
                        content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
                    )  # fmt: skip
                delivery.claim[1].ack()
                self._open.pop(id(delivery.claim[1]), None)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock, broker_errors(self._address):
            for delivery in deliveries:
                if not self._mine(delivery):
                    continue
                if self._address.is_memory:
                    delivery.claim[1].requeue()
                    self._open.pop(id(delivery.claim[1]), None)
                else:  # a requeued message counts as redelivered, and it was never started
                    self._copy(delivery, delivery.headers)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock, broker_errors(self._address):
            for delivery in deliveries:
                if self._mine(delivery):  # basic.reject would put it in front
                    self._copy(delivery, delivery.headers)

    def _mine(self, delivery: Delivery) -> bool:
        generation, message = delivery.claim
        return generation == self._generation and id(message) in self._open

    # -- waiting: the worker holds it

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        raise NotSupported("this broker keeps nothing back: the worker holds what is not due")

    def throttle(self, deliveries: Sequence[Delivery]) -> None:
        raise NotSupported("this broker keeps nothing back: the worker holds what is throttled")

    def claim_throttled(self, queue: str, task: str, limit: int) -> tuple[list[Delivery], int]:
        return [], 0

    def count_throttled(self, queue: str, task: str) -> int:
        return 0

    def throttled_tasks(self, queue: str) -> list[str]:
        return []

    def pause(self) -> None:
        with self._lock, broker_errors(self._address):
            if self._consuming:
                self._consuming = False
                self._consumer.cancel()
                self.give_back(list(self._ready))
                self._ready.clear()

    def take(self, key: str, per_s: float, burst: int, wanted: int) -> tuple[int, float]:
        raise NotSupported("this broker keeps no state: limits hold per worker")

    def allow(self, count: int) -> None:
        wanted = max(1, min(65535, count))
        if self._prefetch // 2 < wanted <= self._prefetch:
            return  # near enough: a change means a new consumer
        with self._lock, broker_errors(self._address):
            self._prefetch = wanted
            if self._consuming:
                self._consumer.cancel()
                self._consume()

    # -- life

    def renew(self) -> list[Delivery]:
        with self._lock, broker_errors(self._address):
            if self._address.heartbeat_s and not self._address.is_memory:
                live = self._live()
                try:
                    self._connection.transport.heartbeat_check(live)
                except recoverable():
                    self._discard_connection(orderly=False)  # so that the next claim fails too, and the loop reconnects
                    raise
        return []

    def sweep(self) -> int:
        return 0

    def open_claims(self) -> int:
        return len(self._open)

    def set_queues(self, queues: Sequence[str]) -> None:
        with self._lock, broker_errors(self._address):
            self._queues = list(queues)
            self._consumer.cancel()
            self._open_consumer()

    def reconnect(self) -> None:
        with self._lock:
            self._discard_connection(orderly=False)
            self._connect()

    def close(self) -> None:
        with self._lock:
            try:
                self.give_back(list(self._open.values()))
                self._consumer.cancel()
            except Exception as error:  # noqa: BLE001 - closing the connection below returns them all the same
                log.info("closing the broker connection: %s", error)
            self._discard_connection()

    def _connect(self) -> None:
        self._connection = connect(confirming(self._address))
        with broker_errors(self._address):
            self._raw: Any = self._connection.connection
            self._generation += 1
            self._open.clear()
            self._ready.clear()
            self._channel = self._connection.channel()
            self._producer: Producer = KombuProducer(self._address, connection=self._connection)
            self._open_consumer()

    def _open_consumer(self) -> None:
        self._queue_by_tag: dict[Any, str] = {}
        bound = [declare_queue(self._channel, name) for name in self._queues]
        self._consumer = kombu.Consumer(
            self._channel, bound, on_message=self._received, auto_declare=False, accept=None
        )
        self._consume()

    def _consume(self) -> None:
        # RabbitMQ applies a per-consumer limit to consumers started after it was set.
        self._consumer.qos(prefetch_count=self._prefetch, apply_global=False)
        self._consumer.consume(no_ack=False)
        self._consuming = True
        self._queue_by_tag = {tag: name for name, tag in self._consumer._active_tags.items()}

    def _discard_connection(self, *, orderly: bool = True) -> None:
        try:
            if orderly:
                self._connection.release()
            else:
                self._connection.collect()  # without a farewell: the broker may have fallen silent
        except recoverable() as error:  # it is broken already: nothing more to free
            log.debug("releasing a broken connection: %s", error)
        except AttributeError as error:  # py-amqp, when the socket went away between two of its steps
            log.debug("releasing a half-closed connection: %s", error)


def payload(delivery: Delivery) -> bytes | str:
    """The body as the serializer wrote it. Raises ValueError when it is not what body_encoding says."""
    body = delivery.body
    if delivery.body_encoding == "base64":
        return b64decode(body)
    if isinstance(body, bytes | str):
        return body
    return str(json_dumps(body))  # a hand-made envelope whose body is JSON itself


def by_queue(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    """The deliveries of each queue, in order."""
    found: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.queue, []).append(delivery)
    return found
