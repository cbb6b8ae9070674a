"""Each safeguard of execution, taken out of a copy of the source: a test fails there."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.clock import SystemClock
from app.dex.transaction import decode
from app.orders.commands import ExpireOrder, FireTrigger
from app.orders.decide import decide
from app.orders.errors import UndefinedTransitionError
from app.orders.evolve import evolve
from app.orders.state import Resting, Terminal
from eventstore.errors import LevelUnavailableError, StoreUnavailableError, WrongVersionError
from eventstore.levels import FSYNC
from tests.builders import EVERY_EVENT
from tests.crash.execution_safeguards import EXECUTION
from tests.crash.hands import FAR_SLOTS, LIFE_US, WALKED_SLOTS, Hands, JournalChain, LeapingChain, hands, peak
from tests.crash.matrix.fates import Fate
from tests.crash.safeguards import Safeguard
from tests.crash.test_safeguards import ROOT, copied, pytest_in
from tests.servers.single import RedisServer, redis_server

Scenario = Callable[[Hands], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendonly="no") as running:
        yield running


def by_hand(server: RedisServer, scenario: Scenario, kind: type[JournalChain] = JournalChain) -> None:
    """Run ``scenario`` on a store and a chain that nobody else has."""

    async def run() -> None:
        async with hands(server.url, kind) as on:
            await scenario(on)

    asyncio.run(run())


def test_an_intent_of_a_worker_that_was_overtaken_is_not_recorded(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        await on.crash_at("K6", order_id)
        overtaken = await on.streams.load(order_id)
        intent = await on.signed(overtaken)
        await on.to_the_end(order_id)
        with pytest.raises(WrongVersionError):
            await on.streams.record(overtaken, intent, None)

    by_hand(server, scenario)


def test_nothing_is_sent_before_its_intent_is_recorded(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        await on.to_the_end(order_id)
        assert on.journal[:5] == ["pending", "routing", "building", "submitted", "sent"]

    by_hand(server, scenario)


def test_nothing_is_sent_whose_intent_is_not_worth_its_level(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        with pytest.raises(LevelUnavailableError):
            await on.advance(order_id, intent_level=FSYNC)
        assert on.chain.sent == []

    by_hand(server, scenario)


def test_an_intent_found_recorded_is_not_sent_before_it_is_worth_its_level(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        await on.crash_at("K8", order_id)
        with pytest.raises(LevelUnavailableError):
            await on.advance(order_id, intent_level=FSYNC)
        assert on.chain.sent == []

    by_hand(server, scenario)


def test_a_swap_that_lands_between_two_looks_is_found(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("late")
        await on.to_the_end(order_id)
        assert (await on.names(order_id)).count("routing") == 1
        await on.require_swaps(order_id, 1)

    by_hand(server, scenario, LeapingChain)


def test_a_swap_that_lands_at_the_last_valid_height_is_not_taken_for_expired(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("late")
        await on.to_the_end(order_id)
        assert (await on.names(order_id)).count("routing") == 1
        await on.require_swaps(order_id, 1)

    by_hand(server, scenario)


def test_a_swap_that_is_not_seen_in_time_is_looked_for_again(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        await on.crash_at("K10", order_id)
        on.settings = replace(on.settings, task_ms=0)
        await on.advance(order_id)
        assert (await on.names(order_id))[-1] == "submitted:unknown"
        on.settings = replace(on.settings, task_ms=500)
        await on.to_the_end(order_id)
        await on.require_swaps(order_id, 1)

    by_hand(server, scenario)


def test_equal_swaps_of_one_blockhash_are_different_transactions(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_ids = [await on.place("lands") for _ in range(2)]
        for order_id in order_ids:
            await on.crash_at("K10", order_id)
        signatures, messages = zip(*on.chain.sent, strict=True)
        assert len(set(signatures)) == 2
        first, second = (decode(message) for message in messages)
        assert replace(second, swap=replace(second.swap, order_id=order_ids[0])) == first
        for order_id in order_ids:
            await on.to_the_end(order_id)
            await on.require_swaps(order_id, 1)

    by_hand(server, scenario)


def test_what_is_sent_again_are_the_same_bytes(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("late")
        await on.to_the_end(order_id)
        assert len(on.chain.sent) > 2
        assert len(set(on.chain.sent)) == 1

    by_hand(server, scenario)


def test_attempts_are_limited_and_each_keeps_the_first_ones_limit(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("fails")
        await on.to_the_end(order_id)
        assert (await on.names(order_id)).count("routing") == 3
        limits = [frame["minOut"] for frame in await on.frames(order_id) if frame["event"] == "building"]
        assert limits == limits[:1] * 3
        await on.require_swaps(order_id, 0)

    by_hand(server, scenario)


def test_what_has_ended_stays_as_it_is(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        fates: Sequence[Fate] = ("lands", "fails")
        for fate in fates:
            order_id = await on.place(fate)
            await on.to_the_end(order_id)
            answer = await on.streams.cancel(order_id, "client")
            assert (answer.changed, isinstance(answer.order.state, Terminal)) == (False, True)
            for event in EVERY_EVENT:
                with pytest.raises(UndefinedTransitionError):
                    evolve(answer.order.state, event)

    by_hand(server, scenario)


def test_an_order_whose_time_is_over_waits_for_the_proof_of_its_swap(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place("lands")
        await on.crash_at("K10", order_id)
        order = await on.streams.load(order_id)
        assert decide(order.state, ExpireOrder(now_us=SystemClock().now_us() + 2 * LIFE_US)) == ()
        await on.to_the_end(order_id, ahead_us=2 * LIFE_US)
        assert (await on.names(order_id))[-1] == "confirmed"
        await on.require_swaps(order_id, 1)

    by_hand(server, scenario)


@pytest.mark.parametrize("fate,end,swaps", [("lands", "confirmed", 1), ("dropped", "cancelled", 0)])
def test_an_order_cancelled_after_its_swap_was_signed_ends_as_the_chain_says(
    server: RedisServer, fate: Fate, end: str, swaps: int
) -> None:
    async def scenario(on: Hands) -> None:
        order_id = await on.place(fate)
        await on.crash_at("K10", order_id)
        assert (await on.streams.cancel(order_id, "client")).changed
        await on.to_the_end(order_id)
        names = await on.names(order_id)
        assert (names.count("cancel_pending"), names.count("routing"), names[-1]) == (1, 1, end)
        await on.require_swaps(order_id, swaps)

    by_hand(server, scenario)


def test_an_order_that_could_not_be_fired_is_fired_by_the_next_scanner(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        met = peak(on.settings.seed)
        order_id = await on.rest(met.trigger, met.slot - 1)
        on.store.failing = True
        with pytest.raises(StoreUnavailableError):
            await on.scan(order_id, met.slot + WALKED_SLOTS)
        on.store.failing = False
        assert await on.scan(order_id, met.slot + FAR_SLOTS) == 1
        assert (await on.frames(order_id))[-1]["slot"] == met.slot

    by_hand(server, scenario)


def test_a_trigger_counts_from_the_slot_after_the_one_at_which_the_order_came_to_rest(server: RedisServer) -> None:
    async def scenario(on: Hands) -> None:
        met = peak(on.settings.seed)
        order_id = await on.rest(met.trigger, met.slot)
        assert await on.scan(order_id, met.slot + WALKED_SLOTS) == 0
        state = (await on.streams.load(order_id)).state
        assert isinstance(state, Resting)
        early = FireTrigger(trigger=met.trigger, slot=met.slot, observed=met.trigger.level, venue="raydium")
        assert decide(state, early) == ()

    by_hand(server, scenario)


@pytest.mark.parametrize("safeguard", EXECUTION, ids=lambda safeguard: safeguard.name)
def test_each_safeguard_of_execution_stands_in_the_source_once(safeguard: Safeguard) -> None:
    assert (ROOT / safeguard.file).read_text(encoding="utf-8").count(safeguard.text) == 1


@pytest.mark.slow
def test_a_test_fails_wherever_a_safeguard_of_execution_is_taken_out(tmp_path: Path) -> None:
    whole = copied(tmp_path / "whole")
    passed = pytest_in(whole, *dict.fromkeys(safeguard.check for safeguard in EXECUTION))
    assert passed.returncode == 0, passed.stdout
    with ThreadPoolExecutor(2) as pool:
        failing = list(pool.map(lambda safeguard: fails_without(tmp_path, safeguard), EXECUTION))
    assert [safeguard.name for safeguard, fails in zip(EXECUTION, failing, strict=True) if not fails] == []


def fails_without(base: Path, safeguard: Safeguard) -> bool:
    """Whether the check of a safeguard fails in a copy of the source that lacks it; no other error counts."""
    tree = copied(base / safeguard.name.replace(" ", "_"))
    file = tree / safeguard.file
    file.write_text(file.read_text(encoding="utf-8").replace(safeguard.text, safeguard.without), encoding="utf-8")
    run = pytest_in(tree, safeguard.check)
    shutil.rmtree(tree)
    return run.returncode == 1 and "\nFAILED " in run.stdout
