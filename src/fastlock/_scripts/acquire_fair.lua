-- Take the lock if it is free and nobody waits before us, or tell who has it, and wait in its queue.
-- KEYS lock, its companion if a fencing number is wanted, queue; ARGV[1] token, ARGV[2] ttl in ms, 0
-- for none, ARGV[3] ms until our place is lost, 0 to have none, ARGV[4] as in fair.lua. nil, or an
-- integer, the number: taken now; our token, or an array of the number: ours since an earlier try;
-- another token: who has it, and if others wait before us, or it is free and kept for the first of
-- them, this is said behind it.
local token, ttl, patience = ARGV[1], ARGV[2], tonumber(ARGV[3])
local fenced = #KEYS == 3
local held, failed = read('lock', 1)
if failed then
  return failed
end
local taken = held and held ~= token
local two = not held and redis.call('ZRANGE', queue, 0, 1)
local queued = two and two[1]
if taken or queued and queued ~= 'a' .. token then
  two = nil
  if patience > 0 then
    local before = wait(token, patience)
    if before then
      return (held or before) .. ' (others wait before)'
    end
  else
    local head = not taken and first(token)
    if taken or head and head ~= token then
      leave(token)
      return held or head .. ' (first in the queue)'
    end
  end
  if taken then
    return held
  end
end
local last, whose
if fenced then
  last, whose, failed = kept(1)
  if failed then
    return failed
  end
  if held and whose == token then
    return {last}
  end
elseif held then
  return held
end
-- The lock comes last: what is refused before leaves it free.
if queued then
  leave(token, two)
end
local number = fenced and draw(1, last, token, ttl)
if held then
  return {number}
end
if ttl == '0' then
  redis.call('SET', KEYS[1], token)
else
  redis.call('SET', KEYS[1], token, 'PX', ttl)
end
return number
