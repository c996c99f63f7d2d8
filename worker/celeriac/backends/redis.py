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
from celeriac.backends.payload import Payloads
from celeriac.backends.redis_listener import Listener
from celeriac.broker.codec import encode
from celeriac.broker.connection import BrokerAddress, connect, redacted
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, DecodeError, EncodeError
from celeriac.wire.chord import DONE, DONE_S, GROUP_PREFIX, ChordPart, ChordStart, Joined, group_record, part_record
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

#: A chord's keys, after `celery-taskset-meta-<group id>`: parts by place, more members, size, who was counted, who sends the body.
_CHORD_KEYS = (".j", ".t", ".s", ".d", ".c")

_OPEN = """
-- KEYS: .s, .c, the group     ARGV: size, structure or '', seconds to live or ''
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local function set(key, value)
  if ARGV[3] == '' then redis.call('SET', key, value) else redis.call('SET', key, value, 'EX', ARGV[3]) end
end
set(KEYS[1], ARGV[1])
if ARGV[2] ~= '' then set(KEYS[3], ARGV[2]) end
return 1
"""

#: As Celery's own script counts, but for the claim: it is the member's that completed the chord, for good. Delivered again after a crash, that
#: member finds it; every other one may go, since the one that holds the claim is not acknowledged.
_JOIN = """
-- KEYS: .j .t .s .d .c, the group     ARGV: seconds to live or '', then (task id, place, payload) of each member
-- returns {} or {the claiming member's id, the parts in order, the group's record or false}
local claim = redis.call('GET', KEYS[5])
if claim == 'done' then return {} end
for i = 2, #ARGV, 3 do
  if redis.call('SADD', KEYS[4], ARGV[i] .. ':' .. ARGV[i + 1]) == 1 then redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i + 2]) end
end
if ARGV[1] ~= '' then
  for i = 1, 6 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
end
local size = redis.call('GET', KEYS[3])
if not size or redis.call('ZCARD', KEYS[1]) ~= tonumber(size) + tonumber(redis.call('GET', KEYS[2]) or 0) then return {} end
local holder = false
if claim then
  for i = 2, #ARGV, 3 do
    if claim == 'celeriac:' .. ARGV[i] then holder = ARGV[i] end
  end
  if not holder then return {} end
else
  holder = ARGV[2]
  if ARGV[1] == '' then redis.call('SET', KEYS[5], 'celeriac:' .. holder)
  else redis.call('SET', KEYS[5], 'celeriac:' .. holder, 'EX', ARGV[1]) end
end
return {holder, redis.call('ZRANGE', KEYS[1], 0, -1), redis.call('GET', KEYS[6])}
"""

_WIDEN = """
-- KEYS: .t .d .c     ARGV: the new member's id, seconds to live or ''
if redis.call('GET', KEYS[3]) == 'done' or redis.call('SADD', KEYS[2], 'added:' .. ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[1])
if ARGV[2] ~= '' then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return 1
"""

_CLOSE = """
-- KEYS: .j .t .s .d .c     ARGV: the claim, what stands for it from now on, for how many seconds
if redis.call('GET', KEYS[5]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
return 1
"""


