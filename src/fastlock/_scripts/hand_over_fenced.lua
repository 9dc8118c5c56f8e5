-- Compare-and-swap with a fencing number. KEYS[1] lock, KEYS[2] companion; ARGV[1] token, ARGV[2]
-- the next one's, ARGV[3] ttl in ms. The number: handed over; 0: not ours.
local held, failed = read('lock', 1)
if failed then
  return failed
end
if held ~= ARGV[1] then
  return 0
end
local last, whose
last, whose, failed = kept(1)
if failed then
  return failed
end
local number = draw(1, last, ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return number
