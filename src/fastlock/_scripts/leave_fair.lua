-- Compare-and-delete the lock, and leave its queue. KEYS[1] lock, KEYS[2] queue; ARGV[1] token,
-- ARGV[2] as in fair.lua. 1: freed by us or a place given up, 0: there was neither.
local held, freed = redis.pcall('GET', KEYS[1]), 0
if held == ARGV[1] then
  freed = redis.call('DEL', KEYS[1])
end
local left = leave(ARGV[1])
if type(held) == 'table' then
  return held
end
return left + freed > 0 and 1 or 0
