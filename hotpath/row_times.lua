-- Stored event times: what they say, and the mark of a layout that they may carry (see `packed.pxd`).
-- Stands in front of each script that needs it.
local call, pcall, byte, sub = redis.call, redis.pcall, string.byte, string.sub

-- A google.protobuf.Timestamp as seconds and nanoseconds; nil where the bytes are none, or a time
-- that protobuf does not allow, which no reader would take.
local function decode(b)
  local seconds, nanos, at, size = 0, 0, 1, #b
  while at <= size do
    local tag = byte(b, at)
    at = at + 1
    local low, high, factor, c = 0, 0, 1, nil
    for i = 0, 9 do
      c = byte(b, at)
      if not c then return nil end
      at = at + 1
      if i == 4 then factor = 1 end
      local bits = c % 128
      if i == 9 then bits = bits % 2 end
      if i < 4 then low = low + bits * factor else high = high + bits * factor end
      factor = factor * 128
      if c < 128 then break end
    end
    if c >= 128 then return nil end
    -- Two's complement of 64 bits, in two parts that a double holds exactly.
    if high >= 34359738368 then high = high - 68719476736 end
    if tag == 8 then seconds = high * 268435456 + low
    elseif tag == 16 then nanos = high * 268435456 + low
    else return nil end
  end
  if seconds < -62135596800 or seconds > 253402300799 or nanos < 0 or nanos > 999999999 then
    return nil
  end
  return seconds, nanos
end

-- The layout that a stored event time is marked with: 0 Feast's, 1 dual, 2 packed.
local function mark(time)
  local third, second, last = byte(time, -3, -1)
  if last ~= 0 or second < 128 then return 0 end
  return second == 128 and third > 127 and 2 or 1
end

