"""Publishing: a TaskMessage becomes bytes on a queue. Retried until a deadline, then a clear error."""

import base64
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

import kombu
import orjson
from kombu.compression import compress
from kombu.utils.json import dumps as json_dumps

from celeriac.broker.codec import encode_body
from celeriac.broker.connection import BrokerAddress, connect, recoverable, unavailable
from celeriac.broker.topology import declare_queue
from celeriac.exceptions import BrokerUnavailable, CeleriacError, NotRoutable, NotSupported, OperationalError
from celeriac.ids import new_id
from celeriac.wire.binding import bound_queues, queue_in
from celeriac.wire.message import USUAL, TaskMessage, Terms

T = TypeVar("T")


class Producer(Protocol):
    """What a client and a worker need to publish. Safe to use from several threads; survives fork."""

    def publish(self, message: TaskMessage) -> None:
        """Put one message on its queue. Raises BrokerUnavailable after the deadline, EncodeError and NotRoutable at once."""

    def publish_many(self, messages: Sequence[TaskMessage]) -> None:
        """Put many messages on their queues, in the order given for each queue: a few hundred in one go.

        All bodies are encoded first: EncodeError means that nothing was sent. Each go has the deadline of one publish. Raises
        BrokerUnavailable then, which says how many are surely on their queues, and in `published` which; the others may be there or
        not. What a lost connection leaves in doubt is sent again with the same ids: on Redis the server knows a go that it has
        had, so none is there twice; on RabbitMQ those that were not confirmed may be.
        """

    def publish_raw(
        self,
        queue: str,
        body: Any,
        headers: Mapping[str, Any],
        *,
        content_type: str,
        content_encoding: str,
        properties: Mapping[str, Any],
    ) -> None:
        """Put a body that is bytes already on a queue."""

    def consumers(self, queue: str) -> int | None:
        """How many consumers the queue has now; None when the broker cannot tell. Raises BrokerUnavailable."""

    def close(self) -> None:
        """Disconnect."""


def open_producer(address: BrokerAddress, *, timeout_s: float = 5.0, park: bool = False) -> Producer:
    """A producer for that broker; connects at the first publish.

    timeout_s  how long one publish may take, retries included. park: put what is not due where the broker keeps it
               until then (on Redis only when every consumer is ours: it is our workers that release it).
    """
    if address.is_redis:
        return RedisProducer(address, timeout_s=timeout_s, park=park)
    if address.is_memory:
        return KombuProducer(address, timeout_s=timeout_s)
    from celeriac.broker.amqp_producer import AmqpProducer

    return AmqpProducer(address, timeout_s=timeout_s, park=park)


def lent_producer(address: BrokerAddress, connection: Any, *, timeout_s: float) -> Producer:
    """A producer on a connection of the caller's (kombu's), which stays the caller's. Its errors come as BrokerUnavailable, without a second try."""
    return KombuProducer(address, connection=connection, timeout_s=timeout_s)


#: How many messages go at once, and how many bytes: a server that has one thread is not to be held up by one client.
MOST_AT_ONCE = 500
_MOST_BYTES = 4_000_000


