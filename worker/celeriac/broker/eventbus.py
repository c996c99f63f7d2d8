"""Celery's event exchange: sending events, and receiving those of all workers."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import kombu

from celeriac.broker.connection import BrokerAddress, broker_errors, connect, recoverable
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.event import EXCHANGE

log = logging.getLogger(__name__)


def _exchange(connection: kombu.Connection) -> kombu.Exchange:
    """A topic exchange; Redis has none, so fanout there (as Celery has it)."""
    return kombu.Exchange(EXCHANGE, type="fanout" if connection.transport.driver_type == "redis" else "topic")


class EventSender:
    """Publishes event bodies on a connection that somebody else owns."""

    def __init__(self, connection: kombu.Connection) -> None:
        self._producer = kombu.Producer(connection.channel(), exchange=_exchange(connection), serializer="json")

    def send(self, event: Mapping[str, Any]) -> None:
        """Send one event on its own: worker events, task-sent."""
        self._publish(event, str(event["type"]).replace("-", "."), event["hostname"])

    def send_tasks(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Send task events as one message, as Celery's workers do."""
        if events:
            self._publish(list(events), "task.multi", events[0]["hostname"])

    def _publish(self, body: Any, routing_key: str, hostname: str) -> None:
        self._producer.publish(
            body, routing_key=routing_key, headers={"hostname": hostname}, delivery_mode=1, retry=False
        )


class EventReceiver:
    """All workers' events, on a connection of its own, which it reopens after an error. What is sent meanwhile is not seen."""

    def __init__(self, url: str, *, transport_options: Mapping[str, Any] | None = None, ssl: Any = None) -> None:
        self._address = BrokerAddress(url=url, transport_options=transport_options or {}, ssl=ssl)
        self._connection: Any = None
        self._events: list[dict[str, Any]] = []

    def drain(self, timeout_s: float) -> list[dict[str, Any]]:
        """Event bodies that have come, lists flattened; waits up to timeout_s for the first. Raises BrokerUnavailable."""
        try:
            with broker_errors(self._address):
                if self._connection is None:
                    self._connect()
                wait_s = timeout_s
                until = time.monotonic() + timeout_s + 0.25
                # A fleet that sends events without a pause (-E) must not keep us from handing them over.
                while time.monotonic() < until:
                    try:
                        self._connection.drain_events(timeout=wait_s)
                        wait_s = 0.001
                    except TimeoutError:
                        break
        except BrokerUnavailable:
            self.close()
            raise
        events, self._events = self._events, []
        return events

    def _connect(self) -> None:
        self._connection = connect(self._address)
        channel = self._connection.channel()
        queue = kombu.Queue(
            f"celeryev.{uuid.uuid4()}", exchange=_exchange(self._connection), routing_key="#",
            auto_delete=True, durable=False, message_ttl=5.0, expires=60.0,
        )  # fmt: skip
        self._consumer = kombu.Consumer(channel, [queue], on_message=self._received, accept=["json"], no_ack=True)
        self._consumer.consume()

    def _received(self, message: Any) -> None:
        try:
            body = message.decode()
        except Exception as error:  # noqa: BLE001 - whatever some client has sent: events are hearsay
            log.warning("an event that cannot be decoded was passed over: %r", error)
            return
        self._events += [event for event in (body if isinstance(body, list) else [body]) if isinstance(event, dict)]

    def close(self) -> None:
        """Disconnect; the next drain connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except recoverable() as error:  # it was broken: that may be why we close it
                log.debug("closing a broken connection: %s", error)
