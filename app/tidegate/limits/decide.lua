-- Decides a batch. For each run (equal requests of one identity) it grants as many as fit into every window of the tier, and charges
-- those to all windows. One script, because two requests may take the last unit at the same instant. A refusal charges nothing;
-- it writes only where a window begins with usage, or where the clock went back.
-- The model of one run is vector.py, with shape.py and record.py.
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
--   flags 16: those before took so long that this run and all after it were not decided, and are to be asked for again; nothing follows
--
-- Vector, little endian: | schema = 1 u8 | windows n u8 | n x shape | n x state | n x past |
-- shape, 5 bytes: unit u8 (0 Requests, 1 Cost, 2 RequestBytes, 3 ResponseBytes; + 4 for each earlier window of this unit and period),
--   u32 of period in seconds (24 bits) and form (8 bits). Form B, or B + 64 with wide past: B sub-windows a period. Form 144: a log.
-- state, 21 bytes: head u32, older f64, newest f64, oldest u8. Sub-windows: head = index of the newest since the epoch, mod 2^32; newest =
--   its usage; past = that of the B before it, oldest first, u32 or wide f64; older = their sum; oldest = first slot in use, B if none.
--   All B + 1 count in full, so that no trailing period ever holds more than its limit.
--   Log: older = number of requests; past = when each was granted, in milliseconds since the epoch, rounded up, mod 2^32, u32 x 16.
local TURN, PAST, LOG, LOG_SIZE, MOST_WINDOWS = 4294967296, 3758096384, 144, 16, 16 -- PAST: of a turn, 43 days of milliseconds
local MOST_WORK, work = 900, 0 -- about microseconds; how long others are held up
local LARGEST_SUM = 9007199254740992 -- up to which a double counts exactly
local floor, ceil, min, max, sub, byte, pack, unpacked = math.floor, math.ceil, math.min, math.max, string.sub, string.byte, struct.pack, struct.unpack

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms, stamp_ms = floor(now / 1000), ceil(now / 1000)
local stamp = stamp_ms % TURN

local function shape_of(unit, period, form)
  local size = form == LOG and LOG_SIZE or form % 64
  local is_wide = form >= 64 and form < 128
  local numbers = '<' .. string.rep(is_wide and 'd' or 'I4', size)
  return {unit = unit, period = period, form = form, size = size, sub = period * 1000000 / size, numbers = numbers,
    largest = is_wide and math.huge or TURN - 1, bytes = size * (is_wide and 8 or 4), key = unit * 16777216 + period}
end

local function counted_form(period) return period < 86400 and 10 or 24 end

local function read_shape(head, window) -- nil if there is no such form
  local unit, both = unpacked('<BI4', head, 3 + 5 * (window - 1))
  local shape = shape_of(unit, both % 16777216, floor(both / 16777216))
  if shape.period > 0 and shape.size > 0 and (shape.form < 128 or shape.form == LOG) then return shape end
end

local function read_policy(text)
  local n = byte(text, 2)
  local policy = {n = n, shapes = {}, places = {}, views = {}, limits = {unpacked('<' .. string.rep('d', n), text, 3 + 5 * n)}}
  for w = 1, n do
    policy.shapes[w] = read_shape(text, w)
    policy.places[policy.shapes[w].key] = w
  end
  return policy
end

local function read_run(run) -- by unit: what one more such request needs free, and what it charges
  local count, cost, request_bytes, response_bytes = unpacked('<I4ddd', run)
  if count == 0 then return {count = 0, {0, 0}, {0, 0}, {0, 0}, {0, response_bytes}} end
  return {count = count, {1, 1}, {cost, cost}, {request_bytes, request_bytes}, {1, 0}}
end

-- Move on by `passed` sub-windows: the past of a window, its sum, and its first slot in use.
local function turned(shape, before, newest, passed)
  local after, older, oldest, size = {}, 0, shape.size, shape.size
  for slot = size, 1, -1 do
    local from = slot + passed
    local amount = from <= size and before[from] or (from == size + 1 and newest or 0)
    if amount > 0 then older, oldest = older + amount, slot - 1 end
    after[slot] = amount
  end
  return after, older, oldest
end

local function until_expiry(shape) -- milliseconds until the last unit that could be charged now has left
  return shape.form == LOG and shape.period * 1000 + 1 or ceil((shape.size + 1) * shape.sub / 1000)
end

-- the slow way: a record per window, for another shape, a log, a refusal, a clock that went back --------------------------------------

local must_write -- whether what was read is not what is to be remembered, though nothing is charged

local function age(at) -- milliseconds; negative for a stamp that was rounded up, or from which the clock went back
  local passed = (now_ms - at) % TURN
  return passed < PAST and passed or passed - TURN
end

local function used(record) return record.older + record.newest end

