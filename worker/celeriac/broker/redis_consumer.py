"""Claims on Redis and Valkey: batches by script, leases that are renewed, and a wake-up that rouses no more workers than there is work for."""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from celeriac.broker.connection import BrokerAddress, broker_errors, connect
from celeriac.broker.consumer import Delivery, Settled, by_queue
from celeriac.broker.producer import envelope_of, raw_envelope
from celeriac.broker.redis_line import Command, Line, script_sha
from celeriac.broker.throttled import RedisThrottled
from celeriac.broker.topology import dead_queue_name, declare_queue
from celeriac.broker.transport.redis import CLAIM, SETTLE, STAND_DOWN, RedisQueues
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire.message import DEATH, STARTS

log = logging.getLogger(__name__)

#: An idle worker looks this often, whether it was woken or not: whoever should have woken it may have died just then.
LOOK_S = 1.0
#: So many due messages move in one script, which holds up everybody else at the server; and so many scripts run in one sweep.
RELEASED = 500
RELEASES = 20
_STRATEGIES = ("round_robin", "priority", "sorted")

_CLAIM, _SETTLE, _STAND_DOWN = (script_sha(script) for script in (CLAIM, SETTLE, STAND_DOWN))


class RedisConsumer:
    """See Consumer. Claims are recorded in kombu's unacked keys and in our lease sets, under ids of our own."""

    keeps_delayed = True
    leased = True

    def __init__(self, address: BrokerAddress, queues: Sequence[str], *, lease_s: float) -> None:
        self._address = address
        self._lease_s = lease_s
        #: Queue -> (its lease set, watch, idle set and lists; the tail of its records). Replaced whole: the control thread changes queues.
        self._plan: dict[str, tuple[list[str], bytes]] = dict.fromkeys(queues, ([], b""))
        #: The plan under which we have looked, found nothing, and are told of changes; None: we are busy, or have not looked.
        self._armed: dict[str, tuple[list[str], bytes]] | None = None
        self._looked_at = 0.0
        #: Whether nobody else was idle when our last slot was taken: then we shall be the one to watch.
        self._alone = False
        self._turn = 0
        self._strategy = _strategy(address)
        self._batch = 0
        #: Unique to this process: a claim id is this, the batch, and the place in it.
        self._incarnation = uuid.uuid4().hex
        self._open: dict[str, Delivery] = {}
        #: Acknowledged, and the answer was lost: whether they were still ours then, nobody knows.
        self._doubtful: set[str] = set()
        #: Every lease that we have, in `_open`, was taken or renewed later than this (monotonic).
        self._renewed_at = time.monotonic()
        self._lock = threading.Lock()
        self.throttled = RedisThrottled(self)
        #: Nothing is restored before this (monotonic): after an outage every lease looks expired.
        self._restore_from = time.monotonic() + lease_s
        self._connect()

    # -- claiming

    def claim(self, limit: int, *, free: int | None = None) -> list[Delivery]:
        with broker_errors(self._address):
            if limit <= 0 or not self._plan or self._at_rest():
                return []
            return self._look(limit, limit if free is None else free)

    def _at_rest(self) -> bool:
        """Whether nothing can have come since we looked: so the loop may turn for other reasons and ask nobody."""
        return self._armed is self._plan and not self._line.peek() and time.monotonic() - self._looked_at < LOOK_S

    def _look(self, limit: int, free: int, before: Sequence[Command] = ()) -> list[Delivery]:
        """Claim, and keep watch when slots stay free: one step, so that nothing can come in between unnoticed.

        before  commands that go first, in the same round trip.
        """
        queues, plan, line = self._queues, self._plan, self._line
        if self._armed is not None and self._armed is not plan:
            self._stand_down()
        names = list(plan)
        if len(names) > 1:
            self._turn += 1
            names = in_order(names, self._strategy, self._turn)
        keys: list[str] = [queues.unacked, queues.unacked_index]
        for name in names:
            keys += plan[name][0]
        self._batch += 1
        prefix = f"{self._incarnation}.{self._batch}."
        line.pushed = False
        lengths = [("LLEN", key) for name in names for key in plan[name][0][3:]] if self._alone else []
        flat, *waiting = line.call([*before, (
            "EVALSHA", _CLAIM, len(keys), *keys, limit, prefix, self._lease_s, len(queues.steps),
            free, self._incarnation if line.listens else "", queues.bell, *(plan[name][1] for name in names),
        ), *lengths])[len(before) :]  # fmt: skip
        watched, *found = flat
        if isinstance(watched, int):
            self._armed, self._alone = None, watched == 1
        else:
            if watched and not lengths:
                waiting = line.call([("LLEN", key) for place in watched for key in plan[names[place - 1]][0][3:]])
            self._armed = plan if not any(waiting) else None
            self._looked_at = time.monotonic()
        return [
            self._delivery(f"{prefix}{number}", names[found[place] - 1], found[place + 1])
            for number, place in enumerate(range(0, len(found), 2), 1)
        ]

    def _stand_down(self) -> None:
        """Hand the watch on: we take nothing more, or take it from elsewhere."""
        armed, self._armed = self._armed, None
        if armed:
            keys = [key for lists, _ in armed.values() for key in lists[1:3]]
            with broker_errors(self._address):
                self._line.call([("EVALSHA", _STAND_DOWN, len(keys), *keys, self._incarnation, self._queues.bell)])

    def _delivery(self, claim: str, queue: str, envelope: bytes) -> Delivery:
        """Headers decoded; the body stays as it came. An envelope that is no JSON object becomes a delivery without headers."""
        try:
            message = orjson.loads(envelope)
            headers, properties = message["headers"], message["properties"]
            starts, priority = headers.get(STARTS) or 0, properties.get("priority")
            step = self._queues.step_of(priority) if priority else self._queues.steps[0]
            info = properties.get("delivery_info") or {}
            delivery = Delivery(
                claim, queue, headers, properties, message["body"], message.get("content-type") or "", message.get("content-encoding") or "utf-8",
                properties.get("body_encoding"), starts if isinstance(starts, int) else 0, step,
                bool(starts) or "redelivered" in headers, info.get("exchange") or "", info.get("routing_key") or "",
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            delivery = Delivery(claim, queue, {}, {}, envelope, "", "binary")
        self._open[claim] = delivery
        return delivery

    def arm(self) -> bool:
        with broker_errors(self._address):
            if self._line.listens and not self._at_rest():
                self._look(0, 1)
                return self._armed is None or self._line.pushed
            return False

    def fileno(self) -> int | None:
        return self._line.fileno() if self._line.listens else None

    # -- settling

    def settle(self, settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        queues = self._queues
        plain = by_queue(entry.delivery for entry in settled if not entry.publish and entry.death is None)
        commands: list[Command] = []
        for name, deliveries in plain.items():
            claims = [delivery.claim for delivery in deliveries]
            commands.append(("HDEL", queues.unacked, *claims))
            commands.append(("ZREM", queues.unacked_index, *claims))
            commands.append(("ZREM", queues.lease_key(name), *claims))
        for delivery, publish, death in settled:
            if publish or death is not None:
                keys, args = queues.settle_args(delivery.queue, delivery.claim, self._pushes(delivery, publish, death))
                commands.append(("EVALSHA", _SETTLE, len(keys), *keys, *args))
        leaving = [entry.delivery for entry in settled]
        self._forget(leaving)
        try:
            with broker_errors(self._address):
                if claim[0] > 0 and self._plan:
                    return self._look(*claim, before=commands)
                self._line.call(commands)
                return []
        except BaseException:
            self._remember(leaving)
            raise

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        claims = [delivery.claim for delivery in deliveries]
        gone = {claim for claim in claims if claim not in self._open}  # renew() has told
        try:
            if time.monotonic() - self._renewed_at > self._lease_s / 2:  # before that no lease can be over
                with broker_errors(self._address):
                    ended = self._line.call([("HDEL", self._queues.unacked, claim) for claim in claims])
                gone.update(claim for claim, ours in zip(claims, ended, strict=True) if not ours)
            self.settle([Settled(delivery) for delivery in deliveries])
        except BaseException:
            self._doubtful.update(claim for claim in claims if claim not in gone)
            raise
        gone -= self._doubtful  # it may have been we who ended them: better twice than never
        self._doubtful.difference_update(claims)
        return [delivery for delivery in deliveries if delivery.claim in gone] if gone else []

    def _forget(self, leaving: Sequence[Delivery]) -> None:
        """Before their claims end, so that no renewal in between takes them for lost."""
        for delivery in leaving:
            self._open.pop(delivery.claim, None)

    def _remember(self, kept: Sequence[Delivery]) -> None:
        self._open.update((delivery.claim, delivery) for delivery in kept)

    def _execute(self, pipe: Any, leaving: Sequence[Delivery]) -> None:
        self._forget(leaving)
        try:
            with broker_errors(self._address):
                pipe.execute()
        except BaseException:
            self._remember(leaving)
            raise

    def _pushes(self, delivery: Delivery, publish: Sequence[Any], death: Any) -> list[tuple[str, str, float, bytes]]:
        queues = self._queues
        pushes: list[tuple[str, str, float, bytes]] = []
        for message in publish:
            envelope, step = envelope_of(message), queues.step_of(message.priority)
            if message.due_at is not None:
                pushes.append(
                    (
                        "delayed",
                        queues.delayed_key(message.queue),
                        message.due_at,
                        queues.delayed_member(step, envelope),
                    )
                )
            else:
                pushes.append(("list", queues.list_key(message.queue, step), 0, envelope))
        if death is not None:
            name = dead_queue_name(delivery.queue)
            envelope = raw_envelope(
                name, delivery.body, {**delivery.headers, DEATH: dict(death)},
                content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
            )  # fmt: skip
            pushes.append(("list", queues.list_key(name, 0), 0, envelope))
        return pushes

    def unpublishable(self) -> Sequence[tuple[Delivery, Exception]]:
        return ()

    def under_way(self, delivery: Delivery) -> bool:
        return False

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        # The last one pushed to the front is the first to be taken again: keep their order.
        self._move("front", [(delivery, 0.0) for delivery in reversed(deliveries)])

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        self._move("delayed", deliveries)

    def _move(self, kind: str, moves: Sequence[tuple[Delivery, float]]) -> None:
        """One script call for each run of messages with the same destination, all in one round trip."""
        queues = self._queues
        pipe = queues.client.pipeline(transaction=False)
        runs: list[tuple[list[str], list[Any]]] = []
        for delivery, score in moves:
            name, step = delivery.queue, delivery.step
            destination = queues.delayed_key(name) if kind == "delayed" else queues.list_key(name, step)
            keys = [queues.unacked, queues.unacked_index, queues.lease_key(name), destination]
            if not runs or runs[-1][0] != keys or len(runs[-1][1]) > 2000:
                runs.append((keys, [kind]))
            runs[-1][1].extend([delivery.claim, len(self._tail(name)), step, score])
        for keys, args in runs:
            queues.move_script(keys=keys, args=args, client=pipe)
        self._execute(pipe, [delivery for delivery, _ in moves])

    # -- time

    def allow(self, more: int) -> None:
        """Claims say how many: nothing to do."""

    def rest(self) -> None:
        """Nothing is pushed: nothing to do."""

    def pause(self) -> None:
        self._stand_down()

    def renew(self) -> list[Delivery]:
        try:
            return self._renew()
        except BrokerUnavailable:
            self._restore_from = time.monotonic() + self._lease_s  # others could not renew theirs either
            raise

    def _renew(self) -> list[Delivery]:
        queues, lost, begun_at = self._queues, [], time.monotonic()
        for name, deliveries in by_queue(list(self._open.values())).items():
            claims = [delivery.claim for delivery in deliveries]
            keys = [queues.unacked, queues.unacked_index, queues.lease_key(name)]
            for start in range(0, len(claims), 1000):
                with broker_errors(self._address):
                    gone = queues.renew_script(keys=keys, args=[self._lease_s, *claims[start : start + 1000]])
                for claim in gone:
                    delivery = self._open.pop(claim.decode(), None)
                    if delivery is not None and delivery.claim not in self._doubtful:
                        lost.append(delivery)
        self._renewed_at = begun_at
        return lost

    def sweep(self) -> int:
        try:
            return self._sweep()
        except BrokerUnavailable:
            self._restore_from = time.monotonic() + self._lease_s
            raise

    def _sweep(self) -> int:
        moved = 0
        with broker_errors(self._address):
            for name in self._plan:
                for _ in range(RELEASES):
                    released = self._queues.release_due(name, RELEASED)[0]
                    moved += released
                    if released < RELEASED:
                        break
            if time.monotonic() >= self._restore_from:
                for name in self._plan:
                    moved += self._restore(name)
        return moved

    def _restore(self, name: str) -> int:
        """Put the claims of dead workers back in front, each with one start more."""
        queues, moved = self._queues, 0
        flat = queues.expired_script(keys=[queues.unacked, queues.lease_key(name)], args=[100])
        for place in range(0, len(flat), 2):
            claim, record = flat[place], flat[place + 1]
            if claim.decode() in self._open:
                continue  # ours, and late: it is renewed, not restored
            envelope, step = self._once_more(record, name)
            keys = [queues.unacked, queues.unacked_index, queues.lease_key(name), queues.list_key(name, step)]
            moved += int(queues.restore_script(keys=keys, args=[claim, envelope]))
        if moved:
            log.warning("restored %d message(s) of queue %s whose worker was lost", moved, name)
        return moved

    def _once_more(self, record: bytes, name: str) -> tuple[bytes, int]:
        envelope = record[1 : -len(self._tail(name))]
        try:
            message = orjson.loads(envelope)
            headers, properties = message["headers"], message["properties"]
            headers[STARTS] = int(headers.get(STARTS) or 0) + 1
            headers["redelivered"] = True
            properties.setdefault("delivery_info", {})["redelivered"] = True
            return orjson.dumps(message), self._queues.step_of(properties.get("priority"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return envelope, 0  # whoever claims it next makes a dead letter of it

    # -- life

    def open_claims(self) -> int:
        return len(self._open)

    def set_queues(self, queues: Sequence[str]) -> None:
        self._prepare(queues)

    def reconnect(self) -> None:
        with self._lock:
            self._discard()
            self._connect()
            self._restore_from = time.monotonic() + self._lease_s

    def close(self) -> None:
        with self._lock:
            try:
                self._stand_down()
                self.give_back(list(self._open.values()))
            except BrokerUnavailable as error:  # their leases run out instead, and others look for themselves
                log.info("closing the broker connection: %s", error)
            self._discard()

    def _connect(self) -> None:
        self._connection = connect(self._address)
        with broker_errors(self._address):
            self._queues = queues = RedisQueues(self._connection)
            bell = queues.bell + self._incarnation
            self._line = Line(queues.channel.pool, channel=bell, scripts=(CLAIM, SETTLE, STAND_DOWN))
            self._armed = None
            self._prepare(list(self._plan))

    def _prepare(self, names: Sequence[str]) -> None:
        queues = self._queues
        for name in names:
            declare_queue(queues.channel, name, self._address.plan)
        self._plan = {
            name: ([queues.lease_key(name), *queues.watch_keys(name), *queues.list_keys(name)], self._tail(name))
            for name in names
        }

    def _tail(self, queue: str) -> bytes:
        """What follows the envelope in kombu's record of a claim: [envelope, exchange, routing key]."""
        return b',"",' + orjson.dumps(queue) + b"]"

    def _discard(self) -> None:
        self._armed = None
        self._line.close()
        self._connection.release()


def in_order(names: list[str], strategy: str, turn: int) -> list[str]:
    """In which order queues are asked at the `turn`th claim; kombu's words.

    round_robin  another one first each time, so that a full queue starves none. priority: as they were given, the first one first for
                 as long as it holds anything. sorted: the same, by name.
    """
    match strategy:
        case "priority":
            return names
        case "sorted":
            return sorted(names)
        case _:
            first = turn % len(names)
            return names[first:] + names[:first]


def _strategy(address: BrokerAddress) -> str:
    strategy = address.transport_options.get("queue_order_strategy", "round_robin")
    if strategy not in _STRATEGIES:
        raise ImproperlyConfigured(
            f"broker_transport_options: queue_order_strategy={strategy!r} does not exist; use one of: {', '.join(_STRATEGIES)}"
        )
    return str(strategy)
