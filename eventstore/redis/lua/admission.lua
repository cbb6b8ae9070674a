-- Moves waiting tasks, lowest turn first, into the tasks stream until as many as given are held by no worker.
--
-- The lanes' record holds the turn that was given out last in each lane and, as `admitted`, the turn that was admitted
-- last: whoever comes now waits behind that one, not behind what other lanes have added since.
local function admit(tasks, waiting, lanes, direct_max)
  local recorded = redis.call('HLEN', lanes)
  if redis.call('ZCARD', waiting) == 0 then return end
  local room = direct_max - unheld(tasks)
  if room <= 0 then return end
  if not (may('XADD', tasks, '*', 'f', 'v') and may('ZREM', waiting, 'm') and may('HSET', lanes, 'f', 'v')
      and may('HDEL', lanes, 'f') and may('DEL', lanes)) then
    error('NOPERM this user may not run every command of an admission')
  end
  local found = redis.call('ZRANGE', waiting, 0, room - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local space = string.find(found[i], ' ', 1, true)
    -- A member without one is nobody's task; it must not hold up those behind it.
    if space then
      redis.call('XADD', tasks, '*', 'stream', string.sub(found[i], space + 1), 'kind',
        string.sub(found[i], 1, space - 1))
    end
    redis.call('ZREM', waiting, found[i])
  end
  local left = redis.call('ZCARD', waiting)
  if left == 0 then
    redis.call('DEL', lanes)
    return
  end
  local admitted = found[#found]
  redis.call('HSET', lanes, 'admitted', admitted)
  -- A lane whose last turn has come is as good as unknown. At most one lane per waiting task is not of that kind.
  if recorded > 2 * left + 1000 then
    local facts = redis.call('HGETALL', lanes)
    for i = 1, #facts, 2 do
      if facts[i] ~= 'admitted' and tonumber(facts[i + 1]) <= tonumber(admitted) then
        redis.call('HDEL', lanes, facts[i])
      end
    end
  end
end
