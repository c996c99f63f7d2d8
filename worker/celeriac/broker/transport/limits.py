"""Redis and Valkey: the keys and scripts of what all workers share: rates, places for running calls, throttled messages, revokes.

A *line* is where calls wait for the same bounds, in the order in which they came: its id is the task's name, or the name, the rate key and
the concurrency key of its calls, with SEP between them.

    celeriac.throttledSEP<queue>              lines with messages -> when the next may start; inf: as each worker's own rate allows
    celeriac.throttledSEP<queue>SEP<line>     their envelopes, first in, first out
    celeriac.throttled.countSEP<queue>        task -> messages in its lines (a hash)
    celeriac.limitSEP<task>[SEP<rate key>]    a rate's theoretical arrival time (GCRA)
    celeriac.holdersSEP<task>[SEP<key>]       who runs -> end of its lease, by the server's clock
    celeriac.blockedSEP<task>[SEP<key>]       "<queue>SEP<line>" of lines that wait for such a place (a set)
    celeriac.uniqueSEP<task>SEP<key>          id of the unique call that holds the key, until its time is over
    celeriac.revoked                          task id -> when it was revoked
    celeriac.rates                            task -> "<starts a second> <who set it>": rates that the operator keeps (a hash)

A message in a line is nowhere else; each move is one script. What a line waits for is one number, its next time, so that a look costs the
same with one line or ten thousand. Scripts never parse envelopes.
"""

#: What all scripts share. ARGV[1]: the prefix of all keys. GCRA: a rate of `per_s` that may be `slack` seconds early.
_SHARED = r"""
local SEP = '\6\22'
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local prefix = ARGV[1] .. 'celeriac.'
local function line_names(queue) return prefix .. 'throttled' .. SEP .. queue end
local function line_list(queue, line) return prefix .. 'throttled' .. SEP .. queue .. SEP .. line end
local function counts(queue) return prefix .. 'throttled.count' .. SEP .. queue end
local function with_key(task, key) if key == '' then return task end return task .. SEP .. key end
-- a rate: its arrival time, and how many may start now
local function rate(id, per_s, slack)
  local tat = math.max(now, tonumber(redis.call('GET', prefix .. 'limit' .. SEP .. id) or now))
  if tat > now + slack + 1 / per_s + 0.001 then  -- the rate was lower, or the clock was ahead
    tat = now + slack + 1 / per_s
    redis.call('SET', prefix .. 'limit' .. SEP .. id, string.format('%.6f', tat), 'PX', math.ceil((tat - now) * 1000) + 1000)
  end
  if tat - now > slack + 0.000001 then return tat, 0 end
  return tat, math.floor((slack - (tat - now)) * per_s + 0.000001) + 1
end
local function spend(id, tat, per_s, n)
  tat = tat + n / per_s
  redis.call('SET', prefix .. 'limit' .. SEP .. id, string.format('%.6f', tat), 'PX', math.ceil((tat - now) * 1000) + 1000)
  return tat
end
-- places that are free; those whose worker let its lease run out are
local function places(id, most)
  redis.call('ZREMRANGEBYSCORE', prefix .. 'holders' .. SEP .. id, '-inf', now)
  return most - redis.call('ZCARD', prefix .. 'holders' .. SEP .. id)
end
local function hold(id, holder, lease) redis.call('ZADD', prefix .. 'holders' .. SEP .. id, now + lease, holder) end
local function next_end(id)
  return tonumber(redis.call('ZRANGE', prefix .. 'holders' .. SEP .. id, 0, 0, 'WITHSCORES')[2] or now)
end
local function block(id, queue, line) redis.call('SADD', prefix .. 'blocked' .. SEP .. id, queue .. SEP .. line) end
-- a place is free: let one line that waits for it be looked at
local function wake(id)
  local entry = redis.call('SPOP', prefix .. 'blocked' .. SEP .. id)
  while entry do
    local cut = string.find(entry, SEP, 1, true)
    local names, line = line_names(string.sub(entry, 1, cut - 1)), string.sub(entry, cut + #SEP)
    if redis.call('ZSCORE', names, line) then
      redis.call('ZADD', names, 0, line)
      return 1
    end
    entry = redis.call('SPOP', prefix .. 'blocked' .. SEP .. id)
  end
  return 0
end
local function until_next(queues, first, step)
  local soonest
  for a = first, #queues, step do
    local head = redis.call('ZRANGE', line_names(queues[a]), 0, 0, 'WITHSCORES')[2]
    if head and head ~= 'inf' and (not soonest or tonumber(head) < soonest) then soonest = tonumber(head) end
  end
  return soonest and string.format('%.6f', math.max(0, soonest - now)) or ''
end
"""

