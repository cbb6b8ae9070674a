"""The port to a venue, and the simulated venues behind it."""

from typing import Final, Literal, Protocol

from msgspec import Struct

from app.clock import Clock
from app.dex import meteora, raydium
from app.dex.draws import draw_below
from app.dex.errors import VenueTimeoutError, VenueUnavailableError
from app.dex.market import Fill, reference_tick_q16
from app.dex.profile import MILLION, Profile
from app.dex.tokens import Token, pair_of
from app.orders.events import Side

VenueName = Literal["raydium", "meteora"]
# The order decides ties, and a venue's index is part of the swap message's format: append only.
VENUES: Final[tuple[VenueName, ...]] = ("raydium", "meteora")

_SILENCE_SECONDS: Final = 60


class Swap(Struct, frozen=True, kw_only=True):
    """What an attempt of an order wants exchanged."""

    order_id: str
    attempt: int
    side: Side
    base: Token
    quote: Token
    amount: int
    """Base units of ``base``: exact in for a sell, exact out for a buy."""


class VenueQuote(Struct, frozen=True, kw_only=True):
    """A venue's price for a whole swap."""

    venue: str
    amount: int
    """Base units of the quote token: received for a sell, paid for a buy, net of every pool fee."""
    fee: int
    """Pool fee in base units of the token that is paid in."""
    impact_ppm: int


class Venue(Protocol):
    """A place that prices swaps."""

    @property
    def name(self) -> str:
        """The venue's name, as events show it."""
        ...

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        """Return the price of ``swap`` in the state that the venue has at ``slot``.

        Raises:
            VenueError: the venue gives no price; its subclass says why.
            UnknownPairError: there is no such pool; refuse the order before asking.
        """
        ...


def price_swap(venue: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> VenueQuote:
    """Return the simulated price of ``swap`` at ``slot``: a pure function, for quotes, landings and auditors alike.

    Raises:
        NoLiquidityError, DustError: see :class:`app.dex.errors.VenueError`.
        UnknownPairError: there is no such pool.
        ValueError: there is no such venue.
    """
    pair = pair_of(swap.base, swap.quote)
    base_in = (swap.side == "sell") == (swap.base == pair.base)
    handicap = handicap_ticks(venue, swap, seed=seed, profile=profile) << 16
    worse = -handicap if base_in else handicap
    tick = reference_tick_q16(seed, pair, slot) + worse
    pool: raydium.RaydiumPool | meteora.MeteoraPool
    if venue == "raydium":
        pool = raydium.pool_at(pair, tick)
    elif venue == "meteora":
        filter_tick = reference_tick_q16(seed, pair, slot - meteora.FILTER_SLOTS) + worse
        decay_tick = reference_tick_q16(seed, pair, slot - meteora.DECAY_SLOTS) + worse
        pool = meteora.pool_at(pair, tick, filter_tick, decay_tick)
    else:
        raise ValueError(f"unknown venue {venue!r}; known are {', '.join(VENUES)}")
    if swap.side == "sell":
        fill = pool.exact_in(swap.amount, base_in=base_in)
        return _venue_quote(venue, fill, fill.amount_out)
    fill = pool.exact_out(swap.amount, base_in=base_in)
    return _venue_quote(venue, fill, fill.amount_in)


def _venue_quote(venue: str, fill: Fill, amount: int) -> VenueQuote:
    return VenueQuote(venue=venue, amount=amount, fee=fill.fee, impact_ppm=fill.impact_ppm)


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


class SimulatedVenue:
    """A simulated venue: prices by :func:`price_swap`, with the profile's latency, errors and silences.

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
        return price_swap(self.name, swap, slot, seed=self._seed, profile=profile)


def simulated_venues(*, seed: str, profile: Profile, clock: Clock, speed_ppm: int) -> tuple[SimulatedVenue, ...]:
    """Return every simulated venue, in the fixed order of :data:`VENUES`."""
    return tuple(SimulatedVenue(name, seed=seed, profile=profile, clock=clock, speed_ppm=speed_ppm) for name in VENUES)
