-- Appends one commit, or says why not. Validates everything, then writes: Lua does not roll back, so no write may
-- precede the last check, and the first write is an XADD, which Redis refuses whole when it is out of memory.
--
-- KEYS  1 meta  2 order stream  3 log  4 tasks  5 idempotency  6… sorted indexes
--       and last, where ARGV 15 or 16 is not '': waiting, lanes
-- ARGV  1 epoch  2 expected version  3 expected hash  4 commit id  5 stream id
--       6 kind of the task to add, or ''  7 id of the task to finish, or ''
--       8 idempotency field, or ''  9 its fingerprint  10 number of events  11 number of entries to set
--       12 fixed incarnation, or ''  13 creation time of the stream's id  14 greatest age of that id
--          for a new stream, both in milliseconds
--       15 unfinished tasks at which a new stream is refused, or ''  16 field of the lane in which the task of a
--          new stream waits for its turn, or ''  17 how many tasks may be held by no worker before it does
--       then hash, data per event; index (into KEYS from 6, counted from 1), score, member per entry to set;
--       then index, member per entry to clear
local meta, stream, log, tasks, records = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local expected = tonumber(ARGV[2])
local commit, id = ARGV[4], ARGV[5]
local events, sets = tonumber(ARGV[10]), tonumber(ARGV[11])
local first_event = 18
local first_set = first_event + 2 * events
local first_clear = first_set + 3 * sets
local is_queued = ARGV[15] ~= '' or ARGV[16] ~= ''
local last_index = is_queued and #KEYS - 2 or #KEYS
local waiting, lanes = KEYS[last_index + 1], KEYS[last_index + 2]

local function holds(key, kind)
  local found = redis.call('TYPE', key)['ok']
  return found == kind or found == 'none'
end

if not (holds(meta, 'hash') and holds(stream, 'stream') and holds(log, 'stream') and holds(tasks, 'stream')
    and holds(records, 'hash')) then
  return {'WrongType'}
end
for i = 6, last_index do
  if not holds(KEYS[i], 'zset') then return {'WrongType'} end
end
if is_queued and not (holds(waiting, 'zset') and holds(lanes, 'hash')) then return {'WrongType'} end

local kept = redis.call('HMGET', meta, 'epoch', 'position', 'incarnation')
if kept[1] ~= ARGV[1] or not kept[2] or kept[3] ~= incarnation(ARGV[12]) then return {'EpochStale', kept[1] or '0'} end
local epoch = kept[1]
local position = tonumber(kept[2])

local function of_id(entry_id)
  local dash = string.find(entry_id, '-', 1, true)
  return string.sub(entry_id, 1, dash - 1), tonumber(string.sub(entry_id, dash + 1))
end

local head = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
local version, hash = 0, ''
if #head == 1 then
  local _
  _, version = of_id(head[1][1])
  hash = head[1][2][4]
end

