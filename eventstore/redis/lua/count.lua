-- Returns how many members each of some sorted indexes has: one round trip and one command for all of them.
--
-- KEYS  1… the indexes
local counts = {}
for i = 1, #KEYS do counts[i] = redis.call('ZCARD', KEYS[i]) end
return counts
