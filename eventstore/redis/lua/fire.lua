-- Moves due timers into the tasks stream and returns the milliseconds until the next one, or false.
--
-- Tasks that wait for their lane become free here, too, so that they do where nobody was left to see to it.
--
-- KEYS  1 due  2 tasks  3 waiting  4 lanes
-- ARGV  1 most timers to move  2 how many tasks may be held by no worker
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Nothing is written before each key was met: one of another type changes nothing.
redis.call('ZCARD', KEYS[3])
redis.call('HLEN', KEYS[4])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local space = string.find(member, ' ', 1, true)
  -- A member without one is nobody's timer; it must not hold up those behind it.
  if space then
    redis.call('XADD', KEYS[2], '*', 'stream', string.sub(member, space + 1), 'kind', string.sub(member, 1, space - 1))
  end
  redis.call('ZREM', KEYS[1], member)
end
admit(KEYS[2], KEYS[3], KEYS[4], tonumber(ARGV[2]))
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return false end
return math.max(0, tonumber(following[2]) - now)
