"""The profile ``assignment``: how far the venues' final prices are apart, and who is better."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from app.dex.errors import UnknownProfileError, VenueError, VenueTimeoutError, VenueUnavailableError
from app.dex.market import pool_reserve, price_q64, reference_tick_q16
from app.dex.profile import ASSIGNMENT, Profile, profile_named
from app.dex.tokens import PAIRS, SOL, USDC, Pair
from app.dex.venue import VENUES, SimulatedVenue, Swap, VenueQuote, handicap_ticks, price_swap, simulated_venues
from app.orders.events import Side
from tests.clocks import VirtualClock

ORDERS = 10_000
SEED = "profile"


def drawn_swaps(chance: Random) -> Iterator[tuple[Swap, int]]:
    """Orders over all pairs, directions and sides, from dust to 3 % of the pool; with the slot of the quote."""
    number = 0
    while True:
        number += 1
        pair, slot = chance.choice(PAIRS), chance.randrange(1 << 24)
        reserve = pool_reserve(pair)
        base, quote = pair.base, pair.quote
        if chance.random() < 0.5:
            base, quote = quote, base
            reserve = reserve * price_q64(reference_tick_q16(SEED, pair, slot)) >> 64
        yield (
            Swap(
                order_id=f"order-{number}",
                attempt=chance.randint(1, 3),
                side="sell" if chance.random() < 0.5 else "buy",
                base=base,
                quote=quote,
                amount=1 + chance.randrange(max(2, reserve >> chance.randint(5, 36))),
            ),
            slot,
        )


def both(swap: Swap, slot: int) -> tuple[VenueQuote, ...] | None:
    """Both venues' prices, where the promise about their difference applies to them."""
    try:
        quotes = tuple(price_swap(name, swap, slot, seed=SEED, profile=ASSIGNMENT) for name in VENUES)
    except VenueError:
        return None
    least = min(quote.amount for quote in quotes)
    large_enough = least >= 10_000 if swap.side == "sell" else swap.amount >= 10_000 and least >= 1_000
    return quotes if large_enough and max(quote.impact_ppm for quote in quotes) <= 10_000 else None


def best_and_worst(swap: Swap, quotes: tuple[VenueQuote, ...]) -> tuple[VenueQuote, VenueQuote]:
    ranked = sorted(quotes, key=lambda quote: quote.amount, reverse=swap.side == "sell")
    return ranked[0], ranked[-1]


def difference_ppm(swap: Swap, quotes: tuple[VenueQuote, ...]) -> int:
    best, worst = best_and_worst(swap, quotes)
    return abs(best.amount - worst.amount) * 1_000_000 // best.amount


@pytest.mark.parametrize("chance_seed", [1, 2])
def test_the_final_amounts_of_10_000_orders_differ_by_2_to_5_percent_at_quote_and_at_landing(chance_seed: int) -> None:
    chance = Random(chance_seed)
    seen: set[tuple[str, str, str]] = set()
    wins: dict[str, int] = {name: 0 for name in VENUES}
    counted = 0
    for swap, slot in drawn_swaps(chance):
        quotes = both(swap, slot)
        if quotes is None:
            continue
        assert 20_000 <= difference_ppm(swap, quotes) <= 50_000, (swap, slot, quotes)
        best, _ = best_and_worst(swap, quotes)
        assert handicap_ticks(best.venue, swap, seed=SEED, profile=ASSIGNMENT) == 0
        landing = both(swap, slot + 10) if counted % 10 == 0 else None
        if landing is not None:
            assert 20_000 <= difference_ppm(swap, landing) <= 50_000, (swap, slot + 10, landing)
            assert best_and_worst(swap, landing)[0].venue == best.venue
        seen.add((swap.base.symbol, swap.quote.symbol, swap.side))
        wins[best.venue] += 1
        counted += 1
        if counted == ORDERS:
            break
    assert len(seen) == 4 * len(PAIRS)
    assert all(4_800 <= count <= 5_200 for count in wins.values()), wins


