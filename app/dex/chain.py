"""The simulated Solana chain: a world of its own beside the engine, with its own clock, sent bytes and ledger."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from app.dex.draws import draw_below, draw_bytes
from app.dex.errors import BlockhashExpiredError, ChainMismatchError, ChainUnavailableError, VenueError
from app.dex.market import SLOT_MS
from app.dex.profile import MILLION, Profile
from app.dex.transaction import SwapMessage, decode, tx_id, verify
from app.dex.venue import price_swap
from eventstore.errors import StoreUnavailableError
from eventstore.redis.connection import Pipeline
from eventstore.redis.scripts import Script, script_of

GENESIS_SLOT: Final = 10_000
BLOCKHASH_LIFETIME: Final = 150
"""Heights that a blockhash stays usable."""
CONFIRMATION_SLOTS: Final = 2
NETWORK_FEE: Final = 5_000
"""Lamports per signature; also charged when the swap fails on chain. There is no priority fee."""
SIGNATURES_MAX: Final = 256
"""Most signatures that one observation may ask for."""

_LEDGER_PAGE: Final = 500
_MISMATCH: Final = -1
_EXPIRED: Final = -2
_SLOT_US: Final = SLOT_MS * 1_000

# KEYS 1: clock. ARGV 1: fingerprint of the world, 2: microseconds per slot (0: no running clock), 3: slots to advance
# by when no clock runs. The stored pair (slot, since) is only ever moved by whole slots, so the slot never decreases,
# survives a change of speed, and stands still, instead of going back, when the server's clock is set back.
_CLOCK: Final = f"""
local function current_slot()
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  local clock = redis.call('HMGET', KEYS[1], 'world', 'slot', 'since')
  local slot, since = tonumber(clock[2]) or {GENESIS_SLOT}, tonumber(clock[3]) or us
  if clock[1] and clock[1] ~= ARGV[1] then return {_MISMATCH} end
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

# KEYS 2: signature -> message, 3: signature -> slots of its broadcasts. ARGV 4: signature, 5: message, 6: slot of its
# blockhash, 7: last valid height. A signature has at most some 200 broadcasts; more are of no use and not kept.
_SEND: Final = f"""{_CLOCK}
local slot = current_slot()
if slot < 0 then return {{slot}} end
if tonumber(ARGV[6]) > slot or tonumber(ARGV[7]) < slot then return {{{_EXPIRED}}} end
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
local page, sent = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', {_LEDGER_PAGE}), {{}}
for i = 1, #page[2], 2 do sent[#sent + 1] = redis.call('HGET', KEYS[3], page[2][i]) end
return {{slot, page[1], page[2], sent}}
"""


class Blockhash(Struct, frozen=True):
    """What a transaction names to prove its age."""

    hash: bytes
    last_valid_height: int
    """The last height at which a transaction with this hash can land."""


class Landed(Struct, frozen=True, kw_only=True):
    """The swap was executed; amounts in base units."""

    slot: int
    amount_in: int
    amount_out: int
    fee: int
    """Pool fee, in the token that was paid in."""
    network_fee: int
    """Lamports."""


class LandedFailed(Struct, frozen=True, kw_only=True):
    """The transaction landed and its program refused the swap: nothing was exchanged, the network fee is charged."""

    slot: int
    error: str
    """The program's error by name, e.g. ``ExceededSlippage``."""
    network_fee: int


Status = Landed | LandedFailed


class Observation(Struct, frozen=True, kw_only=True):
    """One consistent look at the chain, everything at commitment *confirmed*."""

    height: int
    slot: int
    """The slot of the view that the statuses are from, at least ``height``."""
    statuses: Mapping[str, Status]
    """Absent: not confirmed in this view. Absent while ``height`` is past the last valid height: it never will be."""


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """One landed transaction as the chain knows it; amounts are 0 when the swap failed."""

    order_id: str
    attempt: int
    signature: str
    slot: int
    outcome: Literal["executed", "failed"]
    amount_in: int
    amount_out: int


_read_slot, _send, _observe, _ledger_page = map(script_of, (_READ_SLOT, _SEND, _OBSERVE, _LEDGER))


