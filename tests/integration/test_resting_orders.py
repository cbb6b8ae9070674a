"""Limit orders from rest to swap, by real workers and scanners on real servers; prices and ledger are the oracles."""

import asyncio
import secrets
from fractions import Fraction
from itertools import pairwise

import pytest
from msgspec.structs import replace

from app.audit.duties import unmet_obligations
from app.clock import SystemClock
from app.dex.market import grid_price
from app.dex.tokens import PAIRS, SOL, USDC, Pair, pair_of
from app.embedded import Servers
from app.main import opened
from app.orders.commands import PlaceOrder
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    OrderAccepted,
    OrderRested,
    QuotesCollected,
    RouteSelected,
    TriggerFired,
)
from app.orders.money import parse_price, parse_units
from app.orders.state import Cancelled, Confirmed, Expired, Resting, Submitted, Terminal, Triggered, Waiting
from app.settings import Settings
from projections.schema.migrations import upgrade_schema
from tests.conftest import database
from tests.integration.trading import LIVELY, Trading, limit_order, on_trading, order_of
from tests.servers.single import redis_server

SOL_USDC = pair_of(SOL, USDC)
MARGIN = 130
"""Ticks that a quote is surely better than its limit: fees, and what prices do until the swap has landed."""
Plan = dict[PlaceOrder, str]


def moves(trading: Trading, start: int, end: int) -> list[tuple[Pair, str, int]]:
    """Pairs whose price at ``end`` is far beyond what it was at ``start``: with the direction, and a level between."""
    found = []
    for pair in PAIRS:
        before, after = trading.spots(pair, start).values(), trading.spots(pair, end).values()
        if min(after) - max(before) > MARGIN:
            found.append((pair, "rises_to", min(after) - MARGIN))
        elif min(before) - max(after) > MARGIN:
            found.append((pair, "falls_to", max(after) + MARGIN))
    return found


def good_end(trading: Trading, start: int) -> int:
    """A slot by which several prices have risen far, and several have fallen."""
    for end in range(start + 300, start + 10_000, 100):
        directions = [when for _, when, _ in moves(trading, start, end)]
        if min(directions.count("rises_to"), directions.count("falls_to")) >= 2:
            return end
    raise AssertionError("this seed has no such slot")


async def executed_within_limit(trading: Trading, order_id: str) -> None:
    """The chain exchanged the amount asked for, at no worse than the limit price, fees included."""
    accepted = (await trading.events(order_id))[0]
    assert isinstance(accepted, OrderAccepted)
    assert accepted.limit_price is not None
    entry = await trading.executed(order_id)
    sell = accepted.side == "sell"
    of_base, of_quote = (entry.amount_in, entry.amount_out) if sell else (entry.amount_out, entry.amount_in)
    assert of_base == parse_units(accepted.amount, accepted.decimals[0])
    price = Fraction(of_quote, 10 ** accepted.decimals[1]) / Fraction(of_base, 10 ** accepted.decimals[0])
    limit = Fraction(*parse_price(accepted.limit_price))
    assert price >= limit if sell else price <= limit


async def fired_at_the_first_slot(trading: Trading, order_id: str) -> None:
    """The evidence of an order that rested once is what seed and slot alone say."""
    events = await trading.events(order_id)
    (rested,) = [event for event in events if isinstance(event, OrderRested)]
    (fired,) = [event for event in events if isinstance(event, TriggerFired)]
    assert fired.trigger == rested.trigger
    assert (fired.slot, fired.venue, fired.observed) == trading.first_met(rested.trigger, rested.slot)


async def rest_as_owed(trading: Trading, order_ids: list[str]) -> None:
    """The indexes hold these orders and no others, and nothing else waits for them."""
    await trading.quiet()
    wanted: dict[str, dict[str, int]] = {}
    for order_id in order_ids:
        state = (await trading.streams.load(order_id)).state
        assert isinstance(state, Resting)
        wanted.setdefault(state.trigger.index, {})[order_id] = state.trigger.score
    for index, entries in wanted.items():
        assert await trading.entries(index) == entries


