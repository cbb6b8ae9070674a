"""Each guard trips in front of an order placed over the API: what its customer is told of it, during and at the end."""

from asyncio import gather
from collections.abc import Sequence
from itertools import starmap
from typing import Final

import pytest
from msgspec.structs import replace

from app.dex.pools.launches import first_slot_under, launch_token, scheduled_slot
from app.dex.tokens import SOL
from app.orders.commands import PlaceOrder
from app.orders.events import CancelCode, FailureCode, Guard
from app.orders.lifecycle import CANCELLATIONS, FAILURES
from app.orders.money import format_units, parse_price, parse_units, price_floor
from tests.integration.customer import WAYS, Customer, Followed, Json, last_of, on_market
from tests.integration.test_guards_end_to_end import ATTEMPT, CALM, POOL, SOL_USDC, Kind, falling, half_down, life, sale
from tests.integration.trading import LIVELY, Trading, limit_order, order_of

ENDS: Final[dict[Guard, FailureCode]] = {
    "stale": "stale_quotes",
    "dust": "dust",
    "venues": "too_few_venues",
    "outlier": "outlier_quote",
    "impact": "impact_exceeded",
    "collar": "collar_exceeded",
    "fee": "fee_exceeded",
    "limit": "limit_not_met",
    "anchor": "price_protected",
}
"""The guards PP1 to PP9 in their order, and the code of an order that one of them ends."""


def expected_trip(guard: Guard, frames: Sequence[Json]) -> Json:
    """What the frame of a trip is to say, by the quotes before it."""
    unit, limit, observed = evidence(guard, frames)
    passed = list(ENDS)[: list(ENDS).index(guard)]
    trip = {"guard": guard, "unit": unit, "limit": limit, "observed": observed, "guards": "guards/1"}
    return {**trip, "passed": passed} if passed else trip


