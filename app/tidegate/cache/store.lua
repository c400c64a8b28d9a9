-- Keeps an entry, if its lease is still the owner's, and ends the lease. An invalidation removes leases, so nothing older than it is kept.
-- KEYS  1 hash of a path, as in take.lua
-- ARGV  1 variant   2 owner   3 sealed entry   4 milliseconds that it is of use   5 most fields of a path
-- Returns 1, or 0 if nothing was kept.
-- Atomic, because an invalidation may come between look and write.
local lease_field = ARGV[1] .. 'l'
local lease = redis.call('HGET', KEYS[1], lease_field)
if not lease or string.match(lease, ':(.*)$') ~= ARGV[2] then
  return 0
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then
  redis.call('UNLINK', KEYS[1])
end
redis.call('HDEL', KEYS[1], lease_field)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
