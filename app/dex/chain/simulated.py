"""The simulated chain itself: what lands, where and with which amounts, and the launches that messages name."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from app.dex.chain import scripts
from app.dex.draws import draw_below, draw_bytes
from app.dex.errors import BlockhashExpiredError, ChainMismatchError, ChainUnavailableError, VenueError
from app.dex.market import SLOT_MS, Swap
from app.dex.pools.launches import LaunchError, WrongLaunchError, is_launched_token, scheduled_slot
from app.dex.profile import MILLION, Profile
from app.dex.tokens import Token, pair_of
from app.dex.transaction import SwapMessage, decode, tx_id, verify
from app.dex.venue import VenueFees, price_swap
from eventstore.errors import StoreUnavailableError
from eventstore.redis.connection import Pipeline
from eventstore.redis.scripts import Script

BLOCKHASH_LIFETIME: Final = 150
"""Heights that a blockhash stays usable."""
CONFIRMATION_SLOTS: Final = 2
NETWORK_FEE: Final = 5_000
"""Lamports per signature; also charged when the swap fails on chain. There is no priority fee."""
SIGNATURES_MAX: Final = 256
"""Most signatures that one observation may ask for."""

_LAUNCHES_PAGE: Final = 500
_LAUNCH_SLOT_MAX: Final = (1 << 53) - 1
_SLOT_US: Final = SLOT_MS * 1_000


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
    fees: VenueFees
    """Who gets it; the parts add up to ``fee``."""
    network_fee: int
    """Lamports: the fee for the signature."""


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
        self._keys = [f"{namespace}:{name}" for name in ("clock", "messages", "broadcasts", "launches")]
        self._world = sha256(seed.encode() + b"\n" + msgspec.json.encode(profile)).hexdigest()[:16]

    async def slot(self) -> int:
        """Return the current slot, which never decreases."""
        (slot,) = await self._run(scripts.READ_SLOT, 0)
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
            WrongLaunchError: the message names another launch slot than the one that holds for its token.
        """
        verify(message, signature)
        swap, blockhash = decode(message).swap, decode(message).blockhash
        height = int.from_bytes(blockhash[:8], "big")
        if self._blockhash(height).hash != blockhash:
            raise BlockhashExpiredError("the blockhash is none of this chain")
        symbol, named, scheduled = self._launch_named(swap)
        args = (tx_id(signature), message, height, height + BLOCKHASH_LIFETIME, symbol, named, scheduled)
        slot, *held = await self._run(scripts.SEND, 0, *args)
        if slot == scripts.EXPIRED:
            raise BlockhashExpiredError(f"the blockhash of height {height} is not valid now")
        if slot == scripts.WRONG_LAUNCH:
            raise WrongLaunchError(symbol, named, int(held[0]))

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """Return the confirmed height and the status of each of ``signatures``, at most :data:`SIGNATURES_MAX`.

        One request, so that no caller can read the statuses first, or mix commitments.

        Raises:
            ValueError: too many signatures.
        """
        if len(signatures) > SIGNATURES_MAX:
            raise ValueError(f"at most {SIGNATURES_MAX} signatures can be observed at once, not {len(signatures)}")
        slot, messages, broadcasts = await self._run(scripts.OBSERVE, 1, *signatures)
        confirmed = slot - CONFIRMATION_SLOTS
        statuses: dict[str, Status] = {}
        for signature, message, sent in zip(signatures, messages, broadcasts, strict=False):
            if message is not None and sent is not None:
                status = self._status(signature, decode(message), _slots(sent), confirmed)
                if status is not None:
                    statuses[signature] = status
        return Observation(height=confirmed, slot=confirmed, statuses=statuses)

    async def launch(self, token: Token, slot: int) -> int:
        """Let ``token`` launch at ``slot`` instead of its scheduled slot, and return the slot at which it does launch.

        A launch never changes once it was announced, has taken place, or stands in a message that was sent: then
        nothing is changed, and the slot that holds is returned.

        Raises:
            LaunchError: the token is not a launched one, or ``slot`` is over or beyond 2^53 − 1.
        """
        if not is_launched_token(token):
            raise LaunchError(f"{token.symbol} is not a launched token: it always trades")
        if slot > _LAUNCH_SLOT_MAX:
            raise LaunchError(f"slot {slot} is beyond {_LAUNCH_SLOT_MAX}")
        scheduled = scheduled_slot(self._seed, token)
        outcome, held = await self._run(scripts.LAUNCH, 0, token.symbol, slot, scheduled)
        if outcome == scripts.PAST_LAUNCH:
            raise LaunchError(f"slot {slot} is over: the current one is {int(held)}")
        return int(held)

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        """Return by symbol at which slot each of ``tokens`` launches, as far as is known now.

        A slot that is not over may still be replaced by an announced one: compare with :meth:`slot`, read afterwards.

        Raises:
            LaunchError: a token is not a launched one.
        """
        for token in tokens:
            if not is_launched_token(token):
                raise LaunchError(f"{token.symbol} is not a launched token: it always trades")
        found: dict[str, int] = {}
        for start in range(0, len(tokens), _LAUNCHES_PAGE):
            page = tokens[start : start + _LAUNCHES_PAGE]
            _, held = await self._run(scripts.LAUNCH_SLOTS, 0, *(token.symbol for token in page))
            for token, slot in zip(page, held, strict=True):
                found[token.symbol] = scheduled_slot(self._seed, token) if slot is None else int(slot)
        return found

    async def ledger(self) -> list[LedgerEntry]:
        """Return everything that has landed and is confirmed by the current slot, oldest first.

        For auditors and tests: it reads every transaction ever sent, in pages.
        """
        entries: dict[str, LedgerEntry] = {}
        confirmed: int | None = None
        cursor = b"0"
        while True:
            slot, cursor, page, broadcasts = await self._run(scripts.LEDGER, 0, cursor)
            confirmed = slot - CONFIRMATION_SLOTS if confirmed is None else confirmed
            for signature, message, sent in zip(page[::2], page[1::2], broadcasts, strict=True):
                name, content = signature.decode(), decode(message)
                status = self._status(name, content, _slots(sent), confirmed)
                if status is not None:
                    entries[name] = _entry(name, content, status)
            if cursor == b"0":
                break
        return sorted(entries.values(), key=lambda entry: (entry.slot, entry.signature))

    def _launch_named(self, swap: Swap) -> tuple[str, int, int]:
        if swap.launch_slot is None:
            return "", 0, 0
        launched = pair_of(swap.base, swap.quote).base
        return launched.symbol, swap.launch_slot, scheduled_slot(self._seed, launched)

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
        return Landed(
            slot=slot,
            amount_in=paid,
            amount_out=received,
            fee=quote.fee,
            fees=quote.fees,
            network_fee=NETWORK_FEE,
        )

    async def _run(self, script: Script, advance: int, *args: str | bytes | int) -> list[Any]:
        try:
            reply: list[Any] = await self._connection.run(
                script, self._keys, (self._world, self._slot_us, advance, *args)
            )
        except StoreUnavailableError as error:
            raise ChainUnavailableError(str(error)) from error
        if reply[0] == scripts.MISMATCH:
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
