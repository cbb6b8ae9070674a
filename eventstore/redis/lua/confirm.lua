-- Says whether a stream still holds an event, and touches the partition, so that waiting for the touch to be flushed
-- or replicated is waiting for the event, too.
--
-- KEYS  1 meta  2 stream
-- ARGV  1 epoch  2 fixed incarnation, or ''  3 version  4 hash
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'incarnation')
if kept[1] ~= ARGV[1] or kept[2] ~= incarnation(ARGV[2]) then return {'EpochStale', kept[1] or '0'} end
local head = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if #head == 0 then return {'WrongVersion', 0, ''} end
local id = head[1][1]
local version = tonumber(string.sub(id, string.find(id, '-', 1, true) + 1))
local back = version - tonumber(ARGV[3])
if back < 0 then return {'WrongVersion', version, head[1][2][4]} end
local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', string.format('%.0f', back + 1))
if entries[#entries][2][4] ~= ARGV[4] then return {'WrongVersion', version, head[1][2][4]} end
redis.call('HINCRBY', KEYS[1], 'touches', 1)
return {'Confirmed'}
