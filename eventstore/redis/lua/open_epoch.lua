-- Opens the next epoch of a partition: from here on, appends of this epoch, to this incarnation, are accepted. Creates
-- the partition's record where there is none.
--
-- KEYS  1 meta  2 log  3 tasks
-- ARGV  1 store id  2 partitions  3 epoch  4 id of the log's last entry, or '0-0'  5 its position
--       6 fixed incarnation, or ''  7 incarnation that was healed: another server may lack what was restored
local found = incarnation(ARGV[6])
if found ~= ARGV[7] then return {'Seam', 'incarnation ' .. found} end
local kept = redis.call('HGET', KEYS[1], 'epoch')
if kept and tonumber(kept) >= tonumber(ARGV[3]) then return {'Seam', 'epoch ' .. kept} end
local head = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local last = #head == 1 and head[1][1] or '0-0'
if last ~= ARGV[4] then return {'Seam', last} end
local group = redis.pcall('XGROUP', 'CREATE', KEYS[3], 'workers', '0', 'MKSTREAM')
if group.err and not string.find(group.err, 'BUSYGROUP', 1, true) then return group end
redis.call('HSET', KEYS[1], 'store', ARGV[1], 'partitions', ARGV[2], 'epoch', ARGV[3], 'position', ARGV[5],
  'incarnation', found)
return {'Opened'}
