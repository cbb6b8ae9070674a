"""Sniper orders by real workers and scanners: they wait for a launch and for its fee, and pay no more than that."""

from typing import Final

from msgspec.structs import replace

from app.dex.pools.launches import (
    LAUNCH_SLOTS,
    PERIOD_SLOTS,
    fee_rate_at,
    first_slot_under,
    launch_token,
    scheduled_slot,
)
from app.dex.tokens import SOL, Token
from app.orders.commands import PlaceOrder
from app.orders.events import (
    LAUNCH_BITS,
    LAUNCHES,
    OrderConfirmed,
    OrderRested,
    PriceProtectionTripped,
    QuotesCollected,
    TriggerFired,
)
from app.orders.money import parse_units
from app.orders.state import Confirmed, Rejected, Resting
from tests.integration.trading import LIVELY, Trading, on_trading, order_of

PROFILE: Final = replace(LIVELY, volatility_ppm=1_000_000)
"""A launched token's price moves four times as much as another's."""
AMOUNT: Final = 1_000_000_000
TINY: Final = 20


def sniper(token: Token, max_fee_bps: int, amount: int = AMOUNT) -> PlaceOrder:
    terms = {"max_fee_bps": max_fee_bps, "slippage_bps": 1_000, "max_impact_bps": 10_000}
    return order_of("buy", token, SOL, amount, order_type="sniper", **terms)


async def fires_at(trading: Trading, order_id: str, launch: int, level: int) -> None:
    """Not one slot earlier, and with that slot as evidence."""
    await trading.pass_to(launch + level - 1)
    await trading.scan()
    assert isinstance((await trading.streams.load(order_id)).state, Resting)
    await trading.pass_to(launch + level)
    await trading.scan()
    (fired,) = [event for event in await trading.events(order_id) if isinstance(event, TriggerFired)]
    assert (fired.slot, fired.observed, fired.launch_slot) == (launch + level, level, launch)


async def paid_the_fee_of_its_slot(trading: Trading, order_id: str, launch: int, max_fee_bps: int) -> None:
    confirmed = (await trading.events(order_id))[-1]
    assert isinstance(confirmed, OrderConfirmed)
    receipt = confirmed.receipt
    assert receipt.venue == "meteora"
    paid, fee = parse_units(receipt.amount_in, SOL.decimals), parse_units(receipt.fee, SOL.decimals)
    rate = fee_rate_at(receipt.slot - launch)
    assert 0 <= fee - paid * rate // 1_000_000_000 <= 1
    assert fee * 10_000 <= max_fee_bps * paid
    entry = await trading.executed(order_id)
    assert (entry.slot, entry.amount_in, entry.amount_out) == (receipt.slot, paid, AMOUNT)


def test_snipers_of_several_tokens_wait_for_launches_and_fees_scheduled_and_announced(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        first, second, announced = launch_token(1), launch_token(2), launch_token(40)
        cases = [(first, 5_000), (first, 2_500), (second, 4_000), (announced, 4_500)]
        orders = [await trading.order(sniper(token, fee)) for token, fee in cases]
        levels = [first_slot_under(fee) or 0 for _, fee in cases]
        async with trading.at_work():
            await trading.reach(orders, Resting)
            numbers = (1, 1, 2, 40)
            assert await trading.entries(LAUNCHES) == {
                order_id: (number << LAUNCH_BITS) + level
                for order_id, number, level in zip(orders, numbers, levels, strict=True)
            }
            slot = scheduled_slot(trading.settings.seed, second) + LAUNCH_SLOTS
            assert await trading.chain.launch(announced, slot) == slot
            launches = [scheduled_slot(trading.settings.seed, token) for token in (first, first, second)] + [slot]
            assert launches[3] < scheduled_slot(trading.settings.seed, announced)
            for order_id, launch, level in zip(orders, launches, levels, strict=True):
                await fires_at(trading, order_id, launch, level)
                (head,) = await trading.ends([order_id])
                assert isinstance(head.state, Confirmed)
        for order_id, launch, (_, fee) in zip(orders, launches, cases, strict=True):
            await paid_the_fee_of_its_slot(trading, order_id, launch, fee)
        assert await trading.entries(LAUNCHES) == {}

    on_trading(redis_url, scenario, PROFILE)


def test_a_fee_that_rounding_lifts_above_the_greatest_one_lets_the_sniper_rest_for_the_next_period(
    redis_url: str,
) -> None:
    """Of so small an amount the least fee, one lamport, is more than the order allows."""

    async def scenario(trading: Trading) -> None:
        token, max_fee_bps = launch_token(1), 2_500
        launch, level = scheduled_slot(trading.settings.seed, token), first_slot_under(max_fee_bps)
        assert level is not None
        order_id = await trading.order(sniper(token, max_fee_bps, TINY))
        async with trading.at_work():
            await trading.reach([order_id], Resting)
            await fires_at(trading, order_id, launch, level)
            await trading.reach([order_id], Resting)
            await trading.quiet()
        *_, collected, tripped, rested = await trading.events(order_id)
        assert isinstance(collected, QuotesCollected)
        assert isinstance(tripped, PriceProtectionTripped)
        assert isinstance(rested, OrderRested)
        assert {quote.venue: quote.code for quote in collected.quotes} == {"meteora": None, "raydium": "not_launched"}
        assert collected.launch_slot == launch
        assert (tripped.guard, tripped.unit, tripped.limit) == ("fee", "bps", "2500")
        assert int(tripped.observed) > max_fee_bps
        assert tripped.passed == ("stale", "dust", "venues", "outlier", "impact", "collar")
        assert rested.trigger.level == collected.slot - launch + PERIOD_SLOTS
        assert await trading.entries(LAUNCHES) == {order_id: (1 << LAUNCH_BITS) + rested.trigger.level}
        state = (await trading.streams.load(order_id)).state
        assert isinstance(state, Resting)
        assert state.attempt == 1

    on_trading(redis_url, scenario, PROFILE)


def test_a_market_order_for_a_token_is_rejected_before_its_launch_and_executed_after_it(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        token = launch_token(1)
        launch = scheduled_slot(trading.settings.seed, token)
        await trading.pass_to(launch - 1)
        order = order_of("buy", token, SOL, AMOUNT, slippage_bps=1_000)
        async with trading.at_work():
            early = await trading.order(order)
            (head,) = await trading.ends([early])
            assert isinstance(head.state, Rejected)
            assert head.state.error.code == "not_launched"
            assert await trading.names(early) == ["pending", "rejected"]
            await trading.pass_to(launch)
            late = await trading.order(order)
            (head,) = await trading.ends([late])
            assert isinstance(head.state, Confirmed)
        await paid_the_fee_of_its_slot(trading, late, launch, 5_000)

    on_trading(redis_url, scenario, PROFILE)
