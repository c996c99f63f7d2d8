"""Redis and Valkey: the layout of the keys, and the scripts that move messages. kombu's own layout, plus leases.

A message is always in exactly one place: a queue's list (by priority step), `unacked` (claimed), a delayed set, a line of throttled messages, or
a dead-letter list. Each move is one script, so no crash can lose one. Scripts never parse or re-encode envelopes.

    <queue>, <queue>SEP3 …               lists by priority step; LPUSH in, RPOP out            (kombu's)
    unacked, unacked_index              claim id -> [envelope, "", queue]; score              (kombu's)
    celeriac.leaseSEP<queue>            claim id -> end of its lease, by the server's clock
    celeriac.delayedSEP<queue>          "<step> <claim id or -> <envelope>" -> due time
    celeriac.throttled…                 throttled messages: see limits.py
    celeriac.sentSEP<go>                for a minute or so: messages that a client sent at once have come
    celeriac.watchSEP<queue>            which of its idle workers watches its lists
    celeriac.idleSEP<queue>             the others, by when they turned idle; each listens on the channel celeriac.bellSEP<id>
    <queue>.dead                        dead letters, an ordinary queue

Claim ids are our own, never the publisher's delivery_tag. A stock Celery worker on the same database never restores ours while they
are renewed, since their score in unacked_index lies in the future; we restore only what is in our own lease sets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from kombu import Connection

#: kombu's separator between the parts of a key.
SEP = "\x06\x16"
DEAD_SUFFIX = ".dead"

#: Claims, and in the same step says who keeps watch. Of the idle workers of a queue one watches: it looks at the lists (LLEN), and the
#: server tells it of their next change. The others wait until they are rung. Whoever takes work and has no slot left hands the watch
#: on: it rings the worker that turned idle last, which takes what is there, or watches; and a second one, when it has left something.
#: So one message wakes two workers, and a burst twice as many with each step, for as long as there is something to take. A watcher
#: counts for as long as its connection listens; and each idle worker looks once a second whatever happens, so that no message depends
#: on any of this for longer. See docs/decisions/0008.
#: No command that only reads may stand in here: for its sake Redis 7.0 tells the worker of every change of any of the KEYS. Hence GETEX,
#: RPOP of 0, and no LLEN.
_WATCH = """
local function ring(idle, bell)
  while true do
    local id = redis.call('ZPOPMAX', idle)[1]
    if not id then return false end
    if redis.call('PUBLISH', bell .. id, '1') > 0 then return true end  -- 0: nobody hears it there, it has ended
  end
end
local function hand_on(watch, idle, bell, me, left)
  redis.call('ZREM', idle, me)
  local watcher = redis.call('GETEX', watch)
  if watcher == me then redis.call('DEL', watch) end
  if watcher and watcher ~= me then return true end
  local heard = ring(idle, bell)
  if left and heard then ring(idle, bell) end
  return heard
end
"""

CLAIM = (
    _WATCH
    + """
