"""Price triggers: which tick of a pool's price an order waits for, when it is there, and when to look again."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final, Literal

from msgspec import Struct

from app.dex.errors import PriceOutOfRangeError
from app.dex.market import grid_price
from app.dex.profile import Profile
from app.dex.tokens import Pair, Token, is_launched_token, pair_of, token
from app.dex.venue import VENUES, spot_tick
from app.orders.events import Side

When = Literal["rises_to", "falls_to"]

TICK_MAX: Final = 443_636
"""Farthest tick from 0 whose price, and its inverse, are at least 2^−64."""


class Watch(Struct, frozen=True):
    """A price that an order waits for, in the orientation of the pool, whatever way round the order names the pair."""

    pair: str
    """The pool's name, such as ``SOL/USDC``."""
    when: When
    tick: int
    """Power of 1.0001 of base units per base unit, −:data:`TICK_MAX` to :data:`TICK_MAX`."""


def watch_of(side: Side, base: Token, quote: Token, price: tuple[int, int]) -> Watch:
    """Return what a limit order waits for: a sell for a price of at least ``price``, a buy for one of at most it.

    The tick is the first whole one, coming from the wrong side, at which the price is not worse than the limit.

    Args:
        side: of the order.
        base: the order's base token, not necessarily the pool's.
        quote: the order's quote token.
        price: numerator and denominator, both at least 1, of whole units of ``quote`` per whole unit of ``base``:
            163.50 is (16350, 100).

    Raises:
        UnknownPairError: no pool trades the two tokens.
        PriceOutOfRangeError: the price is not right at any tick; the order can never execute.
        ValueError: the price is not above 0.
    """
    if min(price) < 1:
        raise ValueError(f"a limit price is above 0, not {price[0]}/{price[1]}")
    pair = pair_of(base, quote)
    # Base units of quote per base unit of base, as numerator and denominator.
    wanted, per = price[0] * 10**quote.decimals, price[1] * 10**base.decimals
    rises = side == "sell"
    if base != pair.base:
        wanted, per, rises = per, wanted, not rises
    if rises:
        tick = _first_tick(lambda price_q64: price_q64 * per >= wanted << 64)
    else:
        tick = _first_tick(lambda price_q64: price_q64 * per > wanted << 64) - 1
    if not -TICK_MAX <= tick <= TICK_MAX:
        raise PriceOutOfRangeError(f"no price of {pair.name} is on the right side of the limit {price[0]}/{price[1]}")
    return Watch(pair.name, "rises_to" if rises else "falls_to", tick)


def _first_tick(holds: Callable[[int], bool]) -> int:
    """Return the lowest tick whose price ``holds``, one past :data:`TICK_MAX` when there is none.

    Prices grow with the tick, so what holds at one holds at all above it.
    """
    ticks = range(-TICK_MAX, TICK_MAX + 1)
    return bisect_left(ticks, True, key=lambda tick: holds(grid_price(1, tick))) - TICK_MAX


def tick_of(when: When, ticks: Mapping[str, int]) -> tuple[str, int]:
    """Return the venue whose spot tick counts, and that tick: the highest for ``rises_to``, else the lowest.

    Of equal ones the first in ``VENUES`` counts.

    Raises:
        ValueError: there are no ticks.
    """
    if not ticks:
        raise ValueError("no venue has a price")
    sign = -1 if when == "rises_to" else 1
    venue = min(ticks, key=lambda name: (sign * ticks[name], VENUES.index(name) if name in VENUES else len(VENUES)))
    return venue, ticks[venue]


def is_met(watch: Watch, tick: int) -> bool:
    """Return whether a spot tick is the one that ``watch`` waits for, or beyond it."""
    return tick >= watch.tick if watch.when == "rises_to" else tick <= watch.tick


def rearmed(watch: Watch, spot: int, observed: int, required: int) -> Watch:
    """Return what to wait for after a quote at ``spot`` that was not good enough.

    The price has to move on from ``spot`` as far as the quote has to improve: the tick at which it should just do. It
    is at least one tick beyond ``spot``, and never short of ``watch``, so that a loop of quotes ends.

    Args:
        watch: what was met.
        spot: the spot tick that the quote was made at.
        observed: the quote.
        required: the quote that would have done, in the same unit; both at least 1.
    """
    low, high = min(observed, required), max(observed, required)
    moves = _first_tick(lambda price_q64: price_q64 * low >= high << 64)
    if watch.when == "rises_to":
        tick = max(watch.tick, spot + 1, min(spot + moves, TICK_MAX))
    else:
        tick = min(watch.tick, spot - 1, max(spot - moves, -TICK_MAX))
    return Watch(watch.pair, watch.when, tick)


def extremes(pair: Pair, slots: range, *, seed: str, profile: Profile) -> tuple[int, int]:
    """Return the lowest and the highest spot tick of any venue over ``slots``.

    A watch of ``pair`` that neither meets is met at none of the slots.

    Raises:
        ValueError: there are no slots, or the pair is that of a launched token.
    """
    found = [tick for slot in slots for tick in _spot_ticks(pair, slot, seed, profile).values()]
    if not found:
        raise ValueError("no slots are given")
    return min(found), max(found)


def first_met(watch: Watch, slots: range, *, seed: str, profile: Profile) -> tuple[int, str, int] | None:
    """Return the first of ``slots`` at which ``watch`` is met, with the venue that meets it and its spot tick.

    None: it is met at none of them.

    Raises:
        UnknownPairError, UnknownTokenError: ``watch`` names no pool.
        ValueError: the pair is that of a launched token.
    """
    base, quote = watch.pair.split("/")
    pair = pair_of(token(base), token(quote))
    for slot in slots:
        venue, tick = tick_of(watch.when, _spot_ticks(pair, slot, seed, profile))
        if is_met(watch, tick):
            return slot, venue, tick
    return None


def _spot_ticks(pair: Pair, slot: int, seed: str, profile: Profile) -> dict[str, int]:
    if is_launched_token(pair.base):
        raise ValueError(f"the price of {pair.name} depends on its launch: nothing watches it")
    return {venue: spot_tick(venue, pair, slot, seed=seed, profile=profile) for venue in VENUES}
