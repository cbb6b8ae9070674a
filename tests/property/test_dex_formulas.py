"""Pool arithmetic: figures published by the venues or recorded from them, and laws that hold for any pool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex.errors import DustError, NoLiquidityError, PriceOutOfRangeError
from app.dex.market import ONE, Fill, grid_price, pool_reserve, reference_tick_q16
from app.dex.pools import meteora, raydium
from app.dex.pools.meteora import Bin, MeteoraPool, Terms, Volatility
from app.dex.pools.raydium import RaydiumPool
from app.dex.profile import ASSIGNMENT, LONGTAIL, MAJOR, Profile
from app.dex.tokens import PAIRS, Pair
from app.orders.money import min_out

SOL_RESERVE, USDC_RESERVE = 40_078_234_338_467, 6_553_287_145_113
RECORDED = RaydiumPool(SOL_RESERVE, USDC_RESERVE)

DLMM_TERMS = Terms(
    bin_step_bps=4,
    base_factor=10_000,
    variable_fee_control=40_000,
    filter_ms=30_000,
    decay_ms=600_000,
    reduction=5_000,
    volatility_max=350_000,
)
DLMM_BINS = {
    -4529: Bin(0, 20_000_000_000),
    -4528: Bin(0, 15_000_000_000),
    -4527: Bin(0, 12_000_000_000),
    -4526: Bin(60_000_000_000, 9_000_000_000),
    -4525: Bin(80_000_000_000, 0),
    -4524: Bin(90_000_000_000, 0),
}
FRESH_DLMM = MeteoraPool(DLMM_TERMS, -4526, Volatility(0, -4526), DLMM_BINS.get)

pools = st.builds(
    lambda pair, slot, kind, profile: pool_of(pair, slot, kind, profile),
    st.sampled_from(PAIRS),
    st.integers(0, 1 << 26),
    st.sampled_from(["raydium", "meteora"]),
    st.sampled_from([ASSIGNMENT, MAJOR, LONGTAIL]),
)
amounts = st.integers(0, 50).flatmap(lambda bits: st.integers(1, 1 << bits))


def pool_of(pair: Pair, slot: int, kind: str, profile: Profile = ASSIGNMENT) -> RaydiumPool | MeteoraPool:
    """The simulated pool of a pair at a slot, with the profile's fees and volatility."""
    terms, reserve = profile.meteora, pool_reserve(pair)
    tick, earlier, before = (
        reference_tick_q16("laws", pair, at, profile.volatility_ppm)
        for at in (slot, slot - terms.filter_slots, slot - terms.decay_slots)
    )
    if kind == "raydium":
        return raydium.pool_at(reserve, tick, profile.raydium_fee_ppm)
    return meteora.pool_at(reserve, tick, earlier, before, terms)


def least_fee(pool: RaydiumPool | MeteoraPool) -> int:
    """The pool's fee at rest, in billionths."""
    return pool.trade_fee * 1_000 if isinstance(pool, RaydiumPool) else pool.terms.base_fee


def taken(pool: RaydiumPool | MeteoraPool, amount: int, *, base_in: bool) -> Fill | None:
    """The exact-in swap, or None where the pool refuses it."""
    try:
        return pool.exact_in(amount, base_in=base_in)
    except (DustError, NoLiquidityError):
        return None


@pytest.mark.parametrize(
    ("net", "reserve_in", "reserve_out", "out"),
    [
        (10, 4_000_000, 70_000_000_000, 174_999),
        (20, 29_980, 10_000, 6),
        (19, 29_980, 10_000, 6),
        (18, 29_980, 10_000, 6),
        (10, 20_000, 30_000, 14),
        (10, 19_991, 30_000, 14),
        (10, 19_990, 30_000, 15),
        (100, 60_000, 30_000, 49),
        (99, 60_000, 30_000, 49),
        (98, 60_000, 30_000, 48),
    ],
)
def test_the_curve_rounds_as_raydium_publishes(net: int, reserve_in: int, reserve_out: int, out: int) -> None:
    assert raydium.curve_out(net, reserve_in, reserve_out) == out