class RedisProducer:
    """One LPUSH a message, in kombu's envelope, on a connection that is kept."""

    def __init__(self, address: BrokerAddress, *, timeout_s: float = 5.0, park: bool = False) -> None:
        # A frozen server must not outlast the deadline: no single answer is waited for longer than the whole publish may take.
        self._answer_s = max(1.0, timeout_s)
        options = {"socket_timeout": self._answer_s, **address.transport_options}
        self._address = replace(address, transport_options=options)
        self._timeout_s = timeout_s
        self._park = park
        self._lock = threading.Lock()
        self._queues: Any = None
        self._calls: Any = None
        self._connection: kombu.Connection | None = None
        self._pid = 0
        self._bound: set[str] = set()
        self._lists: dict[tuple[str, int], str] = {}
        #: For calls that wait for a shorter time, by seconds.
        self._others: dict[float, RedisProducer] = {}

    def publish(self, message: TaskMessage) -> None:
        self._publish(message, envelope_of(message))

    def _hasty(self, timeout_s: float) -> "RedisProducer":
        """One on a connection of its own, on which no answer is waited for longer: by whole seconds, so that there are few."""
        seconds = float(max(1, math.ceil(timeout_s)))
        with self._lock:
            found = self._others.get(seconds)
            if found is None:
                options = {
                    **self._address.transport_options,
                    "socket_timeout": seconds,
                    "socket_connect_timeout": seconds,
                }
                address = replace(self._address, transport_options=options)
                found = self._others[seconds] = RedisProducer(address, timeout_s=seconds, park=self._park)
        return found

    def publish_unique(self, message: TaskMessage, key: str, for_s: float) -> str | None:
        """Publish unless another call holds the key: its id then, else None. The call holds it for so many seconds at most."""
        args = (message, envelope_of(message), key, int(for_s * 1000))
        held = self._patiently(message.queue, message.terms, self._put_unique, *args)
        return held.decode() if held else None

    def _put_unique(self, queues: Any, message: TaskMessage, envelope: bytes, key: str, for_ms: int) -> Any:
        queue, step = message.queue, queues.step_of(message.priority)
        if queue not in self._bound:
            self._bind(queue)
        if self._park and message.due_at is not None:
            target, push = queues.delayed_key(queue), ["ZADD", message.due_at, queues.delayed_member(step, envelope)]
        else:
            target, push = queues.list_key(queue, step), ["LPUSH", envelope]
        return queues.push_unique_script(keys=[queues.unique_key(key), target], args=[message.id, for_ms, *push])

    def _publish(self, message: TaskMessage, envelope: bytes) -> None:
        due_at, terms = message.due_at if self._park else None, message.terms
        if terms is None and not message.exchange:
            self._push(message.queue, envelope, message.priority, due_at)
            return
        road = self
        if terms is not None and terms.timeout_s is not None and terms.timeout_s < self._answer_s:
            road = self._hasty(terms.timeout_s)
        road._patiently(message.queue, terms, road._route, message, envelope, due_at)

    def publish_many(self, messages: Sequence[TaskMessage]) -> None:
        """As the protocol says. One script a go, each for one list: it runs as a whole or not at all, and never twice."""
        goes: dict[tuple[str, int, bool, Terms | None], list[tuple[int, bytes, float]]] = {}
        apart: list[tuple[int, TaskMessage, bytes]] = []
        for place, message in enumerate(messages):
            terms = message.terms
            if message.exchange or (terms is not None and (terms.mandatory or terms.exchange_type)):
                apart.append((place, message, envelope_of(message)))
                continue
            parked = self._park and message.due_at is not None
            lot = goes.setdefault((message.queue, message.priority, parked, terms), [])
            lot.append((place, envelope_of(message), message.due_at or 0.0))
        published: set[int] = set()
        for (queue, priority, parked, terms), lot in goes.items():
            for part in _parts(lot):
                try:
                    self._push_many(queue, priority, parked, terms, part)
                except BrokerUnavailable as error:
                    raise partly(error, published, len(messages)) from error
                published.update(place for place, _, _ in part)
        for place, message, envelope in apart:  # each asks for something of its own
            try:
                self._publish(message, envelope)
            except OperationalError as error:
                raise partly(error, published, len(messages)) from error
            published.add(place)

    def _push_many(
        self, queue: str, priority: int, parked: bool, terms: Terms | None, lot: Sequence[tuple[int, bytes, float]]
    ) -> None:  # fmt: skip
        """One go. The server keeps for a while that it has had it: a second try after a lost answer does nothing then."""
        timeout_s = self._timeout_s if terms is None else time_for(terms, self._timeout_s)
        go, lasts_s = new_id(), int(2 * timeout_s + 60)

        def push(queues: Any) -> None:
            if queue not in self._bound:
                self._bind(queue)
            step = queues.step_of(priority)
            if parked:
                key, command = queues.delayed_key(queue), "ZADD"
                values = [
                    part for _, envelope, due_at in lot for part in (due_at, queues.delayed_member(step, envelope))
                ]
            else:
                key, command = queues.list_key(queue, step), "LPUSH"
                values = [envelope for _, envelope, _ in lot]
            queues.push_once_script(keys=[queues.sent_key(go), key], args=[lasts_s, command, *values])

        self._patiently(queue, terms, push)

    def publish_raw(
        self,
        queue: str,
        body: Any,
        headers: Mapping[str, Any],
        *,
        content_type: str,
        content_encoding: str,
        properties: Mapping[str, Any],
    ) -> None:
        envelope = raw_envelope(
            queue, body, headers, content_type=content_type, content_encoding=content_encoding, properties=properties
        )
        self._push(queue, envelope, int(properties.get("priority") or 0), None)

    def _push(self, queue: str, envelope: bytes, priority: int, due_at: float | None) -> None:
        self._patiently(queue, None, self._put, queue, envelope, priority, due_at)

    def _patiently(self, queue: str, terms: Terms | None, act: Callable[..., T], *args: Any) -> T:
        """What act(queues, *args) gives, tried again as the terms say. Raises BrokerUnavailable."""
        terms = terms or USUAL
        timeout_s = time_for(terms, self._timeout_s)
        deadline = time.monotonic() + timeout_s
        pauses: Iterator[float] | None = None
        while True:
            try:
                return act(self._open(), *args)
            except recoverable() as error:
                pauses = pauses or terms.patience.pauses()
                pause_s = next(pauses, None)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise _too_late(self._address, queue, timeout_s, error) from error
                time.sleep(pause_s)

    def _put(self, queues: Any, queue: str, envelope: bytes, priority: int, due_at: float | None) -> None:
        if queue not in self._bound:
            self._bind(queue)
        if due_at is not None:
            queues.client.zadd(
                queues.delayed_key(queue), {queues.delayed_member(queues.step_of(priority), envelope): due_at}
            )
        else:
            key = self._lists.get((queue, priority)) or self._list(queues, queue, priority)
            self._calls.call("LPUSH", key, envelope)

    def _list(self, queues: Any, queue: str, priority: int) -> str:
        """Worked out once, and kept."""
        key: str = queues.list_key(queue, queues.step_of(priority))
        self._lists[queue, priority] = key
        return key

    def _route(self, queues: Any, message: TaskMessage, envelope: bytes, due_at: float | None) -> None:
        """A message for an exchange goes to all queues that are bound to it, as kombu has it; one that must be routable, to a queue that is there."""
        terms = message.terms or USUAL
        if not message.exchange:
            if terms.mandatory and not self._exists(queues, message.queue):
                raise no_queue(message.queue)
            self._put(queues, message.queue, envelope, message.priority, due_at)
            return
        routing_key = message.routing_key or message.queue
        for name in self._address.plan.on(message.exchange):
            if name not in self._bound:
                self._bind(name)
        if terms.exchange_type == "fanout":
            if not self._broadcast(queues, message.exchange, routing_key, envelope) and terms.mandatory:
                raise NotRoutable(f"nobody listens to the fanout exchange {message.exchange!r}")
            return
        table = _texts(queues.client.smembers(queues.binding_key(message.exchange)))
        if not table:
            raise no_exchange(message.exchange)
        names = bound_queues(table, routing_key, terms.exchange_type)
        if not names and terms.mandatory:
            raise no_binding(message.exchange, routing_key)
        step = queues.step_of(message.priority)
        pipe = queues.client.pipeline(transaction=True)
        for name in names:
            if due_at is not None:
                pipe.zadd(queues.delayed_key(name), {queues.delayed_member(step, envelope): due_at})
            else:
                pipe.lpush(queues.list_key(name, step), envelope)
        pipe.execute()

    def _exists(self, queues: Any, queue: str) -> bool:
        """Whether anybody has declared the queue: it is bound, mostly to an exchange of its own name."""
        if queue in self._bound or queue_in(_texts(queues.client.smembers(queues.binding_key(queue))), queue):
            return True
        keys = queues.client.scan_iter(match=queues.binding_key("*"), count=1000)
        return any(queue_in(_texts(queues.client.smembers(key)), queue) for key in keys)

    def _broadcast(self, queues: Any, exchange: str, routing_key: str, envelope: bytes) -> int:
        """Publish to a fanout exchange, which is PUB/SUB; how many heard it."""
        channel = queues.channel
        with channel.conn_or_acquire() as client:
            return sum(client.publish(topic, envelope) for topic in channel._get_publish_topics(exchange, routing_key))

    def consumers(self, queue: str) -> int | None:
        found = self._patiently(queue, None, _consumed, queue)
        return 1 if found else None  # nobody seen: stock Celery workers leave no trace there

    def _open(self) -> Any:
        if self._queues is None or self._pid != os.getpid():
            with self._lock:
                if self._queues is None or self._pid != os.getpid():
                    self._connection = connect(self._address)  # after a fork: the parent's connection is left alone
                    from celeriac.broker.redis_calls import (
                        RedisCalls,
                    )  # redis-py is an extra: connect() says when it is missing
                    from celeriac.broker.transport.redis import RedisQueues

                    queues = RedisQueues(self._connection)
                    self._calls = RedisCalls(queues.channel.pool)
                    self._queues, self._pid, self._bound = queues, os.getpid(), set()
        return self._queues

    def _bind(self, queue: str) -> None:
        """Once a queue: kombu's binding table, which Celery's `purge`, Flower and topic publishers read."""
        with self._lock:
            if self._connection is not None:
                declare_queue(self._connection.default_channel, queue, self._address.plan)
            self._bound.add(queue)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._calls.close()
                self._connection.release()
            self._connection = self._queues = None
            others, self._others = self._others, {}
        for other in others.values():
            other.close()


