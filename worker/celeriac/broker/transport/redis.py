"""Redis and Valkey: the layout of the keys, and the scripts that move messages. kombu's own layout, plus leases.

A message is always in exactly one place: a queue's list (by priority step), `unacked` (claimed), a delayed set, a throttled list, or
a dead-letter list. Each move is one script, so no crash can lose one. Scripts never parse or re-encode envelopes.

    <queue>, <queue>SEP3 …               lists by priority step; LPUSH in, RPOP out            (kombu's)
    unacked, unacked_index              claim id -> [envelope, "", queue]; score              (kombu's)
    celeriac.leaseSEP<queue>            claim id -> end of its lease, by the server's clock
    celeriac.delayedSEP<queue>          "<step> <claim id or -> <envelope>" -> due time
    celeriac.throttledSEP<queue>        names of tasks with throttled messages (a set)
    celeriac.throttledSEP<queue>SEP<task>   their envelopes, first in, first out
    celeriac.limitSEP<key>              a rate limit's theoretical arrival time (GCRA)
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

CLAIM = """
-- KEYS: unacked, unacked_index, then for each queue its lease set and its lists in order of priority
-- ARGV: how many, claim id prefix, lease in s, lists per queue, then for each queue the tail ',"","<queue>"]' of its record
local want, prefix, lease, per = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', KEYS[1], prefix .. '1') == 1 then return {} end  -- sent again by the client: its leases will run out
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local queues, n, out = (#KEYS - 2) / (per + 1), 0, {}
for step = 1, per do
  for q = 1, queues do
    local base = 3 + (q - 1) * (per + 1)
    if n >= want then return out end
    local items = redis.call('RPOP', KEYS[base + step], want - n)
    if items and #items > 0 then
      local tail, records, index, leases = ARGV[4 + q], {}, {}, {}
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
return out
"""

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

#: Move claimed messages to a list or a delayed set: give back, requeue, park, throttle.
MOVE = """
-- KEYS: unacked, unacked_index, lease set, destination, names
-- ARGV: kind (front, back, delayed, throttled), name, then for each: claim id, length of the record's tail, step, score
local moved = 0
for a = 3, #ARGV, 4 do
  local id = ARGV[a]
  local record = redis.call('HGET', KEYS[1], id)
  if record then
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    local envelope = string.sub(record, 2, -(tonumber(ARGV[a + 1]) + 1))
    if ARGV[1] == 'front' then redis.call('RPUSH', KEYS[4], envelope)
    elseif ARGV[1] == 'delayed' then redis.call('ZADD', KEYS[4], ARGV[a + 3], ARGV[a + 2] .. ' ' .. id .. ' ' .. envelope)
    else redis.call('LPUSH', KEYS[4], envelope) end
    if ARGV[1] == 'throttled' then redis.call('SADD', KEYS[5], ARGV[2]) end
    moved = moved + 1
  end
end
return moved
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
for i = 1, #due do
  local first = string.find(due[i], ' ', 1, true)
  local space = string.find(due[i], ' ', first + 1, true)
  local step, key = string.sub(due[i], 1, first - 1), KEYS[2]
  for s = 2, #ARGV do if ARGV[s] == step then key = KEYS[s] end end
  redis.call('LPUSH', key, string.sub(due[i], space + 1))
  redis.call('ZREM', KEYS[1], due[i])
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, next[2] and tostring(next[2] - now) or ''}
"""

#: A claim from one throttled list; the set of names is kept true.
CLAIM_THROTTLED = """
-- KEYS: unacked, unacked_index, lease set, list, names     ARGV: how many, claim id prefix, lease in s, tail, task
local t = redis.call('TIME')
local ends = t[1] + t[2] / 1000000 + tonumber(ARGV[3])
if redis.call('HEXISTS', KEYS[1], ARGV[2] .. '1') == 1 then return {redis.call('LLEN', KEYS[4])} end  -- sent again by the client
local items = redis.call('RPOP', KEYS[4], ARGV[1]) or {}
for i = 1, #items do
  local id = ARGV[2] .. i
  redis.call('HSET', KEYS[1], id, '[' .. items[i] .. ARGV[4])
  redis.call('ZADD', KEYS[2], ends, id)
  redis.call('ZADD', KEYS[3], ends, id)
end
local left = redis.call('LLEN', KEYS[4])
if left == 0 then redis.call('SREM', KEYS[5], ARGV[5]) end
return {left, unpack(items)}
"""

#: GCRA: a limit of ARGV[1] starts a second with a burst of ARGV[2], for the whole cluster.
TAKE = """
-- KEYS: limit     ARGV: per second, burst, wanted     returns granted, seconds until the next token
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local gap, burst, granted = 1 / tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
if tat < now then tat = now end
while granted < tonumber(ARGV[3]) and tat - now <= (burst - 1) * gap + 0.000001 do
  tat = tat + gap
  granted = granted + 1