@pytest.mark.parametrize(
    ("amount", "out", "fee", "protocol", "fund", "impact_ppm"),
    [
        (1_000, 163, 3, 0, 0, 133),
        (10_000_000, 1_631_035, 25_000, 3_000, 1_000, 0),
        (1_000_000_000, 163_099_531, 2_500_000, 300_000, 100_000, 24),
        (10_000_000_000, 1_630_630_061, 25_000_000, 3_000_000, 1_000_000, 248),
        (100_000_000_000, 16_269_865_287, 250_000_000, 30_000_000, 10_000_000, 2_482),
    ],
)
def test_selling_sol_to_the_recorded_pool_gives_the_known_amounts(
    amount: int, out: int, fee: int, protocol: int, fund: int, impact_ppm: int
) -> None:
    assert RECORDED.exact_in(amount, base_in=True) == Fill(amount, out, fee, impact_ppm, protocol, fund)
    split = raydium.split_fees(amount, raydium.TRADE_FEE)
    assert (split.trade, split.protocol, split.fund, split.lp) == (fee, protocol, fund, fee - protocol - fund)


def test_the_recorded_quote_is_reproduced_with_its_protection() -> None:
    assert min_out(RECORDED.exact_in(10_000_000, base_in=True).amount_out, 100) == 1_614_725


def test_buying_sol_with_1000_usdc_gives_the_known_amount() -> None:
    assert RECORDED.exact_in(1_000_000_000, base_in=False).amount_out == 6_099_527_395


@pytest.mark.parametrize(
    ("rate", "out"), [(2_500, 163_099_531), (10_000, 161_873_249), (20_000, 160_238_205), (40_000, 156_968_116)]
)
def test_each_fee_tier_gives_its_known_amount(rate: int, out: int) -> None:
    pool = RaydiumPool(SOL_RESERVE, USDC_RESERVE, trade_fee=rate)
    assert pool.exact_in(1_000_000_000, base_in=True).amount_out == out


def test_the_published_fee_example_is_split_as_published() -> None:
    split = raydium.split_fees(1_000_000, 2_500, 500)
    assert (split.trade, split.lp, split.protocol, split.fund, split.creator) == (2_500, 2_100, 300, 100, 500)
    assert 1_000_000 - split.trade - split.creator == 997_000


def test_an_amount_that_would_buy_nothing_is_refused() -> None:
    with pytest.raises(DustError):
        RECORDED.exact_in(1, base_in=True)
    with pytest.raises(DustError):
        FRESH_DLMM.exact_in(1, base_in=True)


@pytest.mark.parametrize(
    ("index", "price"),
    [
        (-4529, 3_015_151_583_462_547_856),
        (-4528, 3_016_357_644_095_932_875),
        (-4527, 3_017_564_187_153_571_249),
        (-4526, 3_018_771_212_828_432_677),
        (-4525, 3_019_978_721_313_564_050),
        (-4524, 3_021_186_712_802_089_476),
        (0, ONE),
    ],
)
def test_bin_prices_are_the_known_ones(index: int, price: int) -> None:
    assert grid_price(4, index) == price


