"""Parked tasks and dead consumers, on every event store."""

import asyncio
from collections.abc import Sequence

import pytest

from eventstore.errors import ERROR_CHARACTERS_MAX, BadIdError
from eventstore.ids import partition_in
from eventstore.store import EventStore, ParkedTask, Task
from tests.builders import stream_id, with_task
from tests.contract.conftest import RunOnStore

WAIT_SECONDS = 10


async def taken(store: EventStore, stream: str, consumer: str = "w") -> Task:
    """The task of a new stream, held by ``consumer``."""
    await store.append(with_task(stream))
    (task,) = await store.take_tasks(consumer, 10)
    return task


async def owed(store: EventStore, stream: str) -> tuple[int, int, int]:
    """(tasks, pending, parked) of the stream's partition."""
    status = (await store.status())[partition_in(stream)]
    return status.tasks, status.pending, status.parked


async def parked(store: EventStore) -> ParkedTask:
    (task,) = await store.list_parked()
    return task


async def dropped(store: EventStore, idle_ms: int = 0) -> Sequence[str]:
    """What is dropped at the first time that anything is; a consumer's idle time has to grow first."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if names := await store.drop_dead_consumers(idle_ms):
                return names
            await asyncio.sleep(0)


def test_each_taking_and_claiming_is_a_delivery(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.append(with_task(stream))
        (free,) = await store.list_tasks(partition_in(stream))
        assert await store.deliveries(free) == 0
        (task,) = await store.take_tasks("w", 10)
        assert await store.deliveries(task) == 1
        for count in (2, 3, 4):
            assert await store.claim_tasks("other", 0, 10) == [task]
            assert await store.deliveries(task) == count
        await store.finish_task(task)
        assert await store.deliveries(task) == 0

    run_on_store(test)


def test_a_parked_task_leaves_the_workers_and_is_listed_with_its_error(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream, other = stream_id(), stream_id()
        task = await taken(store, stream)
        await store.claim_tasks("w", 0, 10)
        kept = await taken(store, other)
        await store.park_task(task, 'TypeError: "no" \\ such\n  “line”\0')
        record = await parked(store)
        assert record == ParkedTask(
            stream=stream,
            kind="attempt",
            partition=partition_in(stream),
            error='TypeError: "no" \\ such\n  “line”\0',
            deliveries=2,
            parked_ms=record.parked_ms,
            skipped_reason=None,
        )
        assert 1_700_000_000_000 < record.parked_ms < 4_000_000_000_000
        assert await owed(store, stream) == (1, 1, 1)
        assert await store.claim_tasks("w", 0, 10) == [kept]
        assert await store.take_tasks("w", 10) == []

    run_on_store(test)


def test_parking_again_or_after_the_end_changes_nothing(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        task = await taken(store, stream_id())
        await store.park_task(task, "first")
        await store.park_task(task, "second")
        assert (await parked(store)).error == "first"
        ended = await taken(store, stream_id())
        await store.finish_task(ended)
        await store.park_task(ended, "third")
        assert (await parked(store)).error == "first"

    run_on_store(test)


def test_a_later_parked_task_of_a_stream_replaces_the_earlier_one(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.park_task(await taken(store, stream), "first")
        await store.skip_parked(stream, "why not")
        await store.retry_parked(stream)
        (again,) = await store.take_tasks("w", 10)
        await store.park_task(again, "second")
        record = await parked(store)
        assert (record.error, record.skipped_reason, record.deliveries) == ("second", None, 1)

    run_on_store(test)


def test_a_retried_task_is_a_new_task_of_the_same_kind(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        task = await taken(store, stream)
        await store.park_task(task, "broken")
        waiting = asyncio.create_task(store.take_tasks("w", 10, WAIT_SECONDS))
        assert await store.retry_parked(stream)
        (again,) = await waiting
        assert (again.stream, again.kind, again.partition) == (stream, "attempt", task.partition)
        assert again.id != task.id
        assert await store.deliveries(again) == 1
        assert await store.list_parked() == []
        assert not await store.retry_parked(stream)
        assert await owed(store, stream) == (1, 1, 0)

    run_on_store(test)


def test_a_skipped_task_keeps_its_record_and_can_be_retried(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await store.park_task(await taken(store, stream), "é\0/“")
        before = await parked(store)
        assert await store.skip_parked(stream, 'paid "by hand"\n\ud800')
        after = await parked(store)
        assert (after.error, after.deliveries, after.parked_ms) == (before.error, 1, before.parked_ms)
        assert after.skipped_reason == 'paid "by hand"\n?'
        assert await owed(store, stream) == (0, 0, 1)
        assert await store.retry_parked(stream)
        assert await owed(store, stream) == (1, 0, 0)

    run_on_store(test)


def test_a_stream_without_a_parked_task_can_be_neither_retried_nor_skipped(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        stream = stream_id()
        await taken(store, stream)
        assert not await store.retry_parked(stream)
        assert not await store.skip_parked(stream, "why")
        assert await store.list_parked() == []
        assert await owed(store, stream) == (1, 1, 0)
        for change in (store.retry_parked("order-1"), store.skip_parked("order-1", "why")):
            with pytest.raises(BadIdError):
                await change

    run_on_store(test)


def test_an_error_is_cut_and_what_utf_8_cannot_express_is_replaced(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await store.park_task(await taken(store, stream_id()), "\ud800" + "é" * 3_000)
        assert (await parked(store)).error == "?" + "é" * (ERROR_CHARACTERS_MAX - 1)

    run_on_store(test)


def test_parked_tasks_are_listed_by_partition_oldest_first(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = [stream_id(f"owner {number}") for number in range(12)]
        for stream in streams:
            await store.park_task(await taken(store, stream), "broken")
        listed = await store.list_parked()
        assert {task.stream for task in listed} == set(streams)
        assert all(task.partition == partition_in(task.stream) for task in listed)
        assert list(listed) == sorted(listed, key=lambda task: (task.partition, task.parked_ms, task.stream))
        assert sum(status.parked for status in await store.status()) == 12

    run_on_store(test)


def test_a_dead_consumer_is_dropped_only_where_it_holds_nothing(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        # One owner: both consumers are known in the same partition, and the one that holds a task is idle for longer.
        held = await taken(store, stream_id(), "holding")
        await store.finish_task(await taken(store, stream_id(), "idle"))
        assert await store.drop_dead_consumers(600_000) == []
        names: set[str] = set()
        while "idle" not in names:
            names |= set(await dropped(store))
        assert await owed(store, held.stream) == (1, 1, 0)
        assert await store.claim_tasks("alive", 0, 10) == [held]
        # It was still known there.
        names.clear()
        while "holding" not in names:
            names |= set(await dropped(store))

    run_on_store(test)


def test_a_dropped_consumer_that_is_alive_goes_on_taking_tasks(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await store.finish_task(await taken(store, stream_id(), "alive"))
        waiting = asyncio.create_task(store.take_tasks("alive", 10, WAIT_SECONDS))
        await asyncio.sleep(0)
        assert "alive" in await dropped(store)
        stream = stream_id()
        await store.append(with_task(stream))
        (task,) = await waiting
        assert task.stream == stream
        assert await store.deliveries(task) == 1

    run_on_store(test)
