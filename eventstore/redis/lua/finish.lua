-- Acknowledges and deletes a task in one step: one that is acknowledged alone is handed to no worker again, and stays.
--
-- KEYS  1 tasks
-- ARGV  1 task id
redis.call('XACK', KEYS[1], 'workers', ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
