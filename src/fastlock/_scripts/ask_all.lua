-- Take all locks or none. KEYS locks; ARGV[1] ttl in ms, ARGV[i + 1] token of KEYS[i].
-- 1: all are ours, with the full ttl from now (those taken by an earlier try too);
-- 0: somebody else has one of them; what an earlier try of ours took is free again.
local ours, refused = {}, false
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  if held == ARGV[i + 1] then
    ours[#ours + 1] = key
  elseif held then
    refused = true
  end
end
if refused then
  for _, key in ipairs(ours) do
    redis.call('DEL', key)
  end
  return 0
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
end
return 1
