"""What a subscriber and the tailer do about a history that is not the one they have read."""

import asyncio

import pytest

from app.api.resume import read_on
from app.api.streaming.ring import NotChainedError, Ring
from app.api.streaming.tailer import LogRewoundError, Tailer
from app.clock import SystemClock
from eventstore.ids import LOG_START, partition_in
from eventstore.memory import MemoryEventStore
from tests.builders import stream_id
from tests.conftest import append_all, appends, market_life

OWNERS = ("owner", "somebody")


def memory() -> MemoryEventStore:
    return MemoryEventStore(partitions=4, store_id="s", now_us=lambda: 1_800_000_000_000_000)


async def lost_and_written_anew(store: MemoryEventStore) -> None:
    """Every partition loses everything, and gets other orders."""
    store.lose()
    for number in range(store.partitions):
        await store.open_epoch(number, "s", 2, LOG_START)
    for owner in OWNERS:
        await append_all(store, appends(stream_id(owner), market_life("buy")))


def test_a_subscriber_reads_on_after_the_event_that_it_has_and_after_no_other() -> None:
    async def scenario() -> None:
        store, order = memory(), stream_id()
        await append_all(store, appends(order, market_life()))
        events = await store.read_stream(order)
        for event in events:
            frames, more = await read_on(store, order, (event.version, event.cursor.anchor), 100)
            assert ([frame.seq for frame in frames], more) == (list(range(event.version + 1, 7)), False)
            with pytest.raises(NotChainedError):
                await read_on(store, order, (event.version, "00000000"), 100)
        with pytest.raises(NotChainedError):
            await read_on(store, order, (7, "00000000"), 100)

    asyncio.run(scenario())


def test_the_tailer_names_every_partition_that_was_rewound() -> None:
    async def scenario() -> None:
        store = memory()
        ring = Ring(frames_max=100, characters_max=10**6)
        tailer = Tailer(store, ring, SystemClock())
        orders = [stream_id(owner) for owner in OWNERS]
        for order in orders:
            await append_all(store, appends(order, market_life()))
        await tailer.start()
        await lost_and_written_anew(store)
        with pytest.raises(LogRewoundError) as rewound:
            async with asyncio.timeout(10):
                await tailer.run()
        assert set(rewound.value.cursors) == {partition_in(order) for order in orders}

    asyncio.run(scenario())
