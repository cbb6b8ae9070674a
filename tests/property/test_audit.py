"""The audit on a store in memory: untouched records are clean, and no tampering passes unnoticed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.audit.errors import BeyondEndError, OrderNotFoundError
from app.audit.examine import examine
from app.audit.replay import replay
from app.audit.verify import ORDERS_AT_ONCE, Report, verify
from app.orders.events import (
    Side,
)
from app.orders.state import Waiting
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import EventStore, IndexEntry, Task
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.desk import FAILURES, STOPS, Desk, Plot, broken, desk, log_in, stream_in

plots = st.one_of(
    st.tuples(st.lists(st.sampled_from(FAILURES), max_size=2), st.sampled_from(STOPS)).map(lambda p: (*p[0], p[1])),
    st.tuples(*[st.sampled_from(FAILURES)] * 3),
)
sides = st.sampled_from(["buy", "sell"])


class InterruptedStore(MemoryEventStore):
    """Lets something happen before it answers."""

    def __init__(self, clock: StepClock) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=clock.now_us)
        self.before_index: list[Callable[[], Awaitable[None]]] = []
        self.before_tasks: list[Callable[[], Awaitable[None]]] = []

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        if self.before_index:
            await self.before_index.pop(0)()
        return await super().read_index(partition, index)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        if self.before_tasks:
            await self.before_tasks.pop(0)()
        return await super().list_tasks(partition)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def verified(store: EventStore, *order_ids: str) -> Report:
    return await verify(store, None, StepClock().now_us, order_ids)


async def rules(store: EventStore, *order_ids: str) -> set[str]:
    """The rules that a verification finds broken; an order checked by itself must show the same as in the whole."""
    return {finding.rule for finding in (await verified(store, *order_ids)).findings}


@given(st.lists(st.tuples(plots, sides), max_size=8), st.integers(0, 1000))
def test_a_store_that_nobody_touched_is_clean(lives: list[tuple[Plot, Side]], seed: int) -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = MemoryEventStore(partitions=2, store_id="memory", now_us=clock.now_us)
        orders = [await Desk(store, clock, seed + number).live(*life) for number, life in enumerate(lives)]
        report = await verified(store)
        assert report.findings == ()
        assert (report.orders, report.events) == (len(set(orders)), sum(p.position for p in await store.status()))
        if orders:
            assert (await verified(store, *orders)) == replace(report, duration_ms=0)

    run(scenario())


@given(plots, sides, st.data())
def test_a_replay_of_an_untouched_order_is_clean_at_every_point(plot: Plot, side: Side, data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot, side)
        stream = stream_in(trader.store, order_id)
        as_of = data.draw(st.integers(1, len(stream)))
        told = await replay(trader.store, order_id, as_of)
        assert told.findings == ()
        assert [event.seq for event in told.events] == list(range(1, as_of + 1))
        assert [bytes(event.frame or b"") for event in told.events] == [event.data for event in stream[:as_of]]
        assert told.state is not None
        assert told.state.status == told.events[-1].status
        assert all(event.intact and "\n" not in event.says for event in told.events)
        assert msgspec.json.decode(msgspec.json.encode(told))["state"]["amount"] == "1.5"

    run(scenario())


@given(plots, st.data())
def test_a_flipped_bit_anywhere_in_any_event_is_found(plot: Plot, data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        stream = stream_in(trader.store, order_id)
        index = data.draw(st.integers(0, len(stream) - 1), "event")
        flipped = bytearray(stream[index].data)
        flipped[data.draw(st.integers(0, len(flipped) - 1), "byte")] ^= 1 << data.draw(st.integers(0, 7), "bit")
        stream[index] = replace(stream[index], data=bytes(flipped))
        report = await verified(trader.store)
        found = {(finding.rule, finding.seq) for finding in report.findings}
        assert {("chain", index + 1), ("log_differs", index + 1)} <= found
        assert len(set(report.findings)) == report.finding_count
        told = await replay(trader.store, order_id)
        assert "chain" in {finding.rule for finding in told.findings if finding.seq == index + 1}
        assert not told.events[index].intact
        msgspec.json.decode(msgspec.json.encode(told))
        assert await rules(trader.store, order_id) == await rules(trader.store)

    run(scenario())


@given(plots, st.data())
def test_a_missing_event_is_found(plot: Plot, data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        stream = stream_in(trader.store, order_id)
        index = data.draw(st.integers(0, len(stream) - 1))
        del stream[index]
        found = {(finding.rule, finding.seq) for finding in (await verified(trader.store)).findings}
        assert ("stream_missing", index + 1) in found
        assert (("density", index + 2) in found) == (index < len(stream))

    run(scenario())


@given(plots.filter(lambda plot: plot != ("accepted",)), st.data())
def test_two_swapped_events_are_found(plot: Plot, data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        stream = stream_in(trader.store, order_id)
        first, second = sorted(data.draw(st.sets(st.integers(0, len(stream) - 1), min_size=2, max_size=2)))
        one, other = stream[first], stream[second]
        stream[first] = replace(one, data=other.data, hash=other.hash)
        stream[second] = replace(other, data=one.data, hash=one.hash)
        assert {"chain", "identity", "log_differs"} <= await rules(trader.store)

    run(scenario())


@given(st.lists(plots, min_size=1, max_size=4), st.data())
def test_an_altered_log_entry_is_found(lives: list[Plot], data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        (order_id, *_) = [await trader.live(plot) for plot in lives]
        log = log_in(trader.store, order_id)
        index = data.draw(st.integers(0, len(log) - 1), "entry")
        entry = log[index]
        forgeries = {
            "events": (*entry.events[:-1], entry.events[-1] + b" "),
            "commit_id": "another",
            "anchors": (*entry.anchors[:-1], "00000000"),
            "epoch": 2,
            "version": entry.version + 1,
            "stream": stream_id("owner"),
        }
        field = data.draw(st.sampled_from(sorted(forgeries)), "field")
        log[index] = replace(entry, **{field: forgeries[field]})
        assert await rules(trader.store) & {"log_differs", "log_missing", "stream_missing"}
        assert await rules(trader.store, entry.stream) & {"log_differs", "log_missing"}

    run(scenario())


@given(st.lists(plots, min_size=1, max_size=4), st.data())
def test_a_missing_log_entry_is_found(lives: list[Plot], data: st.DataObject) -> None:
    async def scenario() -> None:
        trader = desk()
        orders = [await trader.live(plot) for plot in lives]
        log = log_in(trader.store, orders[0])
        index = data.draw(st.integers(0, len(log) - 1))
        removed = log.pop(index)
        rule = "log_end" if index == len(log) else "log_start" if index == 0 else "log_density"
        assert rule in await rules(trader.store)
        assert await rules(trader.store, removed.stream) & {"log_missing", "log_start"}

    run(scenario())


def test_a_log_entry_without_an_order_of_its_partition_is_found() -> None:
    async def scenario() -> None:
        for stream in ("order-1", f"{stream_id()[:26]}-03"):
            trader = desk()
            order_id = await trader.live(["routing"])
            assert not order_id.endswith("-03")
            log = log_in(trader.store, order_id)
            log[0] = replace(log[0], stream=stream)
            assert "log_entry" in await rules(trader.store)

    run(scenario())


@pytest.mark.parametrize("changes", [{"version": 0}, {"version": 1}, {"anchors": ("00000000", "00000000")}])
def test_a_log_entry_with_impossible_numbers_is_found(changes: dict[str, Any]) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["routing"])
        log = log_in(trader.store, order_id)
        log[1] = replace(log[1], **changes)
        assert "log_entry" in await rules(trader.store)

    run(scenario())


@pytest.mark.parametrize("plot", [["accepted"], ["routing"], ["building"], ["submitted"]])
def test_an_open_order_without_its_task_is_found(plot: Plot) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        assert await rules(trader.store) == set()
        for task in await trader.store.list_tasks(partition_in(order_id)):
            await trader.store.finish_task(task)
        assert await rules(trader.store) == {"obligation"}
        assert await rules(trader.store, order_id) == {"obligation"}

    run(scenario())


@pytest.mark.parametrize("due_ms", [None, 0, 2**52])
@pytest.mark.parametrize("plot", [["no_quote"], ["expired"], ["unknown"]])
def test_an_open_order_without_its_timer_or_with_another_due_time_is_found(plot: Plot, due_ms: int | None) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        assert await rules(trader.store) == set()
        assert isinstance(trader.store, MemoryEventStore)
        timers = trader.store._parts[partition_in(order_id)].indexes["due"]
        (member,) = timers
        if due_ms is None:
            del timers[member]
        else:
            timers[member] = due_ms
        assert await rules(trader.store) == {"obligation"}

    run(scenario())


def test_a_fired_timer_is_as_good_as_the_timer() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["no_quote"])
        await trader.store.fire_timers(10)
        assert list(await trader.store.read_index(partition_in(order_id), "due")) == []
        assert await rules(trader.store) == set()

    run(scenario())


def test_tasks_and_timers_of_orders_that_do_not_exist_are_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["confirmed"])
        assert isinstance(trader.store, MemoryEventStore)
        part = trader.store._parts[partition_in(order_id)]
        part.add_task(stream_id("owner"), "attempt")
        part.indexes["due"] = {f"resolve {stream_id('owner')}": 1, "nonsense": 2}
        report = await verified(trader.store)
        assert [finding.rule for finding in report.findings] == ["unknown_order"] * 3

    run(scenario())


def test_an_order_that_only_its_stream_and_its_task_know_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["accepted"])
        await trader.live(["accepted"])
        log_in(trader.store, order_id).pop(0)
        found = {(finding.rule, finding.order_id) for finding in (await verified(trader.store)).findings}
        assert found == {("log_start", None)}
        log = log_in(trader.store, order_id)
        log.insert(0, replace(log[0], position=1))
        assert ("log_missing", order_id) in {(f.rule, f.order_id) for f in (await verified(trader.store)).findings}

    run(scenario())


def test_an_order_that_is_worked_on_during_the_look_is_no_finding() -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = InterruptedStore(clock)
        trader = Desk(store, clock, owner="owner")
        order_id = await trader.live(["routing"])

        # First look: no timer yet, and then no task any more.
        async def fail_first() -> None:
            await trader.attempt(order_id, "no_quote")

        # Second look: the timer that belonged to the state just read has made place for another.
        async def fail_second() -> None:
            await trader.attempt(order_id, "expired")

        async def nothing() -> None:
            return

        store.before_tasks = [fail_first]
        store.before_index = [nothing, fail_second]
        assert await rules(store) == set()
        assert isinstance((await trader.streams.load(order_id)).state, Waiting)
        assert (store.before_tasks, store.before_index) == ([], [])

    run(scenario())


def test_events_appended_while_the_audit_runs_are_no_finding() -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = InterruptedStore(clock)
        trader = Desk(store, clock, owner="owner")
        await trader.live(["routing"])

        async def another() -> None:
            await trader.live(["confirmed"])
            await trader.live(["accepted"])

        store.before_index = [another, another]
        assert await rules(store) == set()

    run(scenario())


def test_unknown_orders_and_events_beyond_the_end_are_refused() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["routing"])
        with pytest.raises(OrderNotFoundError):
            await replay(trader.store, stream_id())
        with pytest.raises(OrderNotFoundError):
            await verified(trader.store, order_id, stream_id())
        with pytest.raises(BeyondEndError) as refused:
            await replay(trader.store, order_id, 3)
        assert (refused.value.seq, refused.value.version) == (3, 2)

    run(scenario())


def test_as_of_shows_the_state_at_that_event_and_what_is_wrong_up_to_it() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["expired", "confirmed"])
        stream = stream_in(trader.store, order_id)
        stream[-1] = replace(stream[-1], data=b"{}")
        told = await replay(trader.store, order_id, 5)
        assert told.state is not None
        assert (told.seq, told.last_seq, told.findings) == (5, len(stream), ())
        assert (told.state.state, told.state.status, told.state.attempt) == ("Submitted", "submitted", 1)
        assert told.state.tx_id == f"5x{order_id}1"
        whole = await replay(trader.store, order_id)
        assert {finding.rule for finding in whole.findings} >= {"chain", "readable"}
        assert whole.state is None

    run(scenario())


def test_events_out_of_the_logs_order_are_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["confirmed"])
        stream = stream_in(trader.store, order_id)
        assert all(one.position < next_.position for one, next_ in pairwise(stream))
        stream[3] = replace(stream[3], position=1)
        assert (4, "density") in broken(examine(order_id, stream))
        assert {"density", "log_differs"} <= await rules(trader.store)

    run(scenario())


def test_a_long_log_is_checked_in_parts_and_tells_how_far_it_is() -> None:
    async def scenario() -> None:
        trader = desk()
        orders = [await trader.live(["confirmed"]) for _ in range(ORDERS_AT_ONCE + 5)]
        stream = stream_in(trader.store, orders[0])
        stream[0] = replace(stream[0], data=b"{}")
        told: list[tuple[int, int]] = []
        report = await verify(trader.store, None, StepClock().now_us, (), lambda *progress: told.append(progress))
        assert report.orders == len(orders)
        assert {finding.order_id for finding in report.findings} == {orders[0]}
        assert len(told) == trader.store.partitions + 1
        assert told[-1] == (report.events, report.events)

    run(scenario())
