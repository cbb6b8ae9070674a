"""What an append takes along: the task is finished, and the next one or its timer set, by the events that say so."""

import asyncio

from app.execution.streams import OrderStreams, duties
from app.orders.commands import PlaceOrder, RetryDraw, RouteAttempt, StartAttempt
from eventstore.canonical import seal
from eventstore.hot import Duties
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import IndexEntry, StoredEvent
from tests.clocks import START_US, StepClock

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
