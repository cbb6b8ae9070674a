-- Removes one closed stream that is in the archive, with its idempotency record and its index entry.
--
-- KEYS  1 stream  2 idempotency  3 index
-- ARGV  1 stream id  2 version  3 hash  4 idempotency field, or ''
local head = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #head == 1 then
  local id = head[1][1]
  if string.sub(id, string.find(id, '-', 1, true) + 1) ~= ARGV[2] or head[1][2][4] ~= ARGV[3] then return 0 end
end
local kind = redis.call('TYPE', KEYS[3])['ok']
if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('WRONGTYPE the index is no sorted set') end
if ARGV[4] ~= '' then
  local record = redis.call('HGET', KEYS[2], ARGV[4])
  if record and string.sub(record, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then redis.call('HDEL', KEYS[2], ARGV[4]) end
end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
