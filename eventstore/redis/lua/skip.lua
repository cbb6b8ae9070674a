-- Marks a parked task as skipped; returns whether there was one.
--
-- KEYS  1 parked
-- ARGV  1 stream id  2 reason
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
local record = cjson.decode(text)
record['skipped_reason'] = ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(record))
return 1
