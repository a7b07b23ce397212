-- Writes rows of one feature view, each as one step with the comparison of its event time.
--
-- KEYS  one hash for each row
-- ARGV  1 whether event times are compared ('1' or '0'); 2 seconds until a key expires, 0 for never;
--       3 the field of created times, '' for none; 4 the number of fields that a row of another
--       layout leaves behind, then their names; the number of fields that are written, then their
--       names, the event time's first; then a MessagePack array of all rows' values, each row's
--       event time first and its created time last where there is such a field
--
-- Answers one character for each row: 1 written, 0 older than what is stored, F refused by Redis,
-- and behind them what Redis said of the first refusal.

-- Whether time b is before time a; a time that cannot be read is before all others.
local function older(a, b)
  -- Most rows are newer by a second or more, and the seconds of 1978 to 3058 are five bytes, least
  -- significant first, with one or two more where they carry a layout's mark.
  local a1, a2, a3, a4, a5, a6, a7, a8 = byte(a, 1, 8)
  local b1, b2, b3, b4, b5, b6, b7, b8 = byte(b, 1, 8)
  if a7 == 0 and a6 > 127 or a8 == 0 and a7 == 128 and a6 > 127 then a6 = a6 - 128 end
  if b7 == 0 and b6 > 127 or b8 == 0 and b7 == 128 and b6 > 127 then b6 = b6 - 128 end
  if a6 and b6 and a1 == 8 and b1 == 8 and a5 > 127 and b5 > 127 and a6 < 128 and b6 < 128
    and a4 > 127 and b4 > 127 and a3 > 127 and b3 > 127 and a2 > 127 and b2 > 127 then
    if b6 ~= a6 then
      if b6 > a6 then return false end
    elseif b5 ~= a5 then
      if b5 > a5 then return false end
    elseif b4 ~= a4 then
      if b4 > a4 then return false end
    elseif b3 ~= a3 then
      if b3 > a3 then return false end
    elseif b2 > a2 then
      return false
    end
  end
  local as, an = decode(a)
  if not as then return false end
  local bs, bn = decode(b)
  if not bs then return true end
  return bs < as or (bs == as and bn < an)
end

local check, ttl, created_field = ARGV[1] == '1', tonumber(ARGV[2]), ARGV[3]
local has_created = created_field ~= ''
local leftover_count = tonumber(ARGV[4])
local leftovers = {}
for i = 1, leftover_count do leftovers[i] = ARGV[4 + i] end
local names = 5 + leftover_count
local width = tonumber(ARGV[names])
local time_field = ARGV[names + 1]
local outcomes, complaint = {}, nil

local row = {}
for i = 1, width do row[2 * i - 1] = ARGV[names + i] end
local columns = 2 * width
if has_created then row[columns + 1] = created_field columns = columns + 2 end
local values = cmsgpack.unpack(ARGV[names + 1 + width])
local at = 0

for k = 1, #KEYS do
  local key = KEYS[k]
  local new = values[at + 1]
  local created = has_created and values[at + width + 1]
  local write, stored = true, nil
  if check then
    stored = pcall('HGET', key, time_field)
    if type(stored) == 'table' then
      complaint = complaint or stored.err
      outcomes[k] = 'F'
      write = false
    elseif stored then
      if stored ~= new and older(stored, new) then
        write = false
      elseif has_created and (stored == new or #stored ~= #new and not older(new, stored)) then
        -- Of one time; the marks may differ. A created time counts for the event time in front.
        local size = byte(created, 1) + 1
        local before = call('HGET', key, created_field)
        if #created > size and before and #before > size
          and sub(before, 1, size) == sub(created, 1, size)
          and older(sub(before, size + 1), sub(created, size + 1)) then
          write = false
        end
      end
      if not write then outcomes[k] = '0' end
    end
  end
  if write then
    for i = 1, width do row[2 * i] = values[at + i] end
    if has_created then row[columns] = created end
    local answer
    if columns <= 4000 then
      answer = pcall('HSET', key, unpack(row, 1, columns))
    else
      for first = 1, columns, 4000 do
        answer = pcall('HSET', key, unpack(row, first, math.min(first + 3999, columns)))
        if type(answer) == 'table' then break end
      end
    end
    if type(answer) == 'table' then
      complaint = complaint or answer.err
      outcomes[k] = 'F'
    else
      outcomes[k] = '1'
      if leftover_count > 0 and stored and mark(stored) ~= mark(new) then
        for first = 1, leftover_count, 4000 do
          call('HDEL', key, unpack(leftovers, first, math.min(first + 3999, leftover_count)))
        end
      end
      if ttl > 0 then
        local left = call('PTTL', key)
        -- A key that never expires may hold rows of other views, whose life is not to be cut.
        if left >= 0 then
          if left < ttl * 1000 then call('EXPIRE', key, ttl) end
        elseif call('HLEN', key) * 2 <= columns then
          call('EXPIRE', key, ttl)
        end
      end
    end
  end
  at = at + width
  if has_created then at = at + 1 end
end
local answer = table.concat(outcomes)
if complaint then answer = answer .. complaint end
return answer
