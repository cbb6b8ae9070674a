"""The simulated chain on a real server: what lands, when, with which amounts, and what can be proved about it."""

import asyncio

import pytest

from app.dex.chain import (
    BLOCKHASH_LIFETIME,
    Blockhash,
    Landed,
    LandedFailed,
    LedgerEntry,
    SimulatedChain,
    Status,
)
from app.dex.errors import (
    BlockhashExpiredError,
    ChainMismatchError,
    ChainUnavailableError,
    InvalidSignatureError,
    MalformedMessageError,
)
from app.dex.profile import Profile
from app.dex.tokens import SOL, USDC
from app.dex.transaction import Wallet
from app.dex.venue import Swap, price_swap
from app.orders.events import Side
from eventstore.redis.connection import Pipeline
from tests.integration.worlds import (
    CALM,
    NEXT_SLOT,
    SEED,
    WALLET,
    World,
    price,
    run,
    sale,
    signed_bytes,
)


@pytest.mark.parametrize("side", ["sell", "buy"])
def test_mock_execution_lands_with_the_exact_amounts_of_its_landing_slot(redis_url: str, side: Side) -> None:
    async def test(world: World) -> None:
        swap = sale(side=side)
        signature = await world.send(swap)
        status = (await world.observed_until(signature)).statuses[signature]
        assert isinstance(status, Landed)
        quote = price_swap("raydium", swap, status.slot, seed=SEED, profile=CALM)
        amounts = (swap.amount, quote.amount) if side == "sell" else (quote.amount, swap.amount)
        assert (status.amount_in, status.amount_out) == amounts
        assert (status.fee, status.fees, status.network_fee) == (quote.fee, quote.fees, 5_000)
        assert status.fees.lp + status.fees.protocol + status.fees.fund == status.fee > 0
        entry = LedgerEntry(
            order_id="order-1",
            attempt=1,
            signature=signature,
            slot=status.slot,
            outcome="executed",
            amount_in=amounts[0],
            amount_out=amounts[1],
        )
        assert await world.chain.ledger() == [entry]

    run(redis_url, test)


@pytest.mark.parametrize(("side", "worse"), [("sell", 1), ("buy", -1)])
def test_mock_execution_keeps_the_limit_to_the_base_unit(redis_url: str, side: Side, worse: int) -> None:
    async def test(world: World) -> None:
        landing = await world.chain.slot() + 1
        kept, broken = sale(1, side=side), sale(2, side=side)
        executed = await world.send(kept, limit=price(kept, landing))
        refused = await world.send(broken, limit=price(broken, landing) + worse)
        await world.pass_slots(3)
        statuses = (await world.chain.observe([executed, refused])).statuses
        assert isinstance(statuses[executed], Landed)
        assert statuses[refused] == LandedFailed(slot=landing, error="ExceededSlippage", network_fee=5_000)
        outcomes = {entry.order_id: entry.outcome for entry in await world.chain.ledger()}
        assert outcomes == {"order-1": "executed", "order-2": "failed"}

    run(redis_url, test, NEXT_SLOT)


def test_mock_execution_that_the_pool_cannot_serve_fails_on_chain(redis_url: str) -> None:
    async def test(world: World) -> None:
        huge = Swap(order_id="huge", attempt=1, side="buy", base=SOL, quote=USDC, amount=1 << 63)
        signature = await world.send(huge)
        status = (await world.observed_until(signature)).statuses[signature]
        assert isinstance(status, LandedFailed)
        assert status.error == "NoLiquidity"

    run(redis_url, test)


def test_a_swap_that_its_program_refuses_lands_as_failed(redis_url: str) -> None:
    async def test(world: World) -> None:
        signature = await world.send(sale())
        status = (await world.observed_until(signature)).statuses[signature]
        assert isinstance(status, LandedFailed)
        assert (status.error, status.network_fee) == ("SimulatedProgramError", 5_000)

    run(redis_url, test, Profile(drop_ppm=0, fork_ppm=0, program_error_ppm=1_000_000))


def test_a_swap_is_confirmed_six_or_seven_slots_after_its_broadcast(redis_url: str) -> None:
    async def test(world: World) -> None:
        sent_at = await world.chain.slot()
        signatures = [await world.send(sale(number)) for number in range(200)]
        first_seen: dict[str, int] = {}
        while len(first_seen) < len(signatures):
            observation = await world.chain.observe(signatures)
            now = await world.chain.slot()
            for signature in observation.statuses:
                first_seen.setdefault(signature, now)
        waits = [seen - sent_at for seen in first_seen.values()]
        assert set(waits) == {6, 7}
        assert 60 < waits.count(6) < 140

    run(redis_url, test)


