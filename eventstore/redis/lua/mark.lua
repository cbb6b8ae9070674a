-- Lets a mark grow, in an open partition: what is written while one is closed would count for what is yet to be healed.
--
-- KEYS  1 meta  2 marks
-- ARGV  1 epoch  2 fixed incarnation, or ''  3 name  4 value
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'incarnation')
if kept[1] ~= ARGV[1] or kept[2] ~= incarnation(ARGV[2]) then return {'EpochStale', kept[1] or '0'} end
redis.call('ZADD', KEYS[2], 'GT', ARGV[4], ARGV[3])
return {'Advanced'}