def test_orders_of_all_pairs_rest_through_a_gap_and_are_executed_within_their_limits(redis_url: str) -> None:
    """Nobody runs while the prices move: another worker and scanner walk every slot that they missed."""

    async def scenario(trading: Trading) -> None:
        start = await trading.confirmed_slot()
        end = good_end(trading, start)
        orders = [
            await trading.order(limit_order(pair, when, level, reversed_pair=reversed_pair), f"client {reversed_pair}")
            for pair, when, level in moves(trading, start, end)
            for reversed_pair in (False, True)
        ]
        async with trading.at_work():
            await trading.reach(orders, Resting)
        await rest_as_owed(trading, orders)
        for partition in range(trading.store.partitions):
            mine = [order_id for order_id in orders if order_id.endswith(f"-{partition:02d}")]
            assert await unmet_obligations(trading.store, partition, mine) == []
        await trading.pass_to(end)
        async with trading.at_work(scanners=1):
            heads = await trading.ends(orders)
        for order_id, head in zip(orders, heads, strict=True):
            assert isinstance(head.state, Confirmed)
            await fired_at_the_first_slot(trading, order_id)
            await executed_within_limit(trading, order_id)
        names = await trading.names(orders[0])
        assert names[:3] == ["pending", "resting", "triggered"]
        assert names[-1] == "confirmed"

    on_trading(redis_url, scenario)


def touched_once(trading: Trading, start: int) -> tuple[int, int]:
    """A slot whose price is above all before and after, for long, and far below; and that price's tick."""
    highest = {slot: max(trading.spots(SOL_USDC, slot).values()) for slot in range(start, start + 3_000)}
    for slot in range(start + 10, start + 2_000):
        level = highest[slot]
        after = [highest[later] for later in range(slot + 1, slot + 200)]
        if level > max(highest[past] for past in range(start, slot)) and max(after) < level and after[-1] < level - 40:
            return slot, level
    raise AssertionError("this seed has no such slot")


def test_a_price_touched_in_one_slot_while_nobody_ran_triggers_and_a_guard_lets_the_order_rest_again(
    redis_url: str,
) -> None:
    async def scenario(trading: Trading) -> None:
        start = await trading.confirmed_slot()
        slot, level = touched_once(trading, start)
        order_id = await trading.order(limit_order(SOL_USDC, "rises_to", level))
        async with trading.at_work():
            await trading.reach([order_id], Resting)
            await trading.pass_to(slot + 199)
            assert await trading.scan() == 1
            (fired,) = [event for event in await trading.events(order_id) if isinstance(event, TriggerFired)]
            assert (fired.slot, fired.observed) == (slot, level)
            (head,) = await trading.reach([order_id], Resting)
            await trading.quiet()
            assert await trading.names(order_id) == [
                *["pending", "resting", "triggered", "routing", "routing:quotes", "price_protected", "resting"]
            ]
            assert isinstance(head.state, Resting)
            assert head.state.attempt == 1
            await rearmed_as_far_as_the_quote_has_to_improve(trading, order_id, level)
            await rest_as_owed(trading, [order_id])
            await execute_at_last(trading, order_id, head.state)

    on_trading(redis_url, scenario)


async def rearmed_as_far_as_the_quote_has_to_improve(trading: Trading, order_id: str, level: int) -> None:
    *_, collected, protected, rested = await trading.events(order_id)
    assert isinstance(collected, QuotesCollected)
    assert isinstance(rested, OrderRested)
    observed, required = (parse_units(getattr(protected, name), USDC.decimals) for name in ("observed", "limit"))
    spot = max(trading.spots(SOL_USDC, collected.slot).values())
    ticks = rested.trigger.level - spot
    assert grid_price(1, ticks) * observed >= required << 64
    assert rested.trigger.level == level or grid_price(1, ticks - 1) * observed < required << 64
    assert rested.slot == collected.slot


