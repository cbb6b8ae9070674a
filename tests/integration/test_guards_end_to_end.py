"""Each guard trips once in front of a real worker, with its evidence and what must follow for every type of order."""

from typing import Any, Final, Literal

import pytest
from msgspec.structs import replace

from app.dex.errors import VenueError
from app.dex.market import pool_reserve
from app.dex.pools.launches import first_slot_under, scheduled_slot
from app.dex.profile import Profile
from app.dex.tokens import SOL, USDC, launch_token, pair_of, token
from app.dex.transaction import instructions
from app.dex.venue import VENUES, Swap, is_down, price_swap
from app.orders.events import (
    AttemptStarted,
    Guard,
    OrderAccepted,
    OrderConfirmed,
    PriceProtectionTripped,
    Quote,
    QuotesCollected,
    RouteSelected,
)
from app.orders.guards import FAILURES_OF, ORDER, POLICY
from app.orders.lifecycle import FAILURES
from app.orders.money import format_units, parse_units
from app.orders.state import Cancelled, Confirmed, Failed, Resting, Terminal
from tests.integration.trading import LIVELY, Trading, limit_order, on_trading, order_of

SOL_USDC: Final = pair_of(SOL, USDC)
CALM: Final = replace(LIVELY, volatility_ppm=1_000_000)
POOL: Final = pool_reserve(SOL_USDC)
ALWAYS_MET: Final = "0.001"
Kind = Literal["market", "GTC", "IOC", "FOK"]
KINDS: Final[tuple[Kind, ...]] = ("market", "GTC", "IOC", "FOK")
ATTEMPT: Final = ("routing", "routing:quotes", "price_protected")


def sale(kind: Kind, amount: int, **fields: Any) -> Any:
    """A sale of SOL for USDC; the limit of the orders that have one is met at any price."""
    if kind != "market":
        fields |= {"order_type": "limit", "limit_price": ALWAYS_MET, "time_in_force": kind}
    return order_of("sell", SOL, USDC, amount, **fields)


def life(kind: Kind, guard: Guard) -> list[str]:
    """What happens to an order in front of which ``guard`` trips in every attempt."""
    begin = ["pending", "triggered"] if kind == "GTC" else ["pending"]
    if kind in ("IOC", "FOK"):
        return [*begin, *ATTEMPT, "attempt_failed", "cancelled"]
    retries = 2 if FAILURES[FAILURES_OF[guard]].passing else 0
    return [*begin, *[*ATTEMPT, "retrying"] * retries, *ATTEMPT, "attempt_failed", "failed"]


async def swap_in(trading: Trading, order_id: str, attempt: int, launch_slot: int | None) -> Swap:
    accepted = (await trading.events(order_id))[0]
    assert isinstance(accepted, OrderAccepted)
    return Swap(
        order_id=order_id,
        attempt=attempt,
        side=accepted.side,
        base=token(accepted.base_asset),
        quote=token(accepted.quote_asset),
        amount=parse_units(accepted.amount, accepted.decimals[0]),
        launch_slot=launch_slot,
    )


async def recomputed(trading: Trading, order_id: str) -> int:
    """Every recorded quote is what seed, slot and launch slot say; return how many there were."""
    attempt, count = 0, 0
    for event in await trading.events(order_id):
        if isinstance(event, AttemptStarted):
            attempt = event.attempt
        if isinstance(event, QuotesCollected):
            swap = await swap_in(trading, order_id, attempt, event.launch_slot)
            for quote in event.quotes:
                assert_recomputed(trading, quote, swap, event.slot)
                count += 1
    return count


def assert_recomputed(trading: Trading, quote: Quote, swap: Swap, slot: int) -> None:
    known = slot if quote.slot is None else quote.slot
    if quote.status in ("ok", "stale"):
        price = price_swap(quote.venue, swap, known, seed=trading.settings.seed, profile=trading.profile)
        paid_in = swap.base if swap.side == "sell" else swap.quote
        assert quote.amount == format_units(price.amount, swap.quote.decimals)
        assert quote.fee == format_units(price.fee, paid_in.decimals)
        assert quote.impact_ppm == price.impact_ppm
        return
    if quote.code in ("unavailable", "circuit_open"):
        return
    with pytest.raises(VenueError) as refused:
        price_swap(quote.venue, swap, slot, seed=trading.settings.seed, profile=trading.profile)
    assert (refused.value.code, refused.value.reason) == (quote.code, quote.reason)


