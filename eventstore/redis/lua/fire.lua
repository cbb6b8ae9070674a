-- Moves due timers into the tasks stream and returns the milliseconds until the next one, or false.
--
-- KEYS  1 due  2 tasks
-- ARGV  1 most timers to move
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local space = string.find(member, ' ', 1, true)
  -- A member without one is nobody's timer; it must not hold up those behind it.
  if space then
    redis.call('XADD', KEYS[2], '*', 'stream', string.sub(member, space + 1), 'kind', string.sub(member, 1, space - 1))
  end
  redis.call('ZREM', KEYS[1], member)
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return false end
return math.max(0, tonumber(following[2]) - now)
