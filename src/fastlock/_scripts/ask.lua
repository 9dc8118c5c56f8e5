-- Take the lock or tell who has it. KEYS[1] lock; ARGV[1] token, ARGV[2] ttl in ms, 0 for none.
-- nil: taken now; else the token found, which may be our own from an earlier try.
local taken
if ARGV[2] == '0' then
  taken = redis.call('SET', KEYS[1], ARGV[1], 'NX')
else
  taken = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
end
if taken then
  return false
end
return redis.call('GET', KEYS[1])
