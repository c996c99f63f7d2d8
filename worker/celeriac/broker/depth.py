"""How many messages are where: one round trip for all queues of a broker, kind by kind, never one number."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from celeriac.broker.connection import BrokerAddress, broker_errors, connect, recoverable
from celeriac.broker.topology import dead_queue_name
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.message import SENT_AT, parse_time

log = logging.getLogger(__name__)

#: Seconds for which RabbitMQ is not asked again for a queue of dead letters that was not there.
ASK_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """One queue's messages by kind. What the broker cannot tell stays 0 or None.

    ready      waiting, all priorities. leased: claimed and not acknowledged; expired of them have outlived their lease.
    delayed    not due; due_soon of them will be within the horizon asked for (those that are due already included).
    throttled  held back by rate limits, by task in throttled_by_task. dead: dead letters.
    oldest_sent_at  seconds since the epoch from which the next ready message waits: when it was sent (by our clients), or
                    when it was due if that was later.
    consumers  connected consumers (RabbitMQ).
    error      why this queue alone could not be read: a key of its name that is no queue, or no permission.
    """

    ready: int = 0
    leased: int = 0
    expired: int = 0
    delayed: int = 0
    due_soon: int = 0
    throttled: int = 0
    dead: int = 0
    throttled_by_task: Mapping[str, int] = field(default_factory=dict)
    oldest_sent_at: float | None = None
    consumers: int | None = None
    error: str = ""


class DepthProbe:
    """Reads depths on a connection of its own, which it reopens after an error. Not for use from several threads at once."""

    def __init__(
        self, url: str, *, transport_options: Mapping[str, Any] | None = None, ssl: Any = None, timeout_s: float = 3.0
    ) -> None:
        options = dict(transport_options or {})
        self._address = BrokerAddress(url=url, transport_options=options, ssl=ssl, connect_timeout_s=timeout_s)
        if self._address.is_redis:
            options.setdefault("socket_timeout", timeout_s)
        self._connection: Any = None
        self._queues: Any = None
        self._channel: Any = None
        #: Queues that do not exist -> until when (monotonic) they are not asked for again: each such answer closes the channel.
        self._missing: dict[str, float] = {}

    def probe(self, queues: Mapping[str, float]) -> dict[str, QueueDepth]:
        """Depth of each queue; the mapping gives each its horizon in seconds for due_soon. Raises BrokerUnavailable.

        A queue that alone cannot be read has its `error` set, and the others their depths.
        """
        try:
            with broker_errors(self._address):
                if self._open():
                    return self._rows(queues)
                return {name: self._declared(name) for name in queues}
        except BrokerUnavailable:
            self.close()
            raise

    def release_due(self, queues: Iterable[str]) -> int:
        """Move delayed messages that are due to their queues; how many. Raises BrokerUnavailable.

        A queue that alone cannot be touched is passed over: `probe` says why.
        """
        try:
            with broker_errors(self._address):
                names = list(queues)
                if not self._open() or not names:
                    return 0
                return self._released(names)
        except BrokerUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; the next probe connects again."""
        connection, self._connection, self._queues, self._channel = self._connection, None, None, None
        if connection is not None:
            try:
                connection.release()
            except recoverable() as error:  # it was broken: that may be why we close it
                log.debug("closing a broken connection: %s", error)

    def _open(self) -> bool:
        """Whether the broker is Redis; connected either way."""
        if self._connection is None:
            self._connection = connect(self._address)
            if self._address.is_redis:
                from celeriac.broker.transport.redis import RedisQueues  # redis-py is an extra

                self._queues = RedisQueues(self._connection)
        return self._queues is not None

    def _rows(self, queues: Mapping[str, float]) -> dict[str, QueueDepth]:
        """All queues by one script; one by one when that fails for what one of them is."""
        try:
            return {name: _of_row(row) for name, row in self._queues.depth(queues).items()}
        except recoverable() as error:
            if not _of_a_queue(error):
                raise
        depths: dict[str, QueueDepth] = {}
        for name, horizon_s in queues.items():
            try:
                depths[name] = _of_row(self._queues.depth({name: horizon_s})[name])
            except recoverable() as error:
                if not _of_a_queue(error):
                    raise
                depths[name] = QueueDepth(error=_unreadable(name, error))
        return depths

    def _released(self, names: list[str]) -> int:
        moved = 0
        for name, answer in self._queues.release_due_of(names).items():
            if isinstance(answer, int):
                moved += answer
            elif _of_a_queue(answer):
                log.debug("delayed messages of the queue %s stay where they are: %s", name, answer)
            else:
                raise answer
        return moved

    def _declared(self, name: str) -> QueueDepth:
        """What a passive declare tells: ready messages and consumers; nothing for a queue that does not exist."""
        from amqp.exceptions import ChannelError

        try:
            ready, consumers = self._passive(name) or (0, 0)
            return QueueDepth(ready=ready, consumers=consumers, dead=self._dead(name))
        except ChannelError as error:
            return QueueDepth(error=_unreadable(name, error))

    def _dead(self, name: str) -> int:
        """Dead letters of the queue. Most have no place for them, and what was not there is not asked for at each tick."""
        place, now = dead_queue_name(name), time.monotonic()
        if self._missing.get(place, 0.0) > now:
            return 0
        found = self._passive(place)
        if found is None:
            self._missing[place] = now + ASK_AGAIN_S
            return 0
        return found[0]

    def _passive(self, name: str) -> tuple[int, int] | None:
        """(ready messages, consumers); None of a queue that does not exist."""
        from amqp.exceptions import NotFound
        from kombu.exceptions import ChannelError

        if self._channel is None:
            self._channel = self._connection.channel()
        try:
            answer = self._channel.queue_declare(
                queue=name, passive=True
            )  # a refusal closes the channel, which opens itself again
        except (NotFound, ChannelError) as error:
            if "inaccessible" in str(error):
                raise  # its node is down: what waits there is not nothing
            return None
        return int(answer.message_count), int(answer.consumer_count)


def _of_a_queue(error: BaseException) -> bool:
    """Whether Redis refused for what one key is, not for what the server is: a retry elsewhere would not help."""
    return any(word in str(error) or word in type(error).__name__ for word in ("WRONGTYPE", "NOPERM", "NoPermission"))


def _unreadable(name: str, error: BaseException) -> str:
    return (
        f"the queue {name} cannot be read: {error}"
        " (does its name belong to something else there, or may this user not read it?)"
    )


def _of_row(row: Any) -> QueueDepth:
    ready, leased, expired, delayed, due_soon, dead, oldest, throttled = row
    by_task = {
        throttled[place].decode(errors="replace"): int(throttled[place + 1]) for place in range(0, len(throttled), 2)
    }
    return QueueDepth(
        ready=ready, leased=leased, expired=expired, delayed=delayed, due_soon=due_soon, dead=dead,
        throttled=sum(by_task.values()), throttled_by_task=by_task, oldest_sent_at=_sent_at(oldest),
    )  # fmt: skip


def _sent_at(envelope: bytes) -> float | None:
    """Since when a message waits: work that was sent for later waits from then on."""
    if not envelope:
        return None
    try:
        headers = orjson.loads(envelope)["headers"]
        sent, due_at = headers.get(SENT_AT), parse_time(headers.get("eta"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # a malformed message has no age; whoever claims it makes a dead letter of it
    times = [float(at) for at in (sent, due_at) if isinstance(at, int | float)]
    return max((at for at in times if math.isfinite(at) and at > 0), default=None)
