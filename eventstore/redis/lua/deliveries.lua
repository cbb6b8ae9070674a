-- Returns how often a task was handed out; 0 where no worker holds it.
--
-- KEYS  1 tasks
-- ARGV  1 task id
local held = redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1)
if #held == 0 then return 0 end
return held[1][4]
