-- GCRA, as redis_rate has it, for rueidis, which has no limiter of its own.
-- KEYS[1]  when the bucket would be empty, in microseconds of Redis' clock
-- ARGV[1]  microseconds for which one unit fills the bucket
-- ARGV[2]  how full it may be, in microseconds
-- ARGV[3]  units of this request
-- Returns what redis_rate does: whether it passes, units left, seconds until it could pass and until the bucket is empty.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local unit, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local empty_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local then_empty_at = empty_at + unit * ARGV[3]
local left = now + room - then_empty_at
if left < 0 then
  return {0, 0, tostring(-left / 1000000), tostring((empty_at - now) / 1000000)}
end
redis.call('SET', KEYS[1], string.format('%.3f', then_empty_at), 'PX', math.ceil((then_empty_at - now) / 1000))
return {1, math.floor(left / unit), '-1', tostring((then_empty_at - now) / 1000000)}
