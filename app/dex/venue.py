"""The port to a venue, and the simulated venues behind it."""

from typing import Final, Literal, Protocol

from msgspec import Struct

from app.clock import Clock
from app.dex.draws import draw_below
from app.dex.errors import VenueTimeoutError, VenueUnavailableError
from app.dex.market import Fill, basis_q16, pool_reserve, price_q64, reference_tick_q16
from app.dex.market import Swap as Swap
from app.dex.pools import meteora, raydium
from app.dex.pools.launches import launch_fill
from app.dex.profile import MILLION, Profile
from app.dex.tokens import Pair, is_launched_token, pair_of

VenueName = Literal["raydium", "meteora"]
# The order decides ties, and a venue's index is part of the swap message's format: append only.
VENUES: Final[tuple[VenueName, ...]] = ("raydium", "meteora")

_SILENCE_SECONDS: Final = 60


class VenueFees(Struct, frozen=True):
    """Who gets a pool fee, in base units of the token that is paid in; the parts add up to the fee."""

    lp: int
    protocol: int
    fund: int


class VenueQuote(Struct, frozen=True, kw_only=True):
    """A venue's price for a whole swap."""

    venue: str
    amount: int
    """Base units of the quote token: received for a sell, paid for a buy, net of every pool fee."""
    fee: int
    """Pool fee in base units of the token that is paid in."""
    impact_ppm: int
    """How much worse than the pool's price the exchange is, fee excluded; millionths."""
    slot: int
    """The slot whose state was priced; a venue that is behind names an earlier one than was asked for."""
    fees: VenueFees


class Venue(Protocol):
    """A place that prices swaps."""

    @property
    def name(self) -> str:
        """The venue's name, as events show it."""
        ...

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        """Return the price of ``swap`` in the state that the venue has at ``slot``, or knows of it.

        Raises:
            VenueError: the venue gives no price; its subclass says why.
            UnknownPairError: there is no such pool; refuse the order before asking.
        """
        ...


