"""What every store does for the keeper of the second copy: find what has ended, remove it, trim, discard."""

import time

import pytest

from eventstore.errors import EpochStaleError
from eventstore.hot import ClosedStream, HotStore
from eventstore.ids import LOG_START
from eventstore.store import Append, Existing, IdempotencyKey, IndexEntry
from tests.builders import events, first_append, keyed, stream_id
from tests.clocks import START_US
from tests.contract.conftest import RunOnHotStore

INDEX = "closed"


def ended(stream: str, ended_ms: int) -> Append:
    """The append that creates ``stream`` and ends it."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(1),
        set_entries=(IndexEntry(INDEX, stream, ended_ms),),
    )


def test_what_ended_before_a_time_is_found_in_that_order_and_in_pages(run_on_hot_store: RunOnHotStore) -> None:
    async def test(hot: HotStore) -> None:
        streams = [stream_id() for _ in range(4)]
        partition = int(streams[0][-2:])
        for stream, ended_ms in zip(streams, (1_700_000_000_003, 1_700_000_000_001, 1_700_000_000_004, 2), strict=True):
            await hot.append(ended(stream, ended_ms))

        found = await hot.ended_before(partition, INDEX, 1_700_000_000_004, 10)

        assert [entry.member for entry in found] == [streams[3], streams[1], streams[0]]
        assert found[1] == IndexEntry(INDEX, streams[1], 1_700_000_000_001)
        assert await hot.ended_before(partition, INDEX, 1_700_000_000_004, 1, 1) == [found[1]]
        assert await hot.ended_before(partition, INDEX, 2, 10) == []
        assert await hot.ended_before(partition, "other", 2**52, 10) == []

    run_on_hot_store(test)


def test_no_mark_moves_in_a_closed_partition(run_on_hot_store: RunOnHotStore) -> None:
    async def test(hot: HotStore) -> None:
        await hot.advance_mark(0, "walked", 7)
        await hot.close_partition(0)

        with pytest.raises(EpochStaleError):
            await hot.advance_mark(0, "walked", 9)

        assert await hot.read_mark(0, "walked") == 7

    run_on_hot_store(test)


def test_the_servers_clock_is_told_in_milliseconds(run_on_hot_store: RunOnHotStore) -> None:
    async def test(hot: HotStore) -> None:
        now_ms = await hot.now_ms(0)

        assert min(abs(now_ms - here_ms) for here_ms in (START_US // 1000, time.time_ns() // 10**6)) < 60_000

    run_on_hot_store(test)


def test_an_ended_stream_leaves_with_record_and_entry_unless_it_went_on(
    run_on_hot_store: RunOnHotStore,
) -> None:
    async def test(hot: HotStore) -> None:
        key = IdempotencyKey("client", "key", "f" * 32)
        first, other = stream_id(), stream_id()
        partition = int(first[-2:])
        await hot.append(keyed(first, key, "c1"))
        await hot.append(ended(other, 5))
        head = events(1)[0].hash
        wrong = [ClosedStream(other, 2, head, None), ClosedStream(other, 1, "0" * 64, None)]

        assert await hot.remove_closed(partition, wrong, INDEX) == []
        gone = [ClosedStream(first, 1, head, ("client", "key")), ClosedStream(other, 1, head, ("client", "key"))]
        assert await hot.remove_closed(partition, gone, INDEX) == [first, other]

        assert await hot.list_streams(partition) == []
        assert await hot.ended_before(partition, INDEX, 2**52, 10) == []
        again = stream_id()
        assert not isinstance(await hot.append(keyed(again, key, "c2")), Existing)

    run_on_hot_store(test)


def test_removing_a_stream_leaves_another_streams_idempotency_record(run_on_hot_store: RunOnHotStore) -> None:
    async def test(hot: HotStore) -> None:
        key = IdempotencyKey("client", "key", "f" * 32)
        first, other = stream_id(), stream_id()
        await hot.append(keyed(first, key, "c1"))
        await hot.append(ended(other, 5))
        closed = ClosedStream(other, 1, events(1)[0].hash, ("client", "key"))

        await hot.remove_closed(int(first[-2:]), [closed], INDEX)

        result = await hot.append(keyed(stream_id(), key, "c2"))
        assert isinstance(result, Existing)
        assert result.stream == first

    run_on_hot_store(test)


def test_trimming_keeps_the_entry_that_holds_the_position(run_on_hot_store: RunOnHotStore) -> None:
    async def test(hot: HotStore) -> None:
        streams = [stream_id() for _ in range(4)]
        partition = int(streams[0][-2:])
        for stream in streams:
            await hot.append(first_append(stream, 2))
        commits = await hot.read_log({partition: LOG_START}, 10)

        assert await hot.trim_log(partition, commits[2].end) == 2
        assert await hot.trim_log(partition, commits[2].end) == 0
        assert await hot.log_start(partition) == 5
        assert await hot.read_log({partition: commits[2].end}, 10) == [commits[3]]

    run_on_hot_store(test)


def test_a_discarded_partition_is_empty_and_closed_and_others_stay(
    run_on_hot_store: RunOnHotStore,
) -> None:
    async def test(hot: HotStore) -> None:
        gone, kept = stream_id("owner"), stream_id("somebody")
        partition, other = int(gone[-2:]), int(kept[-2:])
        assert partition != other
        await hot.append(ended(gone, 5))
        await hot.append(ended(kept, 5))

        assert sorted(await hot.list_streams(partition)) == [gone]
        assert await hot.discard_partition(partition) > 0

        record = await hot.partition_record(partition)
        assert (record.store_id, record.epoch, record.end, record.is_open) == ("", 0, LOG_START, False)
        assert await hot.list_streams(partition) == []
        assert await hot.ended_before(partition, INDEX, 2**52, 10) == []
        with pytest.raises(EpochStaleError):
            await hot.append(first_append(stream_id("owner")))
        assert await hot.list_streams(other) == [kept]
        assert await hot.discard_partition(partition) == 0

    run_on_hot_store(test)
