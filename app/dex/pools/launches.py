"""Launched tokens NEW1, NEW2, …: when they start to trade against SOL, and what their pools then charge and pay."""

from typing import Final

from msgspec import Struct

from app.dex.draws import draw, draw_below
from app.dex.errors import ChainError, DustError, NotLaunchedError
from app.dex.market import ONE, Fill, Swap, price_q64, walk_q16
from app.dex.pools import raydium
from app.dex.profile import MILLION, Profile
from app.dex.tokens import Pair, Token, launch_number, pair_of
from app.dex.tokens import is_launched_token as is_launched_token
from app.dex.tokens import launch_token as launch_token
from app.orders.money import BPS, ceil_div

GENESIS_SLOT: Final = 10_000
"""The first slot of every chain."""
LAUNCH_SLOTS: Final = 250
"""Mean number of slots from one scheduled launch to the next."""
PERIOD_SLOTS: Final = 5
"""Slots that a fee of the Meteora launch pool holds."""
MIGRATION_SLOTS: Final = 150
"""Slots from the launch, on Meteora, to the opening of the Raydium pool."""
FEE_UNIT: Final = 1_000_000_000

_CLIFF_RATE: Final = 500_000_000
_BASE_RATE: Final = 10_000_000
_REDUCTION_BPS: Final = 500
_PERIODS_MAX: Final = 100
"""Periods after which the fee is at its least for sure."""
_PROTOCOL_SHARE_BPS: Final = 2_000
_MIGRATED_FEE: Final = 10_000

# At its launch a token costs 0.000007 to 0.00005 SOL, and a pool holds 30 to 120 SOL of each.
_ANCHOR_TICKS: Final = (-50_000, -30_000)
_RESERVE_LAMPORTS: Final = (30_000_000_000, 120_000_000_000)
_WALK_FACTOR: Final = 4
_DELAY_SLOTS: Final = {"meteora": 0, "raydium": MIGRATION_SLOTS}


class LaunchError(ChainError):
    """The launch cannot be announced: ``str`` says why. Name a launched token and a slot that is not over yet."""


class WrongLaunchError(ChainError):
    """A message names another launch slot than the one that holds, so it was not sent: sign a message that names it.

    ``held`` is the slot that holds for ``symbol``.
    """

    def __init__(self, symbol: str, named: int, held: int) -> None:
        super().__init__(f"{symbol} launches at slot {held}, not at {named}")
        self.symbol = symbol
        self.named = named
        self.held = held


def scheduled_slot(seed: str, token: Token) -> int:
    """Return the slot at which ``token`` launches unless another was announced; it grows with the token's number.

    Raises:
        ValueError: the token is not a launched one.
    """
    number = _number(token)
    return GENESIS_SLOT + number * LAUNCH_SLOTS + draw_below(LAUNCH_SLOTS, seed, "launch", number)


def _number(token: Token) -> int:
    number = launch_number(token)
    if number is None:
        raise ValueError(f"{token.symbol} is not a launched token")
    return number


def fee_rate_at(slots_after_launch: int) -> int:
    """Return what the Meteora launch pool charges so many slots after the launch, in billionths of what is paid in.

    50 % at the launch; every :data:`PERIOD_SLOTS` slots 5 % of it less, down to 1 %.

    Raises:
        ValueError: the number of slots is negative.
    """
    if slots_after_launch < 0:
        raise ValueError("a pool charges nothing before it opens")
    # (1 − reduction)^periods as Q64.64, by squaring, each product truncated as the program does.
    factor, power, left = ONE - (_REDUCTION_BPS << 64) // BPS, ONE, slots_after_launch // PERIOD_SLOTS
    while left:
        if left & 1:
            power = power * factor >> 64
        factor = factor * factor >> 64
        left >>= 1
    return max(_BASE_RATE, _CLIFF_RATE * power >> 64)


def first_slot_under(max_fee_bps: int) -> int | None:
    """Return the first slot after a launch from which the Meteora pool never charges more than ``max_fee_bps``.

    0 is the launch itself. None: it always charges more.
    """
    rate_max = max_fee_bps * FEE_UNIT // BPS
    slots = range(0, _PERIODS_MAX * PERIOD_SLOTS, PERIOD_SLOTS)
    return next((slot for slot in slots if fee_rate_at(slot) <= rate_max), None)