async def execute_at_last(trading: Trading, order_id: str, state: Resting) -> None:
    """Let the price go far beyond the new level: the order that rests for the second time is executed."""
    slot = state.slot
    while min(trading.spots(SOL_USDC, slot).values()) < state.trigger.level + MARGIN:
        slot += 1
    await trading.pass_to(slot)
    async with trading.at_work(workers=0, scanners=2):
        (head,) = await trading.ends([order_id])
    assert isinstance(head.state, Confirmed)
    events = await trading.events(order_id)
    assert [event.attempt for event in events if isinstance(event, AttemptStarted)] == [1, 1]
    await executed_within_limit(trading, order_id)


def test_immediate_orders_are_executed_at_once_or_cancelled(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        spot = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values())
        met, unmet = spot - 2 * MARGIN, spot + MARGIN
        codes = {"IOC": "immediate_or_cancel", "FOK": "fill_or_kill"}
        cases = [(force, level) for force in codes for level in (met, unmet)]
        orders = [
            await trading.order(limit_order(SOL_USDC, "rises_to", level, time_in_force=force)) for force, level in cases
        ]
        heads = await trading.run_until_ended(orders)
        for (force, level), order_id, head in zip(cases, orders, heads, strict=True):
            if level == met:
                assert isinstance(head.state, Confirmed)
                await executed_within_limit(trading, order_id)
                continue
            assert isinstance(head.state, Cancelled)
            assert head.state.code == codes[force]
            assert await trading.names(order_id) == [
                *["pending", "routing", "routing:quotes", "price_protected", "attempt_failed", "cancelled"]
            ]
            failed = (await trading.events(order_id))[-2]
            assert isinstance(failed, AttemptFailed)
            assert failed.error.code == "limit_not_met"

    on_trading(redis_url, scenario)


def test_an_order_whose_limit_is_met_when_it_comes_is_executed_without_a_rest(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        spot = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values())
        order_id = await trading.order(limit_order(SOL_USDC, "rises_to", spot - 2 * MARGIN))
        await trading.run_until_ended([order_id])
        assert await trading.names(order_id) == [
            *["pending", "triggered", "routing", "routing:quotes", "building", "submitted", "confirmed"]
        ]
        fired = (await trading.events(order_id))[1]
        assert isinstance(fired, TriggerFired)
        assert (fired.slot, fired.venue, fired.observed) == trading.first_met(fired.trigger, fired.slot - 1)

    on_trading(redis_url, scenario)


def in_ms(milliseconds: int) -> int:
    return SystemClock().now_us() + milliseconds * 1_000


def test_an_order_that_rests_ends_when_its_time_comes_or_when_it_is_cancelled(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        far = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values()) + 20_000
        timed = await trading.order(limit_order(SOL_USDC, "rises_to", far, expire_at_us=in_ms(700)))
        kept, called = [await trading.order(limit_order(SOL_USDC, "rises_to", far)) for _ in range(2)]
        async with trading.at_work(scanners=1):
            await trading.reach([timed, kept, called], Resting | Expired)
            await trading.streams.cancel(called, "client")
            await trading.ends([timed, called])
        assert await trading.names(timed) == ["pending", "resting", "expired"]
        assert await trading.names(called) == ["pending", "resting", "cancelled"]
        await rest_as_owed(trading, [kept])
        assert sum(part.timers for part in await trading.store.status()) == 0

    on_trading(redis_url, scenario)


