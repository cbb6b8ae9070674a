-- Writes back one piece of lost data with its original numbers: a log entry, events of one stream, and what that
-- stream's state obliges to. Only while the partition is closed. Validates everything, then writes, as append.lua does.
--
-- KEYS  1 meta  2 stream  3 log  4 tasks  5 idempotency  6… sorted indexes
-- ARGV  1 fixed incarnation, or ''  2 hash of the event before the first one, or ''  3 id of the log entry, or ''
--       4 stream id  5 version  6 commit id  7 time recorded  8 anchors  9 number of events of the log entry
--       10 number of events of the stream  11 kind of the task to add, or ''  12 idempotency field, or ''
--       13 its record  14 number of entries to set
--       then the log entry's events, joined by line feeds, or ''; then entry id, commit, hash, position, event per event
--       of the stream; index, score, member per entry to set; index, member per entry to clear
local meta, stream, log, tasks, records = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, sets = tonumber(ARGV[10]), tonumber(ARGV[14])
local first_event = 16
local first_set = first_event + 5 * events
local first_clear = first_set + 3 * sets

local function second(entry_id)
  return tonumber(string.sub(entry_id, string.find(entry_id, '-', 1, true) + 1))
end

local kept = redis.call('HMGET', meta, 'epoch', 'incarnation')
if kept[1] and kept[2] == incarnation(ARGV[1]) then return {'Open'} end

local function holds(key, kind)
  local found = redis.call('TYPE', key)['ok']
  return found == kind or found == 'none'
end

if not (holds(stream, 'stream') and holds(log, 'stream') and holds(tasks, 'stream') and holds(records, 'hash')) then
  return {'WrongType'}
end
for i = 6, #KEYS do
  if not holds(KEYS[i], 'zset') then return {'WrongType'} end
end

if ARGV[3] ~= '' then
  local head = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #head == 1 and second(head[1][1]) ~= second(ARGV[3]) - tonumber(ARGV[9]) then return {'Seam', 'log', head[1][1]} end
end
if events > 0 then
  local head = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  local version, hash = 0, ''
  if #head == 1 then version, hash = second(head[1][1]), head[1][2][4] end
  if second(ARGV[first_event]) ~= version + 1 or ARGV[2] ~= hash then
    return {'Seam', 'stream', string.format('%.0f', version) .. ' ' .. hash}
  end
end

if ARGV[3] ~= '' then
  redis.call('XADD', log, ARGV[3], 'stream', ARGV[4], 'version', ARGV[5], 'commit', ARGV[6], 'recorded', ARGV[7],
    'anchors', ARGV[8], 'events', ARGV[15])
end
for i = first_event, first_set - 1, 5 do
  redis.call('XADD', stream, ARGV[i], 'commit', ARGV[i + 1], 'hash', ARGV[i + 2], 'position', ARGV[i + 3],
    'event', ARGV[i + 4])
end
if ARGV[11] ~= '' then redis.call('XADD', tasks, '*', 'stream', ARGV[4], 'kind', ARGV[11]) end
if ARGV[12] ~= '' then redis.call('HSET', records, ARGV[12], ARGV[13]) end
for i = first_set, first_clear - 1, 3 do
  redis.call('ZADD', KEYS[5 + tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
for i = first_clear, #ARGV, 2 do
  redis.call('ZREM', KEYS[5 + tonumber(ARGV[i])], ARGV[i + 1])
end
return {'Restored'}