class LaunchPool(Struct, frozen=True):
    """The Meteora pool that a token launches in: constant product, its fee taken from what is paid in."""

    base_reserve: int
    quote_reserve: int
    rate: int
    """The fee in billionths."""

    def exact_in(self, amount_in: int, *, base_in: bool) -> Fill:
        """Return the swap that pays in exactly ``amount_in``, at least 1, of base or quote.

        Raises:
            DustError: the pool would pay out nothing.
        """
        reserve_in, reserve_out = self._reserves(base_in)
        fee = ceil_div(amount_in * self.rate, FEE_UNIT)
        out = raydium.curve_out(amount_in - fee, reserve_in, reserve_out)
        if out == 0:
            raise DustError(f"{amount_in} base units buy nothing")
        return self._fill(amount_in, out, fee, base_in)

    def exact_out(self, amount_out: int, *, base_in: bool) -> Fill:
        """Return the swap that takes out exactly ``amount_out``, at least 1.

        Raises:
            NoLiquidityError: the pool does not hold that much.
        """
        net = raydium.curve_in(amount_out, *self._reserves(base_in))
        amount_in = ceil_div(net * FEE_UNIT, FEE_UNIT - self.rate)
        return self._fill(amount_in, amount_out, amount_in - net, base_in)

    def _fill(self, amount_in: int, out: int, fee: int, base_in: bool) -> Fill:
        reserve_in, reserve_out = self._reserves(base_in)
        at_price = (amount_in - fee) * reserve_out
        impact_ppm = (at_price - out * reserve_in) * MILLION // at_price
        return Fill(amount_in, out, fee, impact_ppm, fee * _PROTOCOL_SHARE_BPS // BPS, 0)

    def _reserves(self, base_in: bool) -> tuple[int, int]:
        if base_in:
            return self.base_reserve, self.quote_reserve
        return self.quote_reserve, self.base_reserve


def launch_fill(venue: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> Fill:
    """Return what ``swap`` comes to at the venue's pool of a launched token, in the state of ``slot``.

    Meteora opens at ``swap.launch_slot`` and charges :func:`fee_rate_at`; Raydium opens :data:`MIGRATION_SLOTS` later,
    at 1 %. Both have the same price: it starts at one drawn for the token and walks. No order has a handicap here.

    Raises:
        NotLaunchedError: the swap names no launch, or the pool opens after ``slot``.
        NoLiquidityError, DustError: see :class:`app.dex.errors.VenueError`.
        UnknownPairError: no pool trades the two tokens.
        ValueError: there is no such venue, or neither token is a launched one.
    """
    pair = pair_of(swap.base, swap.quote)
    number = _number(pair.base)
    if swap.launch_slot is None:
        raise NotLaunchedError(f"{pair.base.symbol} has no launch yet")
    opening = swap.launch_slot + _delay_slots(venue)
    if slot < opening:
        raise NotLaunchedError(f"the {venue} pool of {pair.name} opens at slot {opening}")
    tick_q16 = _launch_tick_q16(pair, swap.launch_slot, slot, seed=seed, volatility_ppm=profile.volatility_ppm)
    lamports = _between(_RESERVE_LAMPORTS, seed, "launch reserve", number)
    migrated = raydium.pool_at((lamports << 64) // price_q64(tick_q16), tick_q16, _MIGRATED_FEE)
    pool: raydium.RaydiumPool | LaunchPool = migrated
    if venue == "meteora":
        pool = LaunchPool(migrated.base_reserve, migrated.quote_reserve, fee_rate_at(slot - opening))
    base_in = (swap.side == "sell") == (swap.base == pair.base)
    if swap.side == "sell":
        return pool.exact_in(swap.amount, base_in=base_in)
    return pool.exact_out(swap.amount, base_in=base_in)


def _delay_slots(venue: str) -> int:
    if venue not in _DELAY_SLOTS:
        raise ValueError(f"no launched token trades on the venue {venue!r}")
    return _DELAY_SLOTS[venue]


def _launch_tick_q16(pair: Pair, launch_slot: int, slot: int, *, seed: str, volatility_ppm: int) -> int:
    """The pools' price as a power of 1.0001, times 2^16; at the launch it is the token's anchor."""
    anchor = _between(_ANCHOR_TICKS, seed, "launch price", _number(pair.base)) << 16
    change = walk_q16(seed, pair.name, slot) - walk_q16(seed, pair.name, launch_slot)
    return anchor + change * _WALK_FACTOR * volatility_ppm // MILLION


def _between(bounds: tuple[int, int], seed: str, name: str, number: int) -> int:
    low, high = bounds
    return low + (draw(seed, name, number) * (high - low + 1) >> 64)
