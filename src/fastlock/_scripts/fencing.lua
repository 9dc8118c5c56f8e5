-- What the scripts with fencing numbers begin with. KEYS are the locks, then their companions, then
-- perhaps one key more. A companion holds the last number drawn, a space, and whose it was.
local locks = math.floor(#KEYS / 2)

local function wrong(what, i)
  return redis.error_reply('WRONGTYPE ' .. what .. ' ' .. i .. ' holds something else')
end

-- What the i-th lock or companion holds, or false; and an error if that can't be read.
local function read(what, i)
  local value = redis.pcall('GET', KEYS[what == 'lock' and i or locks + i])
  if type(value) ~= 'table' then
    return value
  end
  return false, string.find(value.err, 'WRONGTYPE', 1, true) and wrong(what, i) or value
end

-- The last number of the i-th lock, and the token it was drawn for; and an error.
local function kept(i)
  local value, failed = read('companion', i)
  if not value then
    return 0, nil, failed
  end
  local last, whose = string.match(value, '^(%d+) ?(.*)$')
  last = tonumber(last)
  if last and last < 2 ^ 53 - 1 then
    return last, whose
  end
  return 0, nil, wrong('companion', i)
end

-- A new number: above the last one, and not below the server's clock in microseconds. It is kept
-- until the clock is the lock's ttl and an hour beyond it, so that a clock that was set back by
-- less than that since can't bring an old one again.
local function draw(i, last, token, ttl)
  local now = redis.call('TIME')
  local number = math.max(last + 1, now[1] * 1000000 + now[2])
  local value = string.format('%.0f ', number) .. token
  local forget = string.format('%.0f', math.floor(number / 1000) + ttl + 3600000)
  redis.call('SET', KEYS[locks + i], value, 'PXAT', forget)
  return number
end

