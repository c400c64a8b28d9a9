-- Publishes all tiers in a region that has no revision: its Redis is new, or came back empty.
-- KEYS  1 hash of tiers   2 revision (microseconds)
-- ARGV  1 channel   then tier name and document (JSON) in turn
-- Returns {outcome, revision before ("0": none), revision after}.
-- Outcome: "filled", or "kept" when there is a revision, or no tier is given.
-- Atomic, because workers take what a revision stands for as a whole: a tier that came later would be gone until then.
if #ARGV < 2 then
  return {'kept', '0', '0'} -- no tiers are no reason to forget those that are there
end
local revision = redis.call('GET', KEYS[2])
if revision and string.match(revision, '^%d+$') then
  return {'kept', revision, revision}
end
-- Nobody enforces what lies there without a revision, and the new one must not bring it back.
local stored = redis.call('HGETALL', KEYS[1])
for index = 1, #stored, 2 do
  redis.call('HDEL', KEYS[1], stored[index])
end
for index = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
-- Time keeps the revision rising over a flush.
local time = redis.call('TIME')
local following = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('SET', KEYS[2], following)
redis.call('PUBLISH', ARGV[1], following)
return {'filled', '0', following}
