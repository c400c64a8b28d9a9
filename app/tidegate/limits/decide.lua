-- Checks a request against every window of its tier, then charges all windows or none. One script, because two requests may
-- take the last unit at the same instant. A refusal and a look (nothing to charge) write nothing. The model is vector.py.
-- KEYS[1] usage vector of one identity
-- ARGV[1] 16 bytes per window: id u32, period in seconds u32, limit f64
-- ARGV[2] 16 bytes per window: amount that must fit f64 (0: pass), amount to charge f64
-- Returns {1 if something of unknown form was there and is ignored, 24 bytes per window: used f64, microseconds until more
-- quota f64 (0: nothing used), microseconds until this request fits f64 (0: it does)}
--
-- Vector, little endian:   | schema = 1, u8 | record | record | ...
-- Record, 104 bytes:       | id u32 | period in seconds u32 | head f64 | counter f64 x 11, oldest to newest |
-- head is the index of the newest sub-window (a tenth of the period) since the epoch. All eleven counters count in full.
-- Records of windows that this tier lacks stay while they count: another tier of the same identity may have them.
local SUB_WINDOWS = 10
local RECORD, RECORD_BYTES = '<I4I4d' .. string.rep('d', SUB_WINDOWS + 1), 24 + 8 * SUB_WINDOWS
local ID, PERIOD, HEAD, OLDEST, NEWEST = 1, 2, 3, 4, 4 + SUB_WINDOWS

local function sub_microseconds(record) return record[PERIOD] * 1000000 / SUB_WINDOWS end

local function advance(record, now)
  local passed = math.floor(now / sub_microseconds(record)) - record[HEAD]
  if passed <= 0 then return record end -- a clock that went back reopens nothing
  for slot = OLDEST, NEWEST do record[slot] = slot + passed <= NEWEST and record[slot + passed] or 0 end
  record[HEAD] = record[HEAD] + passed
  return record
end

local function used(record)
  local sum = 0
  for slot = OLDEST, NEWEST do sum = sum + record[slot] end
  return sum
end

local function is_sound(record)
  return record[PERIOD] > 0 and record[HEAD] >= 0 and record[HEAD] < math.huge and used(record) >= 0 and used(record) < math.huge
end

local function until_left(record, amount, now)
  for slot = OLDEST, NEWEST do
    amount = amount - record[slot]
    if amount <= 0 then return (record[HEAD] + 1 + slot - OLDEST) * sub_microseconds(record) - now end
  end
end

local function read(vector, now)
  local records, unknown = {}, 0
  if not vector then return records, 0 end
  if vector:byte() ~= 1 or (#vector - 1) % RECORD_BYTES ~= 0 then return records, 1 end
  for at = 2, #vector, RECORD_BYTES do
    local record = {struct.unpack(RECORD, vector, at)}
    if is_sound(record) then records[#records + 1] = advance(record, now) else unknown = 1 end
  end
  return records, unknown
end

local function find(records, id, period, now)
  local carried = 0 -- a period that was made longer goes on from what was used
  for _, record in ipairs(records) do
    if record[ID] == id and record[PERIOD] == period then return record end
    if record[ID] == id and record[PERIOD] < period then carried = math.max(carried, used(record)) end
  end
  local record = advance({id, period, -NEWEST}, now) -- so far back that every counter starts at 0
  record[NEWEST] = carried
  records[#records + 1] = record
  return record
end

local function write(key, records)
  local parts, longest = {'\1'}, 0
  for _, record in ipairs(records) do
    if used(record) > 0 then
      parts[#parts + 1] = struct.pack(RECORD, unpack(record, 1, NEWEST))
      longest = math.max(longest, record[PERIOD])
    end
  end
  redis.call('SET', key, table.concat(parts), 'PX', longest * 1100) -- eleven tenths of the period: the oldest sub-window counts
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local records, unknown = read(redis.call('GET', KEYS[1]), now)
local asked, is_granted, charged, reply = {}, true, 0, {}
for at = 1, #ARGV[1], 16 do
  local id, period, limit = struct.unpack('<I4I4d', ARGV[1], at)
  local check, charge = struct.unpack('<dd', ARGV[2], at)
  local record, wait = find(records, id, period, now), 0
  local excess = used(record) + check - limit
  if check > 0 and excess > 0 then
    is_granted, wait = false, until_left(record, excess, now) or (SUB_WINDOWS + 1) * sub_microseconds(record)
  end
  asked[#asked + 1], charged = {record, charge, wait}, charged + charge
end
for i, ask in ipairs(asked) do
  local record, charge, wait = unpack(ask)
  if is_granted then record[NEWEST] = record[NEWEST] + charge end
  reply[i] = struct.pack('<ddd', used(record), until_left(record, 1, now) or 0, wait)
end
if is_granted and charged > 0 then write(KEYS[1], records) end
return {unknown, table.concat(reply)}
