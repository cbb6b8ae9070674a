"""Orders of every type as a customer of the API meets them, from request to receipt; the chain's ledger judges."""

from asyncio import gather
from collections.abc import Sequence
from fractions import Fraction
from itertools import product, starmap
from math import ceil
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from app.dex.chain import BLOCKHASH_LIFETIME
from app.dex.pools.launches import first_slot_under, launch_token, scheduled_slot
from app.dex.tokens import SOL, USDC, Token, token
from app.dex.venue import Swap, price_swap
from app.orders.commands import PlaceOrder
from app.orders.events import CancelCode, FailureCode, Side, Trigger
from app.orders.lifecycle import CANCELLATIONS, FAILURES
from app.orders.money import format_units, parse_price, parse_units
from app.settings import Settings
from tests.integration.customer import ASKS, WAYS, Ask, Customer, Followed, Json, Way, last_of, on_market
from tests.integration.test_guards_end_to_end import CALM, SOL_USDC
from tests.integration.test_resting_orders import MARGIN, good_end, in_ms, moves
from tests.integration.trading import LIVELY, Trading, limit_order, order_of

SWAPPED: Final = ["routing", "routing:quotes", "building", "submitted", "confirmed"]
UNFILLED: Final = ["pending", "routing", "routing:quotes", "price_protected", "attempt_failed", "cancelled"]
DAY_MS: Final = 86_400_000
FAR: Final = 20_000
"""Ticks that no price moves within a test."""


async def beyond(trading: Trading, when: str, ticks: int, **fields: Any) -> PlaceOrder:
    """A limit order for SOL whose price lies so many ticks beyond the best venue's; below 0: is met by that much."""
    spots = trading.spots(SOL_USDC, await trading.confirmed_slot()).values()
    level = max(spots) + ticks if when == "rises_to" else min(spots) - ticks
    return limit_order(SOL_USDC, when, level, **fields)


def tokens_of(frames: Sequence[Json]) -> tuple[Token, Token]:
    return token(frames[0]["baseAsset"]), token(frames[0]["quoteAsset"])


async def exchanged_as_told(trading: Trading, frames: Sequence[Json]) -> None:
    """Ledger, receipt and fees by kind are the same, and the swap is within the limit of its route."""
    first, last = frames[0], frames[-1]
    (base, quote), sell = tokens_of(frames), first["side"] == "sell"
    paid_in, received = (base, quote) if sell else (quote, base)
    amount = parse_units(first["amount"], base.decimals)
    entry = await trading.executed(first["orderId"])
    assert (entry.signature, entry.amount_in if sell else entry.amount_out) == (last["txId"], amount)
    swap = Swap(
        order_id=first["orderId"],
        attempt=entry.attempt,
        side=first["side"],
        base=base,
        quote=quote,
        amount=amount,
        launch_slot=last_of(frames, "routing:quotes").get("launchSlot"),
    )
    venue = last_of(frames, "building")["chosen"]["venue"]
    landed = price_swap(venue, swap, entry.slot, seed=trading.settings.seed, profile=trading.profile)
    parts = {name: getattr(landed.fees, name) for name in ("lp", "protocol", "fund")}
    assert landed.fee == sum(parts.values()) > 0
    # A kind that got nothing may be absent.
    fees = {**dict.fromkeys(parts, "0"), **last["receipt"]["fees"]}
    assert {**last["receipt"], "fees": fees} == {
        "venue": venue,
        "amountIn": format_units(entry.amount_in, paid_in.decimals),
        "amountOut": format_units(entry.amount_out, received.decimals),
        "fee": format_units(landed.fee, paid_in.decimals),
        "networkFee": "0.000005",
        "slot": entry.slot,
        "fees": {name: format_units(units, paid_in.decimals) for name, units in parts.items()},
    }
    limit = route_limit(frames)
    assert entry.amount_out >= limit if sell else entry.amount_in <= limit


