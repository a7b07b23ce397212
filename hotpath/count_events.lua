-- Counts events of one entity in the tiles of one view, each once; see `tile_layout.py` for the blob.
--
-- KEYS  the key of the entity's tiles
-- ARGV  1 the layout as MessagePack; 2 the time, in microseconds since 1970; 3 the events, each of
--       8 bytes of time, 8 bytes of its id's hash, and for each input a byte that is 1 where it has
--       a value, and 8 bytes of it: of a text 4 for its place in 4 and 4 for its size; 4 the texts
--
-- Answers one character for each event: 1 counted, 2 counted before, 0 too late, F refused, and
-- behind them why the first was.

local pack, unpack, floor = struct.pack, struct.unpack, math.floor
local find, concat, max, min = string.find, table.concat, math.max, math.min
local key, field = KEYS[1], 't'
local shape = cmsgpack.unpack(ARGV[1])
local now, events, sent_texts = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local levels, pairs_of, pairs_of_texts = shape.levels, shape.sketches, shape.texts
local MOST_HASHES, DENSE, REGISTERS = 256, 65535, 2048
local ID_SIZE, TWO_32, NEVER = 12, 4294967296, '\255\255\255\255\255\255\255\255'
local SIZES = {[0] = 4, 12, 16, 8, 8, 8, 8, 16}
for i = 1, #levels do
  levels[i].format = levels[i].index == 4 and '<I4' or '<I8'
  levels[i].empty = string.rep('\0', levels[i].size)
end

local newest, least, oldest, filled, ids = 0, 0, NEVER, '\0', ''
local records, entries, texts = {}, {}, {}
local blob = redis.call('HGET', key, field)
if blob then
  if string.byte(blob) ~= 1 then return redis.error_reply('the tiles are of an unknown format') end
  local count
  newest, least, oldest, filled, count = unpack('<I8I8c8c1I2', blob, 2)
  local at = 29
  ids = sub(blob, at, at + count * ID_SIZE - 1)
  at = at + #ids
  for i = 1, #levels do
    local size = unpack('<I2', blob, at) * levels[i].size
    records[i] = sub(blob, at + 2, at + 1 + size)
    at = at + 2 + size
  end
  for i = 1, #pairs_of / 2 do
    local size = unpack('<I4', blob, at)
    entries[i] = sub(blob, at + 4, at + 3 + size)
    at = at + 4 + size
  end
  for i = 1, #pairs_of_texts / 2 do
    local size = unpack('<I4', blob, at)
    texts[i] = sub(blob, at + 4, at + 3 + size)
    at = at + 4 + size
  end
else
  for i = 1, #levels do records[i] = '' end
  for i = 1, #pairs_of / 2 do entries[i] = '' end
  for i = 1, #pairs_of_texts / 2 do texts[i] = '' end
end

-- Events at or before it are refused; ids of events before it need not be known any more.
local function floor_of()
  return max(least, min(newest, now) - shape.lateness)
end

local function known(id)
  local at = 1
  while true do
    at = find(ids, id, at, true)
    if not at then return false end
    if at % ID_SIZE == 1 then return true end
    at = at + 1
  end
end