def test_an_order_that_waits_for_its_next_attempt_ends_when_its_time_comes(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        order_id = await trading.order(order_of("sell", SOL, USDC, 10**9, expire_at_us=in_ms(600)))
        slowly = replace(trading.settings, speed_ppm=20_000)
        async with trading.at_work(settings=slowly):
            await trading.until(order_id, lambda head: isinstance(head.state, Waiting | Expired))
            (head,) = await trading.ends([order_id])
        assert isinstance(head.state, Expired)
        *_, before, last = await trading.names(order_id)
        assert (before, last) == ("retrying", "expired")

    on_trading(redis_url, scenario, replace(LIVELY, venue_error_ppm=1_000_000, quote_latency_ms=0))


def test_the_time_of_a_submitted_order_ends_it_only_with_the_proof_that_nothing_was_exchanged(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        order_id = await trading.order(order_of("sell", SOL, USDC, 10**9, expire_at_us=in_ms(500)))
        async with trading.at_work():
            head = await trading.until(order_id, lambda head: isinstance(head.state, Submitted | Terminal))
            assert isinstance(head.state, Submitted)
            (head,) = await trading.ends([order_id])
        assert isinstance(head.state, Expired)
        *_, submitted, failed, expired = await trading.frames(order_id)
        assert [frame["event"] for frame in (submitted, failed, expired)] == ["submitted", "attempt_failed", "expired"]
        proof = failed["proof"]
        assert proof["height"] > proof["lastValidHeight"]  # type: ignore[index]
        assert await trading.swaps() == {}

    on_trading(redis_url, scenario, replace(LIVELY, drop_ppm=1_000_000))


@pytest.mark.slow
def test_orders_rest_through_the_death_of_redis_and_fire_afterwards(database_url: str) -> None:
    async def scenario() -> None:
        async with database(database_url) as engine:
            await upgrade_schema(engine)
        given = Settings(namespace=f"t{secrets.token_hex(5)}", speed_ppm=0, claim_idle_ms=6_000)
        with redis_server() as server:
            servers = Servers(server.url, database_url)
            async with opened(given, servers, "test") as (store, _):
                trading = Trading(given, store, server.url, LIVELY)  # type: ignore[arg-type]
                start = await trading.confirmed_slot()
                end = good_end(trading, start)
                orders = [
                    await trading.order(limit_order(pair, when, level))
                    for pair, when, level in moves(trading, start, end)
                ]
                async with trading.at_work():
                    await trading.reach(orders, Resting)
                await rest_as_owed(trading, orders)
                await trading.connection.close()
            await asyncio.to_thread(server.restart)
            async with opened(given, servers, "test") as (store, _):
                trading = Trading(given, store, server.url, LIVELY)  # type: ignore[arg-type]
                await rest_as_owed(trading, orders)
                await trading.pass_to(end)
                async with trading.at_work(scanners=1):
                    heads = await trading.ends(orders)
                for order_id, head in zip(orders, heads, strict=True):
                    assert isinstance(head.state, Confirmed)
                    await fired_at_the_first_slot(trading, order_id)
                    await executed_within_limit(trading, order_id)
                await trading.connection.close()

    asyncio.run(scenario())


@pytest.mark.slow
def test_many_orders_fire_while_others_come_to_rest_and_several_workers_and_scanners_run(redis_url: str) -> None:
    """Levels around the price, so that orders come to rest, fire and rest again in every order."""

    async def scenario(trading: Trading) -> None:
        orders: list[str] = []
        async with trading.at_work(workers=2):
            async with trading.at_work(workers=0, scanners=2):
                for number in range(80):
                    spot = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values())
                    when, away = ("rises_to", number % 40) if number % 2 else ("falls_to", -(number % 40))
                    order = limit_order(SOL_USDC, when, spot + away, slippage_bps=500)
                    orders.append(await trading.order(order, f"client {number % 5}"))
                    await trading.pass_to(await trading.confirmed_slot() + 1)
                await trading.reach(orders, Resting | Triggered | Terminal)
            await trading.quiet()
        fired = [event for order_id in orders for event in await trading.events(order_id)]
        assert len([event for event in fired if isinstance(event, TriggerFired)]) > 20
        for order_id in orders:
            await each_rest_ended_at_its_first_slot(trading, order_id)

    on_trading(redis_url, scenario)


async def each_rest_ended_at_its_first_slot(trading: Trading, order_id: str) -> None:
    events = await trading.events(order_id)
    for rested, following in pairwise(events):
        if isinstance(rested, OrderRested):
            assert isinstance(following, TriggerFired)
            assert (following.slot, following.venue, following.observed) == trading.first_met(
                rested.trigger, rested.slot
            )
    assert len([event for event in events if isinstance(event, RouteSelected)]) <= 3
    if isinstance((await trading.streams.load(order_id)).state, Confirmed):
        await executed_within_limit(trading, order_id)
