"""Celery's event exchange: sending events, and receiving those of all workers."""

import logging
import os
import threading
import time
import uuid
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import kombu
import orjson

from celeriac.broker.connection import BrokerAddress, broker_errors, connect, let_go, recoverable, redacted
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.event import EXCHANGE, OWN_FIELDS, Glance, glance_from_wire
from celeriac.wire.message import TaskMessage

log = logging.getLogger(__name__)

#: The type of what a receiver sends to itself. Celery's monitors know no group of that name and pass it over.
PING = "operator-ping"


def _exchange(connection: kombu.Connection) -> kombu.Exchange:
    """A topic exchange; Redis has none, so fanout there (as Celery has it)."""
    return kombu.Exchange(EXCHANGE, type="fanout" if connection.transport.driver_type == "redis" else "topic")


class EventSender:
    """Publishes event bodies on a connection that somebody else owns."""

    def __init__(self, connection: kombu.Connection) -> None:
        self._producer = kombu.Producer(connection.channel(), exchange=_exchange(connection), serializer="json")

    def send(self, event: Mapping[str, Any], glance: list[Any] | None = None) -> None:
        """Send one event on its own: worker events, task-sent. glance: of a heartbeat, see `celeriac.wire.event.Glance`."""
        self._publish(
            event, str(event["type"]).replace("-", "."), event["hostname"], {OWN_FIELDS: glance} if glance else {}
        )

    def send_tasks(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Send task events as one message, as Celery's workers do."""
        if events:
            self._publish(list(events), "task.multi", events[0]["hostname"])

    def _publish(
        self, body: Any, routing_key: str, hostname: str, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        headers = {"hostname": hostname, **more}
        self._producer.publish(body, routing_key=routing_key, headers=headers, delivery_mode=1, retry=False)


class SentEvents:
    """Tells monitors of calls that were sent, on a connection of its own. A monitor that cannot be told harms no call.

    After an error nothing is told for RETRY_S. Safe to use from several threads; survives fork.
    """

    RETRY_S = 30.0

    def __init__(self, address: BrokerAddress, origin: str) -> None:
        self._address, self._origin = address, origin
        self._lock = threading.Lock()
        self._connection: Any = None
        self._sender: EventSender | None = None
        self._quiet_until = 0.0
        self._pid = os.getpid()

    def tell(self, message: TaskMessage) -> None:
        """Send task-sent."""
        headers = message.headers
        event = {
            "type": "task-sent", "uuid": headers["id"], "root_id": headers["root_id"], "parent_id": headers["parent_id"], "name": headers["task"],
            "args": headers["argsrepr"], "kwargs": headers["kwargsrepr"], "retries": headers["retries"], "eta": headers["eta"],
            "expires": headers["expires"], "queue": message.queue, "exchange": message.exchange, "routing_key": message.routing_key or message.queue,
            "hostname": self._origin, "timestamp": time.time(), "utcoffset": time.timezone / 3600, "pid": os.getpid(), "clock": 0,
        }  # fmt: skip
        with self._lock:
            if time.monotonic() < self._quiet_until:
                return
            try:
                with broker_errors(self._address):
                    self._open().send(event)
            except BrokerUnavailable as error:
                log.warning("%s; no task-sent events for %g s", error, self.RETRY_S)
                self._quiet_until = time.monotonic() + self.RETRY_S
                self._drop()

    def _open(self) -> EventSender:
        if self._sender is None or self._pid != os.getpid():
            self._pid = os.getpid()  # after a fork: the parent's connection is left alone
            self._connection = connect(self._address)
            self._sender = EventSender(self._connection)
        return self._sender

    def _drop(self) -> None:
        connection, self._connection, self._sender = self._connection, None, None
        if connection is not None:
            let_go(connection)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            connection, self._connection, self._sender = self._connection, None, None
            if connection is not None and self._pid == os.getpid():
                connection.release()


class Unread(NamedTuple):
    """A heartbeat of which only the header has been read. text: its body, JSON."""

    glance: Glance
    text: bytes

    def body(self) -> dict[str, Any]:
        """The event. Raises ValueError when it is none."""
        return event_of(self.text)


def event_of(text: bytes) -> dict[str, Any]:
    """An event from its JSON. Raises ValueError when it is none."""
    body = orjson.loads(text)
    if not isinstance(body, dict):
        raise ValueError(f"not an event: {text!r:.100}")  # noqa: TRY004 - as what is not JSON
    return body


class EventReceiver:
    """All workers' events, on a connection of its own, which it reopens after an error. What is sent meanwhile is not seen.

    ping_every_s   seconds of silence after which it sends an event to itself; 0: never. Nobody tells a subscriber that its
                   connection died on the way (a firewall's idle timeout, a node that is gone): it would wait for ever.
                   Three times that long without hearing anything, and the connection counts as lost.
    """

    def __init__(
        self,
        url: str,
        *,
        transport_options: Mapping[str, Any] | None = None,
        ssl: Any = None,
        ping_every_s: float = 0.0,
    ) -> None:
        self._address = BrokerAddress(url=url, transport_options=transport_options or {}, ssl=ssl)
        self._ping_every_s = ping_every_s
        self._id = f"receiver@{uuid.uuid4()}"
        self._connection: Any = None
        self._sender: EventSender | None = None
        self._subscription: Any = None
        self._events: list[dict[str, Any] | Unread] = []
        self._heard_at = self._pinged_at = 0.0
        self._unanswered = 0

    def drain(self, timeout_s: float) -> list[dict[str, Any] | Unread]:
        """Events that have come, lists flattened, heartbeats of our workers unread; waits up to timeout_s for the first.

        Raises BrokerUnavailable.
        """
        try:
            with broker_errors(self._address):
                if self._connection is None:
                    self._connect()
                if self._subscription is not None:
                    for envelope in self._subscription.read(timeout_s):
                        self._received_raw(envelope)
                else:
                    self._consume(timeout_s)
                if self._ping_every_s:
                    self._listen_to_ourselves(time.monotonic())
        except BrokerUnavailable:
            self.close()
            raise
        events, self._events = self._events, []
        return events

    def _consume(self, timeout_s: float) -> None:
        wait_s = timeout_s
        until = time.monotonic() + timeout_s + 0.25
        # A fleet that sends events without a pause (-E) must not keep us from handing them over.
        while time.monotonic() < until:
            try:
                self._connection.drain_events(timeout=wait_s)
                wait_s = 0.001
            except TimeoutError:
                break

    def _listen_to_ourselves(self, now: float) -> None:
        if now - max(self._heard_at, self._pinged_at) < self._ping_every_s:
            return
        if self._unanswered >= 2:
            raise BrokerUnavailable(
                f"events of the broker at {redacted(self._address.url)} are no longer heard, not even our own: nothing came"
                f" for {now - self._heard_at:.0f} s (has the connection died on the way?); connecting again"
            )
        if self._sender is None:
            self._sender = EventSender(self._connection)
        self._sender.send({"type": PING, "hostname": self._id, "timestamp": time.time(), "utcoffset": 0, "pid": 0})
        self._pinged_at = now
        self._unanswered += 1

    def _connect(self) -> None:
        self._connection = connect(self._address)
        channel = self._connection.channel()
        self._heard_at, self._unanswered = time.monotonic(), 0
        if self._address.is_redis and self._address.scheme != "sentinel" and channel.fanout_patterns:
            from celeriac.broker.redis_events import Subscription  # redis-py is an extra

            pool = channel.pool  # made now: the prefix tells the database only then
            prefix = f"{channel.global_keyprefix}{channel.keyprefix_fanout}"
            self._channel, self._subscription = channel, Subscription(pool, f"{prefix}{EXCHANGE}/*")
            return
        queue = kombu.Queue(
            f"celeryev.{uuid.uuid4()}", exchange=_exchange(self._connection), routing_key="#",
            auto_delete=True, durable=False, message_ttl=5.0, expires=60.0,
        )  # fmt: skip
        self._consumer = kombu.Consumer(channel, [queue], on_message=self._received, accept=["json"], no_ack=True)
        self._consumer.consume()

    def _received_raw(self, envelope: bytes) -> None:
        """Take in what was published on Redis: kombu's envelope, whose body is mostly plain JSON in base64."""
        self._heard_at, self._unanswered = time.monotonic(), 0
        try:
            told = orjson.loads(envelope)
            usual = told["content-type"] == "application/json" and told.get("content-encoding") in ("utf-8", None)
            if usual and told["properties"].get("body_encoding") == "base64" and "compression" not in told["headers"]:
                text = a2b_base64(told["body"])
                if glance := glance_from_wire(told["headers"].get(OWN_FIELDS)):
                    self._events.append(Unread(glance, text))
                    return
                body = orjson.loads(text)
            else:
                message = self._channel.message_to_python(told)
                message.accept = {"application/json"}
                body = message.decode()
        except Exception as error:  # noqa: BLE001 - whatever some client has sent: events are hearsay
            log.warning("an event that cannot be decoded was passed over: %r", error)
            return
        self._take(body)

    def _received(self, message: Any) -> None:
        self._heard_at, self._unanswered = time.monotonic(), 0
        try:
            # A fleet sends hundreds a second, and kombu's own JSON takes twice as long.
            plain = message.content_type == "application/json" and message.content_encoding in ("utf-8", None)
            if plain and (glance := glance_from_wire(message.headers.get(OWN_FIELDS))):
                text = message.body
                self._events.append(Unread(glance, text.encode() if isinstance(text, str) else bytes(text)))
                return
            body = orjson.loads(message.body) if plain else message.decode()
        except Exception as error:  # noqa: BLE001 - whatever some client has sent: events are hearsay
            log.warning("an event that cannot be decoded was passed over: %r", error)
            return
        self._take(body)

    def _take(self, body: Any) -> None:
        self._events += [
            event
            for event in (body if isinstance(body, list) else [body])
            if isinstance(event, dict) and event.get("type") != PING
        ]

    def close(self) -> None:
        """Disconnect; the next drain connects again."""
        connection, self._connection, self._sender = self._connection, None, None
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
        if connection is not None:
            try:
                connection.release()
            except recoverable() as error:  # it was broken: that may be why we close it
                log.debug("closing a broken connection: %s", error)
