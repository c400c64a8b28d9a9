-- Returns what a region holds: {revision (false: none, or no tiers although one was looked for), heartbeats: worker ids and texts in turn, seconds, microseconds, document (false: none)}.
-- KEYS  1 hash of tiers   2 revision   3 hash of heartbeats
-- ARGV  1 tier name ('': none)
-- Atomic, so that all is of one moment, and the age of heartbeats is by the clock that stamped them.
local time = redis.call('TIME')
local document = ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1])
local revision = redis.call('GET', KEYS[2])
-- GET refuses a hash and finds nothing where there is none; EXISTS is no command of the operator's user (docs/redis.md).
if ARGV[1] ~= '' and not document and not redis.pcall('GET', KEYS[1]) then
  revision = false
end
return {revision, redis.call('HGETALL', KEYS[3]), time[1], time[2], document}
