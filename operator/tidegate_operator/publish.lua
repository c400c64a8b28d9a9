-- Publishes one tier in one region.
-- KEYS  1 hash of tiers   2 revision (microseconds)
-- ARGV  1 tier name   2 document (JSON)   3 uid   4 generation   5 channel
-- Returns {outcome, revision before ("0": none), revision after}.
-- Outcome: "published", "equal" or "refused" (a newer generation of the same uid is stored).
-- Atomic, because a stale operator may write between another one's look and its write.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = redis.call('GET', KEYS[2])
if revision and not string.match(revision, '^%d+$') then
  revision = false -- not written by us
end
if stored and revision then
  if stored == ARGV[2] then
    return {'equal', revision, revision}
  end
  local readable, old = pcall(cjson.decode, stored)
  if readable and type(old) == 'table' and old.uid == ARGV[3] and (tonumber(old.generation) or 0) > tonumber(ARGV[4]) then
    return {'refused', revision, revision}
  end
end
-- Time keeps the revision rising over a flush, the increment over a clock that stepped back.
local time = redis.call('TIME')
local following = string.format('%.0f', math.max((tonumber(revision) or 0) + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], following)
redis.call('PUBLISH', ARGV[5], following)
return {'published', revision or '0', following}
