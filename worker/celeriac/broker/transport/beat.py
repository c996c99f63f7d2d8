r"""Scripts of beat in the coordination store: when each entry last ran, and which ticks were claimed and not yet sent.

    celeriac.beatSEP<app>           entry -> its last run, ISO 8601 in UTC (a hash)
    celeriac.beat.claimsSEP<app>    "<due moment> <entry>" -> end of the claim, by the server's clock (a sorted set)

Claiming a tick advances the last run in the same step, so that of several beats one sends it. A claim that is not confirmed in time is
anyone's.
"""

_SHARED = r"""
local SEP = '\6\22'
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local prefix = ARGV[1] .. 'celeriac.'
local runs, claims = prefix .. 'beat' .. SEP .. ARGV[2], prefix .. 'beat.claims' .. SEP .. ARGV[2]
local function entry_of(tick) return string.sub(tick, string.find(tick, ' ', 1, true) + 1) end
local function set_of(first)
  local known = {}
  for a = first, #ARGV do known[ARGV[a]] = true end
  return known
end
"""

BEAT_FORGET = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, entries there are     returns entries that are no more, and are forgotten
local known, gone = set_of(3), {}
for _, entry in ipairs(redis.call('HKEYS', runs)) do
  if not known[entry] then
    redis.call('HDEL', runs, entry)
    gone[#gone + 1] = entry
  end
end
for _, tick in ipairs(redis.call('ZRANGE', claims, 0, -1)) do
  if not known[entry_of(tick)] then redis.call('ZREM', claims, tick) end
end
return gone
"""
)

BEAT_LASTS = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, first run of entries never seen or '', entries     returns the server's time, then a last run or '' for each
local out = {string.format('%.6f', now)}
for a = 4, #ARGV do
  if ARGV[3] ~= '' then redis.call('HSETNX', runs, ARGV[a], ARGV[3]) end
  out[#out + 1] = redis.call('HGET', runs, ARGV[a]) or ''
end
return out
"""
)

BEAT_CLAIM = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, entry, its last run as known, its new one, tick or '' to leave it out, seconds of the claim
-- returns '' when claimed, else the last run as it is: another beat was faster
local last = redis.call('HGET', runs, ARGV[3])
if last and last ~= ARGV[4] then return last end
redis.call('HSET', runs, ARGV[3], ARGV[5])
if ARGV[6] ~= '' then redis.call('ZADD', claims, now + tonumber(ARGV[7]), ARGV[6]) end
return ''
"""
)

BEAT_CONFIRM = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, tick     returns whether the claim was still there
return redis.call('ZREM', claims, ARGV[3])
"""
)

BEAT_PUT_OFF = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, tick, seconds after which it is anyone's
return redis.call('ZADD', claims, 'XX', now + tonumber(ARGV[4]), ARGV[3])
"""
)

BEAT_OVERDUE = (
    _SHARED
    + r"""
-- KEYS: none     ARGV: prefix, app, seconds of the claim, entries known here     returns the server's time, then ticks that are claimed anew
local known, out = set_of(4), {string.format('%.6f', now)}
for _, tick in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', now)) do
  if known[entry_of(tick)] then
    redis.call('ZADD', claims, now + tonumber(ARGV[3]), tick)
    out[#out + 1] = tick
  end
end
return out
"""
)

SCRIPTS = {
    "beat_forget": BEAT_FORGET,
    "beat_lasts": BEAT_LASTS,
    "beat_claim": BEAT_CLAIM,
    "beat_confirm": BEAT_CONFIRM,
    "beat_put_off": BEAT_PUT_OFF,
    "beat_overdue": BEAT_OVERDUE,
}
