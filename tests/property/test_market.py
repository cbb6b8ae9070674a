"""The reference price, the draws it is made of, and the tokens it is quoted for."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex import market
from app.dex.draws import draw, draw_below, draw_bytes
from app.dex.errors import UnknownPairError, UnknownTokenError
from app.dex.market import ONE, basis_q16, price_q64, reference_tick_q16
from app.dex.tokens import BONK, JUP, PAIRS, SOL, TOKENS, USDC, USDT, Pair, Token, pair_of, token
from app.dex.transaction import from_base58

SOL_USDC = pair_of(SOL, USDC)
AMPLITUDE_Q16 = 59_046
names = st.lists(st.one_of(st.text(), st.binary(), st.integers()), max_size=4)


def forget() -> None:
    """Empty the caches, as in a new process."""
    market._knot.cache_clear()
    market.reference_tick_q16.cache_clear()
    market.basis_q16.cache_clear()


@given(names, names)
def test_different_names_are_different_draws(first: list[str | bytes | int], second: list[str | bytes | int]) -> None:
    same = [(type(name), name) for name in first] == [(type(name), name) for name in second]
    assert (draw_bytes(32, "seed", *first) == draw_bytes(32, "seed", *second)) is same


def test_a_draw_depends_on_the_seed() -> None:
    assert draw("one", "name") != draw("two", "name")


@given(st.integers(1, 1 << 32), st.integers())
def test_a_bounded_draw_stays_below_its_bound(bound: int, name: int) -> None:
    assert 0 <= draw_below(bound, "seed", name) < bound


def test_draws_are_the_same_in_every_version() -> None:
    assert draw("seed", "walk", 7) == 1_106_977_829_253_267_321
    assert reference_tick_q16("golden", SOL_USDC, 10_000) == -1_186_786_236
    assert price_q64(-1_186_786_236) == 3_016_467_175_342_161_956


def test_any_slot_is_computed_in_isolation_and_in_any_order() -> None:
    slots = [(pair, slot) for pair in PAIRS for slot in range(5_000, 5_040)]
    forget()
    forwards = {key: reference_tick_q16("order", *key) for key in slots}
    shuffled = list(slots)
    Random(1).shuffle(shuffled)
    for key in shuffled[:100]:
        forget()
        assert reference_tick_q16("order", *key) == forwards[key]


@given(st.sampled_from(PAIRS), st.integers(0, 1 << 40))
def test_a_price_costs_at_most_24_draws(pair: Pair, slot: int) -> None:
    forget()
    reference_tick_q16("cost", pair, slot)
    assert market._knot.cache_info().misses <= 24


@given(st.sampled_from(PAIRS), st.integers(0, 1 << 40))
def test_a_slot_changes_the_price_by_less_than_four_ticks(pair: Pair, slot: int) -> None:
    change = reference_tick_q16("steps", pair, slot + 1) - reference_tick_q16("steps", pair, slot)
    assert abs(change) <= 4 * AMPLITUDE_Q16 + 12


@given(st.sampled_from(PAIRS), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_the_price_stays_within_45_percent_of_its_anchor(pair: Pair, slot: int, other: int) -> None:
    span = reference_tick_q16("span", pair, slot) - reference_tick_q16("span", pair, other)
    assert abs(span) <= 2 * 4_095 * AMPLITUDE_Q16
    assert price_q64(4_095 * AMPLITUDE_Q16) * 100 < ONE * 145


@pytest.mark.parametrize(("lag", "low_ticks", "high_ticks"), [(1, 75, 95), (64, 600, 960)])
def test_the_volatility_is_that_of_a_year_with_80_percent(lag: int, low_ticks: int, high_ticks: int) -> None:
    """Root mean square of the change over ``lag`` slots, in hundredths of a tick: 90 · √lag would be exact."""
    starts = range(0, 2_000 * 97, 97)
    changes = [
        reference_tick_q16(f"vol{start % 8}", SOL_USDC, start + lag)
        - reference_tick_q16(f"vol{start % 8}", SOL_USDC, start)
        for start in starts
    ]
    mean_square_q32 = sum(change * change for change in changes) // len(changes)
    assert (low_ticks << 16) ** 2 < mean_square_q32 * 10_000 < (high_ticks << 16) ** 2


@given(st.sampled_from(PAIRS), st.integers(0, 1 << 40), st.integers(1, 8))
def test_a_multiple_of_the_volatility_is_a_multiple_of_the_distance_from_the_anchor(
    pair: Pair, slot: int, multiple: int
) -> None:
    anchor = reference_tick_q16("wide", pair, slot, 0)
    once, often = (reference_tick_q16("wide", pair, slot, ppm) for ppm in (1_000_000, multiple * 1_000_000))
    assert often - anchor == multiple * (once - anchor)
    assert once == reference_tick_q16("wide", pair, slot)


@given(st.sampled_from(["raydium", "meteora"]), st.sampled_from(PAIRS), st.integers(0, 1 << 40), st.integers(1, 500))
def test_a_basis_stays_within_its_amplitude_and_costs_at_most_six_draws(
    venue: str, pair: Pair, slot: int, amplitude_ticks: int
) -> None:
    forget()
    basis = basis_q16("basis", venue, pair, slot, amplitude_ticks)
    assert abs(basis) <= amplitude_ticks << 16
    assert market._knot.cache_info().misses <= 6
    later = basis_q16("basis", venue, pair, slot + 1, amplitude_ticks)
    assert abs(later - basis) <= (amplitude_ticks << 16) // 16 + 3


def test_each_venue_and_pair_has_a_basis_of_its_own_that_takes_either_sign() -> None:
    drawn = {
        (venue, pair.name): tuple(basis_q16("basis", venue, pair, slot, 40) for slot in range(10_000, 12_000, 40))
        for venue in ("raydium", "meteora")
        for pair in PAIRS
    }
    assert len(set(drawn.values())) == 2 * len(PAIRS)
    assert all(min(values) < 0 < max(values) for values in drawn.values())


@given(st.integers(-90_000 << 16, 90_000 << 16), st.integers(1, 1 << 20))
def test_a_higher_tick_is_a_higher_price(tick_q16: int, more: int) -> None:
    assert price_q64(tick_q16) <= price_q64(tick_q16 + more)


@given(st.integers(0, 1 << 40))
def test_the_two_dollars_stay_together(slot: int) -> None:
    assert reference_tick_q16("usd", pair_of(SOL, USDT), slot) == reference_tick_q16("usd", SOL_USDC, slot)
    assert abs(reference_tick_q16("usd", pair_of(USDC, USDT), slot)) <= 32 << 16


@pytest.mark.parametrize("known", TOKENS)
def test_a_token_is_found_by_symbol_and_by_mint(known: Token) -> None:
    assert token(known.symbol) is known
    assert token(known.mint) is known
    assert len(from_base58(known.mint)) == 32


@pytest.mark.parametrize("name", ["sol", "DOGE", "", "SOL "])
def test_an_unknown_token_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownTokenError) as refused:
        token(name)
    assert refused.value.known == ("SOL", "USDC", "USDT", "BONK", "JUP", "RAY", "ETH")


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_found_in_both_directions(pair: Pair) -> None:
    assert pair_of(pair.base, pair.quote) is pair
    assert pair_of(pair.quote, pair.base) is pair


@pytest.mark.parametrize(("base", "quote"), [(JUP, BONK), (SOL, SOL)])
def test_a_pair_without_a_pool_is_refused_with_the_known_ones(base: Token, quote: Token) -> None:
    with pytest.raises(UnknownPairError) as refused:
        pair_of(base, quote)
    assert "SOL/USDC" in refused.value.known
