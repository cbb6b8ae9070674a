"""What an append takes along: the task is finished, and the next one, its timer or trigger set, by its events."""

import asyncio
import secrets

import pytest

from app.execution.streams import CLOSED, OrderStreams, duties
from app.orders.commands import PlaceOrder, RetryDraw, RouteAttempt, StartAttempt
from app.orders.state import CancelPending, Submitted, Terminal
from eventstore.canonical import seal
from eventstore.errors import QueueFullError, WrongVersionError
from eventstore.hot import Duties
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import WAITING, Append, AppendResult, IndexEntry, StoredEvent
from tests.builders import stream_id
from tests.clocks import START_US, StepClock
from tests.desk import EXPIRY_MS, LIVES, Desk, desk, stream_in

PLACE = PlaceOrder(
    side="sell",
    base_asset="SOL",
    quote_asset="USDC",
    base_decimals=9,
    quote_decimals=6,
    amount=1_000_000_000,
    slippage_bps=50,
)
NO_QUOTE = RouteAttempt(
    slot=1,
    quotes=(),
    selection=None,
    retry=RetryDraw(now_us=START_US, jitter_ppm=1_000_000, speed_ppm=1_000_000),
)


def test_task_addition_and_its_end_are_part_of_the_appends_that_cause_them() -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = MemoryEventStore(partitions=4, store_id="s", now_us=clock.now_us)
        streams = OrderStreams(store, clock, bytes, "test")
        order_id = streams.new_order_id("client", None)
        partition = partition_in(order_id)

        async def owed() -> tuple[int, int, int]:
            status = (await store.status())[partition]
            return status.tasks, status.pending, status.timers

        await streams.place(order_id, "client", PLACE)
        assert await owed() == (1, 0, 0)
        (task,) = await store.take_tasks("w", 1)
        started = await streams.record(await streams.load(order_id), StartAttempt(), task)
        assert not started.finished
        assert await owed() == (1, 1, 0)
        ended = await streams.record(started.order, NO_QUOTE, task)
        assert ended.finished
        assert await owed() == (0, 0, 1)
        due_ms = START_US // 1_000 + 500
        assert list(await store.read_index(partition, "due")) == [IndexEntry("due", f"attempt {order_id}", due_ms)]

    asyncio.run(scenario())


def test_a_stream_that_cannot_be_folded_is_owed_an_attempt_that_shows_why() -> None:
    newer = seal({"orderId": "o", "seq": 1, "at": "2027-01-15T08:00:00.000000Z", "meta": {"type": "Unheard"}}, "")
    event = StoredEvent(1, 1, 1, "c", newer.hash, newer.data)
    assert duties("o", [event]) == Duties(add_task="attempt")


def test_the_duties_of_a_resting_order_are_its_place_and_its_end() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest", "fire", "guarded", "accepted", "over"], "sell", "limit")
        said = duties(order_id, stream_in(trader.store, order_id))
        end_ms = START_US // 1000 + EXPIRY_MS
        assert said.add_task is None
        assert set(said.set_entries) == {
            IndexEntry("resting:SOL/USDC:rises_to", order_id, -18_971),
            IndexEntry("due", f"expire {order_id}", end_ms),
        }
        assert said.clear_entries == (("due", f"attempt {order_id}"), ("due", f"resolve {order_id}"))

    asyncio.run(scenario())


def test_the_duties_of_an_order_that_rested_clear_every_place_it_had() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest", "cancel"], "sell", "limit")
        said = duties(order_id, stream_in(trader.store, order_id))
        assert [(entry.index, entry.member) for entry in said.set_entries] == [(CLOSED, order_id)]
        timers = {("due", f"{kind} {order_id}") for kind in ("attempt", "resolve", "expire")}
        assert set(said.clear_entries) == {*timers, ("resting:SOL/USDC:rises_to", order_id)}

    asyncio.run(scenario())


def test_a_new_order_waits_in_the_lane_of_its_client_and_is_refused_by_a_full_queue() -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = MemoryEventStore(partitions=1, store_id="s", now_us=clock.now_us)
        streams = OrderStreams(store, clock, secrets.token_bytes, "test", queue_max=66)
        for _ in range(66):
            await streams.place(streams.new_order_id("client", None), "client", PLACE)
        assert len(await store.read_index(0, WAITING)) == 2
        refused = streams.new_order_id("client", None)
        with pytest.raises(QueueFullError):
            await streams.place(refused, "client", PLACE)
        assert await store.read_stream(refused) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("life", LIVES)
def test_a_cancellation_changes_open_orders_once_and_ended_ones_never(life: str) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(LIVES[life][1], "sell", LIVES[life][0])
        before = (await trader.streams.load(order_id)).state
        first = await trader.streams.cancel(order_id, "client")
        assert first.changed == (not isinstance(before, Terminal | CancelPending))
        assert isinstance(first.order.state, CancelPending) == isinstance(before, Submitted | CancelPending)
        assert isinstance(first.order.state, CancelPending | Terminal)
        again = await trader.streams.cancel(order_id, "somebody")
        assert (again.changed, again.order) == (False, first.order)

    asyncio.run(scenario())


def test_an_unknown_order_is_not_cancelled() -> None:
    async def scenario() -> None:
        answer = await desk().streams.cancel(stream_id(), "client")
        assert (answer.changed, answer.order.version) == (False, 0)

    asyncio.run(scenario())


class BusyStore(MemoryEventStore):
    """Lets a worker be first at the next ``races`` appends."""

    races = 0

    async def append(self, commit: Append) -> AppendResult:
        if self.races:
            self.races -= 1
            raise WrongVersionError(commit.stream, commit.expected_version, commit.expected_version + 1, "")
        return await super().append(commit)


@pytest.mark.parametrize(("races", "cancelled"), [(15, True), (16, False)])
def test_a_cancellation_outlasts_fifteen_races_and_then_tells_that_it_lost(races: int, cancelled: bool) -> None:
    async def scenario() -> None:
        clock = StepClock()
        store = BusyStore(partitions=4, store_id="s", now_us=clock.now_us)
        trader = Desk(store, clock)
        order_id = await trader.live(["routing"])
        store.races = races
        if cancelled:
            assert (await trader.streams.cancel(order_id, "client")).changed
        else:
            with pytest.raises(WrongVersionError):
                await trader.streams.cancel(order_id, "client")

    asyncio.run(scenario())
