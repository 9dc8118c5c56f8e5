-- Compare-and-add. KEYS[1] lock; ARGV[1] token, ARGV[2] ms to add, may be negative.
-- The new ttl in ms; 0: not ours, -1: it has no ttl, -2: nothing would be left (nothing done).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  return -1
end
if left + ARGV[2] < 1 then
  return -2
end
redis.call('PEXPIRE', KEYS[1], left + ARGV[2])
return left + ARGV[2]
