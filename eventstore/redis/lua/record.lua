-- Returns a partition's record, the incarnation found, and the last entry of its log.
--
-- KEYS  1 meta  2 log
-- ARGV  1 fixed incarnation, or ''
local kept = redis.call('HMGET', KEYS[1], 'store', 'epoch', 'incarnation', 'position')
return {kept[1], kept[2], kept[3], kept[4], incarnation(ARGV[1]), redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)}
