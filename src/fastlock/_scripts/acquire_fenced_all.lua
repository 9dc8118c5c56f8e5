-- Take all locks with a fencing number each, or none. KEYS locks, then their companions;
-- ARGV[1] ttl in ms, ARGV[i + 1] token of KEYS[i]. The numbers: all are ours, with the full ttl
-- from now (those taken by an earlier try too, which keep their number); 0: somebody else has
-- one of them, and what an earlier try of ours took is free again.
local ttl, count = ARGV[1], #KEYS / 2
local ours, refused = {}, false
for i = 1, count do
  local held, failed = read('lock', i)
  if failed then
    return failed
  end
  ours[i] = held == ARGV[i + 1]
  refused = refused or (held and not ours[i])
end
if refused then
  for i = 1, count do
    if ours[i] then
      redis.call('DEL', KEYS[i])
    end
  end
  return 0
end
local lasts = {}
for i = 1, count do
  local last, whose, failed = kept(i)
  if failed then
    return failed
  end
  lasts[i] = last
  ours[i] = ours[i] and whose == ARGV[i + 1]
end
local numbers = {}
for i = 1, count do
  numbers[i] = ours[i] and lasts[i] or draw(i, lasts[i], ARGV[i + 1], ttl)
  redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ttl)
end
return numbers