def written(message: TaskMessage) -> tuple[str, str, Any, dict[str, Any], dict[str, Any]]:
    """(content type, content encoding, body, headers, properties) of a task message for AMQP and kombu's own transports. Raises EncodeError."""
    content_type, encoding, body = encode_body(message.body, message.serializer)
    headers = message.headers
    if message.compression:
        body, compression_type = compress(body, message.compression)
        headers = {**headers, "compression": compression_type}
    properties: dict[str, Any] = {
        "correlation_id": message.id,
        "reply_to": message.reply_to,
        "delivery_mode": 2 if message.terms is None else message.terms.delivery_mode,
        "priority": message.priority,
    }
    if message.expiration_s is not None:
        properties["expiration"] = str(max(0, int(message.expiration_s * 1000)))
    return content_type, encoding, body, headers, properties


class KombuProducer:
    """Memory, and RabbitMQ on a connection that is there already (with publisher confirms), through kombu's Producer."""

    def __init__(
        self, address: BrokerAddress, *, connection: kombu.Connection | None = None, timeout_s: float = 5.0
    ) -> None:
        self._address = confirming(address)
        self._given = connection
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._connection: kombu.Connection | None = None
        self._producer: kombu.Producer | None = None
        self._declared: set[str] = set()
        self._pid = 0

    def publish(self, message: TaskMessage) -> None:
        content_type, encoding, body, headers, properties = written(message)
        self.publish_raw(
            message.queue, body, headers, content_type=content_type, content_encoding=encoding, properties=properties,
            exchange=message.exchange, routing_key=message.routing_key, terms=message.terms,
        )  # fmt: skip

    def publish_many(self, messages: Sequence[TaskMessage]) -> None:
        """As the protocol says, one after the other: in memory nothing is won by a batch."""
        published: set[int] = set()
        for place, (message, encoded) in enumerate([(each, written(each)) for each in messages]):
            content_type, encoding, body, headers, properties = encoded
            try:
                self.publish_raw(
                    message.queue, body, headers, content_type=content_type, content_encoding=encoding,
                    properties=properties, exchange=message.exchange, routing_key=message.routing_key,
                )  # fmt: skip
            except BrokerUnavailable as error:
                raise partly(error, published, len(messages)) from error
            published.add(place)

    def publish_raw(
        self, queue: str, body: Any, headers: Mapping[str, Any], *, content_type: str, content_encoding: str,
        properties: Mapping[str, Any], exchange: str = "", routing_key: str = "", terms: Terms | None = None,
    ) -> None:  # fmt: skip
        terms = terms or USUAL
        kept = {name: value for name, value in properties.items() if name in _PROPERTIES and value not in (None, "")}
        if "expiration" in kept:
            kept["expiration"] = float(kept["expiration"]) / 1000  # kombu takes seconds
        timeout_s = time_for(terms, self._timeout_s)
        deadline = time.monotonic() + timeout_s
        pauses = terms.patience.pauses()
        while True:
            try:
                with self._lock:
                    producer = self._open()
                    for name in self._address.plan.on(exchange) if exchange else ():
                        if name not in self._declared:
                            declare_queue(producer.channel, name, self._address.plan)
                            self._declared.add(name)
                    if exchange or terms.mandatory:
                        self._check_routable(producer.channel, exchange, routing_key or queue, terms)
                    if not exchange and queue not in self._declared:
                        declare_queue(producer.channel, queue, self._address.plan)
                        self._declared.add(queue)
                    producer.publish(
                        body, exchange=exchange, routing_key=routing_key or queue, headers=dict(headers),
                        content_type=content_type, content_encoding=content_encoding, retry=False,
                        confirm_timeout=max(0.1, deadline - time.monotonic()), **kept,
                    )  # fmt: skip
                return
            except recoverable() as error:
                if self._given is not None:
                    raise unavailable(self._address, error) from error
                self._drop()
                pause_s = next(pauses, None)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise _too_late(self._address, queue, timeout_s, error) from error
                time.sleep(pause_s)

    def _check_routable(self, channel: Any, exchange: str, routing_key: str, terms: Terms) -> None:
        """Raise NotRoutable for what would be dropped. Only memory can tell: on a connection of the caller's nothing is asked."""
        if not self._address.is_memory:
            if terms.mandatory:
                raise NotSupported("mandatory=True is not kept on a connection of the caller's: leave `connection` out")
            return
        if not exchange:
            if not channel._has_queue(routing_key):
                raise no_queue(routing_key)
        elif exchange not in channel.state.exchanges:
            raise no_exchange(exchange)
        elif terms.mandatory and not channel._lookup(exchange, routing_key):
            raise no_binding(exchange, routing_key)

    def consumers(self, queue: str) -> int | None:
        return None  # nothing is kept of them

    def _open(self) -> kombu.Producer:
        if self._producer is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._connection = self._given or connect(self._address)
            self._producer = kombu.Producer(self._connection.channel(), auto_declare=False)
            self._declared = set()
        return self._producer

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection, self._producer = self._connection, None, None
            if connection is not None and self._given is None:
                try:
                    connection.collect()  # without a farewell: the broker may have fallen silent
                except recoverable():
                    return  # it was broken: that is why we drop it

    def close(self) -> None:
        self._drop()