def route_limit(frames: Sequence[Json]) -> int:
    """The route's limit in quote base units: the stricter one of slippage and limit price, rounded for the trader."""
    first, route = frames[0], last_of(frames, "building")
    (base, quote), sell = tokens_of(frames), first["side"] == "sell"
    quoted, slippage = parse_units(route["chosen"]["amount"], quote.decimals), first["slippageBps"]
    bounds = [Fraction(quoted * (10_000 - slippage if sell else 10_000 + slippage), 10_000)]
    if "limitPrice" in first:
        units = parse_units(first["amount"], base.decimals) * Fraction(*parse_price(first["limitPrice"]))
        bounds.append(units * Fraction(10**quote.decimals, 10**base.decimals))
    limit = ceil(max(bounds)) if sell else int(min(bounds))
    assert {name: route[name] for name in ("minOut", "maxIn") if name in route} == {
        "minOut" if sell else "maxIn": format_units(limit, quote.decimals)
    }
    return limit


def without_a_swap(force: str, frames: Sequence[Json]) -> None:
    """The one attempt says why, and the engine ends the order because of its terms."""
    attempted, last = frames[-2:]
    assert attempted["error"] == {"code": "limit_not_met", "message": FAILURES["limit_not_met"].message}
    code: CancelCode = "immediate_or_cancel" if force == "IOC" else "fill_or_kill"
    message = CANCELLATIONS[code].message
    assert (last["by"], last["code"], last["message"]) == ("engine", code, message)


