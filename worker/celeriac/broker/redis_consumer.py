"""Claims on Redis and Valkey: batches by script, leases that are renewed, and a wake-up that costs the server nothing while idle."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import orjson

from celeriac.broker.connection import BrokerAddress, broker_errors, connect
from celeriac.broker.consumer import Delivery, Settled, by_queue
from celeriac.broker.producer import envelope_of, raw_envelope
from celeriac.broker.topology import dead_queue_name, declare_queue
from celeriac.broker.transport.redis import RedisQueues
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.message import DEATH, STARTS

log = logging.getLogger(__name__)


class RedisConsumer:
    """See Consumer. Claims are recorded in kombu's unacked keys and in our lease sets, under ids of our own."""

    keeps_delayed = True
    keeps_throttled = True
    leased = True

    def __init__(self, address: BrokerAddress, queues: Sequence[str], *, node: str, lease_s: float) -> None:
        self._address = address
        self._node = node
        self._lease_s = lease_s
        #: Queue -> (its lease set and lists, the tail of its records). Replaced whole: the control thread changes queues.
        self._plan: dict[str, tuple[list[str], bytes]] = dict.fromkeys(queues, ([], b""))
        self._turn = 0
        self._batch = 0
        #: Unique to this process: a claim id is this, the batch, and the place in it.
        self._incarnation = uuid.uuid4().hex
        self._open: dict[str, Delivery] = {}
        self._lock = threading.Lock()
        self._wake: _Wake | None = None
        #: Nothing is restored before this (monotonic): after an outage every lease looks expired.
        self._restore_from = time.monotonic() + lease_s
        self._connect()

    # -- claiming

    def claim(self, limit: int) -> list[Delivery]:
        queues, plan = self._queues, self._plan
        if limit <= 0 or not plan:
            return []
        names = list(plan)
        self._turn = (self._turn + 1) % len(names)
        names = names[self._turn :] + names[: self._turn]
        keys: list[str] = [queues.unacked, queues.unacked_index]
        for name in names:
            keys += plan[name][0]
        self._batch += 1
        prefix = f"{self._incarnation}.{self._batch}."
        with broker_errors(self._address):
            flat = queues.claim_script(
                keys=keys,
                args=[limit, prefix, self._lease_s, len(queues.steps), *(plan[name][1] for name in names)],
            )
        found = []
        for place in range(0, len(flat), 2):
            name = names[flat[place] - 1]
            found.append(self._delivery(f"{prefix}{place // 2 + 1}", name, flat[place + 1]))
        return found

    def claim_throttled(self, queue: str, task: str, limit: int) -> tuple[list[Delivery], int]:
        queues = self._queues
        self._batch += 1
        prefix = f"{self._incarnation}.{self._batch}."
        keys = [
            queues.unacked, queues.unacked_index, queues.lease_key(queue),
            queues.throttled_key(queue, task), queues.throttled_key(queue),
        ]  # fmt: skip
        with broker_errors(self._address):
            left, *items = queues.claim_throttled_script(
                keys=keys, args=[limit, prefix, self._lease_s, self._tail(queue), task]
            )
        return [self._delivery(f"{prefix}{place}", queue, item) for place, item in enumerate(items, 1)], int(left)

    def throttled_tasks(self, queue: str) -> list[str]:
        with broker_errors(self._address):
            return self._queues.throttled_tasks(queue)

    def count_throttled(self, queue: str, task: str) -> int:
        with broker_errors(self._address):
            return int(self._queues.client.llen(self._queues.throttled_key(queue, task)))

    def _delivery(self, claim: str, queue: str, envelope: bytes) -> Delivery:
        """Headers decoded; the body stays as it came. An envelope that is no JSON object becomes a delivery without headers."""
        try:
            message = orjson.loads(envelope)
            headers, properties = message["headers"], message["properties"]
            starts = headers.get(STARTS) or 0
            delivery = Delivery(
                claim, queue, headers, properties, message["body"], message.get("content-type") or "", message.get("content-encoding") or "utf-8",
                properties.get("body_encoding"), starts if isinstance(starts, int) else 0, self._queues.step_of(properties.get("priority")),
                bool(starts) or "redelivered" in headers,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            delivery = Delivery(claim, queue, {}, {}, envelope, "", "binary")
        self._open[claim] = delivery
        return delivery

    def arm(self) -> bool:
        with broker_errors(self._address):
            if self._wake is None:
                self._wake = _Wake(self._queues)
            try:
                return self._wake.arm([key for name in self._plan for key in self._queues.list_keys(name)])
            except BaseException:
                self._drop_wake()
                raise

    def fileno(self) -> int | None:
        return self._wake.fileno() if self._wake is not None else None

    # -- settling

    def settle(self, settled: Sequence[Settled]) -> None:
        queues = self._queues
        plain = by_queue(entry.delivery for entry in settled if not entry.publish and entry.death is None)
        pipe = queues.client.pipeline(transaction=False)
        for name, deliveries in plain.items():
            claims = [delivery.claim for delivery in deliveries]
            pipe.hdel(queues.unacked, *claims)
            pipe.zrem(queues.unacked_index, *claims)
            pipe.zrem(queues.lease_key(name), *claims)
        for delivery, publish, death in settled:
            if publish or death is not None:
                keys, args = queues.settle_args(delivery.queue, delivery.claim, self._pushes(delivery, publish, death))
                queues.settle_script(keys=keys, args=args, client=pipe)
        self._execute(pipe, [entry.delivery for entry in settled])

    def _execute(self, pipe: Any, leaving: Sequence[Delivery]) -> None:
        """Send it, and forget the claims it ends: before, so that no renewal in between takes them for lost."""
        for delivery in leaving:
            self._open.pop(delivery.claim, None)
        try:
            with broker_errors(self._address):
                pipe.execute()
        except BaseException:
            self._open.update((delivery.claim, delivery) for delivery in leaving)
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

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        # The last one pushed to the front is the first to be taken again: keep their order.
        self._move("front", [(delivery, 0.0) for delivery in reversed(deliveries)])

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        self._move("back", [(delivery, 0.0) for delivery in deliveries])

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        self._move("delayed", deliveries)

    def throttle(self, deliveries: Sequence[Delivery]) -> None:
        self._move("throttled", [(delivery, 0.0) for delivery in deliveries])

    def _move(self, kind: str, moves: Sequence[tuple[Delivery, float]]) -> None:
        """One script call for each run of messages with the same destination, all in one round trip."""
        queues = self._queues
        pipe = queues.client.pipeline(transaction=False)
        runs: list[tuple[list[str], list[Any]]] = []
        for delivery, score in moves:
            name, step = delivery.queue, delivery.step
            task = str(delivery.headers.get("task", "")) if kind == "throttled" else ""
            if kind == "delayed":
                destination = queues.delayed_key(name)
            elif kind == "throttled":
                destination = queues.throttled_key(name, task)
            else:
                destination = queues.list_key(name, step)
            keys = [
                queues.unacked,
                queues.unacked_index,
                queues.lease_key(name),
                destination,
                queues.throttled_key(name),
            ]
            if not runs or runs[-1][0] != keys or len(runs[-1][1]) > 2000:
                runs.append((keys, [kind, task]))
            runs[-1][1].extend([delivery.claim, len(self._tail(name)), step, score])
        for keys, args in runs:
            queues.move_script(keys=keys, args=args, client=pipe)
        self._execute(pipe, [delivery for delivery, _ in moves])

    # -- time

    def take(self, key: str, per_s: float, burst: int, wanted: int) -> tuple[int, float]:
        with broker_errors(self._address):
            return self._queues.take(key, per_s, burst, wanted)

    def allow(self, count: int) -> None:
        """Claims say how many: nothing to do."""

    def pause(self) -> None:
        """Nothing is pushed: nothing to do."""

    def renew(self) -> list[Delivery]:
        try:
            return self._renew()
        except BrokerUnavailable:
            self._restore_from = time.monotonic() + self._lease_s  # others could not renew theirs either
            raise

    def _renew(self) -> list[Delivery]:
        queues, lost = self._queues, []
        for name, deliveries in by_queue(list(self._open.values())).items():
            claims = [delivery.claim for delivery in deliveries]
            keys = [queues.unacked, queues.unacked_index, queues.lease_key(name)]
            for start in range(0, len(claims), 1000):
                with broker_errors(self._address):
                    gone = queues.renew_script(keys=keys, args=[self._lease_s, *claims[start : start + 1000]])
                for claim in gone:
                    delivery = self._open.pop(claim.decode(), None)
                    if delivery is not None:
                        lost.append(delivery)
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
                moved += self._queues.release_due(name)[0]
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
                self.give_back(list(self._open.values()))
            except BrokerUnavailable as error:  # their leases run out instead
                log.info("closing the broker connection: %s", error)
            self._discard()

    def _connect(self) -> None:
        self._connection = connect(self._address)
        with broker_errors(self._address):
            self._queues = RedisQueues(self._connection)
            self._prepare(list(self._plan))

    def _prepare(self, names: Sequence[str]) -> None:
        queues = self._queues
        for name in names:
            declare_queue(queues.channel, name)
        self._plan = {name: ([queues.lease_key(name), *queues.list_keys(name)], self._tail(name)) for name in names}

    def _tail(self, queue: str) -> bytes:
        """What follows the envelope in kombu's record of a claim: [envelope, exchange, routing key]."""
        return b',"",' + orjson.dumps(queue) + b"]"

    def _drop_wake(self) -> None:
        if self._wake is not None:
            self._wake.close()
            self._wake = None

    def _discard(self) -> None:
        self._drop_wake()
        self._connection.release()


class _Wake:
    """A connection on which the server tells once when a list that we saw empty changes (client-side caching, RESP3).

    LLEN makes the server remember that we know the list; the next change of it sends one `invalidate`. Looking and asking are one
    step, so nothing can be missed between them.
    """

    def __init__(self, queues: RedisQueues) -> None:
        pool = queues.channel.pool
        self._connection: Any = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        self._connection.connect()
        self._socket = self._connection._sock
        self._connection.send_command("CLIENT", "TRACKING", "ON")
        self._connection.read_response()
        self._reader = hiredis.Reader()
        self._socket.setblocking(False)
        self._pack: Callable[..., list[bytes]] = self._connection.pack_commands

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def arm(self, keys: Sequence[str]) -> bool:
        """Whether any of the lists holds something; when none does, the socket turns readable at the next change."""
        self._read()  # what the last wake-up left
        self._socket.setblocking(True)
        try:
            self._socket.settimeout(10.0)
            for chunk in self._pack([("LLEN", key) for key in keys]):
                self._socket.sendall(chunk)
            lengths: list[int] = []
            changed = False
            while len(lengths) < len(keys):
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                self._reader.feed(data)
                changed |= self._replies(lengths)
        finally:
            self._socket.setblocking(False)
        return changed or any(lengths)

    def _replies(self, lengths: list[int]) -> bool:
        """Add the lengths that came to `lengths`; whether a change was told in between, which will not be told again."""
        changed = False
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise ConnectionError(str(reply))
            if isinstance(reply, int):
                lengths.append(reply)
            else:
                changed = True
        return changed

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}:
                    return
                raise
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
            self._replies([])

    def close(self) -> None:
        try:
            self._connection.disconnect()
        except OSError as error:  # broken already
            log.debug("closing the wake-up connection: %s", error)