#: Not user_id: RabbitMQ refuses one that is not the connection's own user.
_PROPERTIES = (
    "correlation_id",
    "reply_to",
    "delivery_mode",
    "priority",
    "expiration",
    "timestamp",
    "message_id",
    "app_id",
    "type",
)


def time_for(terms: Terms, timeout_s: float) -> float:
    """Seconds that a publish may take: as asked for; else as usual, and what the pauses asked for come to."""
    if terms.timeout_s is not None:
        return terms.timeout_s
    patience = terms.patience
    return (
        timeout_s
        if patience.retries is None
        else timeout_s + min(patience.retries * patience.most_s, sum(islice(patience.pauses(), 1000)))
    )


def _consumed(queues: Any, queue: str) -> bool:
    return bool(queues.consumed(queue))


def _texts(members: Any) -> list[str]:
    return [member.decode() for member in members]


def no_queue(queue: str) -> NotRoutable:
    return NotRoutable(
        f"there is no queue {queue!r}: no worker has declared it, and a mandatory message does not (is its name right?)"
    )


def no_exchange(exchange: str) -> NotRoutable:
    return NotRoutable(f"there is no exchange {exchange!r}, or nothing is bound to it (is its name right?)")


def no_binding(exchange: str, routing_key: str) -> NotRoutable:
    return NotRoutable(f"no queue is bound to the exchange {exchange!r} with a key that matches {routing_key!r}")


