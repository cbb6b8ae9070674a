-- Creates a partition's records where there are none; returns the store id, partition count and epoch that hold.
--
-- KEYS  1 meta
-- ARGV  1 store id  2 partitions
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'store', ARGV[1], 'partitions', ARGV[2], 'epoch', '1', 'position', '0')
end
return redis.call('HMGET', KEYS[1], 'store', 'partitions', 'epoch')