def test_the_recorded_bin_has_its_recorded_price() -> None:
    assert (grid_price(4, -4526) * 10**16 + ONE // 2) >> 64 == 1_636_479_153_592_644
    assert meteora.fee_rate(0, DLMM_TERMS) == 400_000


@pytest.mark.parametrize(("step_bps", "index"), [(400, -443_636), (1, 1 << 19), (1, -(1 << 19)), (100, 443_636)])
def test_a_price_beyond_the_fixed_point_range_is_refused(step_bps: int, index: int) -> None:
    with pytest.raises(PriceOutOfRangeError):
        grid_price(step_bps, index)


def test_the_outermost_ticks_still_have_a_price() -> None:
    assert 0 < grid_price(1, -443_636) < ONE < grid_price(1, 443_636)


@given(st.integers(-80_000, 80_000), st.sampled_from([1, 4, 10, 20]))
def test_prices_rise_with_their_index(index: int, step_bps: int) -> None:
    index //= step_bps
    assert grid_price(step_bps, index) < grid_price(step_bps, index + 1)


@pytest.mark.parametrize(
    ("accumulator", "step_bps", "control", "rate"),
    [
        (0, 10, 40_000, 0),
        (10_000, 10, 40_000, 4_000),
        (20_000, 10, 40_000, 16_000),
        (350_000, 10, 40_000, 4_900_000),
        (10_000, 80, 50_000, 320_000),
        (150_000, 80, 50_000, 72_000_000),
        (1, 1, 1, 1),
    ],
)
def test_variable_fees_are_the_known_ones(accumulator: int, step_bps: int, control: int, rate: int) -> None:
    assert meteora.variable_fee_rate(accumulator, step_bps, control) == rate


def test_fees_on_gross_and_on_net_round_up() -> None:
    assert meteora.fee_on_gross(1_000_000_000, 400_000) == 400_000
    assert meteora.fee_on_net(1_000_000_000, 400_000) == 400_161
    assert meteora.fee_on_gross(1, 400_000) == 1


def test_no_fee_exceeds_ten_percent() -> None:
    steep = Terms(
        bin_step_bps=400,
        base_factor=20_000,
        variable_fee_control=50_000,
        filter_ms=30_000,
        decay_ms=600_000,
        reduction=5_000,
        volatility_max=350_000,
    )
    assert meteora.fee_rate(350_000, steep) == 100_000_000


def test_selling_one_sol_to_the_known_bins_gives_the_known_amount() -> None:
    assert FRESH_DLMM.exact_in(1_000_000_000, base_in=True) == Fill(1_000_000_000, 163_582_456, 400_000, 0, 40_000, 0)


def test_the_venue_takes_its_part_of_each_bin_s_fee_rounded_down() -> None:
    bins = {-4526: Bin(0, 7_691), -4527: Bin(0, 7_691)}
    pool = MeteoraPool(DLMM_TERMS, -4526, Volatility(0, -4526), bins.get)
    bought = pool.exact_out(15_382, base_in=True)
    assert (bought.fee, bought.protocol, bought.fund) == (38, 2, 0)
    assert pool.exact_in(bought.amount_in, base_in=True) == bought


def test_volatility_grows_rests_and_decays_as_published() -> None:
    terms = Terms(
        bin_step_bps=10,
        base_factor=10_000,
        variable_fee_control=40_000,
        filter_ms=1_000,
        decay_ms=5_000,
        reduction=5_000,
        volatility_max=350_000,
    )
    start = Volatility(0, 0)
    assert [meteora.accumulated(start, index, terms) for index in range(4)] == [0, 10_000, 20_000, 30_000]

    rested = meteora.after_pause(start, 30_000, 4_000, 3, terms)
    up = [meteora.accumulated(rested, index, terms) for index in range(3, 9)]
    assert up == [15_000, 25_000, 35_000, 45_000, 55_000, 65_000]

    unchanged = meteora.after_pause(rested, up[-1], 300, 8, terms)
    assert [meteora.accumulated(unchanged, index, terms) for index in (8, 7, 6)] == [65_000, 55_000, 45_000]
    assert meteora.after_pause(rested, up[-1], 5_000, 8, terms) == Volatility(0, 8)


def test_volatility_stops_at_its_maximum() -> None:
    assert meteora.accumulated(Volatility(0, 0), 36, DLMM_TERMS) == 350_000


def test_a_swap_that_leaves_its_bin_drains_it_and_pays_more_in_the_next() -> None:
    pool = FRESH_DLMM
    drained = pool.exact_out(9_000_000_000, base_in=True)
    beyond = pool.exact_out(9_001_000_000, base_in=True)
    next_bin = -(-(1_000_000 << 64) // 3_017_564_187_153_571_249)
    assert beyond.amount_in == drained.amount_in + next_bin + meteora.fee_on_net(next_bin, 400_000 + 640)


@given(st.integers(-2_000, 30_000), st.integers(1 << 24, 1 << 40), st.booleans())
def test_a_bin_pays_out_all_it_holds_and_never_more(index: int, held: int, base_in: bool) -> None:
    pool = MeteoraPool(DLMM_TERMS, index, Volatility(0, index), {index: Bin(held, held)}.get)
    price = pool.exact_out(held, base_in=base_in).amount_in
    assert pool.exact_in(price, base_in=base_in).amount_out == held
    with pytest.raises(NoLiquidityError):
        pool.exact_in(price + 1, base_in=base_in)
    assert pool.exact_in(price - 1, base_in=base_in).amount_out <= held


def test_the_whole_reserve_cannot_be_bought() -> None:
    assert RECORDED.exact_out(USDC_RESERVE - 1, base_in=True).amount_out == USDC_RESERVE - 1
    with pytest.raises(NoLiquidityError):
        RECORDED.exact_out(USDC_RESERVE, base_in=True)


@given(st.sampled_from(PAIRS), st.integers(0, 1 << 26))
def test_a_simulated_meteora_pool_serves_up_to_three_and_a_half_percent_of_the_raydium_pool(
    pair: Pair, slot: int
) -> None:
    depth = pool_of(pair, slot, "raydium")
    bins = pool_of(pair, slot, "meteora")
    assert isinstance(depth, RaydiumPool)
    assert bins.exact_out(depth.quote_reserve * 345 // 10_000, base_in=True).impact_ppm < 50_000
    with pytest.raises(NoLiquidityError):
        bins.exact_out(depth.quote_reserve * 356 // 10_000, base_in=True)


@given(pools, st.booleans())
def test_more_than_the_pool_holds_is_refused(pool: RaydiumPool | MeteoraPool, base_in: bool) -> None:
    with pytest.raises(NoLiquidityError):
        pool.exact_out(1 << 64, base_in=base_in)


@given(pools, amounts, st.booleans())
def test_paying_what_an_exact_output_costs_buys_at_least_that_output(
    pool: RaydiumPool | MeteoraPool, amount: int, base_in: bool
) -> None:
    try:
        wanted = pool.exact_out(amount, base_in=base_in)
    except NoLiquidityError:
        return
    assert pool.exact_in(wanted.amount_in, base_in=base_in).amount_out >= amount


@given(pools, amounts, st.booleans())
def test_swapping_there_and_back_never_gains(pool: RaydiumPool | MeteoraPool, amount: int, base_in: bool) -> None:
    there = taken(pool, amount, base_in=base_in)
    back = taken(pool, there.amount_out, base_in=not base_in) if there else None
    assert back is None or back.amount_out < amount


@given(pools, amounts, st.integers(1, 1 << 40), st.booleans())
def test_paying_more_never_buys_less(pool: RaydiumPool | MeteoraPool, amount: int, more: int, base_in: bool) -> None:
    less, larger = taken(pool, amount, base_in=base_in), taken(pool, amount + more, base_in=base_in)
    assert less is None or larger is None or less.amount_out <= larger.amount_out


@given(pools, amounts, st.booleans())
def test_the_fee_is_at_least_its_rate_and_the_impact_no_gain(
    pool: RaydiumPool | MeteoraPool, amount: int, base_in: bool
) -> None:
    fill = taken(pool, amount, base_in=base_in)
    if fill is not None:
        assert fill.amount_in == amount
        assert fill.fee * 1_000_000_000 >= amount * least_fee(pool)
        assert 0 <= fill.impact_ppm <= 1_000_000


@given(amounts, st.booleans())
def test_a_raydium_fee_is_shared_as_the_program_shares_it(amount: int, base_in: bool) -> None:
    fill = taken(RECORDED, amount, base_in=base_in)
    if fill is not None:
        split = raydium.split_fees(amount, raydium.TRADE_FEE)
        assert (fill.fee, fill.protocol, fill.fund) == (split.trade, split.protocol, split.fund)


@given(pools, amounts, st.booleans())
def test_no_share_of_a_fee_exceeds_its_part(pool: RaydiumPool | MeteoraPool, amount: int, base_in: bool) -> None:
    """A swap visits at most 141 bins; each rounds the venue's part down by less than one base unit."""
    try:
        fill = pool.exact_out(amount, base_in=base_in)
    except NoLiquidityError:
        return
    if isinstance(pool, RaydiumPool):
        assert (fill.protocol, fill.fund) == (fill.fee * 12 // 100, fill.fee * 4 // 100)
    else:
        assert fill.fund == 0
        assert fill.fee // 10 - 141 <= fill.protocol <= fill.fee // 10


def test_2_to_the_64_ticks_are_as_many_bins_as_the_logarithms_say() -> None:
    assert meteora.active_bin(1 << 80, 10)[0] == 1_845_504_317_250_566_992
    assert meteora.active_bin(1 << 80, 1)[0] == meteora.bin_tick(1 << 64, 1) == 1 << 64


@given(st.integers(-80_000 << 16, 80_000 << 16), st.sampled_from([1, 4, 10, 25, 100, 400]))
def test_the_active_bin_s_price_is_within_half_a_step(tick_q16: int, step_bps: int) -> None:
    index, through = meteora.active_bin(tick_q16, step_bps)
    assert 0 <= through < 64
    tick = meteora.bin_tick(index, step_bps)
    assert abs((tick << 16) - tick_q16) <= (step_bps << 15) + (1 << 16)


@given(st.integers(-80_000, 80_000), st.sampled_from([1, 4, 10, 25, 100, 400]))
def test_a_bin_s_tick_is_the_last_one_that_is_not_dearer(ticks: int, step_bps: int) -> None:
    index = ticks // step_bps
    price, tick = grid_price(step_bps, index), meteora.bin_tick(index, step_bps)
    assert grid_price(1, tick) <= price < grid_price(1, tick + 1)


@given(amounts, st.booleans())
def test_a_swap_never_lowers_the_constant_product(amount: int, base_in: bool) -> None:
    fill = taken(RECORDED, amount, base_in=base_in)
    if fill is not None:
        paid = SOL_RESERVE if base_in else USDC_RESERVE
        received = USDC_RESERVE if base_in else SOL_RESERVE
        assert (paid + amount - fill.fee) * (received - fill.amount_out) >= SOL_RESERVE * USDC_RESERVE