def test_a_status_once_seen_never_changes(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        seen: dict[str, Status | None] = {}
        for number in range(60):
            signature = await world.send(sale(number % 12), blockhash=blockhash)
            seen.setdefault(signature, None)
            observation = await world.chain.observe(list(seen))
            for known, status in observation.statuses.items():
                assert seen[known] in (None, status)
                seen[known] = status
        assert len(seen) == 12
        assert None not in seen.values()

    run(redis_url, test, Profile(drop_ppm=300_000, fork_ppm=300_000))


def test_the_same_bytes_land_once_however_often_they_are_sent(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        sent = {await world.send(sale(), blockhash=blockhash) for _ in range(450)}
        await world.pass_slots(20)
        assert {entry.signature for entry in await world.chain.ledger()} == sent
        assert len(await world.chain.ledger()) == 1
        (kept,) = await world.client.hvals(f"{world.namespace}:broadcasts")
        assert len(kept) < 2_010

    run(redis_url, test)


def test_equal_swaps_of_100_orders_with_one_blockhash_are_100_swaps(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        sent = await asyncio.gather(*(world.send(sale(number), blockhash=blockhash) for number in range(100)))
        await world.pass_slots(20)
        assert len(set(sent)) == 100
        assert {entry.signature for entry in await world.chain.ledger()} == set(sent)

    run(redis_url, test)


def test_a_dropped_broadcast_needs_another_one(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        sent = {await world.send(sale(number), blockhash=blockhash) for number in range(50)}
        await world.pass_slots(20)
        early = (await world.chain.observe(list(sent))).statuses
        assert 10 < len(early) < 40
        for _ in range(12):
            assert {await world.send(sale(number), blockhash=blockhash) for number in range(50)} == sent
        await world.pass_slots(20)
        late = (await world.chain.observe(list(sent))).statuses
        assert set(late) == sent
        assert early.items() <= late.items()

    run(redis_url, test, Profile(drop_ppm=500_000, fork_ppm=0))


def test_what_never_landed_is_absent_past_its_last_valid_height(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        signature = await world.send(sale(), blockhash=blockhash)
        observation = await world.chain.observe([signature])
        while observation.height <= blockhash.last_valid_height:
            observation = await world.chain.observe([signature])
        assert observation.statuses == {}
        assert observation.slot >= observation.height
        assert await world.chain.ledger() == []

    run(redis_url, test, Profile(drop_ppm=1_000_000))


@pytest.mark.parametrize(("offset", "lands"), [(BLOCKHASH_LIFETIME - 2, True), (BLOCKHASH_LIFETIME - 1, False)])
def test_a_swap_that_lands_at_the_last_valid_height_is_seen_before_its_expiry(
    redis_url: str, offset: int, lands: bool
) -> None:
    """Sent two slots after its blockhash, it can land 148 slots later, and in no later slot."""

    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        signature = await world.send(sale(), blockhash=blockhash)
        observation = await world.chain.observe([signature])
        while observation.height < blockhash.last_valid_height:
            assert observation.statuses == {}
            observation = await world.chain.observe([signature])
        assert (signature in observation.statuses) is lands
        await world.pass_slots(10)
        assert len(await world.chain.ledger()) == lands

    run(redis_url, test, Profile(drop_ppm=0, fork_ppm=0, landing_ppm=(0,) * offset + (1_000_000,)))


def test_a_reverted_landing_lands_again_later_or_never(redis_url: str) -> None:
    async def landings(world: World) -> dict[str, int]:
        for number in range(100):
            await world.send(sale(number))
        await world.pass_slots(160)
        return {entry.signature: entry.slot for entry in await world.chain.ledger()}

    found: list[dict[str, int]] = []
    for fork_ppm in (0, 500_000, 1_000_000):

        async def test(world: World) -> None:
            found.append(await landings(world))

        run(redis_url, test, Profile(drop_ppm=0, fork_ppm=fork_ppm))
    straight, forked, never = found
    assert never == {}
    assert straight.keys() == forked.keys()
    later = [signature for signature, slot in forked.items() if slot > straight[signature]]
    assert all(slot >= straight[signature] for signature, slot in forked.items())
    assert 30 < len(later) < 70


def test_an_expired_blockhash_is_refused_from_the_slot_after_its_last_valid_height(redis_url: str) -> None:
    async def test(world: World) -> None:
        blockhash = await world.chain.latest_blockhash()
        await world.pass_slots(blockhash.last_valid_height - await world.chain.slot())
        await world.send(sale(1), blockhash=blockhash)
        await world.pass_slots(1)
        with pytest.raises(BlockhashExpiredError):
            await world.send(sale(2), blockhash=blockhash)

    run(redis_url, test)


def test_a_blockhash_of_no_block_is_refused(redis_url: str) -> None:
    async def test(world: World) -> None:
        current = await world.chain.latest_blockhash()
        ahead = await SimulatedChain(
            world.connection, seed=SEED, profile=CALM, speed_ppm=0, namespace=f"{{{world.namespace}-ahead}}"
        ).latest_blockhash()
        assert ahead == current
        for unknown in (bytes(32), current.hash[:-1] + b"\0", b"\1" + current.hash[1:], bytes([255]) * 32):
            with pytest.raises(BlockhashExpiredError):
                await world.send(sale(), blockhash=Blockhash(unknown, current.last_valid_height))
        assert await world.client.keys(f"{world.namespace}:messages") == []

    run(redis_url, test)


def test_a_blockhash_of_a_later_slot_is_refused(redis_url: str) -> None:
    async def test(world: World) -> None:
        await world.pass_slots(5)
        later = await world.chain.latest_blockhash()
        await world.client.delete(f"{world.namespace}:clock")
        with pytest.raises(BlockhashExpiredError):
            await world.send(sale(), blockhash=later)

    run(redis_url, test)


def test_bytes_that_are_no_signed_message_are_refused_and_not_kept(redis_url: str) -> None:
    async def test(world: World) -> None:
        message = signed_bytes(sale(), await world.chain.latest_blockhash())
        with pytest.raises(InvalidSignatureError):
            await world.chain.send(message, Wallet("other").sign(message))
        with pytest.raises(MalformedMessageError):
            await world.chain.send(message + b"0", WALLET.sign(message + b"0"))
        assert await world.client.keys(f"{world.namespace}:messages") == []

    run(redis_url, test)


def test_what_lands_depends_on_names_and_not_on_the_order_of_calls(redis_url: str) -> None:
    ledgers: list[list[LedgerEntry]] = []
    for numbers in (list(range(40)), list(reversed(range(40)))):

        async def test(world: World, numbers: list[int] = numbers) -> None:
            await asyncio.gather(*[world.send(sale(number)) for number in numbers])
            await world.pass_slots(30)
            ledgers.append(await world.chain.ledger())
            assert await world.opened().ledger() == ledgers[-1]

        run(redis_url, test, Profile(drop_ppm=200_000, fork_ppm=200_000))
    assert 20 < len(ledgers[0]) < 40
    assert ledgers[0] == ledgers[1]


def test_hundreds_of_concurrent_calls_are_served(redis_url: str) -> None:
    async def test(world: World) -> None:
        sent = await asyncio.gather(*(world.send(sale(number)) for number in range(300)))
        for _ in range(10):
            observations = await asyncio.gather(*(world.chain.observe(sent[at : at + 20]) for at in range(0, 300, 20)))
        assert {signature for one in observations for signature in one.statuses} == set(sent)
        heights = [one.height for one in observations]
        assert len(set(heights)) == len(heights)

    run(redis_url, test)


def test_the_ledger_is_complete_over_many_pages(redis_url: str) -> None:
    async def test(world: World) -> None:
        sent = {await world.send(sale(number)) for number in range(1_200)}
        await world.pass_slots(2)
        assert await world.chain.ledger() == []
        await world.pass_slots(1)
        ledger = await world.chain.ledger()
        assert len(ledger) == 1_200
        assert {entry.signature for entry in ledger} == sent
        assert [entry.slot for entry in ledger] == sorted(entry.slot for entry in ledger)

    run(redis_url, test, NEXT_SLOT)


def test_each_call_is_one_request_also_when_the_server_has_forgotten_the_scripts(redis_url: str) -> None:
    async def calls(world: World) -> int:
        statistics = await world.client.info("commandstats")
        return sum(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    async def test(world: World) -> None:
        signatures = [await world.send(sale(number)) for number in range(256)]
        before = await calls(world)
        await world.chain.observe(signatures)
        assert await calls(world) == before + 1
        await world.client.script_flush()
        await world.chain.observe(signatures)
        assert await calls(world) == before + 3

    run(redis_url, test)


def test_an_observation_asks_for_at_most_256_signatures(redis_url: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(ValueError, match="256"):
            await world.chain.observe(["x"] * 257)

    run(redis_url, test)


def test_a_chain_of_another_seed_or_profile_is_refused(redis_url: str) -> None:
    async def test(world: World) -> None:
        await world.chain.slot()
        for other in (world.opened(seed="other"), world.opened(profile=Profile(drop_ppm=1))):
            for call in (other.slot, other.ledger, lambda other=other: other.observe(["x"])):
                with pytest.raises(ChainMismatchError):
                    await call()
        blockhash = await world.chain.latest_blockhash()
        with pytest.raises(ChainMismatchError):
            message = signed_bytes(sale(), blockhash)
            await world.opened(profile=Profile(drop_ppm=1)).send(message, WALLET.sign(message))

    run(redis_url, test)


def test_a_server_that_is_away_is_reported_as_such() -> None:
    async def scenario() -> None:
        connection = Pipeline("unix:///nonexistent/socket")
        chain = SimulatedChain(connection, seed=SEED, profile=CALM, speed_ppm=0)
        with pytest.raises(ChainUnavailableError):
            await chain.observe([])

    asyncio.run(scenario())
