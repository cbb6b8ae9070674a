-- Returns how many tasks no worker holds.
local function unheld(tasks)
  local held = redis.pcall('XPENDING', tasks, 'workers')
  if not held.err then return redis.call('XLEN', tasks) - held[1] end
  -- Without its group, which is created again when a worker next asks for tasks, nothing is held.
  if not string.find(held.err, 'NOGROUP', 1, true) then error(held.err) end
  return redis.call('XLEN', tasks)
end