async def tripped(trading: Trading, order_id: str, guard: Guard) -> PriceProtectionTripped:
    """The last trip of an order: of this guard, after all that come before it."""
    trip = [event for event in await trading.events(order_id) if isinstance(event, PriceProtectionTripped)][-1]
    assert trip.guard == guard
    assert trip.guards == POLICY
    assert trip.passed == ORDER[: ORDER.index(guard)]
    return trip


async def trips(trading: Trading, guard: Guard, amount: int, **fields: Any) -> list[PriceProtectionTripped]:
    """Let a guard trip in front of an order of each kind; return the trips."""
    orders = [await trading.order(sale(kind, amount, **fields)) for kind in KINDS]
    heads = await trading.ends(orders)
    for kind, order_id, head in zip(KINDS, orders, heads, strict=True):
        assert await trading.names(order_id) == life(kind, guard)
        assert await recomputed(trading, order_id) > 0
        if isinstance(head.state, Cancelled):
            assert head.state.code == ("immediate_or_cancel" if kind == "IOC" else "fill_or_kill")
        else:
            assert isinstance(head.state, Failed)
            assert head.state.error.code == FAILURES_OF[guard]
    assert await trading.swaps() == {}
    return [await tripped(trading, order_id, guard) for order_id in orders]


def half_down() -> str:
    """A seed with which one venue alone is out of order from the start on."""
    profile = replace(CALM, outage_ppm=500_000, outage_slots=1_000)
    for number in range(100):
        seed = f"seed {number}"
        down = [[is_down(venue, slot, seed=seed, profile=profile) for venue in VENUES] for slot in (10_000, 11_000)]
        if down == [[True, False], [False, False]]:
            return seed
    raise AssertionError("no such seed")


