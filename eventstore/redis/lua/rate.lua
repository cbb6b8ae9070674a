-- Takes one of a rate, as eventstore/rates.py does; returns the milliseconds until one is free, 0 where one was taken,
-- how many are left, and the milliseconds until it is one more.
--
-- KEYS  1 how far what was taken reaches, in microseconds since 1970
-- ARGV  1 microseconds from one to the next  2 how far ahead of the clock it may reach, in microseconds
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reached = tonumber(redis.call('GET', KEYS[1]) or now)
local reaches = math.min(math.max(reached, now), now + burst) + interval
local missing = reaches - now - burst
if missing > 0 then
  local wait = math.ceil(missing / 1000)
  return {wait, 0, wait}
end
redis.call('SET', KEYS[1], string.format('%.0f', reaches), 'PX', math.ceil((reaches - now) / 1000))
local left = math.floor(-missing / interval)
return {0, left, math.ceil(((left + 1) * interval + missing) / 1000)}
