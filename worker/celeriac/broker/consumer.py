"""Deliveries: messages claimed from queues, and what may become of them. One Consumer protocol; a class for each kind of broker
stands in a file of its own.

`open_consumer` chooses. A consumer may be called from several threads; its calls raise BrokerUnavailable when the broker is gone, and
work again after `reconnect()`.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kombu.utils.json import dumps as json_dumps

from celeriac.broker.connection import BrokerAddress
from celeriac.wire.message import SENT_AT, TaskMessage


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

    #: Whether the broker keeps what is not due; else the worker holds it.
    keeps_delayed: bool
    #: Whether the broker keeps what is throttled, and cluster-wide limits; else the worker does.
    keeps_throttled: bool
    #: Whether claims are leases that must be renewed.
    leased: bool

    def claim(self, limit: int) -> list[Delivery]:
        """Up to `limit` messages, at once: an empty list when nothing waits."""

    def arm(self) -> bool:
        """Ask for `fileno()` to become readable when something may be claimed; True: there is something already."""

    def fileno(self) -> int | None:
        """What to select on while idle; None: poll."""

    def settle(self, settled: Sequence[Settled]) -> None:
        """Publish what follows and acknowledge, in one go for each message: nothing is acknowledged before what follows is safe.

        RabbitMQ may take its time to confirm; the acknowledgement then goes out with a later call.
        """

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
    if address.is_memory:
        from celeriac.broker.memory_consumer import MemoryConsumer

        return MemoryConsumer(address, queues)
    from celeriac.broker.amqp_consumer import AmqpConsumer

    return AmqpConsumer(address, queues, node=node, prefetch=prefetch)


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
