"""Ranges of sorted indexes, marks and rates, on every event store."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from eventstore.hot import HotStore
from eventstore.ids import partition_in
from eventstore.store import EventStore, IndexEntry, IndexRange
from tests.builders import first_append, stream_id
from tests.contract.conftest import RunOnHotStore, RunOnStore

PARTITION = partition_in(stream_id())
OTHER = (PARTITION + 1) % 4
HOUR_MS = 3_600_000
GREATEST = 2**53 - 1
WAIT_SECONDS = 10


async def indexed(store: EventStore, entries: Sequence[IndexEntry]) -> None:
    await store.append(replace(first_append(stream_id()), set_entries=tuple(entries)))


def test_ranges_of_indexes_are_read_together_each_with_its_bounds(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        low = [IndexEntry("bids", f"m{score}", score) for score in (-GREATEST, -3, 0, 7, 7_000, GREATEST)]
        high = [IndexEntry("asks", name, 5) for name in ("a", "b", "c")]
        await indexed(store, [*reversed(low), *reversed(high)])
        asked = [
            IndexRange("bids", None, None),
            IndexRange("bids", -3, 7),
            IndexRange("bids", None, -3),
            IndexRange("bids", 7, None, 1),
            IndexRange("bids", 8, 7),
            IndexRange("asks", 5, 5, 1),
            IndexRange("asks", 5, 5, 4),
            IndexRange("unknown", None, None),
        ]
        found = await store.find_entries(PARTITION, asked, 10)
        expected = [low, low[1:4], low[:2], low[4:], [], high[1:], [], []]
        assert [list(entries) for entries in found] == expected
        assert [list(entries) for entries in await store.find_entries(PARTITION, asked[:2], 2)] == [low[:2], low[1:3]]
        assert [list(entries) for entries in await store.find_entries(OTHER, asked[:1], 2)] == [[]]
        assert list(await store.find_entries(PARTITION, [], 10)) == []

    run_on_store(test)


def test_entries_are_counted_by_index(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await indexed(store, [IndexEntry("bids", "a", 1), IndexEntry("asks", "a", 1), IndexEntry("asks", "b", 1)])
        assert list(await store.count_entries(PARTITION, ["asks", "unknown", "bids"])) == [2, 0, 1]
        assert list(await store.count_entries(OTHER, ["asks"])) == [0]
        assert list(await store.count_entries(PARTITION, [])) == []

    run_on_store(test)


def test_a_mark_never_goes_back(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        assert await store.read_mark(PARTITION, "slot") is None
        for value, expected in ((-5, -5), (3, 3), (2, 3), (GREATEST, GREATEST), (0, GREATEST)):
            await store.advance_mark(PARTITION, "slot", value)
            assert await store.read_mark(PARTITION, "slot") == expected
        assert await store.read_mark(PARTITION, "other") is None
        assert await store.read_mark(OTHER, "slot") is None

    run_on_store(test)


def test_a_rates_burst_is_taken_at_once_and_a_refusal_takes_nothing(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        async def take(partition: int = PARTITION, name: str = "client a") -> int:
            return (await store.take_rate(partition, name, 3, HOUR_MS)).wait_ms

        first = await store.take_rate(PARTITION, "client a", 3, HOUR_MS)
        assert (first.wait_ms, first.left, first.more_ms) == (0, 2, HOUR_MS // 3)
        assert [await take() for _ in range(2)] == [0, 0]
        waits = [await take() for _ in range(5)]
        # The first of the three is free again after a third of the period, however often it is asked for.
        assert HOUR_MS // 3 - 60_000 < waits[-1] <= waits[0] <= HOUR_MS // 3
        assert await take(name="client b") == 0
        assert await take(partition=OTHER) == 0

    run_on_store(test)


def test_what_was_taken_is_free_again_after_its_time(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(3):
                while wait_ms := (await store.take_rate(PARTITION, "client", 1, 2)).wait_ms:
                    assert wait_ms in (1, 2)

    run_on_store(test)


@pytest.mark.parametrize("count,period_ms", [(0, 1000), (-1, 1000), (1, 0), (1001, 1), (1, 24 * HOUR_MS + 1)])
def test_a_rate_that_is_none_is_refused(run_on_store: RunOnStore, count: int, period_ms: int) -> None:
    async def test(store: EventStore) -> None:
        with pytest.raises(ValueError, match="a rate is"):
            await store.take_rate(PARTITION, "client", count, period_ms)

    run_on_store(test)


def test_marks_and_rates_leave_with_their_partition(run_on_hot_store: RunOnHotStore) -> None:
    async def test(store: HotStore) -> None:
        await store.advance_mark(PARTITION, "slot", 3)
        taken = [await store.take_rate(PARTITION, "client", 1, HOUR_MS) for _ in range(2)]
        assert [one.wait_ms > 0 for one in taken] == [False, True]
        await store.discard_partition(PARTITION)
        assert await store.read_mark(PARTITION, "slot") is None
        assert (await store.take_rate(PARTITION, "client", 1, HOUR_MS)).wait_ms == 0

    run_on_hot_store(test)
