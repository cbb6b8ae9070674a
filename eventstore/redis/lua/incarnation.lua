-- Returns the identity of the data of the server that runs the script: it changes whenever the server may have lost
-- writes that it acknowledged. `fixed` stands for it where the server hides it, else ''.
local function incarnation(fixed)
  if fixed ~= '' then return fixed end
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
end