def test_dust_impact_and_collar_end_orders_of_every_kind(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        async with trading.at_work():
            for trip in await trips(trading, "dust", 1):
                assert (trip.unit, trip.limit, trip.observed) == ("USDC", "0.000001", "0")
            for trip in await trips(trading, "impact", POOL // 100, max_impact_bps=20):
                assert (trip.unit, trip.limit) == ("bps", "20")
                assert 20 < int(trip.observed) <= 100
            for trip in await trips(trading, "collar", POOL // 3, max_impact_bps=10_000):
                assert (trip.unit, trip.limit) == ("bps", "1500")
                assert 2_400 < int(trip.observed) < 2_700

    on_trading(redis_url, scenario, CALM)


def test_stale_quotes_are_tried_again_and_named_with_their_age(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        async with trading.at_work():
            for trip in await trips(trading, "stale", 10**9):
                assert (trip.unit, trip.limit) == ("slots", "8")
                assert int(trip.observed) > 8
        ages = [
            event.slot - (quote.slot or 0)
            for order_id in await orders_of(trading)
            for event in await trading.events(order_id)
            if isinstance(event, QuotesCollected)
            for quote in event.quotes
        ]
        assert min(ages) > 8

    on_trading(redis_url, scenario, replace(CALM, stale_ppm=1_000_000, stale_slots_max=4_000_000))


async def orders_of(trading: Trading) -> list[str]:
    return [stream for number in range(trading.store.partitions) for stream in await trading.store.list_streams(number)]


def test_too_few_venues_are_tried_again(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        async with trading.at_work():
            for trip in await trips(trading, "venues", 10**9, min_venues=2):
                assert (trip.unit, trip.limit, trip.observed) == ("venues", "2", "1")

    on_trading(redis_url, scenario, replace(CALM, outage_ppm=500_000, outage_slots=1_000), seed=half_down())


def test_outliers_are_tried_again(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        async with trading.at_work():
            for trip in await trips(trading, "outlier", 10**9):
                assert (trip.unit, trip.limit) == ("bps", "1000")
                assert 1_300 < int(trip.observed) < 1_500

    on_trading(redis_url, scenario, replace(CALM, handicap_ticks=(1_500, 1_500)))


def test_the_fee_lets_a_sniper_rest_and_the_limit_an_order_that_is_good_till_cancelled_but_cancels_others(
    redis_url: str,
) -> None:
    async def scenario(trading: Trading) -> None:
        # Met by the price of the pools, but not by what their fees leave of it.
        level = max(trading.spots(SOL_USDC, await trading.confirmed_slot()).values()) - 5
        orders = {
            force: await trading.order(limit_order(SOL_USDC, "rises_to", level, time_in_force=force))
            for force in ("GTC", "IOC", "FOK")
        }
        sniper = order_of(
            "buy", launch_token(1), SOL, 20, order_type="sniper", max_fee_bps=2_500, max_impact_bps=10_000
        )
        launched = await trading.order(sniper)
        async with trading.at_work():
            await trading.reach([launched, orders["GTC"]], Resting)
            await trading.ends([orders["IOC"], orders["FOK"]])
            launch = scheduled_slot(trading.settings.seed, launch_token(1))
            await trading.pass_to(launch + (first_slot_under(2_500) or 0))
            assert await trading.scan() >= 1
            await trading.until(launched, lambda head: isinstance(head.state, Resting) and head.version > 3)
        for order_id in orders.values():
            trip = await tripped(trading, order_id, "limit")
            assert trip.unit == "USDC"
            assert parse_units(trip.observed, 6) < parse_units(trip.limit, 6)
            await recomputed(trading, order_id)
        assert (await trading.names(orders["IOC"]))[-2:] == ["attempt_failed", "cancelled"]
        assert (await trading.names(orders["GTC"]))[:6] == ["pending", "triggered", *ATTEMPT, "resting"]
        trip = await tripped(trading, launched, "fee")
        assert (trip.unit, trip.limit, trip.observed) == ("bps", "2500", "5000")
        assert await recomputed(trading, launched) >= 2
        state = (await trading.streams.load(launched)).state
        assert isinstance(state, Resting)
        assert state.attempt == 1

    on_trading(redis_url, scenario, CALM)


def test_a_fee_above_the_greatest_one_ends_orders_that_do_not_wait_for_it(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        async with trading.at_work():
            for trip in await trips(trading, "fee", 10**9, max_fee_bps=1):
                assert (trip.unit, trip.limit) == ("bps", "1")
                assert 20 <= int(trip.observed) <= 26

    on_trading(redis_url, scenario, CALM)


def falling(trading: Trading, start: int) -> int:
    """A slot from which both venues' prices fall slot by slot for a while, and then stay below for long."""
    swap = Swap(order_id="any", attempt=1, side="sell", base=SOL, quote=USDC, amount=10**9)
    amounts = {
        slot: [
            price_swap(venue, swap, slot, seed=trading.settings.seed, profile=trading.profile).amount
            for venue in VENUES
        ]
        for slot in range(start, start + 2_000)
    }
    for slot in range(start, start + 1_900):
        steps = [zip(amounts[near], amounts[near + 1], strict=True) for near in range(slot, slot + 3)]
        if all(before > after for step in steps for before, after in step) and all(
            max(amounts[later]) < max(amounts[slot + 3]) for later in range(slot + 4, slot + 45)
        ):
            return slot
    raise AssertionError("this seed has no such slot")


def test_a_price_that_has_moved_past_the_anchor_ends_no_order_that_can_rest(redis_url: str) -> None:
    """The first swap fails on chain, as the price falls before it lands; the next quote is worse than its limit."""

    async def scenario(trading: Trading) -> None:
        await trading.pass_to(falling(trading, await trading.confirmed_slot()) - 2)
        orders = {kind: await trading.order(sale(kind, 10**9, slippage_bps=0)) for kind in ("market", "GTC")}
        async with trading.at_work():
            await trading.ends([orders["market"]])
            (head,) = await trading.reach([orders["GTC"]], Resting | Terminal)
        attempt = ("routing", "routing:quotes")
        sent = [*attempt, "building", "submitted", "retrying"]
        assert await trading.names(orders["market"]) == [
            *["pending", *sent, *ATTEMPT, "retrying", *ATTEMPT, "attempt_failed", "failed"]
        ]
        assert await trading.names(orders["GTC"]) == ["pending", "triggered", *sent, *ATTEMPT, "resting"]
        assert isinstance(head.state, Resting)
        assert head.state.attempt == 2
        for order_id in orders.values():
            trip = await tripped(trading, order_id, "anchor")
            (route,) = [event for event in await trading.events(order_id) if isinstance(event, RouteSelected)]
            assert (trip.unit, trip.limit) == ("USDC", route.min_out)
            assert parse_units(trip.observed, 6) < parse_units(trip.limit, 6)
            assert await recomputed(trading, order_id) >= 4
        assert await trading.swaps() == {}

    on_trading(redis_url, scenario, LIVELY)


@pytest.mark.parametrize("profile", [CALM, replace(CALM, stale_ppm=500_000, stale_slots_max=4, outage_ppm=100_000)])
def test_receipts_split_the_chains_fee_and_routes_name_their_steps(redis_url: str, profile: Profile) -> None:
    async def scenario(trading: Trading) -> None:
        pairs = [("sell", SOL, USDC), ("buy", SOL, USDC), ("sell", USDC, SOL), ("buy", token("JUP"), USDC)]
        orders = [
            await trading.order(order_of(side, base, quote, 10**8, slippage_bps=1_000))  # type: ignore[arg-type]
            for side, base, quote in pairs
            for _ in range(3)
        ]
        heads = await trading.run_until_ended(orders)
        confirmed = [
            order_id for order_id, head in zip(orders, heads, strict=True) if isinstance(head.state, Confirmed)
        ]
        assert len(confirmed) > len(orders) // 2
        for order_id in confirmed:
            await settled_as_on_chain(trading, order_id)
            await recomputed(trading, order_id)

    on_trading(redis_url, scenario, profile)


async def settled_as_on_chain(trading: Trading, order_id: str) -> None:
    *_, last = events = await trading.events(order_id)
    assert isinstance(last, OrderConfirmed)
    attempt = [event.attempt for event in events if isinstance(event, AttemptStarted)][-1]
    swap = await swap_in(trading, order_id, attempt, None)
    route = [event for event in events if isinstance(event, RouteSelected)][-1]
    assert route.steps == instructions(swap)
    assert (route.guards, last.receipt.venue) == (POLICY, route.chosen.venue)
    decimals = (swap.base if swap.side == "sell" else swap.quote).decimals
    receipt = last.receipt
    landed = price_swap(receipt.venue, swap, receipt.slot, seed=trading.settings.seed, profile=trading.profile)
    parts = [part or "0" for part in (receipt.fees.lp, receipt.fees.protocol, receipt.fees.fund)]
    assert [parse_units(part, decimals) for part in parts] == [landed.fees.lp, landed.fees.protocol, landed.fees.fund]
    assert sum(parse_units(part, decimals) for part in parts) == parse_units(receipt.fee, decimals) == landed.fee
    assert receipt.network_fee == "0.000005"


def test_the_circuit_of_a_venue_that_is_down_opens_is_tried_and_closes_as_the_quotes_say(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        hasty = replace(
            trading.settings, speed_ppm=1_000_000_000, venue_failures_max=3, venue_open_ms=500_000, task_ms=5_000
        )
        seen: list[tuple[str | None, str | None]] = []

        async def ask() -> tuple[str | None, str | None]:
            """What Raydium answers an order, and what the worker's circuit was."""
            order_id = await trading.order(sale("market", 10**8, slippage_bps=1_000))
            (head,) = await trading.ends([order_id])
            assert isinstance(head.state, Confirmed)
            (collected,) = [event for event in await trading.events(order_id) if isinstance(event, QuotesCollected)]
            raydium, meteora = collected.quotes
            assert (meteora.status, meteora.circuit) == ("ok", None)
            assert collected.slot < 11_000 or raydium.code in (None, "circuit_open")
            seen.append((raydium.code, raydium.circuit))
            return seen[-1]

        async with trading.at_work(settings=hasty):
            while await ask() != ("unavailable", "half_open"):
                pass
            assert seen[:4] == [*[("unavailable", None)] * 3, ("circuit_open", "open")]
            assert set(seen[3:-1]) == {("circuit_open", "open")}
            assert await ask() == ("circuit_open", "open")
            await trading.pass_to(11_000)
            while await ask() == ("circuit_open", "open"):
                pass
            assert seen[-1] == (None, "half_open")
            assert await ask() == (None, None)

    on_trading(redis_url, scenario, replace(CALM, outage_ppm=500_000, outage_slots=1_000), seed=half_down())
