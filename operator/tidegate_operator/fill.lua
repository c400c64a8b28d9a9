-- Publishes all tiers in a region that has no revision or no tier: its Redis is new, came back empty, or lost them as by eviction.
-- KEYS  1 hash of tiers   2 revision (microseconds)
-- ARGV  1 channel   then tier name and document (JSON) in turn
-- Returns {outcome, revision before ("0": none), revision after}.
-- Outcome: "filled", or "kept" when there are a revision and tiers, or no tier is given.
-- Atomic, because workers take what a revision stands for as a whole: a tier that came later would be gone until then.
if #ARGV < 2 then
  return {'kept', '0', '0'} -- no tiers are no reason to forget those that are there
end
local revision = string.match(redis.call('GET', KEYS[2]) or '', '^%d+$')
local stored = redis.call('HGETALL', KEYS[1])
if revision and #stored > 0 then
  return {'kept', revision, revision}
end
-- Nobody enforces what lies there without a revision, and the new one must not bring it back.
for index = 1, #stored, 2 do
  redis.call('HDEL', KEYS[1], stored[index])
end
for index = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
-- Time keeps the revision rising over a flush, and the increment over a clock that stepped back.
local time = redis.call('TIME')
local following = string.format('%.0f', math.max((revision or 0) + 1, time[1] * 1000000 + time[2]))
redis.call('SET', KEYS[2], following)
redis.call('PUBLISH', ARGV[1], following)
return {'filled', revision or '0', following}
