-- Takes an unfinished task away from the workers and records it as parked; returns whether it was there.
-- The first write is the HSET, which Redis refuses whole when it is out of memory, or where the key is no hash: the
-- task is then still with the workers.
--
-- KEYS  1 tasks  2 parked
-- ARGV  1 task id  2 stream id  3 the record, as a JSON object without its deliveries and time
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
local held = redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1)
local deliveries = #held == 0 and 0 or held[1][4]
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
redis.call('HSET', KEYS[2], ARGV[2],
  '{"deliveries":' .. deliveries .. ',"parked_ms":' .. now .. ',' .. string.sub(ARGV[3], 2))
redis.call('XACK', KEYS[1], 'workers', ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
