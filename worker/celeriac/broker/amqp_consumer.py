"""RabbitMQ as a consumer sees it: deliveries read in bulk, acknowledgements in runs, what follows confirmed before what it follows from goes."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import kombu
from amqp import exceptions as refusals
from amqp import spec

from celeriac.broker.amqp_frames import Arrival, acknowledgements
from celeriac.broker.amqp_producer import AmqpProducer, Outgoing, outgoing_of
from celeriac.broker.amqp_stream import AmqpStream
from celeriac.broker.connection import BrokerAddress, connect, let_go, recoverable, redacted, unavailable
from celeriac.broker.consumer import Delivery, Settled
from celeriac.broker.delayed import DELIVERIES_FROM, bind_again
from celeriac.broker.topology import dead_queue_name, declare_queue
from celeriac.exceptions import BrokerUnavailable, EncodeError, ImproperlyConfigured, OperationalError
from celeriac.wire.message import DEATH, STARTS

log = logging.getLogger(__name__)

#: Of quorum queues: how often the message was delivered before.
_DELIVERIES = "x-delivery-count"
#: How long what follows from a batch may take to be confirmed before the loop goes on; it stays under way then.
_CONFIRM_S = 5.0
#: Until what was not confirmed, or refused, is asked for again.
_AGAIN_S = 1.0
#: More than this may not be under way at once.
_MOST_UNDER_WAY = 1000
_MOST_PREFETCH = 65535
#: Consumer tags, beyond those in use, whose queues are remembered.
_KNOWN_TAGS = 1000
#: Up to here the prefetch count is kept exactly; above, a change of a quarter is not worth a message to the broker.
_EXACT = 16


#: The connection's number and the delivery tag on it.
Claim = tuple[int, int]


class AmqpConsumer:
    """RabbitMQ pushes; one lock guards the connection. Unacknowledged messages come back when the connection ends.

    What is not due waits in the broker, if it lets us declare the queues for that. What is throttled waits in the worker; it counts as
    claimed, so that it takes no room from the others.
    node  the worker's name, for consumer tags.
    """

    keeps_delayed: bool = True
    throttled = None
    leased = False

    def __init__(self, address: BrokerAddress, queues: Sequence[str], *, node: str, prefetch: int) -> None:
        self._address = address
        self._node = node
        self._queues = list(queues)
        self._lock = threading.RLock()
        self._producer = AmqpProducer(address, timeout_s=_CONFIRM_S)
        self._prefetch = max(1, prefetch)
        #: One limit for all our queues, changed at any time; quorum queues and RabbitMQ 4 know only limits of each consumer.
        self._one_limit = True
        self._generation = 0
        #: Delivered and not acknowledged, by delivery tag, in that order; those of them that nobody has claimed yet.
        self._open: dict[int, Delivery] = {}
        self._ready: deque[Delivery] = deque()
        #: Of the unclaimed: came back from a classic queue, which does not count how often.
        self._uncounted: set[int] = set()
        #: What is published in place of a message, which is acknowledged as soon as that is confirmed; by (generation, tag).
        self._moving: dict[Claim, Sequence[Outgoing]] = {}
        #: Of those: in whose place something else is published, not the message itself; and those for which that cannot be.
        self._following: set[Claim] = set()
        self._unpublishable: list[tuple[Delivery, Exception]] = []
        self._move_again_at = 0.0
        #: Queues that are consumed now, and whether the broker has ended a consumer since they were.
        self._consumed: set[str] = set()
        self._interrupted = False
        #: Consumer tags by queue, once it is declared; and queues by tag, old ones included.
        self._tags: dict[str, str] = {}
        self._queue_of: dict[str, str] = {}
        self._numbers = 0
        self._trouble = ""
        self._connection: kombu.Connection
        self._connect()

    # -- claiming

    def claim(self, limit: int, *, free: int | None = None) -> list[Delivery]:
        with self._guarded():
            self._move_on()
            if not self._consumed:
                self._consume()
            if len(self._ready) < limit:
                self._stream.read()
                if self._interrupted:
                    self._interrupted = False
                    self._consume()
            ready = self._ready
            taken = [ready.popleft() for _ in range(min(limit, len(ready)))]
            return self._recount(taken) if self._uncounted else taken

    def _recount(self, taken: Sequence[Delivery]) -> list[Delivery]:
        """Those that may run now. The others were redelivered, and go back to their queues with one start more.

        RabbitMQ's classic queues do not count. What we give back ourselves is a fresh copy, so only a lost worker's messages
        come here (what it had claimed and not started among them: the broker cannot tell).
        """
        again = [delivery for delivery in taken if delivery.claim[1] in self._uncounted]
        self._move({delivery.claim: [self._again(delivery)] for delivery in again})
        gone = {delivery.claim for delivery in again}
        return [delivery for delivery in taken if delivery.claim not in gone]

    def _again(self, delivery: Delivery) -> Outgoing:
        """The message once more, for its own queue; with one start more when RabbitMQ has not counted the last one."""
        tag = delivery.claim[1]
        if tag not in self._uncounted:
            return _copy(delivery)
        self._uncounted.discard(tag)
        return _copy(delivery, headers={**delivery.headers, STARTS: delivery.starts + 1, "redelivered": True})

    def arm(self) -> bool:
        with self._lock:
            return bool(self._ready) or self._stream.pending()

    def fileno(self) -> int | None:
        with self._guarded():
            return self._stream.fileno()

    def _arrived(self, arrival: Arrival) -> None:
        consumer, tag, redelivered, properties, headers, body, exchange, routing_key = arrival
        if exchange == DELIVERIES_FROM:  # its last step of waiting says nothing of how it was sent
            exchange = routing_key = ""
        starts = headers.get(STARTS) or 0
        if not isinstance(starts, int):
            starts = 0
        before = headers.pop(_DELIVERIES, None)
        if not redelivered:
            pass  # a count that comes with it is the sender's
        elif isinstance(before, int):
            starts += before
            if starts:
                headers[STARTS] = starts
        else:
            self._uncounted.add(tag)
        delivery = Delivery(
            (self._generation, tag), self._queue_of[consumer], headers, properties, body,
            properties.get("content_type", ""), properties.get("content_encoding") or "utf-8", None, starts, 0,
            redelivered or "redelivered" in headers, exchange, routing_key,
        )  # fmt: skip
        self._open[tag] = delivery
        self._ready.append(delivery)

    def _arrived_in_parts(self, message: Any) -> None:
        """A message too large to be cut out of one read: py-amqp has put it together."""
        info, properties = message.delivery_info, dict(message.properties)
        headers = properties.pop("application_headers", None) or {}
        consumer, tag, way = info["consumer_tag"], info["delivery_tag"], (info["exchange"], info["routing_key"])
        self._arrived(Arrival(consumer, tag, info["redelivered"], properties, headers, message.body, *way))

    # -- settling

    def settle(self, settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        with self._guarded():
            done = []
            moves: dict[Claim, Sequence[Outgoing]] = {}
            for delivery, publish, death in settled:
                if not self._mine(delivery):
                    continue  # it is delivered again, or was settled before
                if publish or death is not None:
                    try:
                        follows = [outgoing_of(message, park=True) for message in publish]
                    except EncodeError as error:
                        self._unpublishable.append((delivery, error))
                        continue
                    if death is not None:
                        headers = {**delivery.headers, DEATH: dict(death)}
                        follows.append(_copy(delivery, headers=headers, queue=dead_queue_name(delivery.queue)))
                    else:
                        self._following.add(delivery.claim)
                    moves[delivery.claim] = follows
                else:
                    done.append(delivery.claim[1])
            self._acknowledge(done)
            self._move(moves)
        return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self.settle([Settled(delivery) for delivery in deliveries])
        return []  # what came on a connection that is gone is forgotten with it

    def unpublishable(self) -> list[tuple[Delivery, Exception]]:
        with self._lock:
            found, self._unpublishable = self._unpublishable, []
        return found

    def under_way(self, delivery: Delivery) -> bool:
        return delivery.claim in self._moving

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        # A copy at the end of the queue: a requeued message counts as redelivered, and these were never started.
        with self._guarded():
            self._move({each.claim: [self._again(each)] for each in deliveries if self._mine(each)})

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        with self._guarded():
            if not self._producer.delays({delivery.queue for delivery, _ in deliveries}):
                self.keeps_delayed = False
                return
            moves = {each.claim: [_copy(each, due_at=due_at)] for each, due_at in deliveries if self._mine(each)}
            # Nobody waits for these: with many, their confirmations come in batches meanwhile.
            self._move(moves, wait_s=0.0 if len(self._moving) < _MOST_UNDER_WAY else _CONFIRM_S)

    def _move(self, moves: Mapping[Claim, Sequence[Outgoing]], *, wait_s: float = _CONFIRM_S) -> None:
        """Publish what comes in place of messages, and acknowledge those for which all of it is confirmed.

        The others stay under way: an alarm may hold back what follows, or a full queue refuse it. `_move_on` asks again.
        """
        if moves:
            self._moving.update(moves)
            self._moved(self._producer.deliver(moves, timeout_s=wait_s))
            self._turned_away(self._producer.refusals(moves))
            self._move_again_at = time.monotonic() + _AGAIN_S

    def _move_on(self) -> None:
        """Acknowledge what has been confirmed since; now and then, publish again what was refused or lost its connection."""
        if self._moving:
            self._moved(self._producer.confirmed(self._moving))
            if self._moving and time.monotonic() >= self._move_again_at:
                self._move(dict(self._moving), wait_s=0.0)

    def _moved(self, confirmed: Iterable[Claim]) -> None:
        tags = []
        for claim in confirmed:
            del self._moving[claim]
            self._following.discard(claim)
            tags.append(claim[1])
        self._acknowledge(tags)

    def _turned_away(self, refusals: Mapping[Claim, EncodeError | OperationalError]) -> None:
        """What follows from a message is given up, and told; the message itself never is: it is offered to the broker again and again."""
        for claim, error in refusals.items():
            delivery = self._open[claim[1]]
            if claim in self._following:
                self._following.discard(claim)
                del self._moving[claim]
                self._unpublishable.append((delivery, error))
            else:
                log.error("a message of the queue %s stays with this worker: %s", delivery.queue, error)

    def _acknowledge(self, tags: Sequence[int]) -> None:
        if tags:
            self._stream.write(acknowledgements(self._channel.channel_id, self._open, set(tags)))
            for tag in tags:
                del self._open[tag]

    def _mine(self, delivery: Delivery) -> bool:
        generation, tag = delivery.claim
        return generation == self._generation and tag in self._open and delivery.claim not in self._moving

    # -- what the broker may push

    def allow(self, more: int) -> None:
        wanted = max(1, min(_MOST_PREFETCH, len(self._open) - len(self._ready) + more))
        now = self._prefetch
        if wanted == now or (self._one_limit and wanted > _EXACT and 0.75 * now < wanted < now):
            return
        if not self._one_limit and now // 2 < wanted < now:
            return  # near enough: a change means new consumers
        with self._guarded():
            self._prefetch = wanted
            if not self._consumed:
                return
            if self._one_limit:  # the answer is not waited for
                self._channel.send_method(spec.Basic.Qos, "lBb", (0, wanted, True))
            else:
                self._cancel()
                self._consume()

    def rest(self) -> None:
        with self._guarded():
            # Nothing is waited for: the broker takes this before the acknowledgements that follow, which would make room for more.
            for queue in self._consumed:
                self._channel.send_method(spec.Basic.Cancel, "sb", (self._tags[queue], True))
            self._consumed.clear()

    def pause(self) -> None:
        with self._guarded():
            if self._consumed or self._ready:
                self._cancel()
                ready = list(self._ready)
                self._ready.clear()
                self.give_back(ready)

    def set_queues(self, queues: Sequence[str]) -> None:
        with self._guarded():
            for queue in queues:
                if queue not in self._tags:
                    self._try(queue)
            before, self._queues = self._queues, list(queues)
            try:
                self._cancel()
                self._consume()
            except BaseException:
                self._queues = before  # a queue that we may not consume must not stand in the way of `reconnect`
                raise

    def _try(self, queue: str) -> None:
        """Raise ImproperlyConfigured for a queue that the broker does not let us declare; its refusal harms no other queue."""
        try:
            declare_queue(self._channel, queue, self._address.plan)
        except refusals.ChannelError as error:
            raise ImproperlyConfigured(f"the queue {queue!r} cannot be consumed: {error}") from error

    def _consume(self) -> None:
        """Start consumers of the queues that have none. A queue that is missing is declared; another is used as it is."""
        channel = self._channel
        if self._one_limit or not self._consumed:
            # A limit of each consumer holds for those that are started after it was set.
            channel.send_method(spec.Basic.Qos, "lBb", (0, self._prefetch, self._one_limit))
        for queue in self._queues:
            if queue in self._consumed:
                continue
            known = queue in self._tags
            if not known:
                declare_queue(channel, queue, self._address.plan)
                bind_again(channel.connection, queue)
            channel.basic_consume(
                queue, self._new_tag(queue), callback=self._arrived_in_parts, on_cancel=self._cancelled, nowait=known
            )
            self._consumed.add(queue)

    def _new_tag(self, queue: str) -> str:
        """A consumer tag that was never used: RabbitMQ's quorum queues cannot bear one of which messages are still out.

        What was pushed under older ones may still come: several may have been cancelled since somebody read. So many are known.
        """
        self._numbers += 1
        tag = f"{self._node[:200]}.{self._numbers}"
        while len(self._queue_of) > _KNOWN_TAGS + len(self._tags):
            oldest = next(old for old in self._queue_of if old not in self._tags.values())
            del self._queue_of[oldest]
            self._channel.callbacks.pop(oldest, None)
            self._channel.cancel_callbacks.pop(oldest, None)
        self._tags[queue] = tag
        self._queue_of[tag] = queue
        return tag

    def _cancel(self) -> None:
        """End all consumers; what has been pushed until then is ready."""
        consumed, self._consumed = self._consumed, set()
        for queue in consumed:
            self._channel.basic_cancel(self._tags[queue])

    def _cancelled(self, tag: str) -> None:
        """The broker has ended a consumer."""
        queue = self._queue_of[tag]
        if queue in self._consumed and self._tags.get(queue) == tag:
            log.warning(
                "RabbitMQ has ended our consumer of the queue %s: was it deleted, or its node lost? Starting another",
                queue,
            )
            self._consumed.discard(queue)
            del self._tags[queue]  # it has to be declared
            self._interrupted = True

    # -- life

    def renew(self) -> list[Delivery]:
        with self._guarded():
            # Whoever waits for a body reads nothing: the broker's heartbeats would be missed, and its last words too.
            self._stream.read()
            self._move_on()
            if self._address.heartbeat_s:
                self._stream.raw.heartbeat_tick()
        return []

    def sweep(self) -> int:
        with self._guarded():
            self._move_on()
        return 0

    def open_claims(self) -> int:
        return len(self._open)

    def reconnect(self) -> None:
        with self._lock:
            let_go(self._connection)
            self._connect()

    def close(self) -> None:
        with self._lock:
            try:
                if not self._trouble:
                    self._cancel()
                    self.give_back(list(self._open.values()))
                    self._connection.release()
            except Exception as error:  # noqa: BLE001 - the end of the connection returns them all the same
                log.info("closing the broker connection: %s", error)
            self._trouble = "the consumer is closed"
            let_go(self._connection)
            self._producer.close()

    def _connect(self) -> None:
        try:
            self._open_connection()
        except BrokerUnavailable as error:
            if not self._one_limit or not isinstance(error.__cause__, refusals.AMQPNotImplementedError):
                raise
            log.info("a queue takes no prefetch limit for the connection (a quorum queue?): each queue gets its own")
            let_go(self._connection)
            self._one_limit = False
            self._open_connection()

    def _open_connection(self) -> None:
        self._trouble = ""
        self._generation += 1
        self._producer.abandon(self._moving)
        for of_the_old_one in (
            self._open,
            self._ready,
            self._uncounted,
            self._moving,
            self._following,
            self._consumed,
            self._tags,
        ):
            of_the_old_one.clear()
        self._unpublishable = []
        self._connection = connect(self._address)
        with self._guarded():
            raw: Any = self._connection.connection
            self._stream = AmqpStream(raw, self._arrived)
            self._channel: Any = raw.channel()
            self._channel.auto_decode = False
            if str(raw.server_properties.get("version", "3")).split(".")[0] >= "4":
                self._one_limit = False
            self._consume()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Alone on the connection, and BrokerUnavailable for whatever breaks it; from then on for every call until `reconnect()`.

        (py-amqp opens a channel anew that the broker has closed: without our consumers nothing would come on it.)
        """
        with self._lock:
            if self._trouble:
                raise BrokerUnavailable(self._trouble)
            try:
                yield
            except recoverable() as error:
                gone = error if isinstance(error, BrokerUnavailable) else self._explained(error)
                self._trouble = str(gone)
                if gone is error:
                    raise
                raise gone from error

    def _explained(self, error: BaseException) -> BrokerUnavailable:
        if not isinstance(error, refusals.AMQPError) or not error.code:
            return unavailable(self._address, error)
        hint = ""
        if isinstance(error, refusals.PreconditionFailed) and "timed out" in str(error):
            hint = (
                ". A task ran for longer than the broker's consumer_timeout: raise it there, for this queue by the argument or policy"
                " consumer-timeout, or acknowledge early (acks_late=False)"
            )
        return BrokerUnavailable(
            f"the broker at {redacted(self._address.url)} ended our channel: {error.reply_text}{hint}."
            " What was not acknowledged is delivered again"
        )


def _copy(
    delivery: Delivery, *, headers: Mapping[str, Any] | None = None, queue: str = "", due_at: float | None = None
) -> Outgoing:
    """The message once more, as it came but for what is given."""
    return Outgoing(
        queue or delivery.queue, delivery.body, delivery.headers if headers is None else headers, delivery.properties,
        delivery.content_type, delivery.content_encoding, due_at=due_at,
    )  # fmt: skip
