"""Remote control over pidbox: sending commands to workers, and the worker's side that answers them. Celery's own wire."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kombu import Producer, pidbox
from kombu.clocks import LamportClock
from kombu.matcher import match

from celeriac.broker.connection import BrokerAddress, broker_errors, connect, recoverable
from celeriac.broker.eventbus import EventSender
from celeriac.broker.gate import Gate
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire.control import EXCHANGE, PLAIN, SENT, Command, Sent, sent_to_wire

log = logging.getLogger(__name__)

Handler = Callable[..., Any]


def logical_clock() -> LamportClock:
    """A Lamport clock: `forward()` ticks it, `adjust(other)` sets it beyond what another node says. Safe in several threads."""
    return LamportClock()


class Mailbox:
    """Sends commands on a connection of its own, which it reopens after an error. signed: and hears signed answers only."""

    def __init__(
        self, url: str, *, transport_options: Mapping[str, Any] | None = None, ssl: Any = None, signed: bool = False
    ) -> None:
        self._signed = signed
        self._address = BrokerAddress(url=url, transport_options=transport_options or {}, ssl=ssl)
        self._connection: Any = None
        self._lock = threading.Lock()

    def send(self, command: Command, *, signed: bool | None = None) -> None:
        """Send a command and want no answer. signed: this one, other than the rest. Raises BrokerUnavailable."""
        self._cast(command, reply=False, timeout_s=None, signed=signed)

    def ask(self, command: Command, *, timeout_s: float = 1.0) -> dict[str, Any]:
        """{node: answer} of the workers that answered in time. Raises BrokerUnavailable."""
        return {node: value for answer in self.answers(command, timeout_s=timeout_s) for node, value in answer.items()}

    def answers(
        self, command: Command, *, timeout_s: float | None = 1.0, limit: int | None = None, heard: Callable[[Any], None] | None = None
    ) -> list[dict[str, Any]]:  # fmt: skip
        """[{node: answer}] in the order they came; two of one name are two. heard is called with each. Raises BrokerUnavailable.

        limit   ends the wait when so many have answered; for a given destination as many as it names.
        """
        return self._cast(command, reply=True, timeout_s=timeout_s, limit=limit, heard=heard) or []

    def _cast(
        self, command: Command, *, reply: bool, timeout_s: float | None, limit: int | None = None, heard: Callable[[Any], None] | None = None,
        signed: bool | None = None,
    ) -> list[dict[str, Any]] | None:  # fmt: skip
        destination = list(command.destination) if command.destination is not None else None
        with self._lock:
            try:
                with broker_errors(self._address):
                    if self._connection is None:
                        self._connection = connect(self._address)
                    signs = self._signed if signed is None else signed
                    box = _box(signed=signs, kind=_StampingBox if signs else _SendingBox)(self._connection)
                    answers: list[dict[str, Any]] | None = box._broadcast(
                        command.method, dict(command.arguments), destination, reply=reply, timeout=timeout_s,
                        limit=limit or (len(destination) if destination else None), callback=heard,
                        pattern=command.pattern, matcher=command.matcher, channel=self._connection.default_channel,
                    )  # fmt: skip
                    return answers
            except BrokerUnavailable:
                self._drop()
                raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except recoverable() as error:  # it was broken: that is why we drop it
                log.debug("closing a broken connection: %s", error)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._drop()


class ControlNode:
    """The worker's side: a thread with a connection of its own that answers commands and sends the worker's events.

    handlers   command name -> function(**arguments) -> answer. A handler that raises answers {"error": repr}.
    tick       called about five times a second with an EventSender: heartbeats and task events go out here. bye: at the end.
    clock      the worker's logical clock: what others' messages say sets it forward.
    heeds      which commands: `celeriac.wire.control.PLAIN`, SIGNED or EITHER.
    """

    def __init__(
        self,
        address: BrokerAddress,
        node: str,
        handlers: Mapping[str, Handler],
        tick: Callable[[EventSender], None],
        bye: Callable[[EventSender], None],
        clock: LamportClock | None = None,
        *,
        heeds: str = PLAIN,
    ) -> None:
        self._address = address
        self._signed = heeds != PLAIN
        self._gate = Gate(heeds)
        self._clock = clock
        self._node = node
        self._handlers = {name: _stateless(handler) for name, handler in handlers.items()}
        self._tick, self._bye = tick, bye
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celeriac-control", daemon=True)

    def start(self) -> None:
        """Start answering; a broker that is down is tried again until it is back."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop answering, after one last tick."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.5
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._serve()
                return
            except BrokerUnavailable as error:
                log.warning("remote control: %s; trying again in %.1f s", error, pause_s)
            except ImproperlyConfigured as error:
                log.error("remote control: %s; trying again in %.1f s", error, pause_s)
            except Exception:  # whatever somebody broadcast: this worker must stay reachable
                log.exception("remote control failed; opening it again in %.1f s", pause_s)
            self._stop.wait(pause_s)
            pause_s = 0.5 if time.monotonic() - began > 60.0 else min(10.0, pause_s * 2)

    def _serve(self) -> None:
        with broker_errors(self._address):
            connection = connect(self._address)
            try:
                channel = connection.channel()
                box = _box(self._clock, signed=self._signed)
                node = box.Node(self._node, state=None, handlers=self._handlers, channel=channel)
                node.mailbox = node.mailbox(connection)
                consumer = node.Consumer(channel=channel, accept=["auth", "json"] if self._signed else ["json"])
                consumer.on_decode_error = self._undecodable
                consumer.register_callback(lambda body, message: self._heard(node, body, message))
                _consume(consumer, self._node)
                sender = EventSender(connection)
                while True:
                    if self._stop.is_set():
                        self._bye(sender)
                        consumer.cancel()
                        return
                    self._tick(sender)
                    try:
                        connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue
            finally:
                connection.release()

    def _heard(self, node: Any, body: Any, message: Any) -> None:
        try:
            if not _addressed(body, self._node) or self._gate.passes(body, message.content_type):
                node.handle_message(body, message)
        except recoverable():
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's command, or one whose answer cannot be written
            log.error("remote control: the command %.200r failed: %r", body, error)

    def _undecodable(self, message: Any, error: Exception) -> None:
        self._gate.undecodable(error, message.content_type)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many commands to this worker were passed over, by reason."""
        return self._gate.refused

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()


def _consume(consumer: Any, node: str) -> None:
    """Start to consume commands. A queue that is locked belongs to another worker of the same name: say so."""
    try:
        consumer.consume()
    except recoverable() as error:
        if getattr(error, "code", None) != 405:
            raise
        raise ImproperlyConfigured(
            f"another worker of this broker is named {node} and has its mailbox: give each a name of its own with -n NAME@%h"
        ) from error


def _addressed(body: Any, node: str) -> bool:
    """Whether a command is for this node, as kombu's own node finds out."""
    if body.get("destination"):
        return node in body["destination"]
    if body.get("pattern") and body.get("matcher"):
        return bool(match(node, body["pattern"], body["matcher"]))
    return True


