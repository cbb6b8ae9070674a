-- Lets tasks that wait for their lane become free, while there is room.
--
-- KEYS  1 tasks  2 waiting  3 lanes
-- ARGV  1 how many tasks may be held by no worker
admit(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1]))
