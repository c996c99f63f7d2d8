"""Results in Redis and Valkey, in Celery's own records: SETEX and PUBLISH under `celery-task-meta-<id>`, a batch in one round trip.

The PUBLISH is part of the format: Celery's clients subscribe to the key before they send.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celeriac import states
from celeriac.broker.codec import decode, encode
from celeriac.broker.connection import BrokerAddress, connect, redacted
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, DecodeError, EncodeError
from celeriac.wire.result import KEY_PREFIX, ResultMeta, from_wire

log = logging.getLogger(__name__)

#: The least to which a server's limits (proto-max-bulk-len, client-query-buffer-limit) can be set: nothing below is too large.
LARGE_BYTES = 1024 * 1024

#: A stored SUCCESS stays (a redelivered task may end otherwise); everything else is replaced. One record's error is its own.
_STORE = """
-- KEYS: records     ARGV: time to live in ms or '', then the payloads     returns for each '' or its error
local out = {}
for i = 1, #KEYS do
  local old, answer = redis.pcall('GET', KEYS[i]), ''
  if type(old) == 'string' and string.find(old, '^{"status": *"SUCCESS"') then out[i] = ''
  else
    if ARGV[1] == '' then answer = redis.pcall('SET', KEYS[i], ARGV[i + 1])
    else answer = redis.pcall('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end
    if answer['err'] then out[i] = answer['err']
    else
      redis.call('PUBLISH', KEYS[i], ARGV[i + 1])
      out[i] = ''
    end
  end
end
return out
"""


class RedisBackend:
    """See ResultBackend."""

    keeps_results = True

    def __init__(
        self, url: str, *, options: Mapping[str, Any], expires_s: float | None, serializer: str, accept: Collection[str]
    ) -> None:
        self._url = url
        self._options = {name: value for name, value in options.items() if name != "global_keyprefix"}
        prefix = str(options.get("global_keyprefix") or "")
        if prefix and prefix[-1] not in "_:-.":
            prefix += "_"  # as Celery does
        self._prefix = prefix + KEY_PREFIX
        self._expires_ms = int(expires_s * 1000) if expires_s else None
        self._serializer = serializer
        self._content_type, self._encoding, _ = encode(None, serializer)
        self._accept = frozenset(accept) | {self._content_type}
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors: list[Exception | None] = [None] * len(records)
        keys, payloads, places = [], [], []
        for place, (meta, encoded) in enumerate(records):
            try:
                payloads.append(encoded if encoded is not None else self.encode(meta))
            except EncodeError as error:
                errors[place] = error
                continue
            keys.append(self._prefix + meta.task_id)
            places.append(place)
        for start in range(0, len(keys), 1000):
            found = self._write(keys[start : start + 1000], payloads[start : start + 1000])
            for place, refusal in zip(places[start:], found, strict=False):
                errors[place] = refusal
        return errors

    def _write(self, keys: Sequence[str], payloads: Sequence[bytes]) -> list[Exception | None]:
        """Write them in one round trip; one by one when the connection broke over one that is perhaps too large."""
        try:
            return self._write_at_once(keys, payloads)
        except BackendUnavailable as error:
            if not _may_be_too_large(error, payloads):
                raise
        self._ping()  # raises when it is an outage after all
        return [self._write_alone(key, payload) for key, payload in zip(keys, payloads, strict=True)]

    def _write_at_once(self, keys: Sequence[str], payloads: Sequence[bytes]) -> list[Exception | None]:
        with self._errors():
            self._open()
            answers = self._script(keys=keys, args=[self._expires_ms or "", *payloads])
        if not any(answers):
            return [None] * len(answers)
        where = redacted(self._url)
        return [
            BackendUnavailable(f"the result backend at {where} refused a record: {answer.decode()}") if answer else None
            for answer in answers
        ]

    def _write_alone(self, key: str, payload: bytes) -> Exception | None:
        try:
            return self._write_at_once([key], [payload])[0]
        except BackendUnavailable as error:
            if not _may_be_too_large(error, [payload]):
                raise
            self._ping()
            return EncodeError(
                f"result too large: {len(payload)} bytes, and the server takes everything else; raise its proto-max-bulk-len,"
                f" or return where the data is kept ({error})"
            )

    def _ping(self) -> None:
        with self._errors():
            self._open().ping()

    def encode(self, meta: ResultMeta) -> bytes:
        return encode(meta.to_wire(), self._serializer)[2]

    def fetch(self, task_id: str) -> ResultMeta | None:
        with self._errors():
            payload = self._open().get(self._prefix + task_id)
        return self._read(payload) if payload is not None else None

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        """See ResultBackend. The first contact has to work; an outage after it is waited out."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reached = False
        while True:
            try:
                with self._errors(), self._open().pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(self._prefix + task_id)
                    channel.get_message(timeout=1.0)  # the confirmation: what is published from here on is seen
                    reached = True
                    return self._listen(channel, task_id, deadline, interval_s)
            except BackendUnavailable as error:
                if not reached or (deadline is not None and time.monotonic() >= deadline):
                    raise
                log.warning("%s; still waiting for the result of %s", error, task_id)
                time.sleep(0.5)

    def _listen(self, channel: Any, task_id: str, deadline: float | None, interval_s: float) -> ResultMeta | None:
        while True:
            found = self.fetch(task_id)  # what was published before; and whatever a lost connection has hidden
            if found is not None and found.status in states.READY_STATES:
                return found
            until = time.monotonic() + max(interval_s, 1.0)
            while (now := time.monotonic()) < until:
                left_s = until - now if deadline is None else min(until, deadline) - now
                if left_s <= 0:
                    return None
                message = channel.get_message(timeout=left_s)
                if message is not None and message["type"] == "message":
                    told = self._read(message["data"])
                    if told.status in states.READY_STATES:
                        return told
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def forget(self, task_id: str) -> None:
        with self._errors():
            self._open().delete(self._prefix + task_id)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._connection.release()
                self._client = None

    def _read(self, payload: bytes) -> ResultMeta:
        try:
            return from_wire(decode(payload, self._content_type, self._encoding, self._accept))
        except ValueError as error:
            raise DecodeError(str(error)) from error

    def _open(self) -> redis.Redis:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    # kombu reads the URL, so that redis, rediss, sentinel and valkey mean the same here as for the broker.
                    self._connection = connect(BrokerAddress(url=self._url, transport_options=self._options))
                    client = redis.Redis(connection_pool=self._connection.default_channel.pool)
                    self._script = client.register_script(_STORE)
                    self._client = client
        return self._client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokerUnavailable as error:
            raise BackendUnavailable(str(error).replace("the broker at", "the result backend at")) from error
        except (RedisError, OSError) as error:
            raise BackendUnavailable(
                f"cannot reach the result backend at {redacted(self._url)}: {redacted(str(error)) or type(error).__name__}"
            ) from error


def _may_be_too_large(error: BackendUnavailable, payloads: Sequence[bytes]) -> bool:
    """Whether the server may have refused these for their size: it says so as a protocol error, or closes the connection meanwhile."""
    cause = error.__cause__
    broken = isinstance(cause, RedisConnectionError | OSError) or str(cause).startswith("Protocol error")
    return broken and sum(map(len, payloads)) > LARGE_BYTES
