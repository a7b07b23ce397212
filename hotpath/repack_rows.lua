-- Puts stored rows of one feature view into another layout (see `packed.pxd`), each as one step, so
-- that no writer comes between what is read and what is written. What a row says does not change.
--
-- KEYS  hashes
-- ARGV  1 the layout: 0 Feast's, 1 dual, 2 packed; 2 the field of event times; 3 the field of packed
--       rows; then the schemas that packed rows may have, the view's current one first: 4 bytes of
--       its number, and the 4 bytes of each feature's field
--
-- Answers one character for each key: 1 converted, = there was nothing to do, - no row, B a row that
-- cannot be read, U a packed row of a schema that is not among those given, T no hash. Rows of the
-- last three are left as they are. A write that Redis refuses ends the script; no row is then
-- half converted.
local char, concat, floor, min = string.char, table.concat, math.floor, math.min

local target = tonumber(ARGV[1])
local time_field, row_field = ARGV[2], ARGV[3]
-- What `unpack` can give a command at once.
local MOST = 4000

local function fields_of(schema)
  local fields = {}
  for at = 5, #schema, 4 do fields[#fields + 1] = sub(schema, at, at + 3) end
  return fields
end

local schemas = {}
for i = 4, #ARGV do schemas[sub(ARGV[i], 1, 4)] = ARGV[i] end
local current, current_number = fields_of(ARGV[4]), sub(ARGV[4], 1, 4)

-- An event time without its mark.
local function unmarked(time, layout)
  if layout == 2 then time = sub(time, 1, -3) .. '\0' end
  if layout == 0 then return time end
  local last = byte(time, -2) - 128
  if last == 0 then
    -- A field that is zero is there for the mark alone, unless it takes back what is before it.
    local less = sub(time, 1, -4)
    local seconds, nanos = decode(time)
    local less_seconds, less_nanos = decode(less)
    if less_seconds == seconds and less_nanos == nanos then return less end
  end
  return sub(time, 1, -3) .. char(last)
end

-- An event time with a mark; nil where there is no room for one, as only times have that protobuf
-- does not write.
local function marked(time, nanos, layout)
  if layout == 0 then return time end
  if time == '' then time = '\8\0' end
  local first = #time
  while first > 1 and byte(time, first - 1) > 127 do first = first - 1 end
  if #time - first + 1 + layout > 10 then
    -- A varint has 10 bytes at most, which a negative number takes up.
    if nanos > 0 then return nil end
    time = time .. '\16\0'
  end
  return sub(time, 1, -2) .. char(byte(time, -1) + 128) .. (layout == 2 and '\128\0' or '\0')
end

-- The fields and values of a packed row of the event time given; nil and an outcome if there are
-- none.
local function read_packed(row, seconds, nanos)
  if not row or #row < 6 or byte(row, 1) ~= 1 then return nil, 'B' end
  local at = 7 + byte(row, 6)
  if at > #row + 1 then return nil, 'B' end
  local row_seconds, row_nanos = decode(sub(row, 7, at - 1))
  if row_seconds ~= seconds or row_nanos ~= nanos then return nil, 'B' end
  local schema = schemas[sub(row, 2, 5)]
  if not schema then return nil, 'U' end
  local fields, values = fields_of(schema), {}
  for i = 1, #fields do
    local size, factor, c = 0, 1, nil
    repeat
      c = byte(row, at)
      if not c or factor > 34359738368 then return nil, 'B' end
      size, factor, at = size + c % 128 * factor, factor * 128, at + 1
    until c < 128
    if at + size > #row + 1 then return nil, 'B' end
    values[i] = sub(row, at, at + size - 1)
    at = at + size
  end
  if at ~= #row + 1 then return nil, 'B' end
  return fields, values
end

-- The packed row of what is in Feast's fields.
local function pack(key, time)
  local parts = {'\1', current_number, char(#time), time}
  for first = 1, #current, MOST do
    local last = min(first + MOST - 1, #current)
    local values = call('HMGET', key, unpack(current, first, last))
    for i = 1, last - first + 1 do
      local value = values[i] or ''
      local size = #value
      while size > 127 do
        parts[#parts + 1] = char(size % 128 + 128)
        size = floor(size / 128)
      end
      parts[#parts + 1] = char(size)
      parts[#parts + 1] = value
    end
  end
  return concat(parts)
end

local function delete(key, fields)
  local count = 0
  for first = 1, #fields, MOST do
    count = count + call('HDEL', key, unpack(fields, first, min(first + MOST - 1, #fields)))
  end
  return count
end

-- Those of the view's current fields that are not among the ones given.
local function others(fields)
  local known, out = {}, {}
  for i = 1, #fields do known[fields[i]] = true end
  for i = 1, #current do
    if not known[current[i]] then out[#out + 1] = current[i] end
  end
  return out
end

-- Feast's fields as a packed row has them, and none of older rows. The time comes last: until then
-- nobody looks at them.
local function spread(key, fields, values, time)
  local pairs = {}
  for i = 1, #fields do
    pairs[2 * i - 1], pairs[2 * i] = fields[i], values[i]
  end
  pairs[#pairs + 1] = time_field
  pairs[#pairs + 1] = time
  for first = 1, #pairs, MOST do
    call('HSET', key, unpack(pairs, first, min(first + MOST - 1, #pairs)))
  end
  delete(key, others(fields))
end

local function convert(key)
  local stored = pcall('HMGET', key, time_field, row_field)
  if stored.err then return 'T' end
  local time, row = stored[1], stored[2]
  if not time then return '-' end
  local seconds, nanos = decode(time)
  if not seconds or #time > 48 then return 'B' end
  local layout = mark(time)
  local plain = unmarked(time, layout)
  local wanted = marked(plain, nanos, target)
  if not wanted then return 'B' end
  local fields, values
  if layout > 0 then
    fields, values = read_packed(row, seconds, nanos)
    -- Of a dual row Feast's fields are as good.
    if not fields and layout == 2 then return values end
  end
  if target == 2 then
    if not fields then
      call('HSET', key, row_field, pack(key, plain), time_field, wanted)
      delete(key, current)
      return '1'
    end
    if layout ~= 2 then call('HSET', key, time_field, wanted) end
    local deleted = delete(key, current) + delete(key, fields)
    return (layout ~= 2 or deleted > 0) and '1' or '='
  end
  if fields then
    if layout == target then return '=' end
    spread(key, fields, values, wanted)
  elseif target == 1 then
    call('HSET', key, row_field, pack(key, plain), time_field, wanted)
  elseif layout ~= 0 then
    call('HSET', key, time_field, wanted)
  elseif not row then
    return '='
  end
  if target == 0 then call('HDEL', key, row_field) end
  return '1'
end

local outcomes = {}
for k = 1, #KEYS do outcomes[k] = convert(KEYS[k]) end
return concat(outcomes)
