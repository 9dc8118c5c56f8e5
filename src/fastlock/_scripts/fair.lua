-- What the scripts about queues begin with. The last of KEYS is the queue of the first, a lock. It is
-- a sorted set with two members for each who waits: 'a' and his token by his number of arrival, which
-- is below 0; 'd' and his token by the ms of the server's clock at which he has lost his place. So the
-- first member is the first in the queue.
local queue = KEYS[#KEYS]
local BEFORE_ALL = -1e15

local function milliseconds()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function leave(token)
  return redis.call('ZREM', queue, 'a' .. token, 'd' .. token)
end

-- Who is first, or nil; those before him whose deadline has passed lose their places. It has not for
-- ``token``, who is here now.
local function first(token)
  local now
  while true do
    local member = redis.call('ZRANGE', queue, 0, 0)[1]
    local head = member and string.sub(member, 2)
    if not head or head == token then
      return head
    end
    now = now or milliseconds()
    local deadline = redis.call('ZSCORE', queue, 'd' .. head)
    if deadline and tonumber(deadline) > now then
      return head
    end
    redis.call('ZREM', queue, member, 'd' .. head)
  end
end

-- Come in at the end, or stay where one is, for ``patience`` ms from now. The queue goes with its last
-- deadline. PEXPIRE comes first: where a user may not call it, no queue without ttl is made.
local function wait(token, patience)
  local place = redis.call('ZSCORE', queue, 'a' .. token)
  local there = redis.call('PEXPIRE', queue, patience) == 1
  local deadline = string.format('%.0f', milliseconds() + patience)
  if place then
    redis.call('ZADD', queue, deadline, 'd' .. token)
    return
  end
  local last = redis.call(
    'ZRANGE', queue, '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  local number = string.format('%.0f', (last[2] or BEFORE_ALL) + 1)
  redis.call('ZADD', queue, number, 'a' .. token, deadline, 'd' .. token)
  if not there then
    redis.call('PEXPIRE', queue, patience)
  end
end

