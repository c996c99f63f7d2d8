"""The private brokers that measurements run on: emptied, filled with the same messages, and looked into.

Both libraries that speak Celery's protocol consume the same messages: one that the real Celery published, copied under
fresh ids. Other libraries' queues are filled by their own clients; on Redis what the client left is kept and put back.
"""

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import amqp
import redis
from processes import wait_until
from servers import RabbitServer, RedisServer

QUEUE = "celery"


class Place(Protocol):
    """A broker, and where results go."""

    name: str

    @property
    def url(self) -> str: ...
    @property
    def backend_url(self) -> str: ...
    @property
    def pid(self) -> int: ...

    def empty(self) -> None:
        """Nothing is left of earlier measurements."""

    def take_one(self) -> Any:
        """Celery's message at the head of the queue, as a pattern for `fill`."""

    def fill(self, patterns: Sequence[Any], count: int) -> None:
        """`count` messages like the patterns in turn, each under an id of its own, behind what waits there."""

    def waiting(self) -> int:
        """Messages of Celery's queue that no worker holds."""

    def held(self) -> int:
        """Messages of Celery's queue that a worker holds; 0 where the broker does not say."""


@dataclass(slots=True)
class RedisPlace:
    """A Redis: the broker is database 0, results go to database 1."""

    server: RedisServer
    name: str = "redis"

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def backend_url(self) -> str:
        return self.server.url.replace("/0", "/1")

    @property
    def pid(self) -> int:
        assert self.server.child is not None
        return self.server.child.pid

    def client(self) -> "redis.Redis":
        """A client that gives bytes."""
        return redis.Redis(port=self.server.port, socket_timeout=20)

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def take_one(self) -> dict[str, Any]:
        with self.client() as client:
            message = client.rpop(QUEUE)
        if not isinstance(message, bytes):
            raise RuntimeError(f"Celery's client left no message in {QUEUE!r} on {self.url}")
        envelope: dict[str, Any] = json.loads(message)
        return envelope

    def fill(self, patterns: Sequence[dict[str, Any]], count: int) -> None:
        with self.client() as client:
            for messages in _thousands(_copied(patterns, count)):
                client.lpush(QUEUE, *messages)

    def waiting(self) -> int:
        with self.client() as client:
            return int(client.llen(QUEUE))  # type: ignore[arg-type]

    def held(self) -> int:
        with self.client() as client:
            return int(client.hlen("unacked"))  # type: ignore[arg-type]

    def keep(self) -> dict[bytes, bytes]:
        """All that is in database 0, for `put_back`."""
        with self.client() as client:
            names = list(client.scan_iter(count=10_000))
            found: dict[bytes, bytes] = {}
            for start in range(0, len(names), 1000):
                some = names[start : start + 1000]
                pipeline = client.pipeline(transaction=False)
                for name in some:
                    pipeline.dump(name)
                found.update(zip(some, pipeline.execute(), strict=True))
        return found

    def put_back(self, kept: dict[bytes, bytes]) -> None:
        with self.client() as client:
            items = list(kept.items())
            for start in range(0, len(items), 1000):
                pipeline = client.pipeline(transaction=False)
                for name, value in items[start : start + 1000]:
                    pipeline.restore(name, 0, value, replace=True)
                pipeline.execute()


def _copied(patterns: Sequence[dict[str, Any]], count: int) -> Iterator[str]:
    """Celery's envelopes under fresh ids: the task id and the delivery tag by which a worker acknowledges it."""
    for pattern in itertools.islice(itertools.cycle(patterns), count):
        task_id = str(uuid.uuid4())
        pattern["headers"]["id"] = pattern["headers"]["root_id"] = task_id
        pattern["properties"]["correlation_id"] = task_id
        pattern["properties"]["delivery_tag"] = str(uuid.uuid4())
        yield json.dumps(pattern)


def _thousands(messages: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for message in messages:
        batch.append(message)
        if len(batch) == 1000:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(slots=True)
class RabbitPlace:
    """A RabbitMQ node; each measurement has a fresh virtual host. Results go to the Redis beside it."""

    node: RabbitServer
    results: RedisPlace
    name: str = "amqp"

    @property
    def url(self) -> str:
        return self.node.vhost_url("bench")

    @property
    def backend_url(self) -> str:
        return self.results.backend_url

    @property
    def pid(self) -> int:
        assert self.node.child is not None
        return self.node.child.pid

    def empty(self) -> None:
        if any(each["name"] == "bench" for each in self.node.api("GET", "vhosts")):
            self.node.api("DELETE", "vhosts/bench")
        self.node.api("PUT", "vhosts/bench")
        self.results.empty()

    def take_one(self) -> amqp.Message:
        with self._connection() as connection:
            channel = connection.channel()
            wait_until(lambda: _ready(channel) > 0, timeout_s=5, what=f"Celery's message in {QUEUE!r}")
            return channel.basic_get(QUEUE, no_ack=True)

    def fill(self, patterns: Sequence[amqp.Message], count: int) -> None:
        with self._connection() as connection:
            channel = connection.channel()
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
            before = _ready(channel)
            for pattern in itertools.islice(itertools.cycle(patterns), count):
                task_id = str(uuid.uuid4())
                headers = {**pattern.headers, "id": task_id, "root_id": task_id}
                properties = {**pattern.properties, "correlation_id": task_id, "application_headers": headers}
                channel.basic_publish(amqp.Message(pattern.body, **properties), routing_key=QUEUE)
            wait_until(lambda: _ready(channel) == before + count, timeout_s=30, what=f"{count} messages in {QUEUE!r}")

    def waiting(self) -> int:
        with self._connection() as connection:
            return _ready(connection.channel())

    def held(self) -> int:
        return 0

    def _connection(self) -> amqp.Connection:
        at = urlsplit(self.url)
        connection = amqp.Connection(
            f"{at.hostname}:{at.port}", userid=at.username, password=at.password, virtual_host=at.path[1:]
        )
        connection.connect()
        return connection


def _ready(channel: "amqp.Channel") -> int:
    return int(channel.queue_declare(QUEUE, passive=True).message_count)