class RedisBackend:
    """See ResultBackend."""

    keeps_results = True
    keeps_chords = True
    answers = False

    def __init__(
        self, url: str, *, options: Mapping[str, Any], expires_s: float | None, serializer: str, accept: Collection[str],
        compression: str | None = None,
    ) -> None:  # fmt: skip
        self._url = url
        self._options = {name: value for name, value in options.items() if name not in ("global_keyprefix", "ssl")}
        self._ssl = options.get("ssl")
        prefix = str(options.get("global_keyprefix") or "")
        if prefix and prefix[-1] not in "_:-.":
            prefix += "_"  # as Celery does
        self._prefix = prefix + KEY_PREFIX
        self._group_prefix = prefix + GROUP_PREFIX
        self._expires_ms = int(expires_s * 1000) if expires_s else None
        self._payloads = Payloads(serializer, accept, compression)
        self._plain = self._payloads.plain_json
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None

    def expect(self) -> str:
        return ""

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
            if not self._plain:  # the script cannot read what is stored
                return self._write_unreadable(keys, payloads)
            answers = self._script(keys=keys, args=[self._expires_ms or "", *payloads])
        return self._refusals(answers) if any(answers) else [None] * len(answers)

    def _write_unreadable(self, keys: Sequence[str], payloads: Sequence[bytes]) -> list[Exception | None]:
        """As above, for records that only this side can read: a stored SUCCESS is looked for first, as Celery does."""
        stored = self._open().mget(keys)
        chosen = [place for place, old in enumerate(stored) if old is None or not self._succeeded(old)]
        found: list[Exception | None] = [None] * len(keys)
        if chosen:
            args = [self._expires_ms or "", *(payloads[place] for place in chosen)]
            refusals = self._refusals(self._script(keys=[keys[place] for place in chosen], args=args))
            for place, refusal in zip(chosen, refusals, strict=True):
                found[place] = refusal
        return found

    def _succeeded(self, payload: bytes) -> bool:
        try:
            return self._read(payload).status == states.SUCCESS
        except DecodeError:
            return False

    def _refusals(self, answers: Sequence[bytes]) -> list[Exception | None]:
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
        if self._plain:  # the usual case, short: this is once for each task
            return encode(meta.to_wire(), "json")[2]
        return self._payloads.encode(meta.to_wire())

    def fetch(self, task_id: str) -> ResultMeta | None:
        with self._errors():
            payload = self._open().get(self._prefix + task_id)
        return self._read(payload) if payload is not None else None

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        found: dict[str, ResultMeta] = {}
        for start in range(0, len(task_ids), 1000):
            some = task_ids[start : start + 1000]
            with self._errors():
                payloads = self._open().mget([self._prefix + task_id for task_id in some])
            found |= {
                task_id: self._read(payload)
                for task_id, payload in zip(some, payloads, strict=True)
                if payload is not None
            }
        return found

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

    def listen(self) -> Listener:
        """Hears of every record that is stored under the ids it is given: see watching.Source."""
        with self._errors():
            pool = self._open().connection_pool
        return Listener(self, pool, self._prefix, self._read, self._errors)

    def forget(self, task_id: str) -> None:
        with self._errors():
            self._open().delete(self._prefix + task_id)

    def cleanup(self) -> int:
        return 0  # the server does it

    # -- groups and chords

    def save_group(self, group_id: str, members: Any) -> None:
        payload = self._payloads.encode(group_record(members))
        with self._errors():
            self._open().set(self._group_prefix + group_id, payload, px=self._expires_ms)

    def fetch_group(self, group_id: str) -> Any:
        with self._errors():
            payload = self._open().get(self._group_prefix + group_id)
        return None if payload is None else self._decoded(payload)["result"]

    def forget_group(self, group_id: str) -> None:
        with self._errors():
            self._open().delete(self._group_prefix + group_id)

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        with self._errors(), self._open().pipeline(transaction=False) as pipe:
            for start in starts:
                _, _, size, _, claim = self._chord_keys(start.group_id)
                whole = b"" if start.structure is None else self._payloads.encode(group_record(start.structure))
                keys = [size, claim, self._group_prefix + start.group_id]
                self._opens(keys=keys, args=[start.size, whole, self._ttl_s()], client=pipe)
            pipe.execute()

    def widen_chord(self, group_id: str, task_id: str) -> None:
        with self._errors():
            _, more, _, counted, claim = self._chord_keys(group_id)
            client = self._open()
            self._widens(keys=[more, counted, claim], args=[task_id, self._ttl_s()], client=client)

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        return self._payloads.encode(part_record(task_id, state, result))

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        by_group: dict[str, list[Any]] = {}
        for part in parts:
            place = "+inf" if part.place is None else part.place
            by_group.setdefault(part.group_id, []).extend((part.task_id, place, part.payload))
        with self._errors(), self._open().pipeline(transaction=False) as pipe:
            for group_id, flat in by_group.items():
                keys = [*self._chord_keys(group_id), self._group_prefix + group_id]
                self._joins(keys=keys, args=[self._ttl_s(), *flat], client=pipe)
            answers = pipe.execute()
        complete = []
        for group_id, answer in zip(by_group, answers, strict=True):
            if answer:
                holder, payloads, saved = answer
                structure = None if saved is None else self._decoded(saved)["result"]
                complete.append(Joined(group_id, holder.decode(), list(map(self._decoded, payloads)), structure))
        return complete

    def close_chords(self, joined: Sequence[Joined]) -> None:
        with self._errors(), self._open().pipeline(transaction=False) as pipe:
            for one in joined:
                self._closes(keys=self._chord_keys(one.group_id), args=[one.token, DONE, DONE_S], client=pipe)
            pipe.execute()

    def _chord_keys(self, group_id: str) -> list[str]:
        return [f"{self._group_prefix}{group_id}{name}" for name in _CHORD_KEYS]

    def _ttl_s(self) -> int | str:
        return "" if self._expires_ms is None else max(1, self._expires_ms // 1000)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._connection.release()
                self._client = None

    def _read(self, payload: bytes) -> ResultMeta:
        try:
            return from_wire(self._decoded(payload))
        except ValueError as error:
            raise DecodeError(str(error)) from error

    def _decoded(self, payload: bytes) -> Any:
        return self._payloads.decode(payload)

    def _open(self) -> redis.Redis:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    # kombu reads the URL, so that redis, rediss, sentinel and valkey mean the same here as for the broker.
                    self._connection = connect(
                        BrokerAddress(url=self._url, transport_options=self._options, ssl=self._ssl)
                    )
                    client = redis.Redis(connection_pool=self._connection.default_channel.pool)
                    self._script = client.register_script(_STORE)
                    scripts = (_OPEN, _WIDEN, _JOIN, _CLOSE)
                    self._opens, self._widens, self._joins, self._closes = map(client.register_script, scripts)
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
