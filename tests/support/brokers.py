"""A broker under test, of whatever kind: opens what the contract needs of ours, and closes it at the end."""

import base64
import contextlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac.broker.connection import BrokerAddress
from celeriac.broker.consumer import Consumer, Delivery, Settled, open_consumer
from celeriac.broker.depth import DepthProbe, QueueDepth
from celeriac.broker.producer import Producer, open_producer
from celeriac.wire.message import TaskMessage, compose

#: Short, so that tests of lost workers are short; long enough for a busy machine.
LEASE_S = 1.5


@dataclass(slots=True, kw_only=True)
class Broker:
    """A broker under test: opens what the contract needs, and closes it with the test.

    server  start(), stop(), kill(), pause(), resume(); None for memory.
    """

    kind: str
    url: str
    server: Any = None
    queue: str = field(default_factory=lambda: f"q{uuid.uuid4().hex[:8]}")
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress(url=self.url)

    def consumer(self, *queues: str, lease_s: float = LEASE_S, prefetch: int = 100) -> Consumer:
        consumer = open_consumer(
            self.address, queues or (self.queue,), node="test@here", lease_s=lease_s, prefetch=prefetch
        )
        self.closing.callback(consumer.close)
        return consumer

    def producer(self, *, timeout_s: float = 5.0, park: bool = False) -> Producer:
        producer = open_producer(self.address, timeout_s=timeout_s, park=park)
        self.closing.callback(producer.close)
        return producer

    def message(self, number: object = 0, *, queue: str = "", **fields: Any) -> TaskMessage:
        """A message whose one argument is `number`."""
        return compose(
            id=str(uuid.uuid4()),
            task=fields.pop("task", "shop.count"),
            args=[number],
            kwargs={},
            queue=queue or self.queue,
            origin="test",
            sent_at=time.time(),
            **fields,
        )

    def publish(self, *numbers: object, **fields: Any) -> list[TaskMessage]:
        messages = [self.message(number, **fields) for number in numbers]
        producer = self.producer()
        for message in messages:
            producer.publish(message)
        return messages

    def depth(self, queue: str = "", *, horizon_s: float = 0.0) -> QueueDepth:
        name = queue or self.queue
        probe = DepthProbe(self.url)
        try:
            return probe.probe({name: horizon_s})[name]
        finally:
            probe.close()


def claim(consumer: Consumer, count: int, *, timeout_s: float = 5.0) -> list[Delivery]:
    """Exactly `count` deliveries."""
    deadline = time.monotonic() + timeout_s
    found: list[Delivery] = []
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count} messages came within {timeout_s} s"
        found += consumer.claim(count - len(found))
        if len(found) < count:
            consumer.sweep()
            time.sleep(0.02)
    return found


def number_of(delivery: Delivery) -> object:
    """The one argument of a message from `Broker.message`."""
    body = delivery.body
    if delivery.body_encoding == "base64":
        body = base64.b64decode(body)
    args, _, _ = json.loads(bytes(body) if isinstance(body, memoryview) else body)
    return args[0]


def numbers(deliveries: Sequence[Delivery]) -> list[object]:
    return [number_of(delivery) for delivery in deliveries]


def dead_letter_of(broker: Broker) -> Delivery:
    """The one dead letter of the broker's queue, acknowledged."""
    consumer = broker.consumer(broker.queue + ".dead")
    [letter] = claim(consumer, 1)
    assert consumer.claim(1) == []
    consumer.settle([Settled(letter)])
    return letter
