"""Price triggers: the tick that a limit order waits for, when it is met, and where it waits after a quote."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.dex.errors import PriceOutOfRangeError, UnknownPairError
from app.dex.market import grid_price
from app.dex.pools.launches import launch_token
from app.dex.profile import ASSIGNMENT, LONGTAIL, MAJOR, Profile
from app.dex.tokens import BONK, JUP, PAIRS, SOL, USDC, Pair, pair_of
from app.dex.triggers import TICK_MAX, Watch, When, extremes, first_met, is_met, rearmed, tick_of, watch_of
from app.dex.venue import VENUES, spot_tick
from app.orders.events import Side

SEED = "triggers"
SOL_USDC = pair_of(SOL, USDC)
pairs = st.sampled_from(PAIRS)
sides: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
whens: st.SearchStrategy[When] = st.sampled_from(["rises_to", "falls_to"])
prices = st.tuples(st.integers(1, 10**12), st.integers(1, 10**12))
ticks = st.integers(-200_000, 200_000)


def order_price(pair: Pair, tick: int, *, reversed_pair: bool) -> Fraction:
    """The price at a whole tick, of quote per base in whole units as an order with the pair that way round means it."""
    in_pool = Fraction(grid_price(1, tick), 1 << 64) * Fraction(10) ** (pair.base.decimals - pair.quote.decimals)
    return 1 / in_pool if reversed_pair else in_pool


@given(pairs, sides, prices, st.booleans())
def test_a_watch_is_met_first_where_the_price_is_right(
    pair: Pair, side: Side, price: tuple[int, int], reversed_pair: bool
) -> None:
    tokens = (pair.quote, pair.base) if reversed_pair else (pair.base, pair.quote)
    watch = watch_of(side, *tokens, price)
    assert watch.pair == pair.name
    assert watch.when == ("rises_to" if (side == "sell") is not reversed_pair else "falls_to")
    assume(abs(watch.tick) < TICK_MAX)
    before = watch.tick - 1 if watch.when == "rises_to" else watch.tick + 1
    at, short = (order_price(pair, tick, reversed_pair=reversed_pair) for tick in (watch.tick, before))
    limit = Fraction(*price)
    if side == "sell":
        assert short < limit <= at
    else:
        assert at <= limit < short
    assert is_met(watch, watch.tick)
    assert not is_met(watch, before)


@given(pairs, sides, prices)
def test_a_reversed_order_waits_for_what_the_direct_one_waits_for(
    pair: Pair, side: Side, price: tuple[int, int]
) -> None:
    """To sell the base at a price of at least p is to buy the quote at a price of at most 1 ÷ p."""
    other: Side = "buy" if side == "sell" else "sell"
    assert watch_of(side, pair.base, pair.quote, price) == watch_of(other, pair.quote, pair.base, (price[1], price[0]))


@pytest.mark.parametrize(
    ("side", "price", "watch"),
    [
        ("sell", (16_350, 100), Watch("SOL/USDC", "rises_to", -18_110)),
        ("buy", (16_350, 100), Watch("SOL/USDC", "falls_to", -18_111)),
        ("sell", (1_000, 1), Watch("SOL/USDC", "rises_to", 0)),
        ("buy", (1_000, 1), Watch("SOL/USDC", "falls_to", 0)),
        ("sell", (100_005, 100), Watch("SOL/USDC", "rises_to", 1)),
        ("buy", (9_999, 10), Watch("SOL/USDC", "falls_to", -2)),
    ],
)
def test_known_prices_have_known_ticks(side: Side, price: tuple[int, int], watch: Watch) -> None:
    assert watch_of(side, SOL, USDC, price) == watch


@given(pairs, sides, prices, st.integers(1, 10**6))
def test_a_price_may_be_written_with_any_denominator(
    pair: Pair, side: Side, price: tuple[int, int], factor: int
) -> None:
    multiple = (price[0] * factor, price[1] * factor)
    assert watch_of(side, pair.base, pair.quote, price) == watch_of(side, pair.base, pair.quote, multiple)


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("reversed_pair", [False, True])
def test_a_price_beyond_every_tick_is_refused_or_always_right(side: Side, reversed_pair: bool) -> None:
    tokens = (USDC, SOL) if reversed_pair else (SOL, USDC)
    dear, cheap = (10**40, 1), (1, 10**40)
    never, always = (dear, cheap) if side == "sell" else (cheap, dear)
    with pytest.raises(PriceOutOfRangeError):
        watch_of(side, *tokens, never)
    watch = watch_of(side, *tokens, always)
    assert is_met(watch, -TICK_MAX)
    assert is_met(watch, TICK_MAX)


def test_tokens_without_a_pool_and_prices_of_nothing_are_refused() -> None:
    with pytest.raises(UnknownPairError):
        watch_of("sell", JUP, BONK, (1, 1))
    for price in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="above 0"):
            watch_of("sell", SOL, USDC, price)


@given(st.dictionaries(st.sampled_from(VENUES), ticks, min_size=1))
def test_the_venue_that_counts_is_the_one_that_meets_a_watch_first(spots: dict[str, int]) -> None:
    highest, lowest = max(spots.values()), min(spots.values())
    assert tick_of("rises_to", spots) == (next(venue for venue in VENUES if spots.get(venue) == highest), highest)
    assert tick_of("falls_to", spots) == (next(venue for venue in VENUES if spots.get(venue) == lowest), lowest)


def test_no_ticks_have_no_venue() -> None:
    with pytest.raises(ValueError, match="no venue"):
        tick_of("rises_to", {})


@given(whens, ticks, st.integers(-50_000, 50_000), st.integers(1, 10**18), st.integers(1, 10**18))
def test_a_rearmed_watch_waits_at_least_a_tick_further_and_never_for_less(
    when: When, tick: int, beyond: int, observed: int, required: int
) -> None:
    sign = 1 if when == "rises_to" else -1
    watch, spot = Watch("SOL/USDC", when, tick), tick + sign * beyond
    again = rearmed(watch, spot, observed, required)
    assert (again.pair, again.when) == (watch.pair, when)
    assert sign * again.tick >= sign * spot + 1
    assert sign * again.tick >= sign * tick
    assert not is_met(again, spot)
    moves = abs(again.tick - spot)
    low, high = sorted((observed, required))
    if sign * again.tick < TICK_MAX:
        assert grid_price(1, moves) * low >= high << 64
        assert moves == 1 or again.tick == tick or grid_price(1, moves - 1) * low < high << 64


@given(whens, st.integers(-TICK_MAX, TICK_MAX), st.integers(1, 1 << 80))
@example("rises_to", TICK_MAX, 2)
@example("falls_to", -TICK_MAX, 2)
def test_a_rearmed_watch_stays_where_prices_are(when: When, spot: int, required: int) -> None:
    again = rearmed(Watch("SOL/USDC", when, spot), spot, 1, required)
    assert not is_met(again, spot)
    assert abs(again.tick) <= max(TICK_MAX, abs(spot) + 1)


@given(sides, st.booleans(), st.integers(-60_000, 20_000), st.integers(10**4, 10**15), st.integers(0, 600))
def test_rearming_ends_within_three_quotes_where_the_quote_follows_the_price(
    side: Side, reversed_pair: bool, tick: int, required: int, worse_bps: int
) -> None:
    """A pool whose quote is the price less up to 6 %, rounded against the trader; ``required`` is met at ``tick``."""

    def quote(spot: int) -> int:
        price = order_price(SOL_USDC, spot, reversed_pair=reversed_pair)
        at_limit = order_price(SOL_USDC, tick, reversed_pair=reversed_pair)
        ratio = price / at_limit
        if side == "sell":
            return max(1, int(required * ratio * (10_000 - worse_bps) / 10_000))
        return -int(-required * ratio * 10_000 // (10_000 - worse_bps))

    rises = (side == "sell") is not reversed_pair
    watch = Watch("SOL/USDC", "rises_to" if rises else "falls_to", tick)
    quotes = 0
    while (observed := quote(watch.tick)) < required if side == "sell" else (observed := quote(watch.tick)) > required:
        watch = rearmed(watch, watch.tick, observed, required)
        quotes += 1
    assert quotes <= 3
    sign = 1 if rises else -1
    before = quote(watch.tick - 3 * sign)
    assert watch.tick == tick or (before < required if side == "sell" else before > required)


@given(pairs, st.sampled_from([ASSIGNMENT, MAJOR, LONGTAIL]), st.integers(10_000, 1 << 24), st.integers(1, 12))
def test_the_extremes_are_those_of_every_venue_and_slot(pair: Pair, profile: Profile, start: int, count: int) -> None:
    slots = range(start, start + count)
    found = [spot_tick(venue, pair, slot, seed=SEED, profile=profile) for slot in slots for venue in VENUES]
    assert extremes(pair, slots, seed=SEED, profile=profile) == (min(found), max(found))


@given(pairs, whens, st.integers(10_000, 1 << 24), st.integers(-12, 12), st.sampled_from([ASSIGNMENT, MAJOR]))
def test_a_watch_is_met_at_the_first_slot_whose_price_is_there(
    pair: Pair, when: When, start: int, away: int, profile: Profile
) -> None:
    slots = range(start, start + 12)
    by_slot: dict[int, dict[str, int]] = {
        slot: {venue: spot_tick(venue, pair, slot, seed=SEED, profile=profile) for venue in VENUES} for slot in slots
    }
    watch = Watch(pair.name, when, by_slot[start]["raydium"] + away)
    expected = next(
        (
            (slot, *tick_of(when, spots))
            for slot, spots in by_slot.items()
            if any(is_met(watch, tick) for tick in spots.values())
        ),
        None,
    )
    assert first_met(watch, slots, seed=SEED, profile=profile) == expected
    low, high = extremes(pair, slots, seed=SEED, profile=profile)
    assert (expected is None) is not (is_met(watch, low) or is_met(watch, high))


def test_no_slots_and_launched_tokens_have_no_extremes() -> None:
    with pytest.raises(ValueError, match="no slots"):
        extremes(SOL_USDC, range(0), seed=SEED, profile=ASSIGNMENT)
    assert first_met(Watch("SOL/USDC", "rises_to", -TICK_MAX), range(0), seed=SEED, profile=ASSIGNMENT) is None
    with pytest.raises(ValueError, match="depends on its launch"):
        extremes(pair_of(launch_token(1), SOL), range(10_000, 10_001), seed=SEED, profile=ASSIGNMENT)
    with pytest.raises(ValueError, match="depends on its launch"):
        first_met(Watch("NEW1/SOL", "rises_to", 0), range(10_000, 10_001), seed=SEED, profile=ASSIGNMENT)