class SimulatedChain:
    """The simulated chain in one Redis server, under ``<namespace>:*``; every method may be called concurrently.

    Stored are the clock and what was sent. Whether, where and with what amounts a transaction lands is computed from
    that, the seed and the profile; none of it depends on the engine's own records. A height is a slot here: no slot
    is ever skipped. Slots pass every 400 ms of the server's time, divided by the speed; at speed 0 one slot passes
    with each observation.

    Args:
        connection: it belongs to the caller. On a cluster, ``namespace`` needs braces: its keys share a slot.
        seed: together with the profile it makes the world; a stored chain is refused with any other.
        speed_ppm: the simulation's speed in millionths; it may change from run to run.

    Every method raises :class:`ChainUnavailableError` and :class:`ChainMismatchError`.
    """

    def __init__(
        self, connection: Pipeline, *, seed: str, profile: Profile, speed_ppm: int, namespace: str = "{chain}"
    ) -> None:
        self._connection = connection
        self._seed = seed
        self._profile = profile
        self._slot_us = max(1, _SLOT_US * MILLION // speed_ppm) if speed_ppm else 0
        self._keys = [f"{namespace}:{name}" for name in ("clock", "messages", "broadcasts")]
        self._world = sha256(seed.encode() + b"\n" + msgspec.json.encode(profile)).hexdigest()[:16]

    async def slot(self) -> int:
        """Return the current slot, which never decreases."""
        (slot,) = await self._run(_read_slot, 0)
        return int(slot)

    async def latest_blockhash(self) -> Blockhash:
        """Return the hash of the last confirmed block."""
        return self._blockhash(await self.slot() - CONFIRMATION_SLOTS)

    async def send(self, message: bytes, signature: bytes) -> None:
        """Broadcast a signed message; the same bytes may be sent any number of times and land at most once.

        Nothing that this raises, or does not raise, says whether the swap will happen: :meth:`observe` does.

        Raises:
            MalformedMessageError, InvalidSignatureError: the bytes are no signed swap message.
            BlockhashExpiredError: the message's blockhash is past its last valid height, or none of this chain.
        """
        verify(message, signature)
        blockhash = decode(message).blockhash
        height = int.from_bytes(blockhash[:8], "big")
        if self._blockhash(height).hash != blockhash:
            raise BlockhashExpiredError("the blockhash is none of this chain")
        (slot,) = await self._run(_send, 0, tx_id(signature), message, height, height + BLOCKHASH_LIFETIME)
        if slot == _EXPIRED:
            raise BlockhashExpiredError(f"the blockhash of height {height} is not valid now")

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """Return the confirmed height and the status of each of ``signatures``, at most :data:`SIGNATURES_MAX`.

        One request, so that no caller can read the statuses first, or mix commitments.

        Raises:
            ValueError: too many signatures.
        """
        if len(signatures) > SIGNATURES_MAX:
            raise ValueError(f"at most {SIGNATURES_MAX} signatures can be observed at once, not {len(signatures)}")
        slot, messages, broadcasts = await self._run(_observe, 1, *signatures)
        confirmed = slot - CONFIRMATION_SLOTS
        statuses: dict[str, Status] = {}
        for signature, message, sent in zip(signatures, messages, broadcasts, strict=False):
            if message is not None and sent is not None:
                status = self._status(signature, decode(message), _slots(sent), confirmed)
                if status is not None:
                    statuses[signature] = status
        return Observation(height=confirmed, slot=confirmed, statuses=statuses)

    async def ledger(self) -> list[LedgerEntry]:
        """Return everything that has landed and is confirmed by the current slot, oldest first.

        For auditors and tests: it reads every transaction ever sent, in pages.
        """
        entries: dict[str, LedgerEntry] = {}
        confirmed: int | None = None
        cursor = b"0"
        while True:
            slot, cursor, page, broadcasts = await self._run(_ledger_page, 0, cursor)
            confirmed = slot - CONFIRMATION_SLOTS if confirmed is None else confirmed
            for signature, message, sent in zip(page[::2], page[1::2], broadcasts, strict=True):
                name, content = signature.decode(), decode(message)
                status = self._status(name, content, _slots(sent), confirmed)
                if status is not None:
                    entries[name] = _entry(name, content, status)
            if cursor == b"0":
                break
        return sorted(entries.values(), key=lambda entry: (entry.slot, entry.signature))

    def _blockhash(self, height: int) -> Blockhash:
        # The height stands in the hash, so that a message alone says until when it can land.
        hashed = height.to_bytes(8, "big") + draw_bytes(24, self._seed, "blockhash", height)
        return Blockhash(hashed, height + BLOCKHASH_LIFETIME)

    def _status(self, signature: str, message: SwapMessage, sent: list[int], confirmed: int) -> Status | None:
        last_valid = int.from_bytes(message.blockhash[:8], "big") + BLOCKHASH_LIFETIME
        slot = self._landing_slot(signature, sent, min(confirmed, last_valid))
        return None if slot is None else self._execute(signature, message, slot)

    def _landing_slot(self, signature: str, sent: list[int], last: int) -> int | None:
        """Return where the transaction lands for good, by ``last`` at the latest.

        Broadcasts after the first that arrives change nothing, so a landing once seen never moves.
        """
        drop_ppm, chances = self._profile.drop_ppm, self._profile.landing_ppm
        arrived = (slot for number, slot in enumerate(sent) if not self._happens(drop_ppm, "drop", signature, number))
        first = next(arrived, None)
        if first is None:
            return None
        for slot in range(first, last + 1):
            chance = chances[min(slot - first, len(chances) - 1)]
            if self._happens(chance, "land", signature, slot) and not self._happens(
                self._profile.fork_ppm, "fork", signature, slot
            ):
                return slot
        return None

    def _happens(self, chance_ppm: int, *names: str | int) -> bool:
        if chance_ppm <= 0 or chance_ppm >= MILLION:
            return chance_ppm > 0
        return draw_below(MILLION, self._seed, *names) < chance_ppm

    def _execute(self, signature: str, message: SwapMessage, slot: int) -> Status:
        """Return what the venue's simulated program does with the swap in the state of the landing slot."""
        if self._happens(self._profile.program_error_ppm, "program", signature, slot):
            return LandedFailed(slot=slot, error="SimulatedProgramError", network_fee=NETWORK_FEE)
        swap = message.swap
        try:
            quote = price_swap(message.venue, swap, slot, seed=self._seed, profile=self._profile)
        except VenueError as error:
            name = type(error).__name__.removesuffix("Error")
            return LandedFailed(slot=slot, error=name, network_fee=NETWORK_FEE)
        sell = swap.side == "sell"
        if quote.amount < message.limit if sell else quote.amount > message.limit:
            return LandedFailed(slot=slot, error="ExceededSlippage", network_fee=NETWORK_FEE)
        paid, received = (swap.amount, quote.amount) if sell else (quote.amount, swap.amount)
        return Landed(slot=slot, amount_in=paid, amount_out=received, fee=quote.fee, network_fee=NETWORK_FEE)

    async def _run(self, script: Script, advance: int, *args: str | bytes | int) -> list[Any]:
        try:
            reply: list[Any] = await self._connection.run(
                script, self._keys, (self._world, self._slot_us, advance, *args)
            )
        except StoreUnavailableError as error:
            raise ChainUnavailableError(str(error)) from error
        if reply[0] == _MISMATCH:
            raise ChainMismatchError(f"the chain in {self._keys[0]} was made with another seed or profile")
        return reply


def _slots(sent: bytes) -> list[int]:
    return [int(slot) for slot in sent.split(b",")]


def _entry(signature: str, message: SwapMessage, status: Status) -> LedgerEntry:
    executed = isinstance(status, Landed)
    return LedgerEntry(
        order_id=message.swap.order_id,
        attempt=message.swap.attempt,
        signature=signature,
        slot=status.slot,
        outcome="executed" if executed else "failed",
        amount_in=status.amount_in if isinstance(status, Landed) else 0,
        amount_out=status.amount_out if isinstance(status, Landed) else 0,
    )
