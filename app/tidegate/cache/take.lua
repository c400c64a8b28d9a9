-- Lets one of many make an entry: gives a lease, unless somebody holds it or there is an entry that the caller has not seen.
-- KEYS  1 hash of a path: variant -> sealed entry, variant and "l" -> lease (deadline in Redis milliseconds, colon, owner)
-- ARGV  1 variant   2 owner   3 milliseconds of the lease   4 first bytes of the entry that the caller has seen ("": none)
-- Returns {"entry", sealed}, {"held"} or {"taken", 1 if there are other variants}.
-- Atomic, because two that look at once would both find no lease.
local entry, lease_field = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[1] .. 'l'
if entry and (ARGV[4] == '' or string.sub(entry, 1, #ARGV[4]) ~= ARGV[4]) then
  return {'entry', entry}
end
local time, lease = redis.call('TIME'), redis.call('HGET', KEYS[1], lease_field)
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if lease and tonumber(string.match(lease, '^%d+')) > now then
  return {'held'}
end
local others = redis.call('HLEN', KEYS[1]) - (entry and 1 or 0) - (lease and 1 or 0)
redis.call('HSET', KEYS[1], lease_field, string.format('%.0f:%s', now + ARGV[3], ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {'taken', others > 0 and 1 or 0}
