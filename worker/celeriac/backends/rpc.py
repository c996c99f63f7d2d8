"""Results as messages: each record goes to the queue of the process that sent the call, and nowhere else.

Source: celery/backends/rpc.py of 5.7: exchange '', the routing key is the call's reply_to, the correlation id the task's, the body the record.
"""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import uuid4

import kombu

from celeriac import states
from celeriac.broker.amqp_producer import AmqpProducer, Outgoing
from celeriac.broker.codec import Encoded, decode, encode
from celeriac.broker.connection import BrokerAddress, connect, let_go, recoverable, redacted, unavailable
from celeriac.exceptions import (
    BackendUnavailable,
    BrokerUnavailable,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    MessageRefused,
    NotRoutable,
    NotSupported,
)
from celeriac.wire.chord import ChordPart, ChordStart, Joined
from celeriac.wire.result import ResultMeta, from_wire

log = logging.getLogger(__name__)

#: Bytes of records that a process keeps for whoever asks; beyond it the oldest are forgotten. What a record costs besides its body.
MOST_BYTES, RECORD_BYTES = 64 * 1024 * 1024, 1024
#: Ids of forgotten records that are known, so that whoever asks for one is told, and does not wait for ever.
MOST_FORGOTTEN = 100_000
#: Seconds for a batch of records to be confirmed by the broker.
CONFIRM_S = 10.0
#: Seconds between two looks whether the reader is to end, and until it connects again.
_LOOK_S, _AGAIN_S = 0.25, 0.5
_OTHERS = "use redis://, valkey:// or a database (db+postgresql+psycopg://…) as result_backend"


