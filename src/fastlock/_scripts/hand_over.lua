-- Compare-and-swap. KEYS[1] lock; ARGV[1] token, ARGV[2] the next one's, ARGV[3] ttl in ms.
-- 1: handed over, 0: not ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
