"""What every event store does: the suite behind the port's docstrings."""

import asyncio

import pytest

from eventstore.canonical import chain_fault
from eventstore.errors import BadIdError, IdempotencyConflictError, PositionMissingError, WrongVersionError
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.store import (
    Append,
    Appended,
    Duplicate,
    EventStore,
    Existing,
    IdempotencyKey,
    IndexEntry,
    StoredCommit,
)
from tests.builders import events, first_append, keyed, stream_id, with_task, with_timer
from tests.contract.conftest import RunOnStore


async def whole_log(store: EventStore) -> dict[int, list[StoredCommit]]:
    commits = await store.read_log(dict.fromkeys(range(store.partitions), LOG_START), 1000)
    return {number: [c for c in commits if c.partition == number] for number in range(store.partitions)}


def test_an_append_is_read_back_with_dense_versions_and_positions(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        result = await store.append(first_append(stream, 3))
        stored = await store.read_stream(stream)
        assert isinstance(result, Appended)
        assert (result.version, result.position) == (3, 3)
        assert [event.version for event in stored] == [1, 2, 3]
        assert [event.position for event in stored] == [1, 2, 3]
        assert tuple(event.data for event in stored) == tuple(event.data for event in events(3))
        assert {event.commit_id for event in stored} == {"c1"}

    run_on_store(test)


def test_the_log_holds_one_entry_per_commit_with_the_same_bytes(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream, 2))
        head = events(2)[-1].hash
        second = events(1, prev=head, first=3)
        await store.append(Append(stream=stream, expected_version=2, expected_hash=head, commit_id="c2", events=second))
        commits = (await whole_log(store))[partition_in(stream)]
        stored = await store.read_stream(stream)
        assert [(c.position, c.version, c.commit_id, len(c.events)) for c in commits] == [
            (2, 2, "c1", 2),
            (3, 3, "c2", 1),
        ]
        assert [data for c in commits for data in c.events] == [event.data for event in stored]
        assert [anchor for c in commits for anchor in c.anchors] == [event.hash[:8] for event in stored]
        assert commits[0].recorded_us <= commits[1].recorded_us

    run_on_store(test)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 9])
def test_reading_a_stream_after_a_version_returns_only_what_follows(run_on_store: RunOnStore, after: int) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream, 5))
        assert [event.version for event in await store.read_stream(stream, after)] == list(range(after + 1, 6))
        assert [event.version for event in await store.read_stream(stream, after, 2)] == list(range(after + 1, 6))[:2]

    run_on_store(test)


def test_a_stream_is_read_without_a_hole_while_it_grows(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream))
        head, seen = events(1)[0].hash, 1
        for version in range(2, 40):
            (event,) = events(1, prev=head, first=version)
            commit = Append(
                stream=stream,
                expected_version=version - 1,
                expected_hash=head,
                commit_id=f"c{version}",
                events=(event,),
            )
            read, _ = await asyncio.gather(store.read_stream(stream, seen), store.append(commit))
            assert [event.version for event in read] == list(range(seen + 1, seen + 1 + len(read)))
            seen += len(read)
            head = event.hash

    run_on_store(test)


def test_an_unknown_stream_is_empty_and_a_malformed_id_is_refused(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        assert list(await store.read_stream(stream_id())) == []
        with pytest.raises(BadIdError):
            await store.read_stream("order-1")

    run_on_store(test)


@pytest.mark.parametrize("version,head", [(0, ""), (1, "x"), (2, "good"), (1, "")])
def test_an_append_at_another_head_writes_nothing(run_on_store: RunOnStore, version: int, head: str) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream))
        real = events(1)[0].hash
        late = Append(
            stream=stream,
            expected_version=version,
            expected_hash=real if head == "good" else head,
            commit_id="other",
            events=events(1),
            add_task="attempt",
            set_entries=(IndexEntry("due", "x", 1),),
        )
        with pytest.raises(WrongVersionError) as refused:
            await store.append(late)
        assert (refused.value.version, refused.value.hash) == (1, real)
        assert [event.commit_id for event in await store.read_stream(stream)] == ["c1"]
        assert (await store.status())[partition_in(stream)].tasks == 0
        assert list(await store.read_index(partition_in(stream), "due")) == []

    run_on_store(test)


