-- Makes a parked task a task again; returns whether there was one.
--
-- KEYS  1 tasks  2 parked
-- ARGV  1 stream id
local record = redis.call('HGET', KEYS[2], ARGV[1])
if not record then return 0 end
local kind = cjson.decode(record)['kind']
redis.call('XADD', KEYS[1], '*', 'stream', ARGV[1], 'kind', kind)
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
