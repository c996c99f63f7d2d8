"""Publishing to RabbitMQ: every message confirmed, a batch in one write, what is not due parked in the broker."""

import logging
import os
import struct
import threading
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

import amqp
import kombu
from amqp import spec

from celeriac.broker.amqp_frames import publication
from celeriac.broker.amqp_stream import AmqpStream
from celeriac.broker.connection import BrokerAddress, connect, let_go, recoverable, redacted, unavailable
from celeriac.broker.delayed import bind_delays, declare_delays, delay_s, parked_under
from celeriac.broker.producer import MOST_AT_ONCE, no_binding, no_exchange, no_queue, partly, time_for, written
from celeriac.broker.topology import consumer_count, declare_queue, exchange_exists, queue_exists
from celeriac.exceptions import BrokerUnavailable, EncodeError, MessageRefused, NotRoutable, OperationalError
from celeriac.wire.message import USUAL, Patience, TaskMessage, Terms

log = logging.getLogger(__name__)

#: Properties that travel with a message that is published again. Not user_id: RabbitMQ refuses one that is not the connection's own.
_PROPERTIES = frozenset({
    "correlation_id", "reply_to", "delivery_mode", "priority", "expiration", "timestamp", "message_id", "app_id", "type",
})  # fmt: skip
#: Headers in which RabbitMQ notes where a message has been. One that is published again begins anew: with an old `x-death`, RabbitMQ
#: takes the second time that a delay of the same length ends for a cycle, and drops the message.
_BROKERS_OWN = frozenset({
    "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason",
    "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count", "x-opt-rabbitmq-delivery-time",
})  # fmt: skip
#: To find out which of many messages the broker refuses, at the least.
_APART_S = 1.0


K = TypeVar("K", bound=Hashable)


class Outgoing(NamedTuple):
    """What is to be published. body: encoded. properties: py-amqp's names, content type and headers apart. due_at: epoch
    seconds until which the broker keeps it."""

    queue: str
    body: bytes | str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    content_type: str
    content_encoding: str
    exchange: str = ""
    routing_key: str = ""
    due_at: float | None = None
    mandatory: bool = False

    @property
    def parked(self) -> bool:
        """Whether it is to wait in the broker; what goes to an exchange of the user's does not."""
        return self.due_at is not None and not self.exchange


class _Confirms:
    """What one channel has published and the broker has not yet confirmed, by number and by the caller's key."""

    def __init__(self) -> None:
        self._sent = 0
        #: (key, routing key) by number, in the order of publishing.
        self._open: dict[int, tuple[Hashable, str]] = {}
        self._count: dict[Hashable, int] = {}
        #: Why a key's message did not get through.
        self._failed: dict[Hashable, str] = {}
        self.unroutable: set[str] = set()

    def sent(self, key: Hashable, routing_key: str) -> None:
        self._sent += 1
        self._open[self._sent] = key, routing_key
        self._count[key] = self._count.get(key, 0) + 1

    def knows(self, key: Hashable) -> bool:
        """Whether the key's messages are under way, or their end is known."""
        return key in self._count

    def waiting(self, key: Hashable) -> bool:
        """Whether any message of the key is unconfirmed."""
        return self._count.get(key, 0) > 0

    def through(self, key: Hashable) -> bool:
        """Whether all messages of the key were confirmed."""
        return self._count.get(key) == 0 and key not in self._failed

    def end(self, key: Hashable) -> str:
        """Forget a key that no longer waits: "" when all its messages were confirmed, else what happened to one."""
        self._count.pop(key, None)
        return self._failed.pop(key, "")

    def alone(self, key: Hashable) -> bool:
        """Whether nothing is under way but the key's messages."""
        return bool(self._open) and all(of == key for of, _ in self._open.values())

    def held_back(self, key: Hashable, why: str) -> None:
        """Nothing of the key was sent, and it may be later."""
        self._count[key] = 0
        self._failed[key] = why

    def abandon(self, key: Hashable) -> None:
        """Forget a key whose confirmations may still come."""
        if self.waiting(key):
            self._open = {number: entry for number, entry in self._open.items() if entry[0] != key}
        self.end(key)

    def acked(self, number: int, multiple: bool) -> None:
        for key, routing_key in self._closed(number, multiple):
            if routing_key in self.unroutable:  # it was returned just before
                self._failed[key] = f"there is no queue {routing_key!r} any more"

    def nacked(self, number: int, multiple: bool) -> None:
        for key, routing_key in self._closed(number, multiple):
            self._failed[key] = f"the broker refused it for the queue {routing_key!r} (is it full?)"

    def returned(self, error: BaseException, exchange: str, routing_key: str, message: Any) -> None:
        self.unroutable.add(routing_key)

    def _closed(self, number: int, multiple: bool) -> list[tuple[Hashable, str]]:
        numbers = list(takewhile(lambda each: each <= number, self._open)) if multiple else [number]
        found = [self._open.pop(each) for each in numbers if each in self._open]
        for key, _ in found:
            self._count[key] -= 1
        return found


