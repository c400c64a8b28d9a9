-- Carries out all writes or none, on the condition that no key that was read has changed. One script, because a duplicate
-- of the same mutation may commit at the same instant. Running it twice is safe: a write that was expected has a new version by then.
-- A stored string is its version in 16 digits, then the value.
-- KEYS[1] counter of versions; KEYS[2 .. n+1] keys with an expected version; the others: keys to write
-- ARGV[1] n; ARGV[2 .. n+1] expected versions in 16 digits, '' for absent
-- ARGV[n+2 ...] per key to write: 'set' or 'delete', value, retention in milliseconds ('0': for ever)
-- Returns {version}, or {0, position in KEYS of each changed key ...}
local n = tonumber(ARGV[1])
local reply = {0}
for i = 2, n + 1 do
  if redis.call('GETRANGE', KEYS[i], 0, 15) ~= ARGV[i] then reply[#reply + 1] = i end
end
if #reply > 1 then return reply end
local version = redis.call('INCR', KEYS[1])
local prefix = string.format('%016.0f', version)
local argument = n + 2
for i = n + 2, #KEYS do
  local operation, value, retention = ARGV[argument], ARGV[argument + 1], ARGV[argument + 2]
  if operation == 'delete' then
    redis.call('DEL', KEYS[i])
  else
    redis.call('SET', KEYS[i], prefix .. value)
    if retention ~= '0' then redis.call('PEXPIRE', KEYS[i], retention) end
  end
  argument = argument + 3
end
return {version}