if version > expected then
  -- Dense versions: the entry that follows the expected one is this many entries from the end.
  local later = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', string.format('%.0f', version - expected))
  if later[#later][2][2] == commit then
    local last = later[#later]
    for i = #later - 1, 1, -1 do
      if later[i][2][2] ~= commit then break end
      last = later[i]
    end
    redis.call('HINCRBY', meta, 'touches', 1)
    local at_epoch, at_version = of_id(last[1])
    return {'Duplicate', at_version, at_epoch, last[2][6]}
  end
end

if ARGV[8] ~= '' then
  local record = redis.call('HGET', records, ARGV[8])
  if record then
    local space = string.find(record, ' ', 1, true)
    local owner = string.sub(record, 1, space - 1)
    if string.sub(record, space + 1) ~= ARGV[9] then return {'IdempotencyConflict', owner} end
    redis.call('HINCRBY', meta, 'touches', 1)
    return {'Existing', owner}
  end
end

if version ~= expected or hash ~= ARGV[3] then return {'WrongVersion', version, hash} end
local time = redis.call('TIME')
-- A stream that has ended and left the store is as absent as a new one: only its id's age tells them apart.
if version == 0 and time[1] * 1000 - tonumber(ARGV[13]) > tonumber(ARGV[14]) then return {'Expired'} end

local ahead, turn = 0, nil
if is_queued then
  ahead = redis.call('ZCARD', waiting)
  if ARGV[15] ~= '' then
    local depth = redis.call('XLEN', tasks) + ahead
    if depth >= tonumber(ARGV[15]) then return {'QueueFull', depth} end
  end
  if ARGV[16] ~= '' and (ahead > 0 or unheld(tasks) >= tonumber(ARGV[17])) then
    -- What the lanes' record says of a queue that is empty is past.
    local given = ahead > 0 and redis.call('HMGET', lanes, 'admitted', ARGV[16]) or {}
    local admitted, last = tonumber(given[1] or 0), tonumber(given[2] or 0)
    if not (admitted and last and math.abs(admitted) < 9007199254740991 and math.abs(last) < 9007199254740991) then
      return redis.error_reply('ERR the record of the lanes is damaged')
    end
    turn = string.format('%.0f', math.max(admitted, last) + 1)
  end
end

local lines, anchors = {}, {}
for i = 1, events do
  anchors[i] = string.sub(ARGV[first_event + 2 * i - 2], 1, 8)
  lines[i] = ARGV[first_event + 2 * i - 1]
end
for i = first_set, first_clear - 1, 3 do
  if #ARGV[i + 1] > 17 or not string.match(ARGV[i + 1], '^%-?%d+$') then
    return redis.error_reply('ERR score is not an integer below 2^53')
  end
end
if ARGV[7] ~= '' and (#ARGV[7] > 21 or not string.match(ARGV[7], '^%d+%-%d+$')) then
  return redis.error_reply('ERR the id of the task to finish is none')
end
local last_position = string.format('%.0f', position + events)
local log_head = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
if #log_head == 1 then
  local log_epoch, log_position = of_id(log_head[1][1])
  if log_position ~= position or tonumber(log_epoch) > tonumber(epoch) then return {'LogMismatch', log_head[1][1]} end
end
-- A stream gives no number out twice, even where the entry that had it was deleted.
local facts = redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'STREAM', stream) or {}
for i = 1, #facts, 2 do
  if facts[i] == 'last-generated-id' then
    local last_epoch, last_version = of_id(facts[i + 1])
    last_epoch = tonumber(last_epoch)
    if last_epoch > tonumber(epoch) or (last_epoch == tonumber(epoch) and last_version > version) then
      return {'StreamMismatch', facts[i + 1]}
    end
  end
end
local permitted = may('XADD', log, '*', 'f', 'v') and may('XADD', stream, '*', 'f', 'v') and may('HSET', meta, 'f', 'v')
  and (ARGV[7] == '' or may('XACK', tasks, 'workers', '0-0') and may('XDEL', tasks, '0-0'))
  and (ARGV[6] == '' or may('XADD', tasks, '*', 'f', 'v'))
  and (not turn or may('ZADD', waiting, '0', 'm') and may('HSET', lanes, 'f', 'v') and may('DEL', lanes))
  and (ARGV[8] == '' or may('HSET', records, 'f', 'v')) and may('PUBLISH', 'order-events-' .. id, 'm')
for i = 6, last_index do permitted = permitted and may('ZADD', KEYS[i], '0', 'm') and may('ZREM', KEYS[i], 'm') end
if not permitted then return redis.error_reply('NOPERM this user may not run every command of an append') end
local recorded = time[1] .. string.format('%06d', tonumber(time[2]))

redis.call('XADD', log, epoch .. '-' .. last_position, 'stream', id,
  'version', string.format('%.0f', version + events), 'commit', commit, 'recorded', recorded,
  'anchors', table.concat(anchors), 'events', table.concat(lines, '\n'))
for i = 1, events do
  redis.call('XADD', stream, epoch .. '-' .. string.format('%.0f', version + i), 'commit', commit,
    'hash', ARGV[first_event + 2 * i - 2], 'position', string.format('%.0f', position + i), 'event', lines[i])
end
redis.call('HSET', meta, 'position', last_position)
if ARGV[7] ~= '' then
  redis.call('XACK', tasks, 'workers', ARGV[7])
  redis.call('XDEL', tasks, ARGV[7])
end
if turn then
  if ahead == 0 then redis.call('DEL', lanes) end
  redis.call('ZADD', waiting, turn, ARGV[6] .. ' ' .. id)
  redis.call('HSET', lanes, ARGV[16], turn)
elseif ARGV[6] ~= '' then
  redis.call('XADD', tasks, '*', 'stream', id, 'kind', ARGV[6])
end
for i = first_set, first_clear - 1, 3 do
  redis.call('ZADD', KEYS[5 + tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
for i = first_clear, #ARGV, 2 do
  redis.call('ZREM', KEYS[5 + tonumber(ARGV[i])], ARGV[i + 1])
end
if ARGV[8] ~= '' then redis.call('HSET', records, ARGV[8], id .. ' ' .. ARGV[9]) end
for i = 1, events do redis.call('PUBLISH', 'order-events-' .. id, lines[i]) end
return {'Appended', version + events, epoch, last_position}
