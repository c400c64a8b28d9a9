-- Makes a lease last longer, or ends it.
-- KEYS  1 hash of a path, as in take.lua
-- ARGV  1 variant   2 owner   3 milliseconds from now; 0 ends it
-- Returns 1, or 0 if it is not the owner's any more.
-- Atomic, because somebody else may take it between look and write.
local lease_field = ARGV[1] .. 'l'
local lease = redis.call('HGET', KEYS[1], lease_field)
if not lease or string.match(lease, ':(.*)$') ~= ARGV[2] then
  return 0
end
if ARGV[3] == '0' then
  return redis.call('HDEL', KEYS[1], lease_field)
end
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
redis.call('HSET', KEYS[1], lease_field, string.format('%.0f:%s', deadline, ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