def test_an_append_that_is_sent_again_returns_its_original_numbers(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        commit = first_append(stream, 2)
        first = await store.append(commit)
        head = events(2)[-1].hash
        following = events(1, prev=head, first=3)
        await store.append(
            Append(stream=stream, expected_version=2, expected_hash=head, commit_id="c2", events=following)
        )
        again = await store.append(commit)
        assert isinstance(first, Appended)
        assert isinstance(again, Duplicate)
        assert (again.version, again.epoch, again.position) == (first.version, first.epoch, first.position)
        assert len(await store.read_stream(stream)) == 3

    run_on_store(test)


def test_of_concurrent_appends_at_one_version_exactly_one_succeeds(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        results = await asyncio.gather(
            *(store.append(first_append(stream, commit_id=f"c{n}")) for n in range(20)), return_exceptions=True
        )
        winners = [result for result in results if isinstance(result, Appended)]
        losers = [result for result in results if isinstance(result, WrongVersionError)]
        assert (len(winners), len(losers)) == (1, 19)
        assert len(await store.read_stream(stream)) == 1

    run_on_store(test)


def test_concurrent_appends_to_many_streams_leave_dense_logs_of_whole_chains(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = [stream_id(owner=f"client {n}") for n in range(60)]
        await asyncio.gather(*(store.append(first_append(stream, 1 + n % 3)) for n, stream in enumerate(streams)))
        ends = await store.log_ends()
        seen: set[str] = set()
        for number, commits in (await whole_log(store)).items():
            position = 0
            for commit in commits:
                assert commit.position == position + len(commit.events)
                position = commit.position
                prev = ""
                for data, event in zip(commit.events, await store.read_stream(commit.stream), strict=True):
                    assert chain_fault(data, prev) is None
                    prev = event.hash
                seen.add(commit.stream)
            assert ends[number].position == position
        assert seen == set(streams)

    run_on_store(test)


def test_an_idempotency_key_leads_to_the_first_stream(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        key = IdempotencyKey("client", "key-1", "f1")
        first, second, third = (stream_id(owner="client") for _ in range(3))
        await store.append(keyed(first, key, "c1"))
        repeated = await store.append(keyed(second, key, "c2"))
        assert isinstance(repeated, Existing)
        assert repeated.stream == first
        with pytest.raises(IdempotencyConflictError) as refused:
            await store.append(keyed(third, IdempotencyKey("client", "key-1", "f2"), "c3"))
        assert refused.value.stream == first
        assert list(await store.read_stream(second)) == []
        assert list(await store.read_stream(third)) == []
        other_scope = await store.append(keyed(third, IdempotencyKey("other", "key-1", "f2"), "c4"))
        assert isinstance(other_scope, Appended)

    run_on_store(test)


def test_a_keyed_append_that_is_sent_again_is_a_duplicate(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        commit = keyed(stream_id(owner="client"), IdempotencyKey("client", "k", "f"), "c1")
        await store.append(commit)
        assert isinstance(await store.append(commit), Duplicate)

    run_on_store(test)


def test_a_task_is_taken_once_and_gone_when_an_append_finishes_it(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(with_task(stream))
        (task,) = await store.take_tasks("w1", 10)
        assert (task.stream, task.kind) == (stream, "attempt")
        assert list(await store.take_tasks("w2", 10)) == []
        assert [(s.tasks, s.pending) for s in await store.status() if s.tasks] == [(1, 1)]
        head = events(1)[0].hash
        await store.append(
            Append(
                stream=stream,
                expected_version=1,
                expected_hash=head,
                commit_id="c2",
                events=events(1, prev=head, first=2),
                finish_task=task,
            )
        )
        assert [(s.tasks, s.pending) for s in await store.status() if s.tasks or s.pending] == []
        assert list(await store.claim_tasks("w2", 0, 10)) == []

    run_on_store(test)


def test_a_dead_workers_task_is_claimed_and_may_be_finished_without_events(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await store.append(with_task(stream_id()))
        (task,) = await store.take_tasks("dead", 10)
        assert list(await store.claim_tasks("alive", 60_000, 10)) == []
        assert list(await store.claim_tasks("alive", 0, 10)) == [task]
        await store.finish_task(task)
        await store.finish_task(task)
        assert list(await store.claim_tasks("alive", 0, 10)) == []
        assert sum(s.tasks for s in await store.status()) == 0

    run_on_store(test)


def test_unfinished_tasks_are_listed_oldest_first_whoever_holds_them(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = [stream_id() for _ in range(3)]
        for stream in streams[:2]:
            await store.append(with_task(stream))
        held = await store.take_tasks("w", 10)
        await store.append(with_task(streams[2]))
        listed = await store.list_tasks(partition_in(streams[0]))
        assert [task.stream for task in listed] == streams
        assert list(listed[:2]) == list(held)
        await store.finish_task(held[0])
        assert [task.stream for task in await store.list_tasks(partition_in(streams[0]))] == streams[1:]
        # Listing took nothing: the third task is still free.
        assert [task.stream for task in await store.take_tasks("w", 10)] == streams[2:]

    run_on_store(test)


def test_long_lists_of_tasks_are_listed_whole(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = [stream_id() for _ in range(1001)]
        await asyncio.gather(*(store.append(with_task(stream)) for stream in streams))
        listed = await store.list_tasks(partition_in(streams[0]))
        assert sorted(task.stream for task in listed) == sorted(streams)

    run_on_store(test)


def test_a_waiting_worker_wakes_when_a_task_is_added(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        taking = asyncio.create_task(store.take_tasks("w", 10, 10))
        await asyncio.sleep(0)
        await store.append(with_task(stream))
        assert [task.stream for task in await asyncio.wait_for(taking, 5)] == [stream]

    run_on_store(test)


def test_due_timers_become_tasks_and_later_ones_wait(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        now, later = stream_id(), stream_id()
        await store.append(with_timer(now, 1))
        await store.append(with_timer(later, 2**52))
        wait_ms = await store.fire_timers(100)
        assert wait_ms is not None
        assert wait_ms > 10**9
        assert [task.stream for task in await store.take_tasks("w", 10)] == [now]
        assert list(await store.read_index(partition_in(later), "due")) == [
            IndexEntry("due", f"resolve {later}", 2**52)
        ]

    run_on_store(test)


def test_an_append_clears_the_timer_it_names(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(with_timer(stream, 1))
        head = events(1)[0].hash
        await store.append(
            Append(
                stream=stream,
                expected_version=1,
                expected_hash=head,
                commit_id="c2",
                events=events(1, prev=head, first=2),
                clear_entries=(("due", f"resolve {stream}"),),
            )
        )
        assert await store.fire_timers(100) is None
        assert list(await store.take_tasks("w", 10)) == []

    run_on_store(test)


def test_reading_the_log_waits_for_the_next_commit_and_times_out_empty(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        start = dict.fromkeys(range(store.partitions), LOG_START)
        assert list(await store.read_log(start, 10, 0.01)) == []
        reading = asyncio.create_task(store.read_log(start, 10, 10))
        await asyncio.sleep(0)
        await store.append(first_append(stream))
        assert [commit.stream for commit in await asyncio.wait_for(reading, 5)] == [stream]

    run_on_store(test)


def test_the_log_is_read_in_pages_without_gap_or_repeat(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = [stream_id() for _ in range(7)]
        for stream in streams:
            await store.append(first_append(stream, 2))
        at, seen = {partition_in(streams[0]): LOG_START}, []
        while page := await store.read_log(at, 3):
            assert len(page) <= 3
            seen += [commit.stream for commit in page]
            at = {partition_in(streams[0]): page[-1].end}
        assert seen == streams

    run_on_store(test)


def test_a_reader_beyond_the_end_of_the_log_is_told(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream))
        with pytest.raises(PositionMissingError):
            await store.read_log({partition_in(stream): Cursor(1, 7)}, 10)

    run_on_store(test)


@pytest.mark.parametrize("count", [0, 513])
def test_too_few_or_too_many_events_are_refused(run_on_store: RunOnStore, count: int) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        with pytest.raises(ValueError, match="1 to 512"):
            await store.append(first_append(stream, count))
        assert list(await store.read_stream(stream)) == []

    run_on_store(test)