def confirming(address: BrokerAddress) -> BrokerAddress:
    """The same, with publisher confirms where there are any."""
    if address.is_memory or "confirm_publish" in address.transport_options:
        return address
    return replace(address, transport_options={**address.transport_options, "confirm_publish": True})


def _too_late(address: BrokerAddress, queue: str, timeout_s: float, error: BaseException) -> BrokerUnavailable:
    inner = error if isinstance(error, BrokerUnavailable) else unavailable(address, error)
    return BrokerUnavailable(f"the message for queue {queue!r} was not published within {timeout_s:g} s: {inner}")


def partly(error: CeleriacError, published: Set[int], count: int) -> CeleriacError:
    """The error of many messages of which some were published. published: their places."""
    told = type(error)(
        f"{len(published)} of {count} messages are surely on their queues, the others may be or not: {error}"
    )
    if isinstance(told, OperationalError):
        told.published = frozenset(published)
    return told


def after_others(error: CeleriacError, count: int) -> CeleriacError:
    """The error of a lot before which `count` messages were published: places are counted from the first of those."""
    told = type(error)(f"{count} messages were published before these: {error}")
    if isinstance(told, OperationalError):
        told.published = frozenset(range(count)) | {count + place for place in getattr(error, "published", ())}
    return told


def _parts(lot: Sequence[tuple[int, bytes, float]]) -> Iterator[list[tuple[int, bytes, float]]]:
    """What goes at once, in order."""
    part: list[tuple[int, bytes, float]] = []
    size = 0
    for each in lot:
        if part and (len(part) >= MOST_AT_ONCE or size + len(each[1]) > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each[1])
    if part:
        yield part


