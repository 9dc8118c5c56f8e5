-- Take the lock if it is free and nobody waits before us, or tell who has it, and wait in its queue.
-- KEYS lock, its companion if a fencing number is wanted, queue; ARGV[1] token, ARGV[2] ttl in ms, 0
-- for none, ARGV[3] ms until our place is lost, 0 to have none. nil, or an integer, the number: taken
-- now; our token, or an array of the number: ours since an earlier try; another token: who has
-- it, or whose turn it is, and then this is said behind it.
local token, ttl, patience = ARGV[1], ARGV[2], tonumber(ARGV[3])
local fenced = #KEYS == 3
local held, failed = read('lock', 1)
if failed then
  return failed
end
local head = not held and first(token)
if held and held ~= token or head and head ~= token then
  if patience > 0 then
    wait(token, patience)
  else
    leave(token)
  end
  return held or head .. ' (first in the queue)'
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
if head then
  leave(token)
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