class RpcBackend:
    """See ResultBackend. Only the process that sent a call reads its records; each record reaches it once."""

    keeps_results = True
    keeps_chords = False
    answers = True

    def __init__(
        self, address: BrokerAddress, *, expires_s: float | None, serializer: str, accept: Collection[str], persistent: bool = False
    ) -> None:  # fmt: skip
        if address.is_redis or address.is_memory:
            raise ImproperlyConfigured(
                f"result_backend rpc:// needs RabbitMQ, and the broker is {redacted(address.url)}: keep results in that Redis, by its own URL"
            )
        self._address = address
        self._expires_s = expires_s or None
        self._serializer = serializer
        self._content_type, self._encoding, _ = encode(None, serializer)
        self._accept = frozenset(accept) | {self._content_type}
        self._delivery_mode = 2 if persistent else 1
        self._writer = AmqpProducer(address, timeout_s=CONFIRM_S)
        self._inbox: _Inbox | None = None
        self._lock = threading.Lock()
        #: Records whose reader was gone.
        self.dropped = 0

    # -- the worker's side

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors: list[Exception | None] = [None] * len(records)
        batch: dict[int, list[Outgoing]] = {}
        for place, (meta, encoded) in enumerate(records):
            if not meta.reply_to:
                continue  # nobody waits
            try:
                body = encoded if encoded is not None else self.encode(meta)
            except EncodeError as error:
                errors[place] = error
                continue
            properties = {"correlation_id": meta.task_id, "delivery_mode": self._delivery_mode}
            # mandatory: the broker says so when the queue is gone, and nobody declares it but who reads it.
            batch[place] = [
                Outgoing(meta.reply_to, body, {}, properties, self._content_type, self._encoding, mandatory=True)
            ]
        if batch:
            self._publish(batch, errors)
        return errors

    def _publish(self, batch: Mapping[int, list[Outgoing]], errors: list[Exception | None]) -> None:
        keys = {(id(batch), place): outgoing for place, outgoing in batch.items()}
        try:
            done = self._writer.deliver(keys, timeout_s=CONFIRM_S, patient=True)
            refused = self._writer.refusals(keys)
        except BrokerUnavailable as error:
            raise BackendUnavailable(f"cannot send results: {error}") from error
        finally:
            self._writer.abandon(keys)
        for key, refusal in refused.items():
            if isinstance(refusal, NotRoutable):
                self.dropped += 1
                log.debug("nobody reads the queue %s any more: a result is dropped", keys[key][0].queue)
            elif isinstance(refusal, MessageRefused):
                errors[key[1]] = EncodeError(f"RabbitMQ does not take the result: {refusal}; return less")
            else:
                errors[key[1]] = refusal
        if left := keys.keys() - done - refused.keys():
            raise BackendUnavailable(
                f"the broker at {redacted(self._address.url)} did not confirm {len(left)} results within {CONFIRM_S:g} s"
            )

    def encode(self, meta: ResultMeta) -> bytes:
        return encode(meta.to_wire(), self._serializer)[2]

    # -- the caller's side

    def expect(self) -> str:
        """The queue to which records of calls sent from this process are to go; it is there. Raises BackendUnavailable."""
        inbox = self._inbox
        if inbox is None or inbox.pid != os.getpid():
            inbox = self._open_inbox()
        return inbox.queue

    def _open_inbox(self) -> "_Inbox":
        with self._lock:
            if self._inbox is None or self._inbox.pid != os.getpid():
                self._inbox = _Inbox(self._address, self._expires_s, self._accept)
            return self._inbox

    def _own(self) -> "_Inbox | None":
        inbox = self._inbox
        return inbox if inbox is not None and inbox.pid == os.getpid() else None

    def fetch(self, task_id: str) -> ResultMeta | None:
        inbox = self._own()
        return None if inbox is None else inbox.get(task_id)

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        found = ((task_id, self.fetch(task_id)) for task_id in task_ids)
        return {task_id: meta for task_id, meta in found if meta is not None}

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        """See ResultBackend. Raises NotSupported in a process that has sent nothing: no result will ever come."""
        inbox = self._own()
        if inbox is None:
            raise NotSupported(
                f"the result of {task_id} cannot be waited for here: with rpc:// it goes to the process that sent the call, once, and this"
                f" one has sent nothing; to read results anywhere, {_OTHERS}"
            )
        return inbox.wait(task_id, timeout_s)

    def forget(self, task_id: str) -> None:
        inbox = self._own()
        if inbox is not None:
            inbox.forget(task_id)

    def cleanup(self) -> int:
        return 0

    # -- groups and chords: there is nothing that would keep them

    def save_group(self, group_id: str, members: Any) -> None:
        raise NotSupported(f"rpc:// keeps no groups; {_OTHERS}")

    def fetch_group(self, group_id: str) -> Any:
        raise NotSupported(f"rpc:// keeps no groups; {_OTHERS}")

    def forget_group(self, group_id: str) -> None:
        raise NotSupported(f"rpc:// keeps no groups; {_OTHERS}")

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        raise NotSupported(f"rpc:// cannot count a chord's members; {_OTHERS}")

    def widen_chord(self, group_id: str, task_id: str) -> None:
        raise NotSupported(f"rpc:// cannot count a chord's members; {_OTHERS}")

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        raise NotSupported(f"rpc:// cannot count a chord's members; {_OTHERS}")

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        raise NotSupported(f"rpc:// cannot count a chord's members; {_OTHERS}")

    def close_chords(self, joined: Sequence[Joined]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, None
        if inbox is not None and inbox.pid == os.getpid():
            inbox.close()
        self._writer.close()


class _Inbox:
    """This process's queue, read by a thread of its own, and the records that came.

    The queue outlives a broken connection for as long as results are kept; without such a time it ends with the connection, as Celery's.
    """

    def __init__(self, address: BrokerAddress, expires_s: float | None, accept: frozenset[str]) -> None:
        self.pid = os.getpid()
        self.queue = str(uuid4())
        self._address = replace(address, heartbeat_s=20.0)
        self._expires_s = expires_s
        self._accept = accept
        self._records: OrderedDict[str, ResultMeta | DecodeError] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._waited: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closing = False
        try:
            self._connection = self._connected()
        except recoverable() as error:
            raise BackendUnavailable(f"cannot wait for results: {unavailable(self._address, error)}") from error
        self._thread = threading.Thread(target=self._read, name="celeriac-replies", daemon=True)
        self._thread.start()

    def get(self, task_id: str) -> ResultMeta | None:
        """The latest record. Raises DecodeError for one that cannot be read, or was forgotten."""
        found = self._records.get(task_id)
        if found is None and task_id in self._forgotten:
            raise DecodeError(
                f"the result of {task_id} came, and was forgotten: nobody asked for it, and {MOST_BYTES // 2**20} MiB of newer ones came"
                f" after it. Ask for results as they come, have those ignored that nobody wants (ignore_result), or {_OTHERS}"
            )
        if isinstance(found, DecodeError):
            raise found
        return found

    def wait(self, task_id: str, timeout_s: float | None) -> ResultMeta | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            self._waited[task_id] = self._waited.get(task_id, 0) + 1
            try:
                while (found := self.get(task_id)) is None or found.status not in states.READY_STATES:
                    left_s = None if deadline is None else deadline - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        return None
                    self._changed.wait(left_s)
                return found
            finally:
                self._waited[task_id] -= 1
                if not self._waited[task_id]:
                    del self._waited[task_id]

    def forget(self, task_id: str) -> None:
        with self._changed:
            self._drop(task_id)
            self._forgotten.pop(task_id, None)

    def _drop(self, task_id: str) -> None:
        self._records.pop(task_id, None)
        self._bytes -= self._sizes.pop(task_id, 0)

    def close(self) -> None:
        """End the thread, and the queue with it."""
        self._closing = True
        self._thread.join()

    # -- the thread

    def _read(self) -> None:
        while True:
            try:
                self._drain()
                return
            except recoverable() as error:
                log.warning("the connection for results is broken, connecting again: %s", error)
                let_go(self._connection)
            while not self._closing:
                time.sleep(_AGAIN_S)
                try:
                    self._connection = self._connected()
                    break
                except recoverable() as error:
                    log.warning("results cannot be read: %s", unavailable(self._address, error))
            if self._closing:
                return

    def _connected(self) -> kombu.Connection:
        """A connection that consumes from the queue, which is there."""
        connection = connect(self._address)
        try:
            raw: Any = connection.connection
            channel = raw.channel()
            lasting = self._expires_s is not None
            channel.queue_declare(
                self.queue, durable=True, exclusive=False, auto_delete=not lasting,
                arguments={"x-expires": max(1, int(self._expires_s * 1000))} if self._expires_s is not None else None,
            )  # fmt: skip
            channel.basic_consume(self.queue, no_ack=True, callback=self._came)
        except BaseException:
            let_go(connection)
            raise
        return connection

    def _drain(self) -> None:
        raw: Any = self._connection.connection
        beat_at = time.monotonic()
        while not self._closing:
            try:
                raw.drain_events(timeout=_LOOK_S)
            except TimeoutError:
                pass
            if time.monotonic() >= beat_at:
                raw.heartbeat_tick()
                beat_at = time.monotonic() + 1.0
        raw.channel().queue_delete(self.queue)
        self._connection.release()

    def _came(self, message: Any) -> None:
        properties = message.properties
        found: ResultMeta | DecodeError
        task_id = str(properties.get("correlation_id") or "")
        try:
            encoded = Encoded(
                properties.get("content_type", ""), properties.get("content_encoding", "utf-8"), message.body
            )
            record = decode(encoded.payload, encoded.content_type, encoded.encoding, self._accept)
            found = from_wire({"task_id": task_id, **record})
        except (DecodeError, ValueError, TypeError) as error:
            log.error("a result of %s cannot be read: %s", task_id or "nobody", error)
            found = DecodeError(str(error))
        with self._changed:
            before = self._records.get(task_id)
            if isinstance(before, ResultMeta) and before.status == states.SUCCESS:
                return
            self._drop(task_id)
            self._records[task_id] = found
            self._sizes[task_id] = size = len(message.body) + RECORD_BYTES
            self._bytes += size
            if self._bytes > MOST_BYTES:
                self._forget_oldest(task_id)
            self._changed.notify_all()

    def _forget_oldest(self, newest: str) -> None:
        if not self._forgotten:
            log.warning(
                "results of %d calls were not asked for: from now on the oldest are forgotten", len(self._records) - 1
            )
        for task_id in list(islice(self._records, len(self._waited) + 100)):
            if self._bytes <= MOST_BYTES:
                return
            if task_id not in self._waited and task_id != newest:
                self._drop(task_id)
                self._forgotten[task_id] = None
                if len(self._forgotten) > MOST_FORGOTTEN:
                    self._forgotten.popitem(last=False)
