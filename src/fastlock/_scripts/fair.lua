-- What the scripts about queues begin with. The last of KEYS is the queue of the first, a lock. It is
-- a sorted set with two members for each who waits: 'a' and his token by his number of arrival, which
-- is below 0; 'd' and his token by the ms of the server's clock at which he has lost his place. So the
-- first member is the first in the queue. Who has somebody before him has a key besides, until he is
-- the first: by its end he is told. The last of ARGV is what the names of these begin with; they are in
-- the lock's slot.
local queue = KEYS[#KEYS]
local BEFORE_ALL = -1e15

local function milliseconds()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function turn(token)
  return ARGV[#ARGV] .. redis.sha1hex(token)
end

-- Who is first, or nil, and until when; those before him whose deadline has passed lose their places,
-- and he is told. It has not for ``token``, who is here now.
local function first(token)
  local now, passed
  while true do
    local member = redis.call('ZRANGE', queue, 0, 0)[1]
    local head = member and string.sub(member, 2)
    local deadline
    if head and head ~= token then
      now = now or milliseconds()
      deadline = tonumber(redis.call('ZSCORE', queue, 'd' .. head) or 0)
    end
    if not deadline or deadline > now then
      if head and passed then
        redis.call('DEL', turn(head))
      end
      return head, deadline
    end
    redis.call('ZREM', queue, member, 'd' .. head)
    passed = true
  end
end

-- Give up one's place, or what is left of it; ``two`` are the first two members, if that is known. If
-- it was the first, the next one is told; who has no such key any more may have gone long ago.
local function leave(token, two)
  two = two or redis.call('ZRANGE', queue, 0, 1)
  local left = redis.call('ZREM', queue, 'a' .. token, 'd' .. token)
  if two[1] ~= 'a' .. token then
    redis.call('DEL', turn(token))
  elseif two[2] and string.sub(two[2], 1, 1) == 'a' then
    if redis.call('DEL', turn(string.sub(two[2], 2))) == 0 then
      first(nil)
    end
  end
  return left
end

-- Come in at the end, or stay where one is, for ``patience`` ms from now. Who is before, if anybody is.
-- The queue goes with its last deadline, so who finds one has somebody before him whose time is not
-- over. PEXPIRE comes before ZADD: where a user may not call it, no queue without ttl is made. Who was
-- here before looks whether the first one still is, and comes back when that one's place ends.
local function wait(token, patience)
  local last = redis.call(
    'ZRANGE', queue, '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  local there = redis.call('PEXPIRE', queue, patience) == 1
  local now = milliseconds()
  local deadline = string.format('%.0f', now + patience)
  local number = string.format('%.0f', (last[2] or BEFORE_ALL) + 1)
  local added = redis.call('ZADD', queue, 'NX', number, 'a' .. token, deadline, 'd' .. token)
  if not there then
    redis.call('PEXPIRE', queue, patience)
  end
  local before = last[1] and string.sub(last[1], 2)
  if added < 2 then
    redis.call('ZADD', queue, deadline, 'd' .. token)
    local ends
    before, ends = first(token)
    if before == token then
      return nil
    end
    patience = math.max(1, math.min(patience, ends - now))
  end
  if before then
    redis.call('SET', turn(token), '', 'PX', string.format('%.0f', patience))
  end
  return before
end