-- KEYS: unacked, unacked_index, then for each queue its lease set, its watch, its idle set, and its lists in order of priority
-- ARGV: how many, claim id prefix, lease in s, lists per queue, slots that are free, this worker's id ('': it does not listen), what
--       stands before an id in the name of its bell, then for each queue the tail ',"","<queue>"]' of its record
-- returns the numbers of the queues that it is to watch from now on (or, when no slot is left: 0, and 1 when nobody else is idle), then
--         queue number, envelope, queue number, envelope …
local want, prefix, lease, per = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local free, me, bell = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local width = per + 3
local queues, n, out = (#KEYS - 2) / width, 0, {0}
for step = 1, per do
  for q = 1, queues do
    local base = 3 + (q - 1) * width
    local items = n < want and redis.call('RPOP', KEYS[base + 2 + step], want - n)
    if items and #items > 0 then
      local tail, records, index, leases = ARGV[7 + q], {}, {}, {}
      for i = 1, #items do
        n = n + 1
        local id = prefix .. n
        records[#records + 1] = id
        records[#records + 1] = '[' .. items[i] .. tail
        index[#index + 1] = now + lease
        index[#index + 1] = id
        out[#out + 1] = q
        out[#out + 1] = items[i]
      end
      redis.call('HSET', KEYS[1], unpack(records))
      redis.call('ZADD', KEYS[2], unpack(index))
      redis.call('ZADD', KEYS[base], unpack(index))
    end
  end
end
if me == '' or free == 0 then return out end
if n >= free then
  for q = 1, queues do
    local base, left = 3 + (q - 1) * width, false
    if n == want then
      for step = 1, per do left = left or redis.call('RPOP', KEYS[base + 2 + step], 0) end  -- an empty table: something is there
    end
    if not hand_on(KEYS[base + 1], KEYS[base + 2], bell, me, left) then out[1] = 1 end
  end
  return out
end
out[1] = {}
for q = 1, queues do
  local base = 3 + (q - 1) * width
  local watcher = redis.call('GETEX', KEYS[base + 1])
  if watcher and watcher ~= me and redis.call('PUBSUB', 'NUMSUB', bell .. watcher)[2] > 0 then
    if redis.call('ZADD', KEYS[base + 2], 'NX', now, me) == 1 then redis.call('EXPIRE', KEYS[base + 2], 600) end
  else
    if watcher ~= me then
      redis.call('SET', KEYS[base + 1], me, 'EX', 600)
      redis.call('ZREM', KEYS[base + 2], me)
    end
    table.insert(out[1], q)
  end
end
return out
"""
)

#: For a worker that stops claiming: let another watch.
STAND_DOWN = (
    _WATCH
    + """
-- KEYS: for each queue its watch and its idle set     ARGV: this worker's id, what stands before an id in the name of its bell
for q = 1, #KEYS, 2 do hand_on(KEYS[q], KEYS[q + 1], ARGV[2], ARGV[1], false) end
return 1
"""
)

#: Acknowledge one claim and publish what follows from it, or neither: a retry never forks.
SETTLE = """
-- KEYS: unacked, unacked_index, lease set, then the key of each push     ARGV: claim id, then for each push: kind, score, member
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
for i = 4, #KEYS do
  local a = 2 + (i - 4) * 3
  if ARGV[a] == 'list' then redis.call('LPUSH', KEYS[i], ARGV[a + 2])
  else redis.call('ZADD', KEYS[i], ARGV[a + 1], ARGV[a + 2]) end
end
return 1
"""

#: Move claimed messages to a list or a delayed set: give back, park.
MOVE = """
-- KEYS: unacked, unacked_index, lease set, destination
-- ARGV: kind (front, delayed), then for each: claim id, length of the record's tail, step, score
local moved = 0
for a = 2, #ARGV, 4 do
  local id = ARGV[a]
  local record = redis.call('HGET', KEYS[1], id)
  if record then
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    local envelope = string.sub(record, 2, -(tonumber(ARGV[a + 1]) + 1))
    if ARGV[1] == 'front' then redis.call('RPUSH', KEYS[4], envelope)
    else redis.call('ZADD', KEYS[4], ARGV[a + 3], ARGV[a + 2] .. ' ' .. id .. ' ' .. envelope) end
    moved = moved + 1
  end
end
return moved
"""

#: Many messages for one list or delayed set at once, and only once: the client that got no answer sends them again. The note comes
#: last: a script that fails at the push leaves none.
PUSH_ONCE = """
-- KEYS: note, destination     ARGV: seconds for which the note is kept, LPUSH or ZADD, then what is pushed
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
return 1
"""

#: A message and the key that it holds, or neither: then the id of who holds it. Sent again after a lost answer, it finds its own id.
PUSH_UNIQUE = """
-- KEYS: the key, destination     ARGV: id, ms for which it is held, LPUSH or ZADD, then what is pushed
local held = redis.call('GET', KEYS[1])
if held then return held end
redis.call(ARGV[3], KEYS[2], unpack(ARGV, 4))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

RENEW = """
-- KEYS: unacked, unacked_index, lease set     ARGV: lease in s, then claim ids     returns the ids that are no longer ours
local t = redis.call('TIME')
local ends, lost = t[1] + t[2] / 1000000 + tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[2], ends, ARGV[i])
    redis.call('ZADD', KEYS[3], ends, ARGV[i])
  else
    redis.call('ZREM', KEYS[3], ARGV[i])
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

EXPIRED = """
-- KEYS: unacked, lease set     ARGV: how many     returns id, record, id, record …
local t = redis.call('TIME')
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', t[1] + t[2] / 1000000, 'LIMIT', 0, ARGV[1])
local out = {}
for i = 1, #ids do
  local record = redis.call('HGET', KEYS[1], ids[i])
  if record then
    out[#out + 1] = ids[i]
    out[#out + 1] = record
  else
    redis.call('ZREM', KEYS[2], ids[i])
  end
end
return out
"""

RESTORE = """
-- KEYS: unacked, unacked_index, lease set, list     ARGV: claim id, envelope     only if its lease is still over
local t = redis.call('TIME')
local ends = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not ends or tonumber(ends) > t[1] + t[2] / 1000000 then return 0 end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('RPUSH', KEYS[4], ARGV[2])
return 1
"""

RELEASE = """
-- KEYS: delayed set, then the lists by step     ARGV: how many, then the steps     returns moved, and seconds until the next
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local lists = {}
for i = 1, #due do
  local first = string.find(due[i], ' ', 1, true)
  local space = string.find(due[i], ' ', first + 1, true)
  local step, key = string.sub(due[i], 1, first - 1), 2
  for s = 2, #ARGV do if ARGV[s] == step then key = s end end
  lists[key] = lists[key] or {}
  table.insert(lists[key], string.sub(due[i], space + 1))
end
for key, envelopes in pairs(lists) do redis.call('LPUSH', KEYS[key], unpack(envelopes)) end
if #due > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #due - 1) end  -- they are the first ones: one by one would take ten times as long
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, next[2] and tostring(next[2] - now) or ''}
"""

DEPTH = """
-- KEYS: for each queue: lease set, delayed, throttled messages by task, dead list, then its lists    ARGV: lists per queue, then horizons
local t = redis.call('TIME')
local now, per, out = t[1] + t[2] / 1000000, tonumber(ARGV[1]), {}
local width = per + 4
for q = 1, #KEYS / width do
  local b = (q - 1) * width
  local ready, oldest = 0, false
  for s = 1, per do
    ready = ready + redis.call('LLEN', KEYS[b + 4 + s])
    local last = redis.call('LINDEX', KEYS[b + 4 + s], -1)
    if last and not oldest then oldest = last end
  end
  out[q] = {
    ready, redis.call('ZCARD', KEYS[b + 1]), redis.call('ZCOUNT', KEYS[b + 1], '-inf', now),
    redis.call('ZCARD', KEYS[b + 2]), redis.call('ZCOUNT', KEYS[b + 2], '-inf', now + tonumber(ARGV[1 + q])),
    redis.call('LLEN', KEYS[b + 4]), oldest or '', redis.call('HGETALL', KEYS[b + 3]),
  }
end
return out
"""


#: Whether a worker of ours consumes the queue: it watches or is idle and listens, or holds a lease.
CONSUMED = """
-- KEYS: lease set, watch, idle set     ARGV: what stands before an id in the name of its bell
local t = redis.call('TIME')
if redis.call('ZCOUNT', KEYS[1], t[1] + t[2] / 1000000, '+inf') > 0 then return 1 end
local ids = redis.call('ZRANGE', KEYS[3], 0, -1)
table.insert(ids, redis.call('GET', KEYS[2]) or nil)
for i = 1, #ids do
  if redis.call('PUBSUB', 'NUMSUB', ARGV[1] .. ids[i])[2] > 0 then return 1 end
end
return 0
"""


class RedisQueues:
    """The queues of one Redis database, through one kombu channel's connection pool. Safe to use from several threads.

    Raises redis-py's errors as they are: callers turn them into ours.
    """

    def __init__(self, connection: Connection) -> None:
        self.channel = connection.default_channel
        #: Without kombu's prefixing client: the keys below carry the prefix themselves.
        self.client = redis.Redis(connection_pool=self.channel.pool)
        self.prefix: str = self.channel.global_keyprefix or ""
        #: What stands before a worker's id in the name of the channel on which it is rung.
        self.bell = f"{self.prefix}celeriac.bell{SEP}"
        self.steps: list[int] = list(self.channel.priority_steps)
        #: By priority, 0 to 9.
        self._step_of = [max((s for s in self.steps if s <= p), default=self.steps[0]) for p in range(10)]
        self.unacked = self.prefix + self.channel.unacked_key
        self.unacked_index = self.prefix + self.channel.unacked_index_key
        register = self.client.register_script
        self.move_script = register(MOVE)
        self.renew_script = register(RENEW)
        self.expired_script = register(EXPIRED)
        self.restore_script = register(RESTORE)
        self.release_script = register(RELEASE)
        self.depth_script = register(DEPTH)
        self.push_once_script = register(PUSH_ONCE)
        self.push_unique_script = register(PUSH_UNIQUE)
        self.consumed_script = register(CONSUMED)

    def list_key(self, queue: str, step: int) -> str:
        """The list of one priority step: the bare name for the first, kombu's form for the others."""
        return f"{self.prefix}{queue}{self.channel.sep}{step}" if step else f"{self.prefix}{queue}"

    def list_keys(self, queue: str) -> list[str]:
        """All lists of a queue, the most urgent first."""
        return [self.list_key(queue, step) for step in self.steps]

    def step_of(self, priority: int | None) -> int:
        """The step a message's priority belongs to: the largest that is not above it."""
        return self._step_of[max(0, min(9, int(priority or 0)))]

    def binding_key(self, exchange: str) -> str:
        """kombu's table of what is bound to an exchange."""
        return f"{self.prefix}{self.channel.keyprefix_queue % exchange}"

    def consumed(self, queue: str) -> bool:
        """Whether a worker of ours consumes the queue now. Stock Celery workers are not seen."""
        return bool(self.consumed_script(keys=[self.lease_key(queue), *self.watch_keys(queue)], args=[self.bell]))

    def unique_key(self, key: str) -> str:
        """Where the id of the call stands that holds a key; broker/coordination.py lets go of it."""
        return f"{self.prefix}celeriac.unique{SEP}{key}"

    def lease_key(self, queue: str) -> str:
        """The lease set of a queue's claims."""
        return f"{self.prefix}celeriac.lease{SEP}{queue}"

    def delayed_member(self, step: int, envelope: bytes) -> bytes:
        """What stands in the delayed set for a message that is published there. (A parked one carries its claim id.)"""
        return f"{step} - ".encode() + envelope

    def delayed_key(self, queue: str) -> str:
        """The set of a queue's messages that are not due."""
        return f"{self.prefix}celeriac.delayed{SEP}{queue}"

    def throttled_key(self, queue: str, line: str | None = None) -> str:
        """The list of one line's throttled messages, or the set of a queue's lines."""
        return f"{self.prefix}celeriac.throttled{SEP}{queue}" + (f"{SEP}{line}" if line is not None else "")

    def throttled_count_key(self, queue: str) -> str:
        """How many throttled messages there are, by task."""
        return f"{self.prefix}celeriac.throttled.count{SEP}{queue}"

    def sent_key(self, go: str) -> str:
        """The note that many messages which were sent at once have come."""
        return f"{self.prefix}celeriac.sent{SEP}{go}"

    def watch_keys(self, queue: str) -> list[str]:
        """Who watches a queue's lists, and who is idle beside it."""
        return [f"{self.prefix}celeriac.watch{SEP}{queue}", f"{self.prefix}celeriac.idle{SEP}{queue}"]

    def release_due(self, queue: str, most: int = 500) -> tuple[int, float | None]:
        """(messages moved to their lists, seconds until the next is due or None)."""
        keys = [self.delayed_key(queue), *self.list_keys(queue)]
        moved, next_s = self.release_script(keys=keys, args=[most, *self.steps])
        return int(moved), float(next_s) if next_s else None

    def release_due_of(self, queues: Sequence[str], most: int = 500) -> dict[str, int | Exception]:
        """The same for many queues in one round trip: queue -> messages moved, or why this one alone could not be touched."""
        with self.client.pipeline(transaction=False) as pipe:
            for queue in queues:
                self.release_script(
                    keys=[self.delayed_key(queue), *self.list_keys(queue)], args=[most, *self.steps], client=pipe
                )
            answers = pipe.execute(raise_on_error=False)
        return {
            queue: answer if isinstance(answer, Exception) else int(answer[0])
            for queue, answer in zip(queues, answers, strict=True)
        }

    def depth(self, horizons: Mapping[str, float]) -> dict[str, Sequence[Any]]:
        """For each queue: ready, leased, expired, delayed, due within its horizon, dead, oldest envelope, throttled by task."""
        keys: list[str] = []
        for queue in horizons:
            keys += [
                self.lease_key(queue),
                self.delayed_key(queue),
                self.throttled_count_key(queue),
                self.list_key(queue + DEAD_SUFFIX, 0),
            ]
            keys += self.list_keys(queue)
        rows = self.depth_script(keys=keys, args=[len(self.steps), *horizons.values()]) if horizons else []
        return dict(zip(horizons, rows, strict=True))

    def settle_args(
        self, queue: str, claim: str, pushes: Iterable[tuple[str, str, float, str | bytes]]
    ) -> tuple[list[Any], list[Any]]:
        """Keys and arguments of SETTLE; a push is (kind, key, score, member)."""
        keys: list[Any] = [self.unacked, self.unacked_index, self.lease_key(queue)]
        args: list[Any] = [claim]
        for kind, key, score, member in pushes:
            keys.append(key)
            args += [kind, score, member]
        return keys, args
