-- Remembers the mark of the consistent store, unless one that was accepted later is remembered, and returns what is.
-- KEYS[1] mark   ARGV[1] mark as 'adoptions:name', '' only to ask
-- Atomic, so that a slow worker does not put an old mark over a new one.
local remembered = redis.call('GET', KEYS[1])
local function adoptions(mark) return tonumber(string.match(mark, '^%d+')) or -1 end
if ARGV[1] ~= '' and (not remembered or adoptions(ARGV[1]) >= adoptions(remembered)) then
  redis.call('SET', KEYS[1], ARGV[1])
  return ARGV[1]
end
return remembered
