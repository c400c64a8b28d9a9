-- Decides a batch. For each run (equal requests of one identity) it grants as many as fit into every window of the tier, and charges
-- those to all windows. One script, because two requests may take the last unit at the same instant. A refusal writes nothing.
-- The model of one run is vector.py.
--
-- KEYS[r]       usage vector of the identity of run r
-- KEYS[n + r]   while identities have two names: the other one; a vector found under it is moved (n is the number of runs)
-- ARGV[1..#-1]  policies: the head that a vector of this tier has (below), then a limit f64 per window
-- ARGV[#]       30 bytes per run: policy u16 (1 is the first), requests u32 (0: charge response bytes, whatever the limits),
--               cost f64, request bytes f64, response bytes f64 of each request
-- Returns one string: microseconds since the epoch f64, then per run: granted u32, flags u8, and
--   flags 0: all granted; the vector's states, 21 bytes per window
--   flags 2 (+ 1: something of unknown form was ignored): per window f64 used, f64 microseconds until more quota (0: nothing is used);
--   + 4, not all granted: then per window f64 microseconds until one more such request fits (0: it does)
--   flags 8: the key holds no string, and nothing was decided; nothing follows
--
-- Vector, little endian: | schema = 1 u8 | windows n u8 | n x shape | n x state | n x past |
-- shape, 5 bytes: unit u8 (0 Requests, 1 Cost, 2 RequestBytes, 3 ResponseBytes; + 4 for each earlier window of this unit and period),
--   u32 of period in seconds (24 bits) and form (8 bits). Form B, or B + 64 with wide past: B sub-windows a period. Form 144: a log.
-- state, 21 bytes: head u32, older f64, newest f64, oldest u8. Sub-windows: head = index of the newest since the epoch, mod 2^32; newest =
--   its usage; past = that of the B before it, oldest first, u32 or wide f64; older = their sum; oldest = first slot in use, B if none.
--   All B + 1 count in full, so that no trailing period ever holds more than its limit.
--   Log: older = number of requests; past = when each was granted, in milliseconds since the epoch, rounded up, mod 2^32, u32 x 16.
local TURN, PAST, LOG, LOG_SIZE, MOST_WINDOWS = 4294967296, 3758096384, 144, 16, 32 -- PAST: of a turn, 43 days of milliseconds
local floor, ceil, min, max, sub, byte, pack, unpacked = math.floor, math.ceil, math.min, math.max, string.sub, string.byte, struct.pack, struct.unpack

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms, stamp = floor(now / 1000), ceil(now / 1000) % TURN

local function shape_of(unit, period, form)
  local size = form == LOG and LOG_SIZE or form % 64
  local is_wide = form >= 64 and form < 128
  return {unit = unit, period = period, form = form, size = size, sub = period * 1000000 / size, numbers = '<' .. string.rep(is_wide and 'd' or 'I4', size),
    largest = is_wide and math.huge or TURN - 1, bytes = size * (is_wide and 8 or 4)}
end

local function read_shape(head, window)
  local unit, both = unpacked('<BI4', head, 3 + 5 * (window - 1))
  return shape_of(unit, both % 16777216, floor(both / 16777216))
end

local function read_policy(text)
  local n = byte(text, 2)
  local at = 3 + 5 * n
  local policy = {n = n, at = at, head = sub(text, 1, at - 1), state = '<' .. string.rep('I4ddB', n), shapes = {}, heads = {}, has_log = false, size = at - 1,
    limits = {unpacked('<' .. string.rep('d', n), text, at)}}
  for w = 1, n do
    local shape = read_shape(text, w)
    policy.shapes[w], policy.heads[w] = shape, floor(now / shape.sub) % TURN
    policy.has_log, policy.size = policy.has_log or shape.form == LOG, policy.size + 21 + shape.bytes
  end
  return policy
end

local function read_run(policy, run) -- per window what one more request needs free and charges, and what all of them need and charge
  local count, cost, request_bytes, response_bytes = unpacked('<I4ddd', run)
  local by_unit = {{1, 1}, {cost, cost}, {request_bytes, request_bytes}, {1, 0}}
  if count == 0 then by_unit = {{0, 0}, {0, 0}, {0, 0}, {0, response_bytes}} end
  local asked = {run = run, count = count, checks = {}, charges = {}, needs = {}, totals = {}, sum = 0, answer = pack('<I4B', count, 0)}
  for w = 1, policy.n do
    local check, charge = unpack(by_unit[policy.shapes[w].unit % 4 + 1])
    local total = charge * max(count, 1)
    asked.checks[w], asked.charges[w], asked.totals[w], asked.sum = check, charge, total, asked.sum + total
    asked.needs[w] = check > 0 and max(check, total) or -math.huge
  end
  return asked
end

-- Move on by `passed` sub-windows: the past of a window, its sum, and its first slot in use.
local function turned(shape, before, newest, passed)
  local after, older, oldest, size = {}, 0, shape.size, shape.size
  for slot = size, 1, -1 do
    local from = slot + passed
    local amount = from <= size and before[from] or (from == size + 1 and newest or 0)
    if amount > 0 then
      amount, oldest = min(amount, shape.largest), slot - 1
      older = older + amount
    end
    after[slot] = amount
  end
  return after, older, oldest
end

local function until_expiry(shape) -- milliseconds until the last unit that could be charged now has left
  return shape.form == LOG and shape.period * 1000 + 1 or ceil((shape.size + 1) * shape.sub / 1000)
end

-- the slow way: a record per window, for another shape, a sub-window that turned, a log, a refusal ------------------------------------

local function age(at) -- milliseconds; negative for a stamp that was rounded up, or from which the clock went back
  local passed = (now_ms - at) % TURN
  return passed < PAST and passed or passed - TURN
end

local function used(record) return record.older + record.newest end

local function leaves(record, slot) return (record.index + slot + 1) * record.shape.sub end

local function past(record)
  record.past = record.past or {unpacked(record.shape.numbers, record.raw)}
  return record.past
end

local function fresh(shape)
  local record = {shape = shape, index = floor(now / shape.sub), older = 0, newest = 0, oldest = shape.form == LOG and 0 or shape.size, past = {}}
  for slot = 1, shape.form == LOG and 0 or shape.size do record.past[slot] = 0 end
  return record
end

local function advance_log(record)
  local kept = {}
  for i = 1, min(record.older, LOG_SIZE) do
    if age(past(record)[i]) < record.shape.period * 1000 then kept[#kept + 1] = record.past[i] end
  end
  record.past, record.older, record.newest, record.oldest = kept, #kept, 0, 0
end

local function advance(record)
  if record.shape.form == LOG then return advance_log(record) end
  local index = floor(now / record.shape.sub)
  local passed = (index - record.head) % TURN
  record.index = passed < PAST and index or index + TURN - passed -- a clock that went back reopens nothing
  if passed == 0 or passed >= PAST then return end
  record.past, record.older, record.oldest = turned(record.shape, past(record), record.newest, passed)
  record.newest = 0
end

local function is_sound(shape, older, newest)
  return shape.period > 0 and shape.size > 0 and (shape.form < 128 or shape.form == LOG) and older >= 0 and newest >= 0 and older + newest < math.huge
end

local function parse(vector)
  local records, n = {}, byte(vector, 2) or 0
  local at = 3 + 26 * n
  if byte(vector, 1) ~= 1 or #vector < at - 1 then return {}, 1 end
  for w = 1, n do
    local shape = read_shape(vector, w)
    local head, older, newest, oldest = unpacked('<I4ddB', vector, 3 + 5 * n + 21 * (w - 1))
    local raw = sub(vector, at, at + shape.bytes - 1)
    if #raw < shape.bytes or not is_sound(shape, older, newest) then return {}, 1 end
    records[w], at = {shape = shape, head = head, older = older, newest = newest, oldest = oldest, raw = raw}, at + shape.bytes
    advance(records[w])
  end
  return records, 0
end

local function used_within(record, period) -- no less than what was used in the last `period` seconds
  local shape, sum = record.shape, record.newest
  if shape.period <= period then return used(record) end
  for slot = 1, shape.form == LOG and record.older or shape.size do
    if shape.form == LOG then
      if age(past(record)[slot]) < period * 1000 then sum = sum + 1 end
    elseif (record.index - shape.size + slot) * shape.sub > now - period * 1000000 then
      sum = sum + past(record)[slot]
    end
  end
  return sum
end

local function log_of(record, shape) -- each use is dated to the end of its sub-window
  local log = fresh(shape)
  for slot = 1, record.shape.size + 1 do
    local ends = ceil((record.index - record.shape.size + slot) * record.shape.sub / 1000)
    for _ = 1, slot > record.shape.size and record.newest or past(record)[slot] do
      log.older = log.older + 1
      log.past[log.older] = min(ends, ceil(now / 1000)) % TURN
    end
  end
  return log
end

local function counters_of(log, shape)
  local record = fresh(shape)
  for i = 1, log.older do
    local slot = max(1, floor((now_ms - max(age(log.past[i]), 0)) * 1000 / shape.sub) - record.index + shape.size + 1)
    if slot > shape.size then record.newest = record.newest + 1 else record.past[slot] = record.past[slot] + 1 end
  end
  record.past, record.older, record.oldest = turned(shape, record.past, 0, 0)
  return record
end

local function reshaped(record, shape) -- the same unit and period in another form
  if shape.form == record.shape.form then return record end
  if shape.form == LOG then return used(record) > LOG_SIZE and record or log_of(record, shape) end -- a log once enough has left
  if record.shape.form == LOG then return counters_of(record, shape) end
  local made = fresh(shape)
  if record.shape.size ~= shape.size then
    made.newest = used(record)
  else
    made.index, made.newest = record.index, record.newest
    made.past, made.older, made.oldest = turned(shape, past(record), 0, 0)
  end
  return made
end

local function begin(shape, held) -- a new window goes on from what is known to be used of its unit
  local carried = 0
  for _, record in ipairs(held) do
    if record.shape.unit % 4 == shape.unit % 4 then carried = max(carried, used_within(record, shape.period)) end
  end
  if shape.form == LOG and carried > LOG_SIZE then shape = shape_of(shape.unit, shape.period, shape.period < 86400 and 10 or 24) end
  local record = fresh(shape)
  if shape.form == LOG then
    for i = 1, carried do record.past[i] = stamp end
    record.older = carried
  else
    record.newest = carried
  end
  return record
end

local function records_of(policy, held) -- the policy's windows in order, then those of other tiers of this identity that still count
  local by_window, records, is_taken = {}, {}, {}
  for _, record in ipairs(held) do by_window[record.shape.unit * 16777216 + record.shape.period] = record end
  for w, shape in ipairs(policy.shapes) do
    local known = by_window[shape.unit * 16777216 + shape.period]
    records[w] = known and reshaped(known, shape) or begin(shape, held)
    is_taken[known or shape] = true
  end
  for _, record in ipairs(held) do
    if not is_taken[record] and used(record) > 0 and #records < MOST_WINDOWS then records[#records + 1] = record end
  end
  return records
end

local function charge(record, amount)
  if record.shape.form ~= LOG then record.newest = record.newest + amount return end
  for i = record.older + 1, record.older + amount do record.past[i] = stamp end
  record.older = record.older + amount
end

local function until_left(record, amount) -- microseconds until `amount` of what is used no longer counts
  local shape = record.shape
  if shape.form == LOG then return (now_ms - age(record.past[amount]) + shape.period * 1000) * 1000 - now end
  for slot = 1, shape.size do
    amount = amount - past(record)[slot]
    if amount <= 0 then return leaves(record, slot - 1) - now end
  end
  return leaves(record, shape.size) - now
end

local function write(key, records)
  local parts, longest, n = {'\1' .. string.char(#records)}, 0, #records
  for i, record in ipairs(records) do
    local shape, is_log = record.shape, record.shape.form == LOG
    parts[1 + i] = pack('<BI4', shape.unit, shape.form * 16777216 + shape.period)
    parts[1 + n + i] = pack('<I4ddB', is_log and 0 or record.index % TURN, record.older, record.newest, record.oldest)
    for slot = is_log and record.older + 1 or shape.size + 1, shape.size do record.past[slot] = 0 end
    parts[1 + 2 * n + i] = record.past and pack(shape.numbers, unpack(record.past, 1, shape.size)) or record.raw
    longest = max(longest, until_expiry(shape))
  end
  redis.call('SET', key, table.concat(parts), 'PX', longest)
end

local function decide_slowly(key, policy, asked, vector)
  local held, unknown = {}, 0
  if vector then held, unknown = parse(vector) end
  local records, granted, readings, waits = records_of(policy, held), asked.count, {}, {}
  for w = 1, policy.n do
    local room, check, each = policy.limits[w] - used(records[w]), asked.checks[w], asked.charges[w]
    if check > 0 then granted = min(granted, room < check and 0 or each > 0 and floor(room / each) or granted) end
  end
  for w = 1, policy.n do
    local record, check, limit = records[w], asked.checks[w], policy.limits[w]
    charge(record, asked.charges[w] * (asked.count > 0 and granted or 1))
    local excess = used(record) + check - limit
    readings[w] = pack('<dd', used(record), used(record) > 0 and until_left(record, 1) or 0)
    waits[w] = pack('<d', check > 0 and excess > 0 and until_left(record, min(excess, used(record))) or 0)
    if check > limit then waits[w] = pack('<d', record.shape.period * 1000000) end -- never
  end
  if asked.sum > 0 and (granted > 0 or asked.count == 0) then write(key, records) end
  local is_partial = granted < asked.count
  return pack('<I4B', granted, 2 + unknown + (is_partial and 4 or 0)) .. table.concat(readings) .. (is_partial and table.concat(waits) or '')
end

-- the fast way: the policy's own shape, and all granted -------------------------------------------------------------------------------

local function write_turned(key, policy, packed, vector, turns)
  local parts, at, longest = {policy.head, packed}, policy.at + 21 * policy.n, 0
  for w, shape in ipairs(policy.shapes) do
    parts[2 + w] = turns[w] and pack(shape.numbers, unpack(turns[w], 1, shape.size)) or sub(vector, at, at + shape.bytes - 1)
    at, longest = at + shape.bytes, max(longest, until_expiry(shape))
  end
  redis.call('SET', key, table.concat(parts), 'PX', longest)
end

local function turn(policy, w, state, vector, past_at) -- the past of a window whose sub-window has ended, or nil if its clock went back
  local at, shape = 4 * w - 3, policy.shapes[w]
  local passed = (policy.heads[w] - state[at]) % TURN
  if passed >= PAST then return nil end
  local after, older, oldest = turned(shape, {unpacked(shape.numbers, vector, past_at)}, state[at + 2], passed)
  state[at], state[at + 1], state[at + 2], state[at + 3] = policy.heads[w], older, 0, oldest
  return after
end

local function decide(key, other, policy, asked)
  local vector = redis.pcall('GET', key)
  if not vector and other and redis.call('EXISTS', other) == 1 then
    redis.call('RENAME', other, key) -- with its expiry
    vector = redis.pcall('GET', key)
  end
  if type(vector) == 'table' then return pack('<I4B', 0, 8) end -- not a string: this run alone fails
  if not vector or policy.has_log or #vector ~= policy.size or sub(vector, 1, policy.at - 1) ~= policy.head then
    return decide_slowly(key, policy, asked, vector)
  end
  local state, heads, limits, needs, totals = {unpacked(policy.state, vector, policy.at)}, policy.heads, policy.limits, asked.needs, asked.totals
  local at, past_at, turns = 1, policy.at + 21 * policy.n, nil
  for w = 1, policy.n do
    if state[at] ~= heads[w] then
      turns = turns or {}
      turns[w] = turn(policy, w, state, vector, past_at)
      if not turns[w] then return decide_slowly(key, policy, asked, vector) end
    end
    local newest = state[at + 2]
    if not (limits[w] - state[at + 1] - newest >= needs[w]) then return decide_slowly(key, policy, asked, vector) end
    state[at + 2], at, past_at = newest + totals[w], at + 4, past_at + policy.shapes[w].bytes
  end
  local packed = pack(policy.state, unpack(state, 1, at - 1))
  if asked.sum > 0 then
    if turns then write_turned(key, policy, packed, vector, turns) else redis.call('SETRANGE', key, policy.at - 1, packed) end
  end
  return asked.answer .. packed
end

local policies, replies, runs = {}, {pack('<d', now)}, ARGV[#ARGV]
local n = #runs / 30
for i = 1, #ARGV - 1 do policies[i] = read_policy(ARGV[i]) end
for r = 1, n do
  local at = 30 * (r - 1)
  local policy, run = policies[byte(runs, at + 1) + 256 * byte(runs, at + 2)], sub(runs, at + 3, at + 30)
  if not policy.asked or policy.asked.run ~= run then policy.asked = read_run(policy, run) end
  replies[r + 1] = decide(KEYS[r], KEYS[n + r], policy, policy.asked)
end
return table.concat(replies)
