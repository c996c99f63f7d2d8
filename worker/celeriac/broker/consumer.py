"""Deliveries: messages claimed from queues, and what may become of them. One Consumer protocol; a class for each kind of broker
stands in a file of its own.

`open_consumer` chooses. A consumer may be called from several threads; its calls raise BrokerUnavailable when the broker is gone, and
work again after `reconnect()`.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from kombu.utils.json import dumps as json_dumps

from celeriac.broker.codec import Encoded
from celeriac.broker.connection import BrokerAddress, check_installed
from celeriac.policy.throttle import Throttle
from celeriac.wire.message import DEATH, SENT_AT, STARTS, TaskMessage


class Delivery(NamedTuple):
    """A message that was claimed and can be acknowledged.

    claim   the broker's handle. starts: runs that began before and lost their worker. step: its priority list (Redis).
    body    as it came; `body_encoding` says how it is wrapped (base64 or none).
    exchange, routing_key  by which it came; "" and its queue when it was put there directly.
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
    exchange: str = ""
    routing_key: str = ""

    @property
    def info(self) -> dict[str, Any]:
        """What Celery's `delivery_info` says of it; and its queue, since a routing key may be something else."""
        return {
            "exchange": self.exchange, "routing_key": self.routing_key or self.queue, "queue": self.queue,
            "priority": self.properties.get("priority"), "redelivered": self.redelivered,
        }  # fmt: skip

    @property
    def sent_at(self) -> float | None:
        """Seconds since the epoch when our client sent it; None from other clients."""
        sent = self.headers.get(SENT_AT)
        return sent if isinstance(sent, int | float) else None

    @property
    def reply_to(self) -> str:
        """The queue of who sent it, for results that are sent there."""
        return str(self.properties.get("reply_to") or "")


class Settled(NamedTuple):
    """How a delivery ends: acknowledged, together with the messages that follow; or dead, with the reason."""

    delivery: Delivery
    publish: Sequence[TaskMessage] = ()
    death: Mapping[str, Any] | None = None


class Ask(NamedTuple):
    """A claimed message whose type is bounded. own: whether this worker's own rate has a token for it; None: its rate is shared."""

    delivery: Delivery
    throttle: Throttle
    own: bool | None = None


#: What became of it: it may start, it waits in its line, or it was no longer ours.
GOES, WAITS, GONE = 1, 0, -1


class Throttled(Protocol):
    """Throttled messages that wait in the broker, in lines: those of one line wait for the same bounds, first in, first out."""

    def limit(self, asks: Sequence[Ask]) -> tuple[list[int], float | None]:
        """(for each GOES, WAITS or GONE; seconds until a line's next message may start, None: unknown or none)."""

    def claim(
        self, count: int, types: Sequence[tuple[Throttle, int | None]], queues: Sequence[str]
    ) -> tuple[list[Delivery], float | None]:
        """(up to `count` that waited and may start; seconds as above). types: with this worker's own tokens, None where the rate is shared.

        Lines of types that are not among them are bounded by nothing here.
        """

    def strays(self, own: Sequence[str], queues: Sequence[str]) -> bool:
        """Let lines that wait for another worker's own rate be looked at, but for the tasks `own`; whether any line may be."""

    def reconsider(self, task: str, queues: Sequence[str]) -> None:
        """The bounds of a task have changed: its lines may be looked at now."""


class Consumer(Protocol):
    """What the worker's loop needs of a broker."""

    #: Whether the broker keeps what is not due; else the worker holds it.
    keeps_delayed: bool
    #: Whether claims are leases that must be renewed.
    leased: bool

    @property
    def throttled(self) -> Throttled | None:
        """What keeps throttled messages in the broker; None: the worker holds them."""

    def claim(self, limit: int, *, free: int | None = None) -> list[Delivery]:
        """Up to `limit` messages, at once: an empty list when nothing waits. free: slots that are idle now; None: `limit` of them.

        With fewer than `free` found, some stay idle: the consumer may go on listening for more.
        """

    def arm(self) -> bool:
        """Ask for `fileno()` to become readable when something may be claimed; True: there is something already."""

    def fileno(self) -> int | None:
        """What to select on while idle; None: poll."""

    def settle(self, settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        """Publish what follows and acknowledge, in one go for each message: nothing is acknowledged before what follows is safe.

        RabbitMQ may take its time to confirm; the acknowledgement then goes out with a later call.
        claim  (limit, free slots) of a claim that may come in the same round trip: its deliveries are returned. Only Redis does.
        """

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Acknowledge messages that are about to run; those that may not: their leases were over, and another worker has them."""

    def unpublishable(self) -> Sequence[tuple[Delivery, Exception]]:
        """Settled since the last call, but what was to follow can never be published: still claimed, to be settled in another way."""

    def under_way(self, delivery: Delivery) -> bool:
        """Whether it was settled, and what is to follow is not known to be on its queue yet: it may be delivered again."""

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return messages that were not started to the front of their queues."""

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """Keep messages until their due times (seconds since the epoch).

        A broker that turns out not to let us: `keeps_delayed` is False from then on, and these are still claimed.
        """

    def pause(self) -> None:
        """Let the broker push nothing more, and return what it has pushed and nobody has claimed; the next claim resumes."""

    def allow(self, more: int) -> None:
        """Let the broker hand out up to `more` messages beyond those that are claimed and not settled."""

    def rest(self) -> None:
        """Let the broker hand out nothing until the next claim, even if messages are settled before that."""

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
        check_installed("broker URL", address.url)
        from celeriac.broker.redis_consumer import RedisConsumer  # redis-py is an extra

        return RedisConsumer(address, queues, lease_s=lease_s)
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


def once_more(delivery: Delivery, more: int = 1) -> TaskMessage:
    """The same message again, marked as redelivered, with so many starts more; its body as it came."""
    properties, body = delivery.properties, payload(delivery)
    expires_ms = properties.get("expiration")
    return TaskMessage(
        headers={**delivery.headers, STARTS: delivery.starts + more, "redelivered": True},
        body=Encoded(
            delivery.content_type, delivery.content_encoding, body if isinstance(body, bytes) else body.encode()
        ),
        queue=delivery.queue,
        priority=int(properties.get("priority") or 0),
        reply_to=delivery.reply_to,
        expiration_s=float(expires_ms) / 1000 if expires_ms else None,
    )


def retried(delivery: Delivery, at: float) -> TaskMessage:
    """The same call with one retry more, due at that time (seconds since the epoch); its body as it came."""
    message = once_more(delivery)
    retries = delivery.headers.get("retries")
    headers = {name: value for name, value in message.headers.items() if name not in {STARTS, DEATH, "redelivered"}}
    headers["retries"] = (retries if isinstance(retries, int) else 0) + 1
    headers["eta"] = datetime.fromtimestamp(at, UTC).isoformat()
    return message._replace(headers=headers, due_at=at)


def by_queue(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    """The deliveries of each queue, in order."""
    found: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.queue, []).append(delivery)
    return found
