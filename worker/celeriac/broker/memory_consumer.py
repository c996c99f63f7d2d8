"""The memory transport as a consumer sees it: everything in this process, for tests."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import kombu

from celeriac.broker.connection import BrokerAddress, connect
from celeriac.broker.consumer import Delivery, Settled
from celeriac.broker.producer import KombuProducer
from celeriac.broker.topology import dead_queue_name, declare_queue
from celeriac.exceptions import NotSupported
from celeriac.wire.message import DEATH, STARTS


class MemoryConsumer:
    """kombu's memory transport. What is not due or throttled stays in the worker."""

    keeps_delayed = False
    throttled = None
    leased = False

    def __init__(self, address: BrokerAddress, queues: Sequence[str]) -> None:
        self._lock = threading.RLock()
        self._ready: deque[Delivery] = deque()
        self._open: dict[int, Delivery] = {}
        self._address = address
        self._connection = connect(address)
        self._channel = self._connection.channel()
        self._producer = KombuProducer(address, connection=self._connection)
        #: One for each queue: kombu does not say which queue a message came from.
        self._consumers: list[Any] = []
        self.set_queues(queues)

    def claim(self, limit: int, *, free: int | None = None) -> list[Delivery]:
        with self._lock:
            if not self._consumers:
                self._consume()
            while len(self._ready) < limit:
                try:
                    self._connection.drain_events(timeout=0)
                except (TimeoutError, BlockingIOError):
                    break
            return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def arm(self) -> bool:
        return bool(self._ready)

    def fileno(self) -> int | None:
        return None

    def _received(self, queue: str, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        starts = headers.get(STARTS)
        info = message.delivery_info or {}
        delivery = Delivery(
            claim=message,
            queue=queue,
            headers=headers,
            properties=message.properties or {},
            body=message.body,
            content_type=message.content_type or "",
            content_encoding=message.content_encoding or "utf-8",
            starts=starts if isinstance(starts, int) else 0,
            exchange=info.get("exchange") or "",
            routing_key=info.get("routing_key") or "",
        )  # fmt: skip
        self._open[id(message)] = delivery
        self._ready.append(delivery)

    def settle(self, settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        with self._lock:
            for delivery, publish, death in settled:
                if id(delivery.claim) not in self._open:
                    continue
                for message in publish:
                    self._producer.publish(message)
                if death is not None:
                    self._publish(delivery, {**delivery.headers, DEATH: dict(death)}, dead_queue_name(delivery.queue))
                self._end(delivery)
        return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self.settle([Settled(delivery) for delivery in deliveries])
        return []

    def unpublishable(self) -> Sequence[tuple[Delivery, Exception]]:
        return ()

    def under_way(self, delivery: Delivery) -> bool:
        return False

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                if self._open.pop(id(delivery.claim), None) is not None:
                    delivery.claim.requeue()

    def _publish(self, delivery: Delivery, headers: Mapping[str, Any], queue: str) -> None:
        self._producer.publish_raw(
            queue, delivery.body, headers,
            content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
        )  # fmt: skip

    def _end(self, delivery: Delivery) -> None:
        delivery.claim.ack()
        del self._open[id(delivery.claim)]

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        raise NotSupported("memory keeps nothing back: the worker holds what is not due")

    def allow(self, more: int) -> None:
        """Nothing pushes here: `claim` takes what it is asked for, and not more."""

    def rest(self) -> None:
        """Nothing pushes here."""

    def pause(self) -> None:
        with self._lock:
            if self._consumers:
                self._cancel()
                ready = list(self._ready)
                self._ready.clear()
                self.give_back(ready)

    def renew(self) -> list[Delivery]:
        return []

    def sweep(self) -> int:
        return 0

    def open_claims(self) -> int:
        return len(self._open)

    def set_queues(self, queues: Sequence[str]) -> None:
        with self._lock:
            self._cancel()
            self._queues = list(queues)
            self._consume()

    def _consume(self) -> None:
        for name in self._queues:
            bound, received = declare_queue(self._channel, name, self._address.plan), partial(self._received, name)
            consumer = kombu.Consumer(self._channel, [bound], on_message=received, auto_declare=False, accept=None)
            consumer.consume(no_ack=False)
            self._consumers.append(consumer)

    def _cancel(self) -> None:
        for consumer in self._consumers:
            consumer.cancel()
        self._consumers = []

    def reconnect(self) -> None:
        """Nothing can have been lost."""

    def close(self) -> None:
        with self._lock:
            self.give_back(list(self._open.values()))
            self._cancel()
            self._connection.release()