#: On a connection that has died unnoticed a command is sent once more, over a new one. kombu's mailbox would try for ever.
_TWICE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


class _Sending(Producer):  # type: ignore[misc]
    """Sends a command, and gives up on a broker that is away."""

    def publish(self, body: Mapping[str, Any], **options: Any) -> Any:
        return super().publish(body, **{**options, "retry_policy": _TWICE})


class _Stamping(_Sending):
    """Writes into a command when it was sent: signed with the rest, so that nobody can send it again later."""

    def publish(self, body: Mapping[str, Any], **options: Any) -> Any:
        sent = Sent(time.time(), uuid.uuid4().hex)
        return super().publish({**body, SENT: sent_to_wire(sent)}, **options)


class _SendingBox(pidbox.Mailbox):  # type: ignore[misc]
    """The sender's side."""

    producer: type[_Sending] = _Sending

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Producer]:
        """What commands are sent with."""
        yield self.producer(channel, auto_declare=False)


class _StampingBox(_SendingBox):
    """The sender's side of signed commands."""

    producer = _Stamping


def _box(clock: LamportClock | None = None, *, signed: bool = False, kind: type[Any] = pidbox.Mailbox) -> Any:
    return kind(
        EXCHANGE,
        clock=clock,
        type="fanout",
        accept=["auth"] if signed else ["json", "application/json"],
        serializer="auth" if signed else "json",
        queue_ttl=300.0,
        queue_expires=10.0,
        reply_queue_expires=10.0,
    )


def _stateless(handler: Handler) -> Handler:
    """kombu hands its state first; ours need none."""

    def call(state: Any = None, /, **arguments: Any) -> Any:
        return handler(**arguments)

    return call