class AmqpProducer:
    """A connection of its own: RabbitMQ stops reading from connections that publish during an alarm, acknowledgements included.

    park  put what is not due where the broker keeps it until then.
    """

    def __init__(self, address: BrokerAddress, *, timeout_s: float = 5.0, park: bool = False) -> None:
        self._address = replace(address, heartbeat_s=0.0)  # nobody reads between two publishes
        self._timeout_s = timeout_s
        self._park = park
        self._lock = threading.RLock()
        self._connection: kombu.Connection | None = None
        self._stream: AmqpStream | None = None
        self._channel: Any = None
        self._confirms = _Confirms()
        #: Why nothing of a key can be published, until somebody asks.
        self._refused: dict[Hashable, EncodeError | MessageRefused] = {}
        self._declared: set[str] = set()
        self._exchanges: set[str] = set()
        self._bound: set[str] = set()
        self._no_delays = False
        self._pid = 0

    # -- one message

    def publish(self, message: TaskMessage) -> None:
        """Put one message on its queue. Raises BrokerUnavailable after the deadline, EncodeError and MessageRefused at once."""
        self._publish(outgoing_of(message, park=self._park), message.terms)

    def publish_many(self, messages: Sequence[TaskMessage]) -> None:
        """As the protocol says. Raises MessageRefused, and EncodeError for headers that AMQP cannot hold, when the go is over.

        A go has the deadline and the patience of its first message.
        """
        goes = [(object(), outgoing_of(message, park=self._park)) for message in messages]
        confirmed: set[object] = set()
        for first in range(0, len(goes), MOST_AT_ONCE):
            part = {key: [outgoing] for key, outgoing in goes[first : first + MOST_AT_ONCE]}
            terms = messages[first].terms or USUAL
            timeout_s = time_for(terms, self._timeout_s)
            try:
                self.deliver(part, timeout_s=timeout_s, patient=True, confirmed=confirmed, patience=terms.patience)
                for refusal in self.refusals(part).values():
                    raise refusal
                if not confirmed.issuperset(part):
                    raise self._too_late(part, timeout_s, self._unconfirmed())
            except (OperationalError, EncodeError) as error:
                raise partly(
                    error, {place for place, (key, _) in enumerate(goes) if key in confirmed}, len(goes)
                ) from error
            finally:
                self.abandon(part)

    def publish_raw(
        self, queue: str, body: Any, headers: Mapping[str, Any], *, content_type: str, content_encoding: str, properties: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """Put a body that is encoded already on a queue."""
        self._publish(Outgoing(queue, body, headers, properties, content_type, content_encoding))

    def _publish(self, outgoing: Outgoing, terms: Terms | None = None) -> None:
        key = object()
        timeout_s = self._timeout_s if terms is None else time_for(terms, self._timeout_s)
        patience = (terms or USUAL).patience
        try:
            if not self.deliver({key: [outgoing]}, timeout_s=timeout_s, patient=True, patience=patience):
                for refusal in self.refusals([key]).values():
                    raise refusal
                raise self._too_late({key: [outgoing]}, timeout_s, self._unconfirmed())
        finally:
            self.abandon([key])

    # -- batches

    def deliver(
        self, batch: Mapping[K, Sequence[Outgoing]], *, timeout_s: float, patient: bool = False, confirmed: set[K] | None = None,
        patience: Patience = USUAL.patience,
    ) -> set[K]:  # fmt: skip
        """Publish each key's messages; the keys of which all are confirmed. The others are under way: ask again with the same keys.
        Or they can never go: see `refusals`. confirmed: a set to add to, which holds what is known should this raise.

        Nothing is published twice while the connection lives, but what the broker refused. patient: wait out an alarm as far as
        timeout_s goes, and raise BrokerUnavailable when it refused a message until then. Raises it anyway without a connection.
        patience: with what pauses it is tried again, and how often.
        """
        deadline = time.monotonic() + timeout_s
        pauses = patience.pauses()
        confirmed = set() if confirmed is None else confirmed
        while True:
            left = {
                key: outgoing for key, outgoing in batch.items() if key not in confirmed and key not in self._refused
            }
            try:
                done, trouble = self._attempt(left, deadline, patient)
            except recoverable() as error:
                confirmed |= self._rescued(left)
                pause_s = next(pauses, None)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise self._too_late(left, timeout_s, str(unavailable(self._address, error))) from error
            else:
                confirmed |= done
                over = time.monotonic() >= deadline
                pause_s = next(pauses, None) if trouble else 0.0
                over = over or pause_s is None or time.monotonic() + pause_s >= deadline
                if trouble and patient and over:
                    raise self._too_late(left, timeout_s, trouble)
                if trouble and not patient:
                    log.warning("%s; it is tried again", trouble)
                    return confirmed
                if confirmed.union(self._refused).issuperset(batch) or over or (self._blocked() and not patient):
                    return confirmed
                if not trouble:
                    continue
            time.sleep(pause_s or 0.0)

    def _rescued(self, keys: Iterable[K]) -> set[K]:
        """Those that were confirmed before the connection broke, which ends with this: the others go out again on the next one."""
        with self._lock:
            done = {key for key in keys if self._confirms.through(key)}
            self._drop()
        return done

    def confirmed(self, keys: Iterable[K]) -> set[K]:
        """Those of which everything is confirmed by now. Waits for nothing and publishes nothing; raises nothing either."""
        with self._lock:
            if self._stream is None:
                return set()
            try:
                self._stream.read()
            except recoverable() as error:
                log.debug("what is under way will be published again: %s", error)
                self._drop()
                return set()
            confirms = self._confirms
            done = {key for key in keys if confirms.through(key)}
            for key in done:
                confirms.end(key)
        return done

    def refusals(self, keys: Iterable[K]) -> dict[K, EncodeError | MessageRefused]:
        """Those that cannot be published, and why; forgotten with that, so that they are tried if they come again."""
        with self._lock:
            return {key: self._refused.pop(key) for key in keys if key in self._refused} if self._refused else {}

    def abandon(self, keys: Iterable[Hashable]) -> None:
        """Wait for these no longer."""
        with self._lock:
            for key in keys:
                self._confirms.abandon(key)
                self._refused.pop(key, None)

    def _attempt(self, batch: Mapping[K, Sequence[Outgoing]], deadline: float, patient: bool) -> tuple[set[K], str]:
        """As `_together`; when the broker refuses one of them, it goes no farther than that one."""
        with self._lock:
            try:
                return self._together(batch, deadline, patient)
            except amqp.exceptions.ChannelError as error:
                if not _of_a_message(error):
                    raise
                log.debug("a message was refused, each goes on its own now: %s", error)
                if len(batch) == 1 and self._blame(next(iter(batch)), error):
                    return set(), ""
                return self._apart(batch, max(deadline, time.monotonic() + _APART_S)), ""

    def _apart(self, batch: Mapping[K, Sequence[Outgoing]], deadline: float) -> set[K]:
        """Publish them one after the other, since RabbitMQ does not say which of many it has refused: the keys that are confirmed."""
        confirmed: set[K] = set()
        self._drop()
        for key, outgoing in batch.items():
            try:
                done, _ = self._together({key: outgoing}, deadline, patient=False)
                confirmed |= done
            except recoverable() as error:
                if not (_of_a_message(error) and self._blame(key, error)):
                    self._drop()
                    break  # the others are asked for again
            if self._confirms.waiting(key) or time.monotonic() >= deadline:
                break
        return confirmed

    def _blame(self, key: Hashable, error: BaseException) -> bool:
        """Whether it is the key's message that was refused; it is tried no more then."""
        alone = self._confirms.alone(key)
        self._drop()  # RabbitMQ has closed the channel
        if alone:
            self._refused[key] = MessageRefused(f"RabbitMQ refuses the message: {error}")
        return alone

    def _together(self, batch: Mapping[K, Sequence[Outgoing]], deadline: float, patient: bool) -> tuple[set[K], str]:
        """(keys that are confirmed, what happened to one that was refused); refused ones are published anew the next time."""
        with self._lock:
            self._send(batch)
            self._wait(batch, deadline, patient)
            confirms = self._confirms
            ended = {key: confirms.end(key) for key in batch if confirms.knows(key) and not confirms.waiting(key)}
            for key in ended if confirms.unroutable else ():
                for outgoing in batch[key]:
                    if outgoing.mandatory and (outgoing.routing_key or outgoing.queue) in confirms.unroutable:
                        self._refused[key], ended[key] = _not_routable(outgoing), ""
            self._declared -= confirms.unroutable
            self._bound -= confirms.unroutable
            confirms.unroutable.clear()
        done = {key for key, trouble in ended.items() if not trouble and key not in self._refused}
        return done, next(filter(None, ended.values()), "")

    def _send(self, batch: Mapping[K, Sequence[Outgoing]]) -> None:
        """Write what is not under way yet, in one piece."""
        channel, stream = self._open()
        stream.read()  # the broker may have closed, blocked or unblocked us since
        if stream.blocked:
            return  # it would lie in the socket, and nobody could say whether it arrives
        new = [key for key in batch if not self._confirms.knows(key)]
        for key in new:
            try:
                for outgoing in batch[key]:
                    self._prepare(channel, outgoing)
            except amqp.exceptions.NotFound as error:  # of a queue whose node is down
                self._confirms.held_back(key, f"a queue cannot be declared now: {error}")
            except (struct.error, ValueError, TypeError) as error:
                self._refused[key] = _unwritable(batch[key][0].queue, error)
            except MessageRefused as error:
                self._refused[key] = error
            except amqp.exceptions.ChannelError as error:
                self._refused[key] = MessageRefused(f"RabbitMQ refuses the message: {error}")
        now = time.time()
        with stream.corked():
            for key in new:
                if key in self._refused or self._confirms.knows(key):
                    continue
                try:
                    with stream.corked():  # all of a key's, or nothing
                        written = [self._write(channel, stream, outgoing, now) for outgoing in batch[key]]
                except EncodeError as error:
                    self._refused[key] = error
                else:
                    for routing_key in written:
                        self._confirms.sent(key, routing_key)

    def _write(self, channel: Any, stream: AmqpStream, outgoing: Outgoing, now: float) -> str:
        """Write one message's frames; the routing key. Raises EncodeError."""
        exchange, routing_key = outgoing.exchange, outgoing.routing_key or outgoing.queue
        properties = {
            name: value
            for name, value in outgoing.properties.items()
            if name in _PROPERTIES and value not in (None, "")
        }
        delayed = outgoing.due_at is not None and outgoing.queue in self._bound
        seconds = delay_s(outgoing.due_at or 0.0, now) if delayed and not self._no_delays else 0
        if seconds:
            exchange, routing_key = parked_under(outgoing.queue, seconds)
            properties.pop("expiration", None)  # it would end the delay; who runs the task looks at its `expires`
        headers = outgoing.headers
        if not _BROKERS_OWN.isdisjoint(headers):
            headers = {name: value for name, value in headers.items() if name not in _BROKERS_OWN}
        if outgoing.content_type:
            properties["content_type"] = outgoing.content_type
        if outgoing.content_encoding:
            properties["content_encoding"] = outgoing.content_encoding
        mandatory = outgoing.mandatory or not outgoing.exchange  # a queue that was deleted meanwhile is declared again
        try:
            frames = publication(
                channel.channel_id, exchange, routing_key, mandatory, properties, headers, outgoing.body, channel.connection.frame_max  # type: ignore[arg-type]
            )  # fmt: skip
        except (struct.error, ValueError, TypeError):  # rare: for py-amqp, to write or to refuse
            self._write_slowly(channel, outgoing, (exchange, routing_key, mandatory), properties, headers)
        else:
            stream.write(frames)
        return routing_key

    def _write_slowly(
        self, channel: Any, outgoing: Outgoing, to: tuple[str, str, bool], properties: Mapping[str, Any], headers: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """As py-amqp does it. Raises EncodeError."""
        message = amqp.Message(outgoing.body, application_headers=dict(headers), **properties)
        try:
            channel.send_method(spec.Basic.Publish, "Bssbb", (0, *to, False), message)
        except (amqp.exceptions.FrameSyntaxError, struct.error, ValueError, TypeError) as error:
            raise _unwritable(outgoing.queue, error) from error

    def _prepare(self, channel: Any, outgoing: Outgoing) -> None:
        """See to it that the queue is there, and gets what is parked for it."""
        queue = outgoing.queue
        if outgoing.mandatory:
            # It goes to a queue that is there. The broker tells when it is not, but for a message that is to wait in another one first.
            if outgoing.parked and not queue_exists(self._raw(), queue):
                raise no_queue(queue)
        elif not outgoing.exchange and queue not in self._declared:
            declare_queue(channel, queue, self._address.plan)
            self._declared.add(queue)
        if outgoing.exchange and outgoing.exchange not in self._exchanges:
            for name in self._address.plan.on(outgoing.exchange):
                declare_queue(channel, name, self._address.plan)
            # Asked for first: a refused message takes the channel with it, and what else is under way there goes out twice.
            if not exchange_exists(self._raw(), outgoing.exchange):
                raise no_exchange(outgoing.exchange)
            self._exchanges.add(outgoing.exchange)
        if outgoing.parked:
            self._prepare_delays(queue)

    def _prepare_delays(self, queue: str) -> None:
        if queue in self._bound or self._no_delays or self._connection is None:
            return
        try:
            if not self._bound:
                declare_delays(self._connection, self._address.delay_queue_type)
            bind_delays(self._connection.connection, queue)
        except struct.error:
            log.warning(
                "the name of the queue %s is too long for delays in RabbitMQ; they pass in workers instead", queue
            )
        except amqp.exceptions.ChannelError as error:  # no permission, or too old for such queues
            self._no_delays = True
            log.warning(
                "RabbitMQ does not let us declare its delay queues: %s. Messages that are not due wait in workers instead",
                error,
            )
        else:
            self._bound.add(queue)

    def consumers(self, queue: str) -> int | None:
        """How many the queue has now; 0 without such a queue."""
        with self._lock:
            try:
                self._open()
                return consumer_count(self._raw(), queue)
            except recoverable() as error:
                self._drop()
                raise unavailable(self._address, error) from error

    def delays(self, queues: Iterable[str]) -> bool:
        """Whether what is not due can wait in the broker for these queues. Raises what a broken connection raises."""
        with self._lock:
            channel, _ = self._open()
            wanted = set(queues)
            for queue in wanted:
                if queue not in self._declared:
                    declare_queue(channel, queue, self._address.plan)
                    self._declared.add(queue)
                self._prepare_delays(queue)
            return not self._no_delays and wanted <= self._bound

    def _wait(self, batch: Mapping[K, Sequence[Outgoing]], deadline: float, patient: bool) -> None:
        """Until all of the batch is confirmed or refused; not longer than the deadline, nor, unless patient, through an alarm."""
        _, stream = self._open()
        blocked = stream.blocked
        while stream.blocked or any(self._confirms.waiting(key) for key in batch):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (stream.blocked and not patient):
                return
            if blocked and not stream.blocked:
                return  # what was held back may go now
            blocked = stream.blocked
            try:
                stream.wait(left_s)
            except TimeoutError:
                return

    # -- the connection

    def _open(self) -> tuple[Any, AmqpStream]:
        if self._stream is None or self._pid != os.getpid():
            self._pid = os.getpid()  # after a fork: the parent's connection is left alone
            self._connection = connect(self._address)
            raw: Any = self._connection.connection
            self._stream = AmqpStream(raw)
            self._confirms = _Confirms()
            self._declared, self._exchanges, self._bound = set(), set(), set()
            self._channel = raw.channel()
            self._channel.confirm_select()
            self._channel.events["basic_ack"].add(self._confirms.acked)
            self._channel.events["basic_nack"].add(self._confirms.nacked)
            self._channel.events["basic_return"].add(self._confirms.returned)
        return self._channel, self._stream

    def _raw(self) -> Any:
        """py-amqp's connection."""
        return self._connection.connection if self._connection is not None else None

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection, self._channel, self._stream = self._connection, None, None, None
            if connection is not None and self._pid == os.getpid():
                let_go(connection)

    def close(self) -> None:
        """Disconnect."""
        self._drop()

    def _too_late(self, batch: Mapping[K, Sequence[Outgoing]], timeout_s: float, trouble: str) -> BrokerUnavailable:
        queues = ", ".join(sorted({repr(each.queue) for outgoing in batch.values() for each in outgoing}))
        return BrokerUnavailable(f"the message for queue {queues} was not published within {timeout_s:g} s: {trouble}")

    def _blocked(self) -> bool:
        stream = self._stream
        return stream is not None and stream.blocked

    def _unconfirmed(self) -> str:
        if self._blocked():
            return (
                f"the broker at {redacted(self._address.url)} takes no messages now: it has an alarm for memory or disk"
                " (see rabbitmqctl status); it may still take this one when the alarm is over"
            )
        return f"the broker at {redacted(self._address.url)} did not confirm it; it may have arrived"


def _not_routable(outgoing: Outgoing) -> NotRoutable:
    return no_binding(outgoing.exchange, outgoing.routing_key) if outgoing.exchange else no_queue(outgoing.queue)


def _unwritable(queue: str, error: Exception) -> EncodeError:
    return EncodeError(
        f"the message for queue {queue!r} cannot be written: {error}. AMQP headers hold text, numbers, times, lists and"
        " mappings; ids and names have at most 255 bytes"
    )


def _of_a_message(error: BaseException) -> bool:
    """Whether the broker has closed the channel over something that was published on it."""
    return isinstance(error, amqp.exceptions.ChannelError) and error.method_sig == spec.Basic.Publish


def outgoing_of(message: TaskMessage, *, park: bool) -> Outgoing:
    """A task message, encoded; park: until it is due. Raises EncodeError."""
    content_type, encoding, body, headers, properties = written(message)
    return Outgoing(
        message.queue, body, headers, properties, content_type, encoding, message.exchange, message.routing_key,
        message.due_at if park else None, message.terms is not None and message.terms.mandatory,
    )  # fmt: skip
