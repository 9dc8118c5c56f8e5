-- Take the lock with a fencing number, or tell who has it. KEYS[1] lock, KEYS[2] companion;
-- ARGV[1] token, ARGV[2] ttl in ms. An integer: taken now, and its number; an array of one: ours
-- since an earlier try, and its number; else the token found.
local token, ttl = ARGV[1], ARGV[2]
local held, failed = read('lock', 1)
if failed then
  return failed
end
if held and held ~= token then
  return held
end
local last, whose
last, whose, failed = kept(1)
if failed then
  return failed
end
if held and whose == token then
  return {last}
end
local number = draw(1, last, token, ttl)
if held then
  return {number}
end
redis.call('SET', KEYS[1], token, 'PX', ttl)
return number