local function leaves(record, slot) return (record.index + slot + 1) * record.shape.sub end

local function fresh(shape)
  local record = {shape = shape, index = floor(now / shape.sub), older = 0, newest = 0, oldest = shape.form == LOG and 0 or shape.size, past = {}}
  for slot = 1, shape.form == LOG and 0 or shape.size do record.past[slot] = 0 end
  return record
end

local function advance_log(record)
  local kept = {}
  for i = 1, record.older do
    local at = record.past[i]
    if age(at) < now_ms - stamp_ms then at, must_write = stamp, true end -- the clock went back: as if it were now, so that nothing reopens
    if age(at) < record.shape.period * 1000 then kept[#kept + 1] = at end
  end
  record.past, record.older, record.newest, record.oldest = kept, #kept, 0, 0
end

local function widened(record) -- its newest does not fit into a narrow past
  record.shape = shape_of(record.shape.unit, record.shape.period, record.shape.form + 64)
end

local function advance(record)
  if record.shape.form == LOG then return advance_log(record) end
  local index = floor(now / record.shape.sub)
  local passed = (index - record.head) % TURN
  if passed >= PAST and TURN - passed > 1 then
    -- The clock went back: all counts from now on, so that nothing reopens, and nothing stays for as long as the step was.
    local moved = fresh(record.shape)
    record.past, record.newest, record.older, record.oldest, record.index = moved.past, used(record), 0, moved.oldest, index
    must_write = true
    return
  end
  record.index = passed < PAST and index or index + 1
  if passed == 0 or passed >= PAST then return end
  if passed <= record.shape.size and record.newest > record.shape.largest then widened(record) end
  record.past, record.older, record.oldest = turned(record.shape, record.past, record.newest, passed)
  record.newest = 0
end

local function read_record(shape, vector, window, n, at) -- nil if no such record can have been written
  local head, older, newest, oldest = unpacked('<I4ddB', vector, 3 + 5 * n + 21 * (window - 1))
  local past, sum = {unpacked(shape.numbers, vector, at)}, 0
  if newest % 1 ~= 0 or newest < 0 or older % 1 ~= 0 or older < 0 or older + newest > LARGEST_SUM then return nil end
  if shape.form == LOG then
    if older > LOG_SIZE or newest > 0 then return nil end
  else
    for slot = 1, shape.size do
      if past[slot] % 1 ~= 0 or past[slot] < 0 then return nil end
      sum = sum + past[slot]
    end
    if sum ~= older then return nil end
  end
  return {shape = shape, head = head, older = older, newest = newest, oldest = oldest, past = past}
end

local function parse(vector)
  local records, n = {}, byte(vector, 2) or 0
  local at = 3 + 26 * n
  if byte(vector, 1) ~= 1 or #vector < at - 1 then return {}, 1 end
  for w = 1, n do
    local shape = read_shape(vector, w)
    local record = shape and #vector >= at + shape.bytes - 1 and read_record(shape, vector, w, n, at)
    if not record then return {}, 1 end
    records[w], at = record, at + shape.bytes
  end
  for _, record in ipairs(records) do advance(record) end
  return records, 0
end

local function used_within(record, period) -- no less than what was used in the last `period` seconds
  local shape, sum = record.shape, record.newest
  if shape.period <= period then return used(record) end
  for slot = 1, shape.form == LOG and record.older or shape.size do
    if shape.form == LOG then
      if age(record.past[slot]) < period * 1000 then sum = sum + 1 end
    elseif (record.index - shape.size + slot) * shape.sub > now - period * 1000000 then
      sum = sum + record.past[slot]
    end
  end
  return sum
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

local function reshaped(record, shape) -- the same unit and period in another form, or as it is while that cannot hold it
  if shape.form == record.shape.form then return record end
  if shape.form == LOG then return used(record) > 0 and record or fresh(shape) end
  if record.shape.form == LOG then return counters_of(record, shape) end
  local made = fresh(shape)
  if record.shape.size ~= shape.size then
    made.newest = used(record)
    return made
  end
  for slot = 1, shape.size do if record.past[slot] > shape.largest then return record end end
  made.index, made.newest, made.past, made.older, made.oldest = record.index, record.newest, record.past, record.older, record.oldest
  return made
end

local function begin(shape, held) -- a new window goes on from what is known to be used of its unit
  local carried = 0
  for _, record in ipairs(held) do
    if record.shape.unit % 4 == shape.unit % 4 then carried = max(carried, used_within(record, shape.period)) end
  end
  if shape.form == LOG and carried > LOG_SIZE then shape = shape_of(shape.unit, shape.period, counted_form(shape.period)) end
  local record = fresh(shape)
  if shape.form == LOG then
    for i = 1, carried do record.past[i] = stamp end
    record.older = carried
  else
    record.newest = carried
  end
  if carried > 0 then must_write = true end -- or it would begin anew, and never age, with every refusal
  return record
end

local function has_longer(records, record) -- one of its unit and no shorter period: charged alike, so it knows all that `record` does
  for _, other in ipairs(records) do
    if other ~= record and other.shape.unit % 4 == record.shape.unit % 4 and other.shape.period >= record.shape.period then return true end
  end
  return false
end

local function drop_some(policy, records) -- windows of other tiers of this identity; first those that count nothing
  for _, is_empty in ipairs({true, false}) do
    for i = #records, 1, -1 do
      local record = records[i]
      if #records <= MOST_WINDOWS then return end
      if not policy.places[record.shape.key] and (used(record) == 0 or not is_empty and has_longer(records, record)) then table.remove(records, i) end
    end
  end
end

local function records_of(policy, held) -- in the order of the vector; what this policy lacks stays, and is charged alike
  local by_key, records = {}, {}
  for i, record in ipairs(held) do
    local w = policy.places[record.shape.key]
    records[i] = w and reshaped(record, policy.shapes[w]) or record
    by_key[record.shape.key] = true
  end
  for _, shape in ipairs(policy.shapes) do
    if not by_key[shape.key] then records[#records + 1] = begin(shape, held) end
  end
  drop_some(policy, records)
  return records
end

local function charge(records, i, amount)
  local record = records[i]
  if record.shape.form ~= LOG then record.newest = record.newest + amount return end
  if record.older + amount > LOG_SIZE then -- a window that this tier lacks
    records[i] = counters_of(record, shape_of(record.shape.unit, record.shape.period, counted_form(record.shape.period)))
    records[i].newest = records[i].newest + amount
    return
  end
  for slot = record.older + 1, record.older + amount do record.past[slot] = stamp end
  record.older = record.older + amount
end

local function until_left(record, amount) -- microseconds until `amount` of what is used no longer counts
  local shape = record.shape
  if shape.form == LOG then return (now_ms - age(record.past[amount]) + shape.period * 1000) * 1000 - now end
  for slot = 1, shape.size do
    amount = amount - record.past[slot]
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
    parts[1 + 2 * n + i] = pack(shape.numbers, unpack(record.past, 1, shape.size))
    longest = max(longest, until_expiry(shape))
  end
  redis.call('SET', key, table.concat(parts), 'PX', longest)
end

local function decide_slowly(key, policy, run, vector)
  local held, unknown, asked = {}, 0, read_run(run)
  must_write = false
  if vector then held, unknown = parse(vector) end
  local records, granted, readings, waits, charged = records_of(policy, held), asked.count, {}, {}, 0
  work = work + 5 + 3 * #records -- as `make bench-script` measures it
  for _, record in ipairs(records) do
    local w = policy.places[record.shape.key]
    local check, each = unpack(asked[record.shape.unit % 4 + 1])
    if w and check > 0 then
      local room = policy.limits[w] - used(record)
      granted = min(granted, room < check and 0 or each > 0 and floor(room / each) or granted)
    end
  end
  for i = 1, #records do
    local amount = asked[records[i].shape.unit % 4 + 1][2] * (asked.count > 0 and granted or 1)
    if amount > 0 then charge(records, i, amount) end
    charged = charged + amount
    local record, w = records[i], policy.places[records[i].shape.key]
    if w then
      local check, limit = asked[record.shape.unit % 4 + 1][1], policy.limits[w]
      local excess = used(record) + check - limit
      readings[w] = pack('<dd', used(record), used(record) > 0 and until_left(record, 1) or 0)
      waits[w] = pack('<d', check > 0 and excess > 0 and until_left(record, min(excess, used(record))) or 0)
      if check > limit then waits[w] = pack('<d', record.shape.period * 1000000) end -- never
    end
  end
  if charged > 0 or must_write then write(key, records) end
  local is_partial = granted < asked.count
  return pack('<I4B', granted, 2 + unknown + (is_partial and 4 or 0)) .. table.concat(readings) .. (is_partial and table.concat(waits) or '')
end

-- the fast way: every window there in its form, and all granted ------------------------------------------------------------------------

local function lay(policy, head) -- the policy over a vector of this head, which may have more windows; false where the slow way is needed
  local n, by_key = byte(head, 2), {}
  if byte(head, 1) ~= 1 or not n or #head ~= 2 + 5 * n then return false end
  local view = {n = n, at = 3 + 5 * n, size = 2 + 26 * n, state = '<' .. string.rep('I4ddB', n), is_in_order = n == policy.n,
    shapes = {}, heads = {}, limits = {}, places = {}}
  for i = 1, n do
    local shape = read_shape(head, i)
    if not shape or shape.form == LOG then return false end
    view.shapes[i], view.heads[i], view.limits[i], by_key[shape.key] = shape, floor(now / shape.sub) % TURN, math.huge, i
    view.size = view.size + shape.bytes
  end
  for w, shape in ipairs(policy.shapes) do
    local i = by_key[shape.key]
    if not i or view.shapes[i].form ~= shape.form then return false end
    view.limits[i], view.places[w], view.is_in_order = policy.limits[w], i, view.is_in_order and i == w
  end
  return view
end

local function weigh(view, run) -- what all requests of a run need free and charge in each window of the vector
  local asked = read_run(run)
  local weighed = {run = run, needs = {}, totals = {}, sum = 0, answer = pack('<I4B', asked.count, 0)}
  for i = 1, view.n do
    local check, each = unpack(asked[view.shapes[i].unit % 4 + 1])
    local total = each * max(asked.count, 1)
    weighed.totals[i], weighed.sum = total, weighed.sum + total
    weighed.needs[i] = check > 0 and max(check, total) or -math.huge
  end
  return weighed
end

local function write_turned(key, view, packed, vector, turns)
  local parts, at, longest = {sub(vector, 1, view.at - 1), packed}, view.at + 21 * view.n, 0
  for i, shape in ipairs(view.shapes) do
    parts[2 + i] = turns[i] and pack(shape.numbers, unpack(turns[i], 1, shape.size)) or sub(vector, at, at + shape.bytes - 1)
    at, longest = at + shape.bytes, max(longest, until_expiry(shape))
  end
  redis.call('SET', key, table.concat(parts), 'PX', longest)
end

local function turn(view, i, state, vector, past_at) -- the past of a window whose sub-window has ended; nil where the slow way is needed
  local at, shape = 4 * i - 3, view.shapes[i]
  local passed, newest = (view.heads[i] - state[at]) % TURN, state[at + 2]
  if passed >= PAST or not (newest >= 0 and newest <= shape.largest and newest % 1 == 0) then return nil end
  local after, older, oldest = turned(shape, {unpacked(shape.numbers, vector, past_at)}, newest, passed)
  state[at], state[at + 1], state[at + 2], state[at + 3] = view.heads[i], older, 0, oldest
  return older < math.huge and after or nil
end

local function decide(key, other, policy, run)
  local vector = redis.pcall('GET', key)
  if not vector and other and redis.call('EXISTS', other) == 1 then
    redis.call('RENAME', other, key) -- with its expiry
    vector = redis.pcall('GET', key)
  end
  if not vector then return decide_slowly(key, policy, run, vector) end
  if type(vector) == 'table' then return pack('<I4B', 0, 8) end -- not a string: this run alone fails
  local head = sub(vector, 1, 2 + 5 * (byte(vector, 2) or 0))
  local view = policy.views[head]
  if view == nil then
    view = lay(policy, head)
    policy.views[head] = view
  end
  if not view or #vector ~= view.size then return decide_slowly(key, policy, run, vector) end
  local weighed = view.weighed
  if not weighed or weighed.run ~= run then
    weighed = weigh(view, run)
    view.weighed = weighed
  end
  local state, heads, limits, needs, totals = {unpacked(view.state, vector, view.at)}, view.heads, view.limits, weighed.needs, weighed.totals
  local at, past_at, turns = 1, view.at + 21 * view.n, nil
  for i = 1, view.n do
    if state[at] ~= heads[i] then
      turns = turns or {}
      turns[i] = turn(view, i, state, vector, past_at)
      if not turns[i] then return decide_slowly(key, policy, run, vector) end
    end
    local newest = state[at + 2]
    if not (limits[i] - state[at + 1] - newest >= needs[i]) then return decide_slowly(key, policy, run, vector) end
    state[at + 2], at, past_at = newest + totals[i], at + 4, past_at + view.shapes[i].bytes
  end
  local packed = pack(view.state, unpack(state, 1, at - 1))
  if weighed.sum > 0 then
    if turns then write_turned(key, view, packed, vector, turns) else redis.call('SETRANGE', key, view.at - 1, packed) end
  end
  if view.is_in_order then return weighed.answer .. packed end
  local parts = {weighed.answer}
  for w, i in ipairs(view.places) do parts[w + 1] = sub(packed, 21 * i - 20, 21 * i) end
  return table.concat(parts)
end

local policies, replies, runs = {}, {pack('<d', now)}, ARGV[#ARGV]
local n = #runs / 30
for i = 1, #ARGV - 1 do policies[i] = read_policy(ARGV[i]) end
for r = 1, n do
  local at = 30 * (r - 1)
  replies[r + 1] = work >= MOST_WORK and pack('<I4B', 0, 16) or decide(KEYS[r], KEYS[n + r], policies[byte(runs, at + 1) + 256 * byte(runs, at + 2)], sub(runs, at + 3, at + 30))
end
return table.concat(replies)