#: Claimed messages start, or go into their lines: a whole batch in one step.
LIMIT = (
    _SHARED
    + r"""
-- KEYS: unacked, unacked_index
-- ARGV: prefix, lease in s, slack in s, then for each: claim id, queue, length of the record's tail, task, rate key, concurrency key,
--       starts a second (0: any), whether this worker's own rate has a token (1, 0, or '' when the rate is shared), most at once (0: any)
-- returns for each 1 (starts), 0 (is in its line), -1 (was no longer ours); and the seconds until a line's next time, or ''
local lease, slack, out, queues = tonumber(ARGV[2]), tonumber(ARGV[3]), {}, {}
for a = 4, #ARGV, 9 do
  local claim, queue, task, rkey, ckey = ARGV[a], ARGV[a + 1], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  local per_s, own, most = tonumber(ARGV[a + 6]), ARGV[a + 7], tonumber(ARGV[a + 8])
  local record = redis.call('HGET', KEYS[1], claim)
  if not record then out[#out + 1] = -1
  else
    local line = task
    if rkey ~= '' or ckey ~= '' then line = task .. SEP .. rkey .. SEP .. ckey end
    local rate_id, place_id, tat, may, at = with_key(task, rkey), with_key(task, ckey), 0, 0, nil
    local behind = redis.call('EXISTS', line_list(queue, line)) == 1
    if not behind then
      if own == '0' then at = '+inf'
      elseif own == '' and per_s > 0 then
        tat, may = rate(rate_id, per_s, slack)
        if may < 1 then at = tat - slack end
      end
      if not at and most > 0 and places(place_id, most) < 1 and not redis.call('ZSCORE', prefix .. 'holders' .. SEP .. place_id, claim) then
        at = next_end(place_id)
        block(place_id, queue, line)
      end
    end
    if behind or at then
      redis.call('HDEL', KEYS[1], claim)
      redis.call('ZREM', KEYS[2], claim)
      redis.call('ZREM', prefix .. 'lease' .. SEP .. queue, claim)
      redis.call('LPUSH', line_list(queue, line), string.sub(record, 2, -(tonumber(ARGV[a + 2]) + 1)))
      redis.call('HINCRBY', counts(queue), task, 1)
      if at then redis.call('ZADD', line_names(queue), at, line) end
      out[#out + 1] = 0
    else
      if own == '' and per_s > 0 then spend(rate_id, tat, per_s, 1) end
      if most > 0 then hold(place_id, claim, lease) end
      out[#out + 1] = 1
    end
    queues[#queues + 1] = queue
  end
end
out[#out + 1] = until_next(queues, 1, 1)
return out
"""
)

