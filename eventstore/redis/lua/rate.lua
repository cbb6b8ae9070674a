-- Takes one of a rate, as eventstore/rates.py does; returns 0, or the milliseconds until one is free.
--
-- KEYS  1 how far what was taken reaches, in microseconds since 1970
-- ARGV  1 microseconds from one to the next  2 how far ahead of the clock it may reach, in microseconds
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reached = tonumber(redis.call('GET', KEYS[1]) or now)
local reaches = math.min(math.max(reached, now), now + burst) + interval
local missing = reaches - now - burst
if missing > 0 then return math.ceil(missing / 1000) end
redis.call('SET', KEYS[1], string.format('%.0f', reaches), 'PX', math.ceil((reaches - now) / 1000))
return 0
