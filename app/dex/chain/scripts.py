"""The simulated chain's scripts: what its server does in one step, so that no caller sees half of it."""

from typing import Final

from app.dex.pools.launches import GENESIS_SLOT
from eventstore.redis.scripts import script_of

LEDGER_PAGE: Final = 500
MISMATCH: Final = -1
EXPIRED: Final = -2
WRONG_LAUNCH: Final = -3
PAST_LAUNCH: Final = -4

# KEYS 1: clock. ARGV 1: fingerprint of the world, 2: microseconds per slot (0: no running clock), 3: slots to advance
# by when no clock runs. The stored pair (slot, since) is only ever moved by whole slots, so the slot never decreases,
# survives a change of speed, and stands still, instead of going back, when the server's clock is set back.
_CLOCK: Final = f"""
local function current_slot()
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  local clock = redis.call('HMGET', KEYS[1], 'world', 'slot', 'since')
  local slot, since = tonumber(clock[2]) or {GENESIS_SLOT}, tonumber(clock[3]) or us
  if clock[1] and clock[1] ~= ARGV[1] then return {MISMATCH} end
  local slot_us, passed, start = tonumber(ARGV[2]), 0, math.min(since, us)
  if slot_us == 0 then
    passed, start = tonumber(ARGV[3]), us
  else
    local elapsed = us - start
    passed = (elapsed - elapsed % slot_us) / slot_us
    start = start + passed * slot_us
  end
  if passed > 0 or us < since or not clock[1] then
    redis.call('HSET', KEYS[1], 'world', ARGV[1], 'slot', string.format('%.0f', slot + passed),
      'since', string.format('%.0f', start))
  end
  return slot + passed
end
"""

_READ_SLOT: Final = f"""{_CLOCK}
return {{current_slot()}}
"""

# KEYS 2: signature -> message, 3: signature -> slots of its broadcasts, 4: token -> launch slot. ARGV 4: signature,
# 5: message, 6: slot of its blockhash, 7: last valid height, 8: launched token or "", 9: the launch slot that the
# message names, 10: that of the schedule. A signature has at most some 200 broadcasts; more are of no use and not kept.
# A launch that a kept message names is fixed: no landing is ever priced with another one than the token's.
_SEND: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 then return {{slot}} end
if tonumber(ARGV[6]) > slot or tonumber(ARGV[7]) < slot then return {{{EXPIRED}}} end
if ARGV[8] ~= '' then
  local held = redis.call('HGET', KEYS[4], ARGV[8]) or ARGV[10]
  if held ~= ARGV[9] then return {{{WRONG_LAUNCH}, held}} end
  redis.call('HSETNX', KEYS[4], ARGV[8], held)
end
redis.call('HSETNX', KEYS[2], ARGV[4], ARGV[5])
local sent = redis.call('HGET', KEYS[3], ARGV[4])
if not sent then
  redis.call('HSET', KEYS[3], ARGV[4], string.format('%.0f', slot))
elseif #sent < 2000 then
  redis.call('HSET', KEYS[3], ARGV[4], sent .. ',' .. string.format('%.0f', slot))
end
return {{slot}}
"""

# ARGV 4 and on: signatures. The slot is read first, what was sent after it: the statuses are of a view that is at
# least as new as the height, whatever happens in between.
_OBSERVE: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 or #ARGV < 4 then return {{slot, {{}}, {{}}}} end
local signatures = {{}}
for i = 4, #ARGV do signatures[i - 3] = ARGV[i] end
return {{slot, redis.call('HMGET', KEYS[2], unpack(signatures)), redis.call('HMGET', KEYS[3], unpack(signatures))}}
"""

# ARGV 4: cursor. A page of both hashes; HSCAN may give a signature twice.
_LEDGER: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 then return {{slot}} end
local page, sent = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', {LEDGER_PAGE}), {{}}
for i = 1, #page[2], 2 do sent[#sent + 1] = redis.call('HGET', KEYS[3], page[2][i]) end
return {{slot, page[1], page[2], sent}}
"""

# ARGV 4: token, 5: slot asked for, 6: that of the schedule. What holds stays: a fixed launch, or one that is over.
_LAUNCH: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 then return {{slot}} end
local held = redis.call('HGET', KEYS[4], ARGV[4])
if held then return {{slot, held}} end
if tonumber(ARGV[6]) <= slot then return {{slot, ARGV[6]}} end
if tonumber(ARGV[5]) < slot then return {{{PAST_LAUNCH}, string.format('%.0f', slot)}} end
redis.call('HSETNX', KEYS[4], ARGV[4], ARGV[5])
return {{slot, ARGV[5]}}
"""

# ARGV 4 and on: tokens.
_LAUNCH_SLOTS: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 then return {{slot}} end
local symbols = {{}}
for i = 4, #ARGV do symbols[i - 3] = ARGV[i] end
return {{slot, redis.call('HMGET', KEYS[4], unpack(symbols))}}
"""

READ_SLOT, SEND, OBSERVE = map(script_of, (_READ_SLOT, _SEND, _OBSERVE))
LEDGER, LAUNCH, LAUNCH_SLOTS = map(script_of, (_LEDGER, _LAUNCH, _LAUNCH_SLOTS))