def evidence(guard: Guard, frames: Sequence[Json]) -> tuple[str, str, str]:
    """Unit, limit and observation of a trip, from what was ordered and quoted alone."""
    order, quoted = frames[0], last_of(frames, "routing:quotes")
    quotes, sell, symbol = quoted["quotes"], order["side"] == "sell", order["quoteAsset"]
    base_decimals, decimals = order["decimals"]
    usable = {parse_units(quote["amount"], decimals): quote for quote in quotes if quote.get("status", "ok") == "ok"}
    best = (max if sell else min)(usable, default=0)
    match guard:
        case "stale":
            return "slots", "8", str(min(quoted["slot"] - quote["slot"] for quote in quotes))
        case "dust":
            assert {quote["code"] for quote in quotes} == {"dust"}
            return symbol, format_units(1, decimals), "0"
        case "venues":
            return "venues", str(order["minVenues"]), str(len(usable))
        case "outlier":
            return "bps", "1000", str((max(usable) - min(usable)) * 10_000 // best)
        case "impact":
            return "bps", str(order["maxImpactBps"]), str(-(-usable[best]["impactPpm"] // 100))
        case "collar":
            reference = parse_units(quoted["reference"], decimals)
            # Two units are left to rounding.
            return "bps", "1500", str((abs(best - reference) - 2) * 10_000 // reference)
        case "fee":
            assert not sell
            return "bps", str(order["maxFeeBps"]), str(-(-parse_units(usable[best]["fee"], decimals) * 10_000 // best))
        case "limit":
            amount, price = parse_units(order["amount"], base_decimals), parse_price(order["limitPrice"])
            floor = price_floor(amount, price, (base_decimals, decimals), sell=sell)
            return symbol, format_units(floor, decimals), format_units(best, decimals)
        case "anchor":
            return symbol, last_of(frames, "building")["minOut"], format_units(best, decimals)


def tripped(guard: Guard, order: Followed) -> None:
    """Every trip is of this guard, and says what was looked at and how far off it was."""
    trips = [number for number, frame in enumerate(order.frames) if frame["event"] == "price_protected"]
    assert trips
    for number in trips:
        expected = expected_trip(guard, order.frames[:number])
        told = {name: order.frames[number][name] for name in (*expected, "passed") if name in order.frames[number]}
        assert told == expected


def ended_by(guard: Guard, kind: Kind, order: Followed) -> None:
    """The end has the guard's own code and message, or those of an order that does not wait."""
    *_, attempted, last = order.frames
    code = ENDS[guard]
    error = {"code": code, "message": FAILURES[code].message}
    assert attempted["error"] == error
    if kind == "market":
        assert (last["event"], last["error"]) == ("failed", error)
        return
    cancelled: CancelCode = "immediate_or_cancel" if kind == "IOC" else "fill_or_kill"
    assert [last[name] for name in ("event", "by", "code", "message")] == [
        *["cancelled", "engine", cancelled, CANCELLATIONS[cancelled].message]
    ]


async def trips(customer: Customer, guard: Guard, orders: dict[Kind, PlaceOrder]) -> None:
    """Let a guard trip in front of an order of each kind, half of them placed over HTTP."""

    async def trip(number: int, kind: Kind) -> None:
        order = await customer.order(WAYS[number % 2], orders[kind])
        await order.end()
        assert order.names == life(kind, guard)
        tripped(guard, order)
        ended_by(guard, kind, order)

    await gather(*starmap(trip, enumerate(orders)))


def sales(amount: int, **fields: int) -> dict[Kind, PlaceOrder]:
    kinds: tuple[Kind, ...] = ("market", "IOC", "FOK")
    return {kind: sale(kind, amount, **fields) for kind in kinds}


def test_dust_impact_and_collar_are_told_with_their_measure(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        async with trading.at_work():
            await trips(customer, "dust", sales(1))
            await trips(customer, "impact", sales(POOL // 100, max_impact_bps=20))
            await trips(customer, "collar", sales(POOL // 3, max_impact_bps=10_000))
        assert await trading.swaps() == {}

    on_market(redis_url, scenario)


PASSING: Final = {
    "stale": (replace(CALM, stale_ppm=1_000_000, stale_slots_max=4_000_000), {}, {}),
    "venues": (replace(CALM, outage_ppm=500_000, outage_slots=1_000), {"min_venues": 2}, {"seed": half_down()}),
    "outlier": (replace(CALM, handicap_ticks=(1_500, 1_500)), {}, {}),
}
"""Guards that a further attempt may pass: the world, the order's terms and the settings in which none does."""


@pytest.mark.parametrize(
    "guard", ["venues", *(pytest.param(guard, marks=pytest.mark.slow) for guard in ("stale", "outlier"))]
)
def test_stale_too_few_and_outlying_quotes_are_told_at_each_attempt(redis_url: str, guard: Guard) -> None:
    profile, terms, settings = PASSING[guard]

    async def scenario(trading: Trading, customer: Customer) -> None:
        async with trading.at_work():
            await trips(customer, guard, sales(10**9, **terms))
        assert await trading.swaps() == {}

    on_market(redis_url, scenario, profile, **settings)


async def rests_again(guard: Guard, order: Followed, begin: Sequence[str]) -> None:
    """The trip used no attempt up: the order waits for a better market, until its customer no longer does."""
    while order.names[-2:] != ["price_protected", "resting"]:
        await order.reach("resting")
    assert order.names == [*begin, *ATTEMPT, "resting"]
    status, seq = await order.cancel("socket")
    assert (status, seq) == ("cancelled", len(begin) + len(ATTEMPT) + 2)
    await order.end()
    tripped(guard, order)


def test_the_limit_cancels_immediate_orders_and_lets_others_rest_as_the_fee_of_a_launch_does(redis_url: str) -> None:
    async def scenario(trading: Trading, customer: Customer) -> None:
        # Met by the price of the pools, but not by what their fees leave of it.
        level = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values()) - 5
        limited = limit_order(SOL_USDC, "rises_to", level)
        new, max_fee_bps = launch_token(1), 2_500
        terms = {"max_fee_bps": max_fee_bps, "max_impact_bps": 10_000}
        # Of so small an amount the least fee, one lamport, is more than the order allows.
        tiny = order_of("buy", new, SOL, 20, order_type="sniper", **terms)
        async with trading.at_work():
            await trips(customer, "limit", {kind: replace(limited, time_in_force=kind) for kind in ("IOC", "FOK")})
            await rests_again("limit", await customer.order("socket", limited), ["pending", "triggered"])
            launched = await customer.order("http", tiny)
            await launched.reach("resting")
            await trading.pass_to(scheduled_slot(trading.settings.seed, new) + (first_slot_under(max_fee_bps) or 0))
            assert await trading.scan() == 1
            await rests_again("fee", launched, ["pending", "resting", "triggered"])
        assert await trading.swaps() == {}

    on_market(redis_url, scenario)


def test_the_anchor_ends_a_market_order_and_lets_a_limit_order_rest(redis_url: str) -> None:
    """The first swap fails on chain, as the price falls before it lands; the next quote is worse than its limit."""

    async def scenario(trading: Trading, customer: Customer) -> None:
        await trading.pass_to(falling(trading, await trading.confirmed_slot()) - 2)
        market = await customer.order("http", sale("market", 10**9, slippage_bps=0))
        limited = await customer.order("socket", sale("GTC", 10**9, slippage_bps=0))
        sent = ["routing", "routing:quotes", "building", "submitted", "retrying"]
        async with trading.at_work():
            await market.end()
            await rests_again("anchor", limited, ["pending", "triggered", *sent])
        assert market.names == ["pending", *sent, *ATTEMPT, "retrying", *ATTEMPT, "attempt_failed", "failed"]
        error = {"code": "slippage_exceeded", "message": FAILURES["slippage_exceeded"].message}
        assert market.frames[5]["error"] == limited.frames[6]["error"] == error
        tripped("anchor", market)
        ended_by("anchor", "market", market)
        assert await trading.swaps() == {}

    on_market(redis_url, scenario, LIVELY)