def test_each_attempt_of_an_order_draws_anew() -> None:
    swaps = [swap_of(attempt=attempt) for attempt in range(1, 20)]
    drawn = {tuple(handicap_ticks(name, swap, seed=SEED, profile=ASSIGNMENT) for name in VENUES) for swap in swaps}
    assert len(drawn) > 10
    assert {amounts.index(0) for amounts in drawn} == {0, 1}


def swap_of(order_id: str = "order", attempt: int = 1) -> Swap:
    return Swap(order_id=order_id, attempt=attempt, side="sell", base=SOL, quote=USDC, amount=1_000_000_000)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("side", ["sell", "buy"])
@pytest.mark.parametrize("reversed_pair", [False, True])
def test_both_directions_of_a_pair_are_priced_within_six_percent_of_the_reference(
    pair: Pair, side: Side, reversed_pair: bool
) -> None:
    price = price_q64(reference_tick_q16(SEED, pair, 10_000))
    amount = pool_reserve(pair) >> 16
    worth = amount * price >> 64
    base, quote, amount, worth = (
        (pair.quote, pair.base, worth, amount) if reversed_pair else (pair.base, pair.quote, amount, worth)
    )
    swap = Swap(order_id="order", attempt=1, side=side, base=base, quote=quote, amount=amount)
    for name in VENUES:
        quoted = price_swap(name, swap, 10_000, seed=SEED, profile=ASSIGNMENT).amount
        low, high = (94, 100) if side == "sell" else (100, 106)
        assert worth * low < quoted * 100 < worth * high


def test_errors_and_silences_come_as_often_as_the_profile_says() -> None:
    profile = Profile(venue_error_ppm=200_000, venue_timeout_ppm=100_000)

    async def ask() -> dict[str, int]:
        counts = {"ok": 0, "error": 0, "timeout": 0}
        for number in range(1_000):
            for venue in simulated_venues(seed=SEED, profile=profile, clock=VirtualClock(), speed_ppm=0):
                try:
                    await venue.quote(swap_of(f"order-{number}"), 10_000)
                    counts["ok"] += 1
                except VenueTimeoutError:
                    counts["timeout"] += 1
                except VenueUnavailableError:
                    counts["error"] += 1
        return counts

    counts = asyncio.run(ask())
    assert abs(counts["error"] - 400) < 60
    assert abs(counts["timeout"] - 200) < 45
    assert asyncio.run(ask()) == counts


@pytest.mark.parametrize(("speed_ppm", "waited_us"), [(1_000_000, 200_000), (10_000_000, 20_000), (0, 0)])
def test_a_quote_takes_200_ms_divided_by_the_speed(speed_ppm: int, waited_us: int) -> None:
    async def ask() -> int:
        clock = VirtualClock()
        calm = Profile(venue_error_ppm=0, venue_timeout_ppm=0)
        venue = SimulatedVenue("raydium", seed=SEED, profile=calm, clock=clock, speed_ppm=speed_ppm)
        started = clock.now_us()
        asked = asyncio.create_task(venue.quote(swap_of(), 10_000))
        await clock.run_until(asked)
        assert asked.result() == price_swap("raydium", swap_of(), 10_000, seed=SEED, profile=calm)
        return clock.now_us() - started

    assert asyncio.run(ask()) == waited_us


def test_the_profile_is_found_by_name() -> None:
    assert profile_named("assignment") == ASSIGNMENT == Profile()


@pytest.mark.parametrize(
    ("name", "reason"), [("major", "not available yet"), ("longtail", "not available yet"), ("x", "unknown")]
)
def test_other_profiles_are_refused_by_name(name: str, reason: str) -> None:
    with pytest.raises(UnknownProfileError, match=reason) as refused:
        profile_named(name)
    assert refused.value.known == ("assignment",)


def test_an_unknown_venue_is_refused() -> None:
    with pytest.raises(ValueError, match="raydium, meteora"):
        price_swap("orca", swap_of(), 10_000, seed=SEED, profile=ASSIGNMENT)