def price_swap(venue: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> VenueQuote:
    """Return the simulated price of ``swap`` at ``slot``: a pure function, for quotes, landings and auditors alike.

    Raises:
        NoLiquidityError, DustError, NotLaunchedError: see :class:`app.dex.errors.VenueError`.
        UnknownPairError: there is no such pool.
        ValueError: there is no such venue.
    """
    launched = is_launched_token(pair_of(swap.base, swap.quote).base)
    fill = (launch_fill if launched else _pool_fill)(venue, swap, slot, seed=seed, profile=profile)
    return VenueQuote(
        venue=venue,
        amount=fill.amount_out if swap.side == "sell" else fill.amount_in,
        fee=fill.fee,
        impact_ppm=fill.impact_ppm,
        slot=slot,
        fees=VenueFees(lp=fill.fee - fill.protocol - fill.fund, protocol=fill.protocol, fund=fill.fund),
    )


def _pool_fill(venue: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> Fill:
    pair = pair_of(swap.base, swap.quote)
    base_in = (swap.side == "sell") == (swap.base == pair.base)
    handicap = handicap_ticks(venue, swap, seed=seed, profile=profile) << 16
    worse = -handicap if base_in else handicap

    def tick_at(past: int) -> int:
        return _pool_tick_q16(venue, pair, past, seed=seed, profile=profile) + worse

    pool: raydium.RaydiumPool | meteora.MeteoraPool
    if venue == "raydium":
        reserve = pool_reserve(pair) * profile.raydium_depth_ppm // MILLION
        pool = raydium.pool_at(reserve, tick_at(slot), profile.raydium_fee_ppm)
    else:
        reserve, terms = pool_reserve(pair) * profile.meteora_depth_ppm // MILLION, profile.meteora
        filter_tick, decay_tick = tick_at(slot - terms.filter_slots), tick_at(slot - terms.decay_slots)
        pool = meteora.pool_at(reserve, tick_at(slot), filter_tick, decay_tick, terms)
    if swap.side == "sell":
        return pool.exact_in(swap.amount, base_in=base_in)
    return pool.exact_out(swap.amount, base_in=base_in)


def _pool_tick_q16(venue: str, pair: Pair, slot: int, *, seed: str, profile: Profile) -> int:
    """The pool's price as a power of 1.0001, times 2^16: the reference price and, within the fee band, the basis."""
    band_q16 = _band_ticks(venue, profile) << 16
    tick = reference_tick_q16(seed, pair, slot, profile.volatility_ppm)
    if not profile.basis_ticks:
        return tick
    return tick + max(-band_q16, min(basis_q16(seed, venue, pair, slot, profile.basis_ticks), band_q16))


def _band_ticks(venue: str, profile: Profile) -> int:
    """How far a pool's price can be off before its fee no longer keeps arbitrage away; 1 tick is 1 bp, or less.

    A Meteora pool trades at the price of its active bin, which is itself up to half a step off.
    """
    if venue == "raydium":
        return profile.raydium_fee_ppm // 100
    if venue == "meteora":
        return max(0, profile.meteora.base_fee // 100_000 - (profile.meteora.bin_step_bps + 1) // 2)
    raise ValueError(f"unknown venue {venue!r}; known are {', '.join(VENUES)}")


def spot_tick(venue: str, pair: Pair, slot: int, *, seed: str, profile: Profile) -> int:
    """Return the price of the venue's pool at ``slot`` as a power of 1.0001, rounded down.

    Fee excluded; at Meteora it is the price of the active bin. What makes a venue worse for one order alone is not part
    of it.

    Args:
        pair: one of :data:`app.dex.tokens.PAIRS`; a launched token's price depends on its launch.

    Raises:
        ValueError: there is no such venue.
    """
    tick_q16 = _pool_tick_q16(venue, pair, slot, seed=seed, profile=profile)
    if venue == "raydium":
        return tick_q16 >> 16
    step = profile.meteora.bin_step_bps
    return meteora.bin_tick(meteora.active_bin(tick_q16, step)[0], step)


def reference_amount(swap: Swap, slot: int, *, seed: str, profile: Profile) -> int | None:
    """Return what ``swap.amount`` is worth in quote base units at the reference price, no fee, rounded down.

    None for a launched token: it has no price but that of its pools.

    Raises:
        UnknownPairError: there is no such pool.
        PriceOutOfRangeError: the price is too far from 1 for fixed-point numbers.
    """
    pair = pair_of(swap.base, swap.quote)
    if is_launched_token(pair.base):
        return None
    price = price_q64(reference_tick_q16(seed, pair, slot, profile.volatility_ppm))
    return swap.amount * price >> 64 if swap.base == pair.base else (swap.amount << 64) // price


def handicap_ticks(venue: str, swap: Swap, *, seed: str, profile: Profile) -> int:
    """Return by what power of 1.0001 the venue's price is worse for this attempt's trader; 0 at the better venue.

    A fair coin says which venue is the worse one. Depends on order and attempt, never on the slot: quote and landing
    see the same.
    """
    worse = VENUES[draw_below(len(VENUES), seed, "worse", swap.order_id, swap.attempt)]
    if venue != worse:
        return 0
    low, high = profile.handicap_ticks
    return low + draw_below(high - low + 1, seed, "handicap", swap.order_id, swap.attempt)


def is_down(venue: str, slot: int, *, seed: str, profile: Profile) -> bool:
    """Return whether the venue is out of order at ``slot``, as it then is for a whole window of slots."""
    return draw_below(MILLION, seed, "outage", venue, slot // profile.outage_slots) < profile.outage_ppm


def stale_slots(venue: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> int:
    """Return how many slots the state that the venue answers this attempt with is behind ``slot``; mostly 0."""
    names = (swap.order_id, swap.attempt, venue, slot)
    if draw_below(MILLION, seed, "stale", *names) >= profile.stale_ppm:
        return 0
    return 1 + draw_below(profile.stale_slots_max, seed, "behind", *names)


class SimulatedVenue:
    """A simulated venue: prices by :func:`price_swap`, with the profile's latency, errors, silences and stale states.

    ``speed_ppm`` is the simulation's speed in millionths; latencies are divided by it, 0 means no waiting.
    """

    def __init__(self, name: VenueName, *, seed: str, profile: Profile, clock: Clock, speed_ppm: int) -> None:
        self.name: Final = name
        self._seed = seed
        self._profile = profile
        self._clock = clock
        self._speed_ppm = speed_ppm

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        """See :meth:`Venue.quote`. A drawn silence outlasts any deadline; at speed 0 it ends at once, as an error."""
        profile = self._profile
        luck = draw_below(MILLION, self._seed, "quote", swap.order_id, swap.attempt, self.name)
        if luck < profile.venue_timeout_ppm:
            if self._speed_ppm:
                await self._clock.sleep(_SILENCE_SECONDS)
            raise VenueTimeoutError("simulated: no answer")
        if self._speed_ppm:
            await self._clock.sleep(profile.quote_latency_ms * 1_000 / self._speed_ppm)
        if luck < profile.venue_timeout_ppm + profile.venue_error_ppm:
            raise VenueUnavailableError("simulated: venue unavailable")
        if is_down(self.name, slot, seed=self._seed, profile=profile):
            raise VenueUnavailableError("simulated: venue down for a while")
        known = slot - stale_slots(self.name, swap, slot, seed=self._seed, profile=profile)
        return price_swap(self.name, swap, known, seed=self._seed, profile=profile)


def simulated_venues(*, seed: str, profile: Profile, clock: Clock, speed_ppm: int) -> tuple[SimulatedVenue, ...]:
    """Return every simulated venue, in the fixed order of :data:`VENUES`."""
    return tuple(SimulatedVenue(name, seed=seed, profile=profile, clock=clock, speed_ppm=speed_ppm) for name in VENUES)
