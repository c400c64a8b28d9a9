-- Removes one tier from one region.
-- KEYS  1 hash of tiers   2 revision (microseconds)
-- ARGV  1 tier name   2 uid (empty: that of a document without a readable one)   3 channel
-- Returns {outcome, revision before ("0": none), revision after}.
-- Outcome: "retired", "kept" when the tier is not there or belongs to another uid, or "empty" (there is no revision: fill.lua makes one).
-- Atomic, because a tier of the same name may be made anew between the look and the removal.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = redis.call('GET', KEYS[2])
if not revision or not string.match(revision, '^%d+$') then
  return {'empty', '0', '0'}
end
local readable, old = pcall(cjson.decode, stored or '')
local uid = readable and type(old) == 'table' and type(old.uid) == 'string' and old.uid or ''
if not stored or uid ~= ARGV[2] then
  return {'kept', revision, revision}
end
local time = redis.call('TIME')
local following = string.format('%.0f', math.max(revision + 1, time[1] * 1000000 + time[2]))
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], following)
redis.call('PUBLISH', ARGV[3], following)
return {'retired', revision, following}
