"""The profiles: how far the venues' final prices are apart, who is better, and how venues fail or fall behind."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.dex.errors import UnknownProfileError, VenueError, VenueTimeoutError, VenueUnavailableError
from app.dex.market import grid_price, pool_reserve, price_q64, reference_tick_q16
from app.dex.pools.launches import launch_token
from app.dex.profile import ASSIGNMENT, LONGTAIL, MAJOR, MILLION, Profile, profile_named
from app.dex.tokens import PAIRS, SOL, USDC, Pair
from app.dex.venue import (
    VENUES,
    SimulatedVenue,
    Swap,
    VenueQuote,
    handicap_ticks,
    is_down,
    price_swap,
    reference_amount,
    simulated_venues,
    spot_tick,
)
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


@pytest.mark.parametrize("chance_seed", [1, pytest.param(2, marks=pytest.mark.slow)])
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


def sized_swaps(profile: Profile, least_bits: int, most_bits: int, chance: Random) -> Iterator[tuple[Swap, int]]:
    """Orders over all pairs, directions and sides, from 2^−most to 2^−least of Raydium's pool; with a slot."""
    number = 0
    while True:
        number += 1
        pair, slot = chance.choice(PAIRS), chance.randrange(1 << 24)
        reserve = pool_reserve(pair) * profile.raydium_depth_ppm // MILLION
        base, quote = pair.base, pair.quote
        if chance.random() < 0.5:
            base, quote = quote, base
            reserve = reserve * price_q64(reference_tick_q16(SEED, pair, slot, profile.volatility_ppm)) >> 64
        largest = reserve >> chance.randint(least_bits, most_bits - 1)
        side: Side = "sell" if chance.random() < 0.5 else "buy"
        amount = chance.randint(largest // 2, largest)
        yield Swap(order_id=f"order-{number}", attempt=1, side=side, base=base, quote=quote, amount=amount), slot


@pytest.mark.parametrize(
    ("profile", "bits", "typical_ppm", "least_share", "most_ppm", "cheaper"),
    [(MAJOR, (7, 16), (0, 3_000), 80, 6_000, "meteora"), (LONGTAIL, (6, 10), (10_000, 50_000), 83, 90_000, "raydium")],
    ids=["major", "longtail"],
)
def test_the_final_amounts_differ_as_typically_as_the_profile_says(
    profile: Profile,
    bits: tuple[int, int],
    typical_ppm: tuple[int, int],
    least_share: int,
    most_ppm: int,
    cheaper: str,
) -> None:
    orders = list(islice(sized_swaps(profile, *bits, Random(1)), 2_000))
    differences, wins = [], []
    for swap, slot in orders:
        quotes = tuple(price_swap(name, swap, slot, seed=SEED, profile=profile) for name in VENUES)
        differences.append(difference_ppm(swap, quotes))
        wins.append(best_and_worst(swap, quotes)[0].venue)
    low, high = typical_ppm
    assert sum(low <= difference <= high for difference in differences) * 100 >= least_share * len(orders)
    assert max(differences) <= most_ppm
    assert 80 * len(orders) <= wins.count(cheaper) * 100 < 100 * len(orders)


@pytest.mark.parametrize(
    ("name", "digest"),
    [("assignment", "5c757293b5150eae"), ("major", "cf89d5c9558d6803"), ("longtail", "10d89f5ccd8bfdcb")],
)
def test_quotes_are_the_same_in_every_version(name: str, digest: str) -> None:
    profile = profile_named(name)
    quotes = [
        (quoted.amount, quoted.fee, quoted.impact_ppm, *structs.astuple(quoted.fees))
        for swap, slot in islice(sized_swaps(profile, 7, 16, Random(3)), 200)
        for quoted in (price_swap(venue, swap, slot, seed=SEED, profile=profile) for venue in VENUES)
    ]
    assert sha256(repr(quotes).encode()).hexdigest()[:16] == digest


def test_a_launched_token_has_no_reference_price() -> None:
    swap = Swap(order_id="o", attempt=1, side="sell", base=launch_token(1), quote=SOL, amount=1, launch_slot=10_000)
    assert reference_amount(swap, 10_000, seed=SEED, profile=ASSIGNMENT) is None


profiles = st.sampled_from([ASSIGNMENT, MAJOR, LONGTAIL])
slots = st.integers(10_000, 1 << 40)


@given(profiles, st.sampled_from(PAIRS), slots, st.booleans(), st.sampled_from(["sell", "buy"]), st.integers(0, 40))
def test_no_venue_ever_pays_more_or_asks_less_than_the_reference_price(
    profile: Profile, pair: Pair, slot: int, reversed_pair: bool, side: Side, bits: int
) -> None:
    """The venues' prices stay within their fees of it, so that nobody gains by trading one against the other."""
    base, quote = (pair.quote, pair.base) if reversed_pair else (pair.base, pair.quote)
    swap = Swap(order_id="order", attempt=1, side=side, base=base, quote=quote, amount=(1 << bits) + slot % (1 << bits))
    worth = reference_amount(swap, slot, seed=SEED, profile=profile)
    assert worth is not None
    for name in VENUES:
        try:
            quoted = price_swap(name, swap, slot, seed=SEED, profile=profile)
        except VenueError:
            continue
        assert quoted.amount <= worth if side == "sell" else quoted.amount > worth
        assert quoted.slot == slot
        assert quoted.fees.lp + quoted.fees.protocol + quoted.fees.fund == quoted.fee
        assert min(quoted.fees.lp, quoted.fees.protocol, quoted.fees.fund) >= 0


@given(profiles, st.sampled_from(PAIRS), slots)
def test_each_venue_s_spot_price_is_within_its_fee_of_the_reference_price(
    profile: Profile, pair: Pair, slot: int
) -> None:
    reference = reference_tick_q16(SEED, pair, slot, profile.volatility_ppm) >> 16
    fee_ticks = {"raydium": profile.raydium_fee_ppm // 100, "meteora": profile.meteora.base_fee // 100_000}
    for name in VENUES:
        assert abs(spot_tick(name, pair, slot, seed=SEED, profile=profile) - reference) <= fee_ticks[name] + 1


@given(profiles, st.sampled_from(PAIRS), slots, st.sampled_from(VENUES))
def test_a_swap_of_little_impact_is_exchanged_at_the_spot_price(
    profile: Profile, pair: Pair, slot: int, name: str
) -> None:
    """A millionth of the pool, fee excluded; where the active bin has been sold out, at the price of the next one."""
    calm = structs.replace(profile, handicap_ticks=(0, 0))
    amount = pool_reserve(pair) * profile.meteora_depth_ppm // MILLION // MILLION
    swap = Swap(order_id="order", attempt=1, side="sell", base=pair.base, quote=pair.quote, amount=amount)
    quoted = price_swap(name, swap, slot, seed=SEED, profile=calm)
    tick = spot_tick(name, pair, slot, seed=SEED, profile=profile)
    step = profile.meteora.bin_step_bps if name == "meteora" else 1
    most, least = ((amount - quoted.fee) * grid_price(1, at) >> 64 for at in (tick + 1, tick - step - 1))
    assert least - 1 <= quoted.amount <= most


@pytest.mark.parametrize("profile", [MAJOR, LONGTAIL], ids=["major", "longtail"])
def test_a_venue_is_out_of_order_for_whole_windows_as_often_as_the_profile_says(profile: Profile) -> None:
    often = structs.replace(profile, outage_ppm=200_000)
    size, windows = often.outage_slots, range(500)
    down = {name: [is_down(name, window * size, seed=SEED, profile=often) for window in windows] for name in VENUES}
    for name in VENUES:
        assert 70 <= sum(down[name]) <= 130
        for window in range(20):
            found = {is_down(name, window * size + part, seed=SEED, profile=often) for part in range(size)}
            assert found == {down[name][window]}
    assert down["raydium"] != down["meteora"]
    assert profile.outage_ppm > 0


def test_a_venue_that_is_down_gives_nobody_a_price_and_recovers() -> None:
    profile = structs.replace(MAJOR, venue_error_ppm=0, venue_timeout_ppm=0, stale_ppm=0, outage_ppm=500_000)
    venue = SimulatedVenue("raydium", seed=SEED, profile=profile, clock=VirtualClock(), speed_ppm=0)
    for window in range(40):
        slot = window * profile.outage_slots
        for number in range(3):
            asked = venue.quote(swap_of(f"order-{number}"), slot)
            if is_down("raydium", slot, seed=SEED, profile=profile):
                with pytest.raises(VenueUnavailableError, match="down for a while"):
                    asyncio.run(asked)
            else:
                assert asyncio.run(asked).slot == slot


def test_stale_states_come_as_often_and_are_as_old_as_the_profile_says_and_are_labelled() -> None:
    profile = Profile(venue_error_ppm=0, venue_timeout_ppm=0, stale_ppm=250_000, stale_slots_max=40)
    venue = SimulatedVenue("meteora", seed=SEED, profile=profile, clock=VirtualClock(), speed_ppm=0)
    swap, asked_slots = swap_of(), range(20_000, 24_000)

    async def ask() -> list[VenueQuote]:
        return [await venue.quote(swap, slot) for slot in asked_slots]

    answers = asyncio.run(ask())
    behind = [slot - answer.slot for slot, answer in zip(asked_slots, answers, strict=True)]
    assert set(behind) == set(range(41))
    assert 900 <= sum(slots > 0 for slots in behind) <= 1_100
    for answer in answers:
        assert answer == price_swap("meteora", swap, answer.slot, seed=SEED, profile=profile)


def test_the_profile_assignment_has_neither_stale_states_nor_outages() -> None:
    assert (ASSIGNMENT.stale_ppm, ASSIGNMENT.outage_ppm) == (0, 0)


@pytest.mark.parametrize(("name", "profile"), [("assignment", ASSIGNMENT), ("major", MAJOR), ("longtail", LONGTAIL)])
def test_a_profile_is_found_by_name(name: str, profile: Profile) -> None:
    assert profile_named(name) == profile
    assert Profile() == ASSIGNMENT


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownProfileError) as refused:
        profile_named("x")
    assert refused.value.known == ("assignment", "major", "longtail")


def test_an_unknown_venue_is_refused() -> None:
    with pytest.raises(ValueError, match="raydium, meteora"):
        price_swap("orca", swap_of(), 10_000, seed=SEED, profile=ASSIGNMENT)
