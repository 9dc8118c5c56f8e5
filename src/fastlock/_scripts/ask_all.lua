-- Take all locks or none. KEYS locks; ARGV[1] ttl in ms, ARGV[i + 1] token of KEYS[i].
-- 1: all are ours, with the full ttl from now (those taken by an earlier try too);
-- 0: somebody else has one of them.
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  if held and held ~= ARGV[i + 1] then
    return 0
  end
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
end
return 1
