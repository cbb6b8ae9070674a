-- Deletes the consumers that hold no task and have been idle for longer than given; returns their names.
-- XGROUP DELCONSUMER throws away what a consumer holds, so nothing may come between the look and the deletion.
--
-- KEYS  1 tasks
-- ARGV  1 milliseconds
local names = {}
if redis.call('EXISTS', KEYS[1]) == 0 then return names end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
  local facts = {}
  for i = 1, #consumer, 2 do facts[consumer[i]] = consumer[i + 1] end
  if facts['pending'] == 0 and facts['idle'] > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', facts['name'])
    names[#names + 1] = facts['name']
  end
end
return names