def envelope_of(message: TaskMessage) -> bytes:
    """kombu's Redis envelope of a task message. Raises EncodeError."""
    content_type, encoding, body = encode_body(message.body, message.serializer)
    headers = message.headers
    if message.compression:
        body, compression_type = compress(body, message.compression)
        headers = {**headers, "compression": compression_type}
    properties = {
        "correlation_id": message.headers["id"],
        "reply_to": message.reply_to,
        "delivery_mode": 2 if message.terms is None else message.terms.delivery_mode,
        "delivery_info": {"exchange": message.exchange, "routing_key": message.routing_key or message.queue},
        "priority": message.priority,
        "body_encoding": "base64",
        "delivery_tag": new_id(),
    }
    if message.expiration_s is not None:
        properties["expiration"] = str(max(0, int(message.expiration_s * 1000)))
    return _json({
        "body": base64.b64encode(body).decode(),
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": headers,
        "properties": properties,
    })  # fmt: skip


def raw_envelope(
    queue: str,
    body: Any,
    headers: Mapping[str, Any],
    *,
    content_type: str,
    content_encoding: str,
    properties: Mapping[str, Any],
) -> bytes:
    """kombu's Redis envelope of a body that is encoded already; the properties' body_encoding says how."""
    info = {"exchange": "", "routing_key": queue}
    text = body if isinstance(body, str) else base64.b64encode(body).decode()
    wrapped = {**properties, "delivery_info": info, "delivery_tag": new_id()}
    if not isinstance(body, str):
        wrapped["body_encoding"] = "base64"
    return _json(
        {
            "body": text,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": dict(headers),
            "properties": wrapped,
        }
    )


def _json(envelope: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(envelope)
    except TypeError:  # headers of the caller that only kombu's JSON can write
        return str(json_dumps(envelope)).encode()


__all__ = [
    "MOST_AT_ONCE",
    "KombuProducer",
    "Producer",
    "RedisProducer",
    "Sequence",
    "after_others",
    "envelope_of",
    "open_producer",
    "partly",
    "raw_envelope",
]
