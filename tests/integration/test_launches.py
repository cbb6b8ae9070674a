"""Launches on the simulated chain: which slot holds, that it never changes, and what lands before and after it."""

import asyncio

import pytest

from app.dex.chain import Landed, LandedFailed
from app.dex.errors import ChainMismatchError
from app.dex.pools.launches import LaunchError, WrongLaunchError, launch_token, scheduled_slot
from app.dex.profile import Profile
from app.dex.tokens import SOL, USDC
from app.dex.venue import Swap, price_swap
from app.orders.events import Side
from tests.integration.worlds import NEXT_SLOT, SEED, WALLET, World, run, signed_bytes

NEW, LATER = launch_token(1), launch_token(2)
SCHEDULED = scheduled_slot(SEED, NEW)


def snipe(launch: int, *, number: int = 1, side: Side = "buy") -> Swap:
    return Swap(
        order_id=f"sniper-{number}",
        attempt=1,
        side=side,
        base=NEW,
        quote=SOL,
        amount=1_000_000_000,
        launch_slot=launch,
    )


def test_a_token_launches_at_its_scheduled_slot_unless_another_is_announced(redis_url: str) -> None:
    async def test(world: World) -> None:
        scheduled = {token.symbol: scheduled_slot(SEED, token) for token in (NEW, LATER)}
        assert await world.chain.launch_slots([NEW, LATER]) == scheduled
        assert await world.chain.launch(NEW, 10_050) == 10_050
        assert await world.opened().launch_slots([NEW, LATER, NEW]) == {**scheduled, "NEW1": 10_050}
        assert await world.chain.launch_slots([]) == {}

    run(redis_url, test)


def test_an_announced_launch_never_changes(redis_url: str) -> None:
    async def test(world: World) -> None:
        assert await world.chain.launch(NEW, 10_050) == 10_050
        for other in (10_000, 10_049, 10_051, 9_000):
            assert await world.chain.launch(NEW, other) == 10_050
        await world.pass_to(10_060)
        assert await world.chain.launch(NEW, 10_070) == 10_050
        assert await world.chain.launch_slots([NEW]) == {"NEW1": 10_050}

    run(redis_url, test)


def test_of_many_announcements_at_once_one_holds(redis_url: str) -> None:
    async def test(world: World) -> None:
        answers = await asyncio.gather(*(world.opened().launch(NEW, 10_050 + number) for number in range(40)))
        assert len(set(answers)) == 1
        assert await world.chain.launch_slots([NEW]) == {"NEW1": answers[0]}

    run(redis_url, test)


@pytest.mark.parametrize(("at", "held"), [(SCHEDULED - 1, SCHEDULED + 40), (SCHEDULED, SCHEDULED)])
def test_a_launch_that_has_taken_place_never_changes(redis_url: str, at: int, held: int) -> None:
    async def test(world: World) -> None:
        await world.pass_to(at)
        assert await world.chain.launch(NEW, SCHEDULED + 40) == held
        assert await world.chain.launch_slots([NEW]) == {"NEW1": held}

    run(redis_url, test)


def test_a_launch_that_a_sent_message_names_never_changes(redis_url: str) -> None:
    """Else it would be executed in a pool that opens at another slot than the one that the message was priced with."""

    async def test(world: World) -> None:
        await world.send(snipe(SCHEDULED), venue="meteora")
        assert await world.chain.launch(NEW, 10_050) == SCHEDULED
        with pytest.raises(WrongLaunchError):
            await world.send(snipe(10_050, number=2), venue="meteora")

    run(redis_url, test)


def test_a_launch_may_be_announced_for_the_current_slot_but_for_no_earlier_one(redis_url: str) -> None:
    async def test(world: World) -> None:
        await world.pass_to(10_010)
        for over in (10_009, 0, -1):
            with pytest.raises(LaunchError, match="is over: the current one is 10010"):
                await world.chain.launch(NEW, over)
        with pytest.raises(LaunchError, match="beyond"):
            await world.chain.launch(NEW, 1 << 53)
        assert await world.chain.launch_slots([NEW]) == {"NEW1": SCHEDULED}
        assert await world.chain.launch(NEW, 10_010) == 10_010

    run(redis_url, test)


