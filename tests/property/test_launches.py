"""Launched tokens: their names and mints, when they launch, and what their pools charge and pay."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex.errors import NotLaunchedError, UnknownPairError, UnknownTokenError, VenueError
from app.dex.market import walk_q16
from app.dex.pools.launches import (
    GENESIS_SLOT,
    LAUNCH_SLOTS,
    MIGRATION_SLOTS,
    PERIOD_SLOTS,
    fee_rate_at,
    first_slot_under,
    is_launched_token,
    launch_fill,
    launch_token,
    scheduled_slot,
)
from app.dex.profile import ASSIGNMENT, LONGTAIL, MAJOR, Profile
from app.dex.tokens import LAUNCHED_MAX, SOL, TOKENS, USDC, Token, base58, from_base58, pair_of, token
from app.dex.venue import VENUES, Swap, price_swap
from app.orders.events import Side
from app.orders.money import ceil_div

SEED = "launches"
LAUNCH = 12_000
NEW = launch_token(7)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text(encoding="utf-8"))["fee_scheduler"]
numbers = st.integers(1, LAUNCHED_MAX)


def swap_of(
    amount: int = 10**9, *, side: Side = "sell", reversed_pair: bool = False, launch: int | None = LAUNCH
) -> Swap:
    base, quote = (SOL, NEW) if reversed_pair else (NEW, SOL)
    return Swap(order_id="order", attempt=1, side=side, base=base, quote=quote, amount=amount, launch_slot=launch)


swaps = st.builds(
    swap_of,
    st.one_of(st.integers(1, 10**6), st.integers(1, 1 << 64)),
    side=st.sampled_from(["buy", "sell"]),
    reversed_pair=st.booleans(),
)


@given(numbers)
def test_a_launched_token_is_found_by_symbol_and_by_mint(number: int) -> None:
    launched = launch_token(number)
    assert launched.symbol == f"NEW{number}"
    assert token(launched.symbol) == token(launched.mint) == launched
    assert len(from_base58(launched.mint)) == 32
    assert is_launched_token(launched)
    assert pair_of(launched, SOL) == pair_of(SOL, launched)
    assert pair_of(SOL, launched).name == f"{launched.symbol}/SOL"


@given(numbers, st.integers(0, 255))
def test_a_mint_with_any_bit_flipped_is_no_token(number: int, bit: int) -> None:
    mint = bytearray(from_base58(launch_token(number).mint))
    mint[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnknownTokenError):
        token(base58(bytes(mint)))


@pytest.mark.parametrize(
    "name", ["NEW0", "NEW60001", "NEW99999", "NEW07", "new7", "NEW", "NEW7 ", "NEW٧", "1" * 32, "1" * 10_000]
)
def test_a_name_like_that_of_a_launched_token_is_refused_with_the_fixed_ones(name: str) -> None:
    with pytest.raises(UnknownTokenError) as refused:
        token(name)
    assert refused.value.known == tuple(known.symbol for known in TOKENS)


@pytest.mark.parametrize("number", [0, -1, LAUNCHED_MAX + 1])
def test_launched_tokens_are_numbered_from_1_to_60000(number: int) -> None:
    with pytest.raises(ValueError, match="60000"):
        launch_token(number)


@pytest.mark.parametrize("other", [*TOKENS[1:], NEW, launch_token(8), Token("SOL", NEW.mint, 9)])
def test_a_launched_token_trades_against_sol_alone(other: Token) -> None:
    for tokens in ((NEW, other), (other, NEW)):
        with pytest.raises(UnknownPairError):
            pair_of(*tokens)


@pytest.mark.parametrize("other", [*TOKENS, Token("NEW7", USDC.mint, 6), Token("NEW0", NEW.mint, 6)])
def test_no_other_token_is_a_launched_one(other: Token) -> None:
    assert not is_launched_token(other)
    with pytest.raises(ValueError, match="not a launched token"):
        scheduled_slot(SEED, other)


@given(st.text(max_size=8), st.integers(1, LAUNCHED_MAX - 1))
def test_launches_are_scheduled_one_after_the_other(seed: str, number: int) -> None:
    slot = scheduled_slot(seed, launch_token(number))
    assert 0 <= slot - GENESIS_SLOT - number * LAUNCH_SLOTS < LAUNCH_SLOTS
    assert slot < scheduled_slot(seed, launch_token(number + 1))


def test_the_schedule_is_drawn_by_the_seed_and_the_same_in_every_version() -> None:
    assert [scheduled_slot(SEED, launch_token(number)) for number in (1, 2, 3)] == [10_302, 10_539, 10_797]
    assert scheduled_slot("other", NEW) != scheduled_slot(SEED, NEW)


def test_the_fee_falls_as_the_published_schedule_says() -> None:
    assert {n: fee_rate_at(int(n) * PERIOD_SLOTS) for n in VECTORS["exponential_5pct"]} == VECTORS["exponential_5pct"]


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_the_fee_never_rises_and_ends_at_one_percent(slots: int, more: int) -> None:
    assert fee_rate_at(slots) >= fee_rate_at(slots + more) >= 10_000_000
    assert fee_rate_at(slots) == fee_rate_at(slots - slots % PERIOD_SLOTS)
    assert (fee_rate_at(385), fee_rate_at(384)) == (10_000_000, fee_rate_at(380))


def test_no_fee_is_charged_before_the_launch() -> None:
    with pytest.raises(ValueError, match="before it opens"):
        fee_rate_at(-1)


@given(st.integers(-5, 10_000))
def test_the_first_slot_under_a_fee_is_the_first(max_fee_bps: int) -> None:
    first = first_slot_under(max_fee_bps)
    assert (first is None) is (max_fee_bps < 100)
    if first is not None:
        assert fee_rate_at(first) <= max_fee_bps * 100_000
        assert first == 0 or fee_rate_at(first - 1) > max_fee_bps * 100_000


@given(swaps, st.integers(0, 1_000))
def test_a_launch_pool_never_pays_more_than_its_curve_and_shares_its_fee(swap: Swap, slots: int) -> None:
    for venue, delay in (("meteora", 0), ("raydium", MIGRATION_SLOTS)):
        try:
            fill = launch_fill(venue, swap, LAUNCH + delay + slots, seed=SEED, profile=ASSIGNMENT)
        except VenueError:
            continue
        rate = fee_rate_at(slots) if venue == "meteora" else 10_000_000
        given_amount = fill.amount_in if swap.side == "sell" else fill.amount_out
        assert given_amount == swap.amount
        assert fill.fee >= ceil_div(fill.amount_in * rate, 10**9)
        assert fill.protocol == fill.fee * (20 if venue == "meteora" else 12) // 100
        assert fill.protocol + fill.fund <= fill.fee < fill.amount_in
        assert fill.impact_ppm >= 0


@given(swaps, st.integers(0, 1_000))
def test_buying_what_a_sale_pays_costs_no_more_than_the_sale(swap: Swap, slots: int) -> None:
    """The same direction of exchange, named as an exact amount in and then as the exact amount out that it gave."""
    paid_in = swap.base
    sale = Swap(
        order_id="o", attempt=1, side="sell", base=paid_in, quote=swap.quote, amount=swap.amount, launch_slot=LAUNCH
    )
    try:
        out = launch_fill("meteora", sale, LAUNCH + slots, seed=SEED, profile=ASSIGNMENT).amount_out
    except VenueError:
        return
    buy = Swap(order_id="o", attempt=1, side="buy", base=swap.quote, quote=paid_in, amount=out, launch_slot=LAUNCH)
    assert launch_fill("meteora", buy, LAUNCH + slots, seed=SEED, profile=ASSIGNMENT).amount_in <= swap.amount


@pytest.mark.parametrize(("venue", "opening"), [("meteora", LAUNCH), ("raydium", LAUNCH + MIGRATION_SLOTS)])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_pool_opens_at_its_slot_and_not_before(venue: str, opening: int, side: Side) -> None:
    with pytest.raises(NotLaunchedError, match=str(opening)):
        price_swap(venue, swap_of(side=side), opening - 1, seed=SEED, profile=ASSIGNMENT)
    assert price_swap(venue, swap_of(side=side), opening, seed=SEED, profile=ASSIGNMENT).amount > 0
    with pytest.raises(NotLaunchedError, match="no launch"):
        price_swap(venue, swap_of(side=side, launch=None), opening, seed=SEED, profile=ASSIGNMENT)


@pytest.mark.parametrize("profile", [ASSIGNMENT, MAJOR, LONGTAIL])
def test_after_the_migration_both_venues_have_the_same_price_and_raydium_the_lower_fee(profile: Profile) -> None:
    for slot in range(LAUNCH + MIGRATION_SLOTS, LAUNCH + 500, 50):
        meteora, raydium = (
            launch_fill(venue, swap_of(10**6), slot, seed=SEED, profile=profile) for venue in ("meteora", "raydium")
        )
        assert meteora.fee >= raydium.fee
        assert meteora.amount_out <= raydium.amount_out


def test_the_price_starts_at_that_of_the_token_and_walks() -> None:
    """Whatever slot a launch was announced for, its first price is the same."""
    firsts = {
        launch_fill("meteora", swap_of(launch=launch), launch, seed=SEED, profile=ASSIGNMENT).amount_out
        for launch in (11_000, 12_000, 13_000)
    }
    assert len(firsts) == 1
    later = [
        launch_fill("raydium", swap_of(), slot, seed=SEED, profile=ASSIGNMENT).amount_out for slot in (13_000, 14_000)
    ]
    rises = walk_q16(SEED, "NEW7/SOL", 14_000) > walk_q16(SEED, "NEW7/SOL", 13_000)
    assert (later[1] > later[0]) is rises
    assert later[1] != later[0]


def test_a_price_of_a_launched_token_is_the_same_in_every_version() -> None:
    assert [
        price_swap(venue, swap_of(side=side), LAUNCH + 200, seed=SEED, profile=ASSIGNMENT).amount
        for venue in VENUES
        for side in ("sell", "buy")
    ] == [22_412_129, 22_885_167, 21_184_306, 24_212_089]


def test_a_venue_without_launched_tokens_and_a_swap_without_one_are_refused() -> None:
    with pytest.raises(ValueError, match="orca"):
        launch_fill("orca", swap_of(), LAUNCH, seed=SEED, profile=ASSIGNMENT)
    swap = Swap(order_id="o", attempt=1, side="sell", base=SOL, quote=USDC, amount=1, launch_slot=LAUNCH)
    with pytest.raises(ValueError, match="SOL is not a launched token"):
        launch_fill("meteora", swap, LAUNCH, seed=SEED, profile=ASSIGNMENT)