#: Claim what waits in lines and may start now.
CLAIM_LIMITED = (
    _SHARED
    + r"""
-- KEYS: unacked, unacked_index
-- ARGV: prefix, lease in s, slack in s, claim id prefix, how many, number of types,
--       for each type: task, starts a second (0: any), most at once (0: any), this worker's own tokens ('': the rate is shared);
--       for each queue: name, tail of its records
-- returns the seconds until a line's next time or '', then queue's place, envelope, …
local lease, slack, ids, want, kinds = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if redis.call('HEXISTS', KEYS[1], ids .. '1') == 1 then return {'1'} end  -- sent again by the client: its leases will run out
local out, n, types, first = {''}, 0, {}, 7 + kinds * 4
for a = 7, first - 1, 4 do
  types[ARGV[a]] = {per_s = tonumber(ARGV[a + 1]), most = tonumber(ARGV[a + 2]), own = ARGV[a + 3]}
end
local function take(a, task, line, k, place_id)
  local queue, list = ARGV[a], line_list(ARGV[a], line)
  local items = k > 0 and redis.call('RPOP', list, k) or {}
  for i = 1, #items do
    n = n + 1
    redis.call('HSET', KEYS[1], ids .. n, '[' .. items[i] .. ARGV[a + 1])
    redis.call('ZADD', KEYS[2], now + lease, ids .. n)
    redis.call('ZADD', prefix .. 'lease' .. SEP .. queue, now + lease, ids .. n)
    if place_id then hold(place_id, ids .. n, lease) end
    out[#out + 1] = (a - first) / 2 + 1
    out[#out + 1] = items[i]
  end
  if #items > 0 and redis.call('HINCRBY', counts(queue), task, -#items) <= 0 then redis.call('HDEL', counts(queue), task) end
  local left = redis.call('EXISTS', list) == 1
  if not left then redis.call('ZREM', line_names(queue), line) end
  return #items, left
end
for task, kind in pairs(types) do  -- as this worker's own rates allow
  local tokens = tonumber(kind.own) or 0
  for a = first, #ARGV, 2 do
    if tokens > 0 and n < want then tokens = tokens - take(a, task, task, math.min(tokens, want - n)) end
  end
end
for a = first, #ARGV, 2 do
  local queue = ARGV[a]
  local due = n < want and redis.call('ZRANGEBYSCORE', line_names(queue), '-inf', now, 'LIMIT', 0, 200) or {}
  for i = 1, #due do
    if n >= want then break end
    local line, task, rkey, ckey = due[i], due[i], '', ''
    local cut = string.find(line, SEP, 1, true)
    if cut then
      local second = string.find(line, SEP, cut + #SEP, true)
      task, rkey, ckey = string.sub(line, 1, cut - 1), string.sub(line, cut + #SEP, second - 1), string.sub(line, second + #SEP)
    end
    local kind = types[task]
    if kind and kind.own ~= '' and not cut then redis.call('ZADD', line_names(queue), '+inf', line)
    else
      local shared = kind and kind.own == '' and kind.per_s > 0
      local most = kind and kind.most or 0
      local rate_id, place_id, k, tat, may, free = with_key(task, rkey), with_key(task, ckey), want - n, 0, 0, 0
      if shared then
        tat, may = rate(rate_id, kind.per_s, slack)
        k = math.min(k, may)
      end
      if most > 0 then
        free = places(place_id, most)
        k = math.min(k, free)
      end
      local took, left = take(a, task, line, k, most > 0 and place_id or nil)
      if shared and took > 0 then tat = spend(rate_id, tat, kind.per_s, took) end
      if left then
        local at = shared and math.max(now, tat - slack) or now
        if most > 0 and free - took < 1 then
          at = math.max(at, next_end(place_id))
          block(place_id, queue, line)
        elseif most > 0 and at > now then wake(place_id) end  -- it cannot use the place: another may
        redis.call('ZADD', line_names(queue), at, line)
      end
    end
  end
end
out[1] = until_next(ARGV, first, 2)
return out
"""
)

#: Lines that no worker's own rate lets go on are looked at by all: those of types without a rate of their own here.
STRAYS = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, number of types, then tasks that have a rate of their own here, then queues
-- returns whether any line may be looked at now
local own, first, due = {}, 3 + tonumber(ARGV[2]), 0
for a = 3, first - 1 do own[ARGV[a]] = true end
for a = first, #ARGV do
  local names = line_names(ARGV[a])
  local waiting = redis.call('ZRANGEBYSCORE', names, '+inf', '+inf', 'LIMIT', 0, 1000)
  for i = 1, #waiting do
    if not own[waiting[i]] then redis.call('ZADD', names, 0, waiting[i]) end
  end
  due = due + redis.call('ZCOUNT', names, '-inf', now)
end
return due
"""
)

#: The bounds of a type have changed: look at its lines now.
RECONSIDER = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, task, then queues
for a = 3, #ARGV do
  local lines = redis.call('ZRANGE', line_names(ARGV[a]), 0, -1)
  for i = 1, #lines do
    if lines[i] == ARGV[2] or string.sub(lines[i], 1, #ARGV[2] + #SEP) == ARGV[2] .. SEP then
      redis.call('ZADD', line_names(ARGV[a]), 0, lines[i])
    end
  end
end
return 1
"""
)