def test_tokens_that_always_trade_have_no_launch(redis_url: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(LaunchError, match="always trades"):
            await world.chain.launch(USDC, 10_050)
        with pytest.raises(LaunchError, match="SOL"):
            await world.chain.launch_slots([NEW, SOL])
        assert await world.client.keys(f"{world.namespace}:launches") == []

    run(redis_url, test)


def test_more_launches_than_one_request_names_are_found(redis_url: str) -> None:
    async def test(world: World) -> None:
        tokens = [launch_token(number) for number in range(1, 1_202)]
        await world.chain.launch(tokens[1_100], 10_050)
        found = await world.chain.launch_slots(tokens)
        assert len(found) == 1_201
        assert found["NEW1101"] == 10_050
        assert found["NEW1201"] == scheduled_slot(SEED, tokens[-1])

    run(redis_url, test)


def test_a_chain_of_another_world_announces_nothing(redis_url: str) -> None:
    async def test(world: World) -> None:
        await world.chain.slot()
        other = world.opened(profile=Profile(drop_ppm=1))
        with pytest.raises(ChainMismatchError):
            await other.launch(NEW, 10_050)
        with pytest.raises(ChainMismatchError):
            await other.launch_slots([NEW])
        assert await world.chain.launch_slots([NEW]) == {"NEW1": SCHEDULED}

    run(redis_url, test)


@pytest.mark.parametrize("announced", [None, 10_050])
def test_a_message_with_another_launch_slot_than_the_one_that_holds_is_refused(
    redis_url: str, announced: int | None
) -> None:
    async def test(world: World) -> None:
        held = SCHEDULED if announced is None else await world.chain.launch(NEW, announced)
        for wrong in (held - 1, held + 1, SCHEDULED if announced else 10_050):
            with pytest.raises(WrongLaunchError) as refused:
                await world.send(snipe(wrong), venue="meteora")
            error = refused.value
            assert (error.symbol, error.named, error.held) == ("NEW1", wrong, held)
        assert await world.client.keys(f"{world.namespace}:messages") == []
        await world.send(snipe(held), venue="meteora")

    run(redis_url, test)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_swap_that_lands_before_the_launch_fails_on_chain_and_pays_the_network_fee(
    redis_url: str, side: Side
) -> None:
    async def test(world: World) -> None:
        launch = await world.chain.launch(NEW, await world.chain.slot() + 2)
        early = await world.send(snipe(launch, side=side), venue="meteora")
        await world.pass_slots(1)
        on_time = await world.send(snipe(launch, number=2, side=side), venue="meteora")
        migrated_later = await world.send(snipe(launch, number=3, side=side), venue="raydium")
        await world.pass_slots(4)
        statuses = (await world.chain.observe([early, on_time, migrated_later])).statuses
        assert statuses[early] == LandedFailed(slot=launch - 1, error="NotLaunched", network_fee=5_000)
        assert statuses[migrated_later] == LandedFailed(slot=launch, error="NotLaunched", network_fee=5_000)
        landed = statuses[on_time]
        assert isinstance(landed, Landed)
        assert landed.slot == launch
        outcomes = {entry.order_id: entry.outcome for entry in await world.chain.ledger()}
        assert outcomes == {"sniper-1": "failed", "sniper-2": "executed", "sniper-3": "failed"}

    run(redis_url, test, NEXT_SLOT)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_launched_token_is_executed_at_the_price_and_fee_of_its_landing_slot(redis_url: str, side: Side) -> None:
    async def test(world: World) -> None:
        launch = await world.chain.launch(NEW, 10_010)
        await world.pass_to(launch + 7)
        swap = snipe(launch, side=side)
        signature = await world.send(swap, venue="meteora")
        status = (await world.observed_until(signature)).statuses[signature]
        assert isinstance(status, Landed)
        assert status.slot == launch + 8
        quote = price_swap("meteora", swap, status.slot, seed=SEED, profile=NEXT_SLOT)
        amounts = (swap.amount, quote.amount) if side == "sell" else (quote.amount, swap.amount)
        assert (status.amount_in, status.amount_out) == amounts
        assert (status.fee, status.fees) == (quote.fee, quote.fees)
        assert status.fee * 100 // status.amount_in == 47

    run(redis_url, test, NEXT_SLOT)


def test_the_same_bytes_are_taken_again_whatever_is_announced_in_between(redis_url: str) -> None:
    async def test(world: World) -> None:
        message = signed_bytes(snipe(SCHEDULED), await world.chain.latest_blockhash(), venue="meteora")
        signature = WALLET.sign(message)
        await world.chain.send(message, signature)
        assert await world.chain.launch(NEW, 10_003) == SCHEDULED
        await world.chain.send(message, signature)

    run(redis_url, test)