end
if granted > 0 then redis.call('SET', KEYS[1], string.format('%.6f', tat), 'PX', math.ceil((tat - now) * 1000) + 60000) end
return {granted, tostring(math.max(0, tat - now - (burst - 1) * gap))}
"""

DEPTH = """
-- KEYS: for each queue: lease set, delayed, throttled names, dead list, then its lists    ARGV: lists per queue, SEP, then horizons
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
  local throttled = {}
  for _, task in ipairs(redis.call('SMEMBERS', KEYS[b + 3])) do
    throttled[#throttled + 1] = task
    throttled[#throttled + 1] = redis.call('LLEN', KEYS[b + 3] .. ARGV[2] .. task)
  end
  out[q] = {
    ready, redis.call('ZCARD', KEYS[b + 1]), redis.call('ZCOUNT', KEYS[b + 1], '-inf', now),
    redis.call('ZCARD', KEYS[b + 2]), redis.call('ZCOUNT', KEYS[b + 2], '-inf', now + tonumber(ARGV[2 + q])),
    redis.call('LLEN', KEYS[b + 4]), oldest or '', throttled,
  }
end
return out
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
        self.steps: list[int] = list(self.channel.priority_steps)
        self.unacked = self.prefix + self.channel.unacked_key
        self.unacked_index = self.prefix + self.channel.unacked_index_key
        register = self.client.register_script
        self.claim_script = register(CLAIM)
        self.settle_script = register(SETTLE)
        self.move_script = register(MOVE)
        self.renew_script = register(RENEW)
        self.expired_script = register(EXPIRED)
        self.restore_script = register(RESTORE)
        self.release_script = register(RELEASE)
        self.claim_throttled_script = register(CLAIM_THROTTLED)
        self.take_script = register(TAKE)
        self.depth_script = register(DEPTH)

    def list_key(self, queue: str, step: int) -> str:
        """The list of one priority step: the bare name for the first, kombu's form for the others."""
        return f"{self.prefix}{queue}{self.channel.sep}{step}" if step else f"{self.prefix}{queue}"

    def list_keys(self, queue: str) -> list[str]:
        """All lists of a queue, the most urgent first."""
        return [self.list_key(queue, step) for step in self.steps]

    def step_of(self, priority: int | None) -> int:
        """The step a message's priority belongs to: the largest that is not above it."""
        wanted = max(0, min(9, int(priority or 0)))
        return max((step for step in self.steps if step <= wanted), default=self.steps[0])

    def lease_key(self, queue: str) -> str:
        """The lease set of a queue's claims."""
        return f"{self.prefix}celeriac.lease{SEP}{queue}"

    def delayed_member(self, step: int, envelope: bytes) -> bytes:
        """What stands in the delayed set for a message that is published there. (A parked one carries its claim id.)"""
        return f"{step} - ".encode() + envelope

    def throttled_tasks(self, queue: str) -> list[str]:
        """Names of the tasks that have throttled messages."""
        return [name.decode() for name in self.client.smembers(self.throttled_key(queue))]

    def delayed_key(self, queue: str) -> str:
        """The set of a queue's messages that are not due."""
        return f"{self.prefix}celeriac.delayed{SEP}{queue}"

    def throttled_key(self, queue: str, task: str | None = None) -> str:
        """The list of one task's throttled messages, or the set of such tasks."""
        return f"{self.prefix}celeriac.throttled{SEP}{queue}" + (f"{SEP}{task}" if task is not None else "")

    def limit_key(self, key: str) -> str:
        """Where a rate limit's state is kept."""
        return f"{self.prefix}celeriac.limit{SEP}{key}"

    def release_due(self, queue: str, most: int = 1000) -> tuple[int, float | None]:
        """(messages moved to their lists, seconds until the next is due or None)."""
        keys = [self.delayed_key(queue), *self.list_keys(queue)]
        moved, next_s = self.release_script(keys=keys, args=[most, *self.steps])
        return int(moved), float(next_s) if next_s else None

    def depth(self, horizons: Mapping[str, float]) -> dict[str, Sequence[Any]]:
        """For each queue: ready, leased, expired, delayed, due within its horizon, dead, oldest envelope, throttled by task."""
        keys: list[str] = []
        for queue in horizons:
            keys += [
                self.lease_key(queue),
                self.delayed_key(queue),
                self.throttled_key(queue),
                self.list_key(queue + DEAD_SUFFIX, 0),
            ]
            keys += self.list_keys(queue)
        rows = self.depth_script(keys=keys, args=[len(self.steps), SEP, *horizons.values()]) if horizons else []
        return dict(zip(horizons, rows, strict=True))

    def take(self, key: str, per_s: float, burst: int, wanted: int) -> tuple[int, float]:
        """(tokens granted, seconds until the next), for the whole cluster."""
        granted, wait_s = self.take_script(keys=[self.limit_key(key)], args=[per_s, burst, wanted])
        return int(granted), float(wait_s)

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
