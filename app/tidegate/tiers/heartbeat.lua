-- Reports what a worker enforces; returns the region's revision (false if there is none) and how many workers it has.
-- KEYS[1] hash of heartbeats: worker id -> heartbeat (contract/codec.py)   KEYS[2] the region's revision
-- ARGV[1] worker id   ARGV[2] revision it enforces   ARGV[3] ready: true or false   ARGV[4] deciding: alike
-- ARGV[5] channel told of a changed revision   ARGV[6] milliseconds after which a silent worker is forgotten
-- Atomic, so that a change of the roster and its message are one, and stamped here: the workers' clocks differ.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = redis.call('HGETALL', KEYS[1])
local before
for i = 1, #known, 2 do
    local at = tonumber(string.match(known[i + 1], '"at":(%d+)'))
    if known[i] == ARGV[1] then
        before = string.match(known[i + 1], '"revision":(%d+)')
    elseif not at or math.abs(at - now) > tonumber(ARGV[6]) then -- also one that was stamped by a primary whose clock was ahead
        redis.call('HDEL', KEYS[1], known[i])
    end
end

-- Spelled out: cjson would write a revision of 16 digits as a rounded float.
redis.call('HSET', KEYS[1], ARGV[1], string.format('{"at":%.0f,"deciding":%s,"ready":%s,"revision":%s}', now, ARGV[4], ARGV[3], ARGV[2]))
if before ~= ARGV[2] then
    redis.call('PUBLISH', ARGV[5], ARGV[1])
end
return {redis.call('GET', KEYS[2]), redis.call('HLEN', KEYS[1])}