#: Tokens and places for messages that a worker holds, since its broker keeps none.
TAKE = (
    _SHARED
    + r"""
-- KEYS: none
-- ARGV: prefix, lease in s, slack in s, then for each: rate's id, starts a second (0: any), place's id, most at once (0: any), how many,
--       name that its holders share
-- returns for each: granted, seconds until the next token or '' (a place must become free)
local lease, slack, out = tonumber(ARGV[2]), tonumber(ARGV[3]), {}
for a = 4, #ARGV, 6 do
  local per_s, most, k, tat, may, wait = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), now, 0, '0'
  if per_s > 0 then
    tat, may = rate(ARGV[a], per_s, slack)
    k = math.min(k, may)
  end
  if most > 0 then
    local free = places(ARGV[a + 2], most)
    if free < k or free < 1 then wait = '' end
    k = math.min(k, math.max(0, free))
    for i = 1, k do hold(ARGV[a + 2], ARGV[a + 5] .. i, lease) end
  end
  if per_s > 0 then
    if k > 0 then tat = spend(ARGV[a], tat, per_s, k) end
    if wait ~= '' then wait = string.format('%.6f', math.max(0, tat - slack - now)) end
  end
  out[#out + 1] = k
  out[#out + 1] = wait
end
return out
"""
)

RELEASE_PLACES = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, then for each: place's id, holder     returns how many lines may be looked at
local woken = 0
for a = 2, #ARGV, 2 do
  if redis.call('ZREM', prefix .. 'holders' .. SEP .. ARGV[a], ARGV[a + 1]) == 1 then woken = woken + wake(ARGV[a]) end
end
return woken
"""
)

RENEW_PLACES = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, lease in s, then for each: place's id, holder
for a = 3, #ARGV, 2 do hold(ARGV[a], ARGV[a + 1], tonumber(ARGV[2])) end
return 1
"""
)

#: The key of a unique call: taken, or the id of who holds it; let go of by that one alone.
HOLD_KEY = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, key, id, ms
local held = redis.call('GET', prefix .. 'unique' .. SEP .. ARGV[2])
if held then return held end
redis.call('SET', prefix .. 'unique' .. SEP .. ARGV[2], ARGV[3], 'PX', ARGV[4])
return false
"""
)

LET_GO = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, then for each: key, id
for a = 2, #ARGV, 2 do
  local name = prefix .. 'unique' .. SEP .. ARGV[a]
  if redis.call('GET', name) == ARGV[a + 1] then redis.call('DEL', name) end
end
return 1
"""
)

#: Revoked ids by the time of their revoke: readers ask for what is new.
REVOKE = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, time to live in s, how many at most, then ids
local key, ttl = prefix .. 'revoked', tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ttl)
for a = 4, #ARGV do redis.call('ZADD', key, now, ARGV[a]) end
redis.call('ZREMRANGEBYRANK', key, 0, -(tonumber(ARGV[3]) + 1))
redis.call('PEXPIRE', key, math.ceil(ttl * 1000))
return 1
"""
)

REVOKED_SINCE = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, since     returns the server's time, then id, seconds since its revoke, …
local found = redis.call('ZRANGEBYSCORE', prefix .. 'revoked', ARGV[2], '+inf', 'WITHSCORES')
local out = {string.format('%.6f', now)}
for i = 1, #found, 2 do
  out[#out + 1] = found[i]
  out[#out + 1] = string.format('%.6f', now - tonumber(found[i + 1]))
end
return out
"""
)

SET_RATE = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, task, starts a second or '' to lift it, who sets it, which leader that is, s for which it binds
-- lifts only what the same one has set; returns -1 for what an older leader than the last one says
local leads = prefix .. 'rates:leader:' .. ARGV[4]
if tonumber(redis.call('GET', leads) or 0) > tonumber(ARGV[5]) then return -1 end
redis.call('SET', leads, ARGV[5], 'EX', ARGV[6])
if ARGV[3] ~= '' then return redis.call('HSET', prefix .. 'rates', ARGV[2], ARGV[3] .. ' ' .. ARGV[4]) end
local set = redis.call('HGET', prefix .. 'rates', ARGV[2])
if set and string.sub(set, string.find(set, ' ', 1, true) + 1) == ARGV[4] then redis.call('HDEL', prefix .. 'rates', ARGV[2]) end
return 0
"""
)

RATES = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix     returns task, "<starts a second> <who set it>", …
return redis.call('HGETALL', prefix .. 'rates')
"""
)
