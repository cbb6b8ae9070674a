"""The laws of resting orders: each one that the market meets fires exactly once, with evidence, whatever interferes."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app.execution.scanner import AGAIN_SLOTS, WALK_SLOTS
from app.execution.triggers import BEGUN, DONE
from app.orders.codec import from_frame
from app.orders.events import OrderRested, Trigger, TriggerFired
from app.orders.state import Resting, Triggered
from eventstore.errors import EpochStaleError, StoreUnavailableError
from eventstore.ids import partition_in
from tests.builders import stream_id
from tests.property.resting import (
    LAUNCH,
    OWNER,
    PARTITION,
    START,
    WAIT_SECONDS,
    BreakingStore,
    World,
    first_met,
    is_met,
    limit,
    limit_for,
    sniper,
    spike,
    spots,
    triggers,
    work,
)

Step = tuple[str, Any]
steps = st.one_of(
    st.tuples(st.just("rest"), triggers()),
    st.tuples(st.just("pass"), st.sampled_from([1, 1, 2, 5, 30, 200])),
    st.tuples(st.just("scan"), st.just(1)),
    st.tuples(st.just("scan"), st.just(2)),
    st.tuples(st.just("break"), st.tuples(st.integers(1, 25), st.booleans())),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("forget"), st.none()),
)


async def _step(world: World, step: Step) -> None:
    name, argument = step
    match name:
        case "rest":
            await world.rest(argument, world.chain.confirmed)
        case "pass":
            world.chain.confirmed += argument
        case "scan":
            slot = world.chain.confirmed
            scanners = [world.scanner(BreakingStore(world.store)) for _ in range(argument)]
            await asyncio.gather(*(scanner.scan(PARTITION, slot) for scanner in scanners))
        case "break":
            at, after = argument
            store: Any = BreakingStore(world.store, at, after=after)
            with suppress(StoreUnavailableError):
                await world.scanner(store).scan(PARTITION, world.chain.confirmed)
        case "cancel":
            if world.orders:
                await world.streams.cancel(world.orders[argument % len(world.orders)], "client")
        case _:
            world.store._parts[PARTITION].marks.clear()


async def _judge(world: World) -> None:
    """Every order that rests is unmet up to the mark; every fired one fired once, with the first slot that met it."""
    mark = await world.mark()
    for order_id in world.orders:
        events = [from_frame(stored.data) for stored in await world.store.read_stream(order_id)]
        rested = next(event for event in events if isinstance(event, OrderRested))
        fired = await world.fired(order_id)
        for event in fired:
            assert event.trigger == rested.trigger
            assert event.slot > rested.slot
            assert event.slot <= world.chain.confirmed
            assert is_met(event.trigger, event.slot)
            if event.trigger.when == "launched":
                assert (event.observed, event.launch_slot) == (event.slot - LAUNCH, LAUNCH)
            else:
                assert event.slot == first_met(rested.trigger, rested.slot, world.chain.confirmed)
                assert event.observed == spots(event.slot)[event.venue or ""]
        assert len(fired) <= 1
        state = (await world.streams.load(order_id)).state
        if isinstance(state, Resting) and rested.trigger.when != "launched" and mark is not None:
            assert first_met(rested.trigger, rested.slot, mark) is None


@given(st.lists(steps, max_size=25))
def test_whatever_happens_each_order_that_is_met_fires_once_and_the_mark_passes_none(plan: list[Step]) -> None:
    async def scenario() -> None:
        world = World()
        for step in plan:
            await _step(world, step)
            await _judge(world)
        await world.scanner().scan(PARTITION, world.chain.confirmed)
        await _judge(world)
        for order_id in world.orders:
            state = (await world.streams.load(order_id)).state
            if isinstance(state, Resting):
                assert first_met(state.trigger, state.slot, world.chain.confirmed) is None

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["rises_to", "falls_to"])
@pytest.mark.parametrize("ahead", [2, 2 * AGAIN_SLOTS])
def test_a_price_that_a_scanner_passes_while_the_order_comes_to_rest_is_not_lost(when: str, ahead: int) -> None:
    """The worker looks at a slot, a scanner scans past the next ones, and only then the rest is appended."""

    async def scenario() -> None:
        world = World()
        slot, trigger = spike(when)
        world.chain.confirmed = slot
        task = await world.place(limit_for(trigger))
        store: Any = BreakingStore(world.store)

        async def pass_by() -> None:
            world.chain.confirmed = slot + ahead
            await world.scanner().scan(PARTITION, world.chain.confirmed)

        store.before["append"] = pass_by
        await world.process(store).advance(task)
        (fired,) = await world.fired(task.stream)
        assert (fired.trigger, fired.slot) == (trigger, slot + 1)

    asyncio.run(scenario())


@given(
    st.sampled_from([("rises_to", 1), ("falls_to", -1)]),
    st.integers(1, 6),
    st.tuples(st.integers(0, 40), st.integers(1, 20)),
    st.lists(st.sampled_from([1, 2, 2 * AGAIN_SLOTS]), min_size=1, max_size=4),
    st.tuples(st.integers(0, 14), st.booleans()),
)
def test_however_a_worker_and_two_scanners_interleave_and_wherever_the_worker_dies_no_slot_is_lost(
    direction: tuple[str, int], away: int, turns: tuple[int, int], moves: list[int], death: tuple[int, bool]
) -> None:
    when, sign = direction
    level = sign * (max(sign * tick for tick in spots(START).values()) + away)
    trigger = Trigger(pair="SOL/USDC", when=when, level=level)  # type: ignore[arg-type]

    async def scenario() -> None:
        world = World()
        await world.store.advance_mark(PARTITION, DONE, START)
        task = await world.place(limit_for(trigger))

        async def scan() -> None:
            for _ in range(turns[0]):
                await asyncio.sleep(0)
            for slots in moves:
                world.chain.confirmed += slots
                await world.scanner(BreakingStore(world.store)).scan(PARTITION, world.chain.confirmed)

        store: Any = BreakingStore(world.store, death[0], after=death[1], turns=turns[1])
        await asyncio.gather(work(world, store, task), scan(), scan())
        for left in await world.store.list_tasks(PARTITION):
            await work(world, world.store, left)
        await world.scanner().scan(PARTITION, world.chain.confirmed)
        events = [from_frame(stored.data) for stored in await world.store.read_stream(task.stream)]
        looked_at = next(event.slot for event in events if isinstance(event, OrderRested | TriggerFired))
        fired = [event.slot for event in events if isinstance(event, TriggerFired)]
        rested = any(isinstance(event, OrderRested) for event in events)
        met = first_met(trigger, looked_at if rested else looked_at - 1, world.chain.confirmed)
        # A scanner may come before the look back: then its own slots give the evidence.
        assert len(fired) == (met is not None)
        assert all(is_met(trigger, slot) and slot > looked_at - (not rested) for slot in fired)

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["rises_to", "falls_to"])
def test_a_worker_that_dies_when_its_order_has_come_to_rest_leaves_the_look_back_to_the_next(when: str) -> None:
    async def scenario() -> None:
        world = World()
        slot, trigger = spike(when)
        await world.store.advance_mark(PARTITION, DONE, slot)
        world.chain.confirmed = slot
        task = await world.place(limit_for(trigger))
        dying: Any = BreakingStore(world.store)

        async def pass_by() -> None:
            world.chain.confirmed = slot + 2 * AGAIN_SLOTS
            await world.scanner().scan(PARTITION, world.chain.confirmed)

        async def die() -> None:
            raise StoreUnavailableError("the process has ended")

        dying.before |= {"append": pass_by, "read_mark": die}
        with pytest.raises(StoreUnavailableError):
            await world.process(dying).advance(task)
        await world.scanner().scan(PARTITION, world.chain.confirmed)
        assert isinstance((await world.streams.load(task.stream)).state, Resting)
        await world.process(world.store).advance(await world.task_of(task.stream))
        (fired,) = await world.fired(task.stream)
        assert fired.slot == slot + 1

    asyncio.run(scenario())


def test_a_worker_leaves_nothing_behind_of_an_order_that_rests_unmet() -> None:
    async def scenario() -> None:
        world = World()
        world.chain.confirmed = START
        tasks = [await world.place(limit(*terms)) for terms in (("sell", "1000000"), ("buy", "0.001"))]
        tasks.append(await world.place(sniper(100)))
        for task in tasks:
            await world.process(world.store).advance(task)
            assert isinstance((await world.streams.load(task.stream)).state, Resting)
        assert await world.store.list_tasks(PARTITION) == []

    asyncio.run(scenario())


def test_orders_beyond_what_is_found_at_once_are_fired_by_the_same_scan() -> None:
    """Although those that are found first stay: they came to rest after the slot that meets them."""

    async def scenario() -> None:
        world = World()
        slot, trigger = spike("falls_to")
        await world.store.advance_mark(PARTITION, DONE, slot)
        stay = [await world.rest(trigger, slot + 2) for _ in range(8)]
        met = [await world.rest(replace(trigger, level=trigger.level + 1), slot) for _ in range(20)]
        store: Any = BreakingStore(world.store, found_max=3)
        world.chain.confirmed = slot + 2
        assert await world.scanner(store).scan(PARTITION, slot + 2) == len(met)
        for order_id in met:
            assert isinstance((await world.streams.load(order_id)).state, Triggered)
        for order_id in stay:
            assert isinstance((await world.streams.load(order_id)).state, Resting)

    asyncio.run(scenario())


def test_an_entry_of_an_order_that_does_not_rest_holds_nothing_up() -> None:
    """Such an entry is a finding of the audit; it must neither stop the scan nor let it run for ever."""

    async def scenario() -> None:
        world = World()
        slot, trigger = spike("rises_to")
        await world.store.advance_mark(PARTITION, DONE, slot)
        index = world.store._parts[PARTITION].indexes.setdefault(trigger.index, {})
        index |= {stream_id(OWNER, 1): trigger.level - 1 for _ in range(5)}
        met = await world.rest(trigger, slot)
        store: Any = BreakingStore(world.store, found_max=3)
        async with asyncio.timeout(WAIT_SECONDS):
            await world.scanner(store).scan(PARTITION, slot + 1)
        assert len(await world.fired(met)) <= 1
        assert await world.mark() == slot + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("gap", [1, 200])
def test_what_a_scan_asks_for_does_not_depend_on_how_many_orders_it_does_not_fire(gap: int) -> None:
    async def scenario(count: int) -> tuple[Counter[str], int]:
        world = World()
        await world.store.advance_mark(PARTITION, DONE, START)
        spot = max(spots(START).values())
        for number in range(count):
            when, away = ("rises_to", 3_000 + number) if number % 2 else ("falls_to", -3_000 - number)
            await world.rest(Trigger(pair="SOL/USDC", when=when, level=spot + away), START)  # type: ignore[arg-type]
        near = max(max(spots(slot).values()) for slot in range(START + 1, START + 1 + gap))
        await world.rest(Trigger(pair="SOL/USDC", when="rises_to", level=near), START)
        store: Any = BreakingStore(world.store)
        assert await world.scanner(store).scan(PARTITION, START + gap) == 1
        return store.calls, store.entries

    few, many = asyncio.run(scenario(100)), asyncio.run(scenario(2_000))
    assert few == many
    calls, entries = few
    assert entries == 2
    assert calls["find_entries"] - 2 == -(-gap // WALK_SLOTS)


def test_a_closed_partition_keeps_its_marks_and_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        world = World(partitions=4)
        slot, trigger = spike("rises_to")
        met = await world.rest(trigger, slot)
        open_one, closed = partition_in(met), 0
        assert closed < open_one
        for partition in (open_one, closed):
            await world.store.advance_mark(partition, DONE, slot)
        await world.store.close_partition(closed)
        world.chain.confirmed = slot + 1
        with pytest.raises(EpochStaleError):
            await world.scanner().scan_all()
        assert len(await world.fired(met)) == 1
        assert await world.store.read_mark(open_one, DONE) == slot + 1
        assert await world.store.read_mark(closed, DONE) == slot

    asyncio.run(scenario())


def test_two_scanners_at_once_fire_each_order_once() -> None:
    async def scenario() -> None:
        world = World()
        slot, trigger = spike("rises_to")
        await world.store.advance_mark(PARTITION, DONE, slot)
        orders = [await world.rest(trigger, slot) for _ in range(20)]
        scanners = [world.scanner(BreakingStore(world.store)) for _ in range(3)]
        fired = await asyncio.gather(*(scanner.scan(PARTITION, slot + 1) for scanner in scanners))
        assert sum(fired) == len(orders)
        assert [len(await world.fired(order_id)) for order_id in orders] == [1] * len(orders)

    asyncio.run(scenario())


@given(st.integers(0, 1 << 16), st.integers(1, 60), st.booleans())
@settings(max_examples=40)
def test_a_scan_that_ends_at_any_call_loses_nothing_and_doubles_nothing(pick: int, at: int, after: bool) -> None:
    async def scenario() -> None:
        world = World()
        await world.store.advance_mark(PARTITION, DONE, START)
        last = START + 70
        reached = sorted(max(spots(slot).values()) for slot in range(START + 1, last + 1))
        levels = [reached[(pick + 7 * number) % len(reached)] for number in range(12)]
        orders = [await world.rest(Trigger(pair="SOL/USDC", when="rises_to", level=level), START) for level in levels]
        breaking: Any = BreakingStore(world.store, at, after=after)
        with suppress(StoreUnavailableError):
            await world.scanner(breaking).scan(PARTITION, last)
        await world.scanner().scan(PARTITION, last)
        for order_id, level in zip(orders, levels, strict=True):
            trigger = Trigger(pair="SOL/USDC", when="rises_to", level=level)
            assert [event.slot for event in await world.fired(order_id)] == [first_met(trigger, START, last)]

    asyncio.run(scenario())


def test_an_order_that_is_put_back_a_little_after_its_slots_were_walked_is_looked_at_again() -> None:
    """As healing does after a failover, while the scanner went on."""

    async def scenario() -> None:
        world = World()
        slot, trigger = spike("rises_to")
        mark = slot + AGAIN_SLOTS
        await world.store.advance_mark(PARTITION, DONE, mark)
        order_id = await world.rest(trigger, slot)
        assert await world.scanner().scan(PARTITION, mark + 1) == 1
        (fired,) = await world.fired(order_id)
        assert fired.slot == slot + 1

    asyncio.run(scenario())


def test_the_first_scan_of_a_store_whose_marks_are_gone_begins_with_the_oldest_order() -> None:
    async def scenario() -> None:
        world = World()
        slot, trigger = spike("falls_to")
        order_id = await world.rest(trigger, slot)
        far = slot + 10 * AGAIN_SLOTS
        await world.rest(replace(trigger, level=trigger.level - 3_000), far)
        assert await world.scanner().scan(PARTITION, far) == 1
        (fired,) = await world.fired(order_id)
        assert fired.slot == slot + 1
        assert await world.mark() == far

    asyncio.run(scenario())


def test_a_scanner_says_which_slot_it_begins_with_before_it_looks_at_anything() -> None:
    async def scenario() -> None:
        world = World()
        store: Any = BreakingStore(world.store)
        asked: list[str] = []

        async def note() -> None:
            asked.extend(store.calls)

        store.before["count_entries"] = note
        await world.scanner(store).scan(PARTITION, START)
        assert asked == ["advance_mark", "count_entries"]
        assert await world.store.read_mark(PARTITION, BEGUN) == START

    asyncio.run(scenario())