def test_orders_that_begin_at_once_are_filled_or_ended_as_their_terms_say(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        begun: list[tuple[PlaceOrder, list[str]]] = []
        sides: tuple[tuple[Side, str], ...] = (("sell", "rises_to"), ("buy", "falls_to"))
        for side, when in sides:
            begun.append((order_of(side, SOL, USDC, 10**8), ["pending", *SWAPPED]))
            met = await beyond(trading, when, -2 * MARGIN, slippage_bps=1_000)
            begun.append((replace(met, expire_at_us=in_ms(DAY_MS)), ["pending", "triggered", *SWAPPED]))
            for force in ("IOC", "FOK"):
                begun.append((replace(met, time_in_force=force), ["pending", *SWAPPED]))
                begun.append((await beyond(trading, when, MARGIN, time_in_force=force), UNFILLED))
        lives = dict(begun)
        async with trading.at_work():
            orders = await customer.order_each_way(list(lives))
            await gather(*(order.end() for _, order in orders))
            swapped = await gather(*(tokens_swapped(trading, customer, way) for way in WAYS))
        for command, order in orders:
            assert order.names == lives[command]
            if order.names[-1] == "confirmed":
                await exchanged_as_told(trading, order.frames)
            else:
                without_a_swap(command.time_in_force, order.frames)
        executed = [order.order_id for _, order in orders if order.names[-1] == "confirmed"]
        assert await trading.swaps() == dict.fromkeys([*executed, *swapped], 1)

    on_market(redis_url, scenario)


async def tokens_swapped(trading: Trading, customer: Customer, way: Way) -> str:
    """An order that names the tokens in and out is a sale of what goes in; return its id."""
    order = await customer.order_as_written(way, {"tokenIn": USDC.mint, "tokenOut": "SOL", "amount": "12.5"})
    await order.end()
    assert order.names == ["pending", *SWAPPED]
    first = order.frames[0]
    facts = [first[name] for name in ("side", "baseAsset", "quoteAsset", "amount")]
    assert facts == ["sell", "USDC", "SOL", "12.5"]
    await exchanged_as_told(trading, order.frames)
    return order.order_id


def test_orders_rest_until_the_price_comes_and_are_then_executed_within_their_limits(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        start = await trading.confirmed_slot()
        end = good_end(trading, start)
        found = {when: (pair, when, level) for pair, when, level in moves(trading, start, end)}
        commands = [limit_order(*found[when]) for when in ("rises_to", "falls_to")]
        assert [command.side for command in commands] == ["sell", "buy"]
        async with trading.at_work():
            orders = await customer.order_each_way(commands)
            for command, order in orders:
                await order.reach("resting")
                assert order.frames[0]["limitPrice"] == command.limit_price
                await order.told_alike()
            await trading.pass_to(end)
            async with trading.at_work(workers=0, scanners=1):
                await gather(*(order.end() for _, order in orders))
        for _, order in orders:
            assert order.names == ["pending", "resting", "triggered", *SWAPPED]
            rested, fired = order.frames[1:3]
            assert fired["trigger"] == rested["trigger"]
            evidence = trading.first_met(msgspec.convert(rested["trigger"], Trigger), rested["slot"])
            assert (fired["slot"], fired["venue"], fired["observed"]) == evidence
            await exchanged_as_told(trading, order.frames)

    on_market(redis_url, scenario, LIVELY)


def test_snipers_wait_for_the_launch_and_for_a_fee_that_they_accept(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        new, max_fee_bps = launch_token(1), 2_500
        launch, level = scheduled_slot(trading.settings.seed, new), first_slot_under(max_fee_bps) or 0
        terms: Json = {"slippage_bps": 1_000, "max_impact_bps": 10_000, "max_fee_bps": max_fee_bps}
        bought = order_of("buy", new, SOL, 10**9, order_type="sniper", **terms)
        sold = order_of("sell", SOL, new, 10**7, order_type="sniper", **terms)
        async with trading.at_work():
            orders = [order for _, order in await customer.order_each_way([bought, sold])]
            for order in orders:
                rested = await order.reach("resting")
                assert rested["trigger"] == {"pair": "NEW1/SOL", "when": "launched", "level": level, "number": 1}
                await order.told_alike()
            await trading.pass_to(launch + level)
            async with trading.at_work(workers=0, scanners=1):
                await gather(*(order.end() for order in orders))
        for order in orders:
            assert order.names == ["pending", "resting", "triggered", *SWAPPED]
            fired, receipt = order.frames[2], order.frames[-1]["receipt"]
            assert (fired["slot"], fired["observed"], fired["launchSlot"]) == (launch + level, level, launch)
            await exchanged_as_told(trading, order.frames)
            assert Fraction(receipt["fee"]) * 10_000 <= max_fee_bps * Fraction(receipt["amountIn"])

    on_market(redis_url, scenario)


async def refused_ever_after(order: Followed, status: str) -> None:
    """However it is asked for, an end that has been changes nothing."""
    before = list(order.frames)
    assert [await order.cancel_too_late(ask) for ask in ASKS] == [status] * len(ASKS)
    await order.told_alike()
    assert order.frames == before


async def cancelled_at_once(order: Followed, ask: Ask) -> None:
    """The answer says that the order has ended, and the last event that the customer wanted it."""
    assert await order.cancel(ask) == ("cancelled", len(order.frames) + ("cancelled" not in order.names))
    last = await order.end()
    assert (last["by"], last["code"], last["message"]) == ("client", "requested", CANCELLATIONS["requested"].message)
    await refused_ever_after(order, "cancelled")


def test_orders_that_rest_end_when_cancelled_and_when_their_time_comes(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        far = await beyond(trading, "rises_to", FAR)

        async def cancelled(way: Way, ask: Ask) -> None:
            order = await customer.order(way, far)
            await order.reach("resting")
            await cancelled_at_once(order, ask)
            assert order.names == ["pending", "resting", "cancelled"]

        async def expired(way: Way) -> None:
            order = await customer.order(way, replace(far, expire_at_us=in_ms(700)))
            last = await order.end()
            assert order.names == ["pending", "resting", "expired"]
            assert last["expireAt"] == order.frames[0]["expireAt"] <= last["at"]
            await refused_ever_after(order, "expired")

        async with trading.at_work(scanners=1):
            await gather(*map(expired, WAYS), *starmap(cancelled, product(WAYS, ASKS)))
        assert await trading.swaps() == {}
        assert sum(part.timers + part.tasks for part in await trading.store.status()) == 0

    on_market(redis_url, scenario)


def never_due(trading: Trading) -> Settings:
    """Settings under which a back-off of a millisecond lasts for a quarter of an hour."""
    return replace(trading.settings, speed_ppm=1)


def test_orders_that_wait_for_a_further_attempt_are_cancelled_at_once(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        async def cancelled(way: Way, ask: Ask) -> None:
            order = await customer.order(way, order_of("sell", SOL, USDC, 10**9))
            # A drawn back-off may be nothing at all.
            while not (retrying := await order.reach("retrying"))["retry"]["delayMs"]:
                pass
            assert retrying["error"] == {"code": "no_quote", "message": FAILURES["no_quote"].message}
            await cancelled_at_once(order, ask)
            assert order.names[-2:] == ["retrying", "cancelled"]

        async with trading.at_work(settings=never_due(trading)):
            await gather(*starmap(cancelled, product(WAYS, ASKS)))
        assert await trading.swaps() == {}

    on_market(redis_url, scenario, replace(CALM, venue_error_ppm=1_000_000, quote_latency_ms=0))


LANDS_LATE: Final = replace(CALM, landing_ppm=(*[0] * 60, 1_000_000), quote_latency_ms=0)
"""What is sent lands when so many slots have passed."""
OUTCOMES: Final = {
    "executed": LANDS_LATE,
    "failed_on_chain": replace(LANDS_LATE, program_error_ppm=1_000_000),
    "expired": replace(LANDS_LATE, landing_ppm=(0,)),
}


@pytest.mark.parametrize("outcome", ["executed", "expired", pytest.param("failed_on_chain", marks=pytest.mark.slow)])
def test_an_order_whose_swap_is_on_its_way_ends_as_the_chain_says(redis_url: str, outcome: str) -> None:
    """A look at the chain takes 0.2 s and lets one slot pass, so that the customer is in time."""

    async def scenario(trading: Trading, customer: Customer) -> None:
        unhurried = replace(trading.settings, speed_ppm=1_000_000, task_ms=20_000, claim_idle_ms=25_000)

        async def asked_to_end(way: Way, ask: Ask) -> Followed:
            order = await customer.order(way, order_of("sell", SOL, USDC, 10**9))
            await order.reach("submitted")
            seq = len(order.frames) + 1
            assert [await order.cancel(again) for again in (ask, *ASKS)] == [("cancel_pending", seq)] * 4
            return order

        async with trading.at_work(settings=unhurried):
            orders = await gather(*starmap(asked_to_end, product(WAYS, ASKS)))
            await trading.pass_to(await trading.confirmed_slot() + BLOCKHASH_LIFETIME + 1)
            await gather(*(order.end() for order in orders))
        for order in orders:
            await ended_by_the_chain(trading, order.frames, outcome)
        await gather(*(refused_ever_after(order, order.names[-1]) for order in orders))

    on_market(redis_url, scenario, OUTCOMES[outcome])


async def ended_by_the_chain(trading: Trading, frames: Sequence[Json], outcome: str) -> None:
    begun = ["pending", "routing", "routing:quotes", "building", "submitted", "cancel_pending"]
    names, submitted, (ended, last) = [frame["event"] for frame in frames], frames[4], frames[-2:]
    assert frames[5]["by"] == "client"
    if outcome == "executed":
        assert names == [*begun, "cancel_rejected", "confirmed"]
        assert ended["reason"] == "the swap was executed before it could be cancelled"
        await exchanged_as_told(trading, frames)
        return
    assert names == [*begun, "attempt_failed", "cancelled"]
    assert (last["by"], last["code"], last["message"]) == ("client", "requested", CANCELLATIONS["requested"].message)
    code: FailureCode = "blockhash_expired" if outcome == "expired" else "swap_rejected"
    proof, message = ended["proof"], FAILURES[code].message
    assert (proof["kind"], proof["txId"], ended["error"]["code"]) == (outcome, submitted["txId"], code)
    if outcome == "expired":
        assert proof["height"] > proof["lastValidHeight"] == submitted["lastValidHeight"]
        assert ended["error"]["message"] == message
    else:
        assert proof["error"] == "SimulatedProgramError"
        assert ended["error"]["message"] == f"{message}: SimulatedProgramError"
    assert frames[0]["orderId"] not in await trading.swaps()
