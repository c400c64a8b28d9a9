-- Publishes one tier in one region.
-- KEYS  1 hash of tiers   2 revision (microseconds)
-- ARGV  1 tier name   2 document (JSON)   3 uid   4 generation   5 channel
-- Returns {outcome, revision before ("0": none), revision after}.
-- Outcome: "published", "equal", "refused" (a newer generation of the same uid is stored) or "empty" (there is no revision, or no tier at
-- all: fill.lua brings both).
-- Atomic, because a stale operator may write between another one's look and its write.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = redis.call('GET', KEYS[2])
-- GET refuses a hash and finds nothing where there is none; EXISTS is no command of the operator's user (docs/redis.md).
local is_empty = not stored and not redis.pcall('GET', KEYS[1])
if is_empty or not revision or not string.match(revision, '^%d+$') then
  return {'empty', '0', '0'}
end
if stored == ARGV[2] then
  return {'equal', revision, revision}
end
local readable, old = pcall(cjson.decode, stored or '')
if readable and type(old) == 'table' and old.uid == ARGV[3] and (tonumber(old.generation) or 0) > tonumber(ARGV[4]) then
  return {'refused', revision, revision}
end
-- The increment keeps the revision rising over a clock that stepped back.
local time = redis.call('TIME')
local following = string.format('%.0f', math.max(revision + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], following)
redis.call('PUBLISH', ARGV[5], following)
return {'published', revision, following}