-- Forgets ids that are not needed, from the front; where there are too many of all, the oldest
-- eighth, and raises the floor to their times.
local function forget(limit)
  local at = 1
  while at < #ids and (unpack('<I4', ids, at + 8) + 1) * 1000000 <= limit + 1 do
    at = at + ID_SIZE
  end
  if at > 1 then ids = sub(ids, at) end
  if #ids < shape.most_ids * ID_SIZE then return end
  local seconds, last = {}, floor((limit + 1) / 1000000) - 1
  for i = 1, #ids, ID_SIZE do
    local second = unpack('<I4', ids, i + 8)
    if second > last then seconds[#seconds + 1] = second end
  end
  if #seconds >= shape.most_ids then
    table.sort(seconds)
    last = seconds[math.ceil(#seconds / 8)]
    least = max(least, (last + 1) * 1000000 - 1)
  end
  local pieces = {}
  for i = 1, #ids, ID_SIZE do
    if unpack('<I4', ids, i + 8) > last then
      pieces[#pieces + 1] = sub(ids, i, i + ID_SIZE - 1)
    end
  end
  ids = concat(pieces)
end

-- The number of the tile that holds a time.
local function tile_of(time, size)
  return floor((time - 1) / size)
end

-- The first tile that any window still reaches, now or later.
local function first_tile(level)
  return floor(max(0, min(newest, now) - level.span) / level.tile)
end

-- Drops the records of a level that no window reaches.
local function drop_records(i)
  local level, limit = levels[i], first_tile(levels[i])
  local at, size = 1, #records[i]
  while at < size and unpack(level.format, records[i], at) < limit do at = at + level.size end
  if at > 1 then records[i] = sub(records[i], at) end
end

local function entry_size(entries, at, level)
  local count = unpack('<I2', entries, at + level.index)
  return level.index + 2 + (count == DENSE and REGISTERS or 4 * count), count
end

local function drop_entries(i)
  local level = levels[pairs_of[2 * i - 1]]
  local limit, at, all = first_tile(level), 1, entries[i]
  while at < #all and unpack(level.format, all, at) < limit do
    at = at + entry_size(all, at, level)
  end
  if at > 1 then entries[i] = sub(all, at) end
end

-- Where the record of a tile is, or is to be, and whether it is there.
local function find_record(i, tile)
  local level, all = levels[i], records[i]
  local at = #all - level.size + 1
  while at >= 1 do
    local number = unpack(level.format, all, at)
    if number == tile then return at, true end
    if number < tile then break end
    at = at - level.size
  end
  return at + level.size, false
end

-- A slot with one more value. `before` is how many values of the input it has.
local function add(kind, slot, before, event, at)
  if kind == 0 then
    return pack('<I4', before + 1)
  elseif kind == 1 then
    local low, middle, high = unpack('<I4I4i4', slot)
    local value, top = unpack('<I4i4', event, at)
    low = low + value
    if low >= TWO_32 then low = low - TWO_32 middle = middle + 1 end
    middle = middle + top % TWO_32
    if middle >= TWO_32 then middle = middle - TWO_32 high = high + 1 end
    if top < 0 then high = high - 1 end
    return pack('<I4I4i4', low, middle, high)
  elseif kind == 2 then
    -- The sum and, apart, what has been rounded off it.
    local sum, rest = unpack('<dd', slot)
    local value = unpack('<d', event, at)
    local new = sum + value
    local part = new - sum
    return pack('<dd', new, rest + ((sum - (new - part)) + (value - part)))
  elseif kind == 3 or kind == 4 then
    if before > 0 then
      local low, high = unpack('<I4i4', slot)
      local value, top = unpack('<I4i4', event, at)
      local less = top < high or (top == high and value < low)
      if less ~= (kind == 3) then return slot end
    end
  elseif kind == 5 or kind == 6 then
    if before > 0 then
      local value, stored = unpack('<d', event, at), unpack('<d', slot)
      if (kind == 5 and value >= stored) or (kind == 6 and value <= stored) then return slot end
    end
  end
  return sub(event, at, at + 7)
end

-- The last value: of the newest event, and of several of one time the greatest.
local function add_last(slot, before, event, at, time, real)
  if before > 0 then
    local stored = unpack('<I8', slot)
    if stored > time then return slot end
    if stored == time then
      local kind = real and 6 or 4
      return sub(slot, 1, 8) .. add(kind, sub(slot, 9), 1, event, at)
    end
  end
  return pack('<I8', time) .. sub(event, at, at + 7)
end

-- The record of each level, and the entry of each sketch, that was changed last: it goes back to where
-- it belongs once another one is.
local open_record, open_entry = {}, {}

local function close_record(i)
  local open = open_record[i]
  if not open then return end
  local rest = open.there and open.at + levels[i].size or open.at
  records[i] = sub(records[i], 1, open.at - 1) .. open.held .. sub(records[i], rest)
  open_record[i] = nil
end

local function count_in_record(i, time, event)
  local level, tile = levels[i], tile_of(time, levels[i].tile)
  if tile < first_tile(level) then return end
  local open = open_record[i]
  if not open or open.tile ~= tile then
    close_record(i)
    local at, there = find_record(i, tile)
    open = {tile = tile, at = at, there = there}
    open.held = there and sub(records[i], at, at + level.size - 1) or level.empty
    open_record[i] = open
  end
  local old, offset, before = open.held, level.index + 1, 0
  local pieces = {open.there and sub(old, 1, level.index) or pack(level.format, tile)}
  for j = 1, #level.slots, 2 do
    local kind, source = level.slots[j], level.slots[j + 1]
    local size = SIZES[kind]
    local slot = sub(old, offset, offset + size - 1)
    offset = offset + size
    if kind == 0 then before = unpack('<I4', slot) end
    local place = 17 + 9 * (source - 1)
    if source == 0 or byte(event, place) == 1 then
      if kind == 7 then
        slot = add_last(slot, before, event, place + 1, time, shape.reals[source] == 1)
      else
        slot = add(kind, slot, before, event, place + 1)
      end
    end
    pieces[#pieces + 1] = slot
  end
  open.held = concat(pieces)
end

-- Registers with one more hash: which one is told by its first 11 bits, and how far the first 1 in
-- the others is from the left.
local function add_to_registers(registers, hash)
  local place, rest = floor(hash / 2097152) + 1, hash % 2097152
  local _, bits = math.frexp(rest)
  local rank = 22 - bits
  if byte(registers, place) >= rank then return registers end
  return sub(registers, 1, place - 1) .. string.char(rank) .. sub(registers, place + 1)
end

local function close_entry(i)
  local open = open_entry[i]
  if not open then return end
  local level = levels[pairs_of[2 * i - 1]]
  entries[i] = sub(entries[i], 1, open.at - 1) .. pack(level.format .. 'I2', open.tile, open.count)
    .. open.held .. sub(entries[i], open.rest)
  open_entry[i] = nil
end

-- Opens the entry of a tile, or a new one where it belongs.
local function find_entry(i, tile, level)
  close_entry(i)
  local all, at = entries[i], 1
  while at < #all do
    local number = unpack(level.format, all, at)
    if number > tile then break end
    local size, count = entry_size(all, at, level)
    if number == tile then
      local held = sub(all, at + level.index + 2, at + size - 1)
      return {tile = tile, at = at, rest = at + size, count = count, held = held}
    end
    at = at + size
  end
  return {tile = tile, at = at, rest = at, count = 0, held = ''}
end

local function count_in_sketch(i, time, event)
  local level, place = levels[pairs_of[2 * i - 1]], 17 + 9 * (pairs_of[2 * i] - 1)
  local tile, open = tile_of(time, level.tile), open_entry[i]
  if byte(event, place) ~= 1 or tile < first_tile(level) then return end
  if not open or open.tile ~= tile then
    open = find_entry(i, tile, level)
    open_entry[i] = open
  end
  local hash, held = sub(event, place + 1, place + 4), open.held
  if open.count == DENSE then
    open.held = add_to_registers(held, (unpack('<I4', hash)))
    return
  end
  local from = find(held, hash, 1, true)
  while from and from % 4 ~= 1 do from = find(held, hash, from + 1, true) end
  if from then return end
  held = held .. hash
  open.count = open.count + 1
  if open.count > MOST_HASHES then
    local registers = string.rep('\0', REGISTERS)
    for j = 1, #held, 4 do registers = add_to_registers(registers, (unpack('<I4', held, j))) end
    held, open.count = registers, DENSE
  end
  open.held = held
end

-- Where the entry of a text that ends before `rest` begins. Its size is its last byte.
local function text_start(all, rest, level)
  return rest - 9 - level.index - byte(all, rest - 1)
end

-- Drops the entries of a text that no window reaches.
local function drop_texts(i)
  local level = levels[pairs_of_texts[2 * i - 1]]
  local limit, all, rest = first_tile(level), texts[i], #texts[i] + 1
  while rest > 1 do
    local at = text_start(all, rest, level)
    if unpack(level.format, all, at) < limit then
      texts[i] = sub(all, rest)
      return
    end
    rest = at
  end
end

-- Whether a text is greater, byte by byte: Lua's own order is that of the server's language.
local function is_greater(text, other)
  for i = 1, min(#text, #other) do
    local one, two = byte(text, i), byte(other, i)
    if one ~= two then return one > two end
  end
  return #text > #other
end

-- The last text, by the rules of `add_last`.
local function keep_text(i, time, event)
  local level, place = levels[pairs_of_texts[2 * i - 1]], 17 + 9 * (pairs_of_texts[2 * i] - 1)
  local tile, all, head = tile_of(time, level.tile), texts[i], level.index + 8
  if byte(event, place) ~= 1 or tile < first_tile(level) then return end
  local from, size = unpack('<I4I4', event, place + 1)
  local text = sub(sent_texts, from + 1, from + size)
  -- Where its entry belongs, and what comes behind that: mostly nothing.
  local at, rest = #all + 1, #all + 1
  while at > 1 do
    local start = text_start(all, at, level)
    local number = unpack(level.format, all, start)
    if number < tile then break end
    if number == tile then
      local stored = unpack('<I8', all, start + level.index)
      if stored > time then return end
      if stored == time and not is_greater(text, sub(all, start + head, at - 2)) then return end
      at = start
      break
    end
    at, rest = start, start
  end
  texts[i] = sub(all, 1, at - 1) .. pack(level.format .. 'I8', tile, time) .. text
    .. string.char(size) .. sub(all, rest)
end

-- Whether a level has no room for one more record, also without those that no window reaches once
-- there is an event of this time.
local function is_full(time)
  local before, full = newest, false
  newest = max(newest, time)
  for i = 1, #levels do
    local level = levels[i]
    if #records[i] + level.size >= level.most * level.size then
      close_record(i)
      drop_records(i)
      local _, there = find_record(i, tile_of(time, level.tile))
      full = full or (not there and #records[i] >= level.most * level.size)
    end
  end
  newest = before
  return full
end

local outcomes, complaint, changed = {}, '', false
local width = 16 + 9 * shape.inputs
for n = 1, #events / width do
  local event = sub(events, (n - 1) * width + 1, n * width)
  local time, id = unpack('<I8', event), sub(event, 9, 16)
  if #ids >= shape.most_ids * ID_SIZE then forget(floor_of()) end
  if time <= floor_of() then
    outcomes[n] = '0'
  elseif known(id) then
    outcomes[n] = '2'
  elseif is_full(time) then
    outcomes[n] = 'F'
    complaint = 'the entity has ' .. shape.most_events .. ' event times in an exact window, which '
      .. 'is the limit; give the window tiles, or raise hotfeast.most_events'
  else
    newest = max(newest, time)
    if oldest == NEVER or time < unpack('<I8', oldest) then oldest = pack('<I8', time) end
    ids = ids .. id .. pack('<I4', floor(time / 1000000))
    for i = 1, #levels do count_in_record(i, time, event) end
    for i = 1, #entries do count_in_sketch(i, time, event) end
    for i = 1, #texts do keep_text(i, time, event) end
    outcomes[n] = '1'
    changed = true
  end
end

if changed then
  least = floor_of()
  forget(least)
  local pieces = {pack('<I1I8I8', 1, newest, least), oldest, filled, pack('<I2', #ids / ID_SIZE), ids}
  for i = 1, #levels do
    close_record(i)
    drop_records(i)
    pieces[#pieces + 1] = pack('<I2', #records[i] / levels[i].size) .. records[i]
  end
  for i = 1, #entries do
    close_entry(i)
    drop_entries(i)
    pieces[#pieces + 1] = pack('<I4', #entries[i]) .. entries[i]
  end
  for i = 1, #texts do
    drop_texts(i)
    pieces[#pieces + 1] = pack('<I4', #texts[i]) .. texts[i]
  end
  redis.call('HSET', key, field, concat(pieces))
  local life = math.ceil((max(newest - now, 0) + shape.retention) / 1000)
  if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, life) end
end
return concat(outcomes) .. complaint
