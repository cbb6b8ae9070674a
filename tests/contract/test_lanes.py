"""Tasks of new streams that wait for their lane's turn, and the limit on them, on every event store."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.errors import IdempotencyConflictError, QueueFullError, WrongVersionError
from eventstore.hot import HotStore
from eventstore.ids import partition_in
from eventstore.store import (
    DIRECT_MAX,
    WAITING,
    Append,
    Appended,
    Duplicate,
    EventStore,
    Existing,
    IdempotencyKey,
    IndexEntry,
    PartitionStatus,
)
from tests.builders import events, first_append, keyed, stream_id, with_task
from tests.contract.conftest import RunOnHotStore, RunOnStore, memory_store

PARTITION = partition_in(stream_id())
WAIT_SECONDS = 20


def in_lane(stream: str, lane: str = "a") -> Append:
    """The append that creates ``stream`` with a task that waits in ``lane``."""
    return replace(with_task(stream), lane=lane)


def after_first(stream: str, commit_id: str = "c2") -> Append:
    """The second append of a stream, with a task of a lane."""
    head = events(1)[0].hash
    following = events(1, prev=head, first=2)
    return replace(in_lane(stream), expected_version=1, expected_hash=head, commit_id=commit_id, events=following)


async def flood(store: EventStore, lane: str, count: int) -> list[str]:
    """Begin ``count`` streams in a lane; return them, oldest first."""
    streams = [stream_id() for _ in range(count)]
    await asyncio.gather(*(store.append(in_lane(stream, lane)) for stream in streams))
    return streams


async def worked(store: EventStore, limit: int = 10) -> list[str]:
    """Take and finish tasks as a worker does until there is none; return their streams in that order."""
    done: list[str] = []
    while tasks := await store.take_tasks("w", limit):
        done += [task.stream for task in tasks]
        await asyncio.gather(*(store.finish_task(task) for task in tasks))
    return done


async def queue(store: EventStore) -> PartitionStatus:
    return (await store.status())[PARTITION]


def test_one_lanes_flood_delays_another_lanes_task_by_little(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        many = await flood(store, "a", 300)
        (one,) = await flood(store, "b", 1)
        done = await worked(store)
        assert sorted(done) == sorted([*many, one])
        assert done.index(one) <= DIRECT_MAX + 1

    run_on_store(test)


def test_lanes_that_wait_take_turns(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        many = await flood(store, "a", DIRECT_MAX + 30)
        fewer = {lane: await flood(store, lane, 3) for lane in ("b", "")}
        done = await worked(store, 1)
        assert sorted(done[:DIRECT_MAX]) == sorted(many[:DIRECT_MAX])
        rest = done[DIRECT_MAX:]
        for lane, streams in fewer.items():
            assert [stream for stream in rest if stream in streams] == streams, lane
            assert all(rest.index(stream) < 3 * (place + 1) for place, stream in enumerate(streams))

    run_on_store(test)


def test_a_waiting_task_is_in_its_index_and_not_yet_a_task(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        direct = await flood(store, "a", DIRECT_MAX)
        assert await store.count_entries(PARTITION, [WAITING]) == [0]
        waiting = [*await flood(store, "a", 2), *await flood(store, "b", 1)]
        assert await store.read_index(PARTITION, WAITING) == [
            IndexEntry(WAITING, f"attempt {waiting[0]}", 1),
            IndexEntry(WAITING, f"attempt {waiting[2]}", 1),
            IndexEntry(WAITING, f"attempt {waiting[1]}", 2),
        ]
        listed = [task.stream for task in await store.list_tasks(PARTITION)]
        assert sorted(listed) == sorted(direct)
        status = await queue(store)
        assert (status.tasks, status.pending, status.waiting) == (DIRECT_MAX, 0, 3)

    run_on_store(test)


def test_a_lane_is_for_the_tasks_of_new_streams_alone(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        first, *_ = await flood(store, "a", DIRECT_MAX + 1)
        await store.append(after_first(first))
        await store.append(with_task(stream_id()))
        await store.append(replace(first_append(stream_id()), lane="a"))
        status = await queue(store)
        assert (status.tasks, status.waiting) == (DIRECT_MAX + 2, 1)

    run_on_store(test)


def test_whoever_comes_after_one_that_waits_waits_too_although_there_is_room(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await flood(store, "a", DIRECT_MAX + 1)
        for task in (await store.list_tasks(PARTITION))[:10]:
            await store.finish_task(task)
        (late,) = await flood(store, "b", 1)
        assert f"attempt {late}" in {entry.member for entry in await store.read_index(PARTITION, WAITING)}

    run_on_store(test)


def test_timers_that_fire_let_waiting_tasks_go_that_nobody_let_go(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        streams = await flood(store, "a", DIRECT_MAX + 5)
        # None of them is taken, so nobody who takes tasks sees to those that wait.
        for task in await store.list_tasks(PARTITION):
            await store.finish_task(task)
        assert await store.take_tasks("w", 10) == []
        assert await store.fire_timers(10) is None
        assert (await queue(store)).waiting == 0
        assert await worked(store) == streams[DIRECT_MAX:]

    run_on_store(test)


def test_waking_up_a_worker_is_what_admission_does(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        (*_, last) = await flood(store, "a", DIRECT_MAX + 1)
        for task in await store.list_tasks(PARTITION):
            await store.finish_task(task)
        taking = asyncio.create_task(store.take_tasks("w", 10, WAIT_SECONDS))
        await asyncio.sleep(0)
        await store.fire_timers(10)
        assert [task.stream for task in await asyncio.wait_for(taking, WAIT_SECONDS)] == [last]

    run_on_store(test)


@pytest.mark.parametrize("cleared", [False, True])
def test_turns_of_a_queue_that_became_empty_are_forgotten(run_on_store: RunOnStore, cleared: bool) -> None:
    async def test(store: EventStore) -> None:
        first, *_ = await flood(store, "a", DIRECT_MAX + 40)
        if cleared:
            members = [entry.member for entry in await store.read_index(PARTITION, WAITING)]
            clear = replace(after_first(first), add_task=None, clear_entries=tuple((WAITING, one) for one in members))
            await store.append(clear)
        await worked(store)
        await flood(store, "c", DIRECT_MAX)
        await flood(store, "b", 20)
        (again,) = await flood(store, "a", 1)
        turns = {entry.member: entry.score for entry in await store.read_index(PARTITION, WAITING)}
        assert turns[f"attempt {again}"] == 1

    run_on_store(test)


def test_a_lane_that_begins_waits_behind_what_was_admitted_not_behind_what_waits(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await flood(store, "a", DIRECT_MAX + 60)
        for task in await store.take_tasks("w", 40):
            await store.finish_task(task)
        (late,) = await flood(store, "b", 1)
        turns = {entry.member: entry.score for entry in await store.read_index(PARTITION, WAITING)}
        assert turns[f"attempt {late}"] == 41

    run_on_store(test)


def test_several_workers_take_every_task_once_whatever_comes_meanwhile(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        begun: list[str] = []
        done: list[str] = []

        async def client(lane: str, count: int) -> None:
            begun.extend(await flood(store, lane, count))

        async def work(name: str) -> None:
            while len(done) < 360:
                tasks = await store.take_tasks(name, 7, 0.02)
                done.extend(task.stream for task in tasks)
                await asyncio.gather(*(store.finish_task(task) for task in tasks))
                await store.fire_timers(10)

        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
            for running in (client("a", 250), client("b", 60), client("", 50), work("w1"), work("w2")):
                group.create_task(running)
        assert sorted(done) == sorted(begun)
        status = await queue(store)
        assert (status.tasks, status.waiting) == (0, 0)

    run_on_store(test)


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["lane a", "lane b", "lane "]), st.integers(1, 90)),
        st.tuples(st.sampled_from(["take", "drop", "fire", "free"]), st.integers(1, 60)),
    ),
    min_size=1,
    max_size=25,
)


class Clerk:
    """Begins, takes and finishes as told, and notes which lane each stream is of and what was ahead of it."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.lanes: dict[str, str] = {}
        self.ahead: dict[str, tuple[int, int]] = {}
        """When a stream began: how many tasks had been given out, and how many of its lane had not."""
        self.given: list[str] = []

    async def do(self, step: Step) -> None:
        name, count = step
        if name.startswith("lane "):
            for _ in range(count):
                await self.begin(name.removeprefix("lane "))
        elif name == "take":
            for task in await self.store.take_tasks("w", count):
                self.given.append(task.stream)
                await self.store.finish_task(task)
        elif name == "drop":
            # Given to somebody who finishes it without a worker's asking for more.
            for task in (await self.store.list_tasks(PARTITION))[:count]:
                self.given.append(task.stream)
                await self.store.finish_task(task)
        elif name == "fire":
            await self.store.fire_timers(count)
        else:
            await self.store.append(with_task(stream_id()))

    async def begin(self, lane: str) -> None:
        stream = stream_id()
        mine = sum(1 for other, of in self.lanes.items() if of == lane and other not in self.given)
        self.lanes[stream], self.ahead[stream] = lane, (len(self.given), mine)
        await self.store.append(in_lane(stream, lane))

    async def finish(self) -> None:
        while tasks := await self.store.take_tasks("w", 50):
            for task in tasks:
                self.given.append(task.stream)
                await self.store.finish_task(task)
        await self.store.fire_timers(10)
        if await self.store.list_tasks(PARTITION):
            await self.finish()

    def check(self) -> None:
        laned = [stream for stream in self.given if stream in self.lanes]
        assert sorted(laned) == sorted(self.lanes)
        for lane in set(self.lanes.values()):
            assert [one for one in laned if self.lanes[one] == lane] == [
                one for one in self.lanes if self.lanes[one] == lane
            ]
        for stream, (begun, mine) in self.ahead.items():
            since = [one for one in self.given[begun : self.given.index(stream)] if one in self.lanes]
            others = len({self.lanes[one] for one in since} - {self.lanes[stream]})
            between = sum(1 for one in since if self.lanes[one] != self.lanes[stream])
            assert between <= DIRECT_MAX + others * (mine + 2)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_no_task_is_lost_or_doubled_and_each_lane_has_its_turn(steps: Sequence[Step]) -> None:
    async def run() -> None:
        async with memory_store() as store:
            clerk = Clerk(store)
            for step in steps:
                await clerk.do(step)
            await clerk.finish()
            clerk.check()

    asyncio.run(run())


@pytest.mark.parametrize("order", [("lane a", "drop", "lane b", "take"), ("lane b", "take", "lane a", "fire")])
def test_no_task_is_lost_or_doubled_on_any_store(run_on_store: RunOnStore, order: tuple[str, ...]) -> None:
    async def test(store: EventStore) -> None:
        clerk = Clerk(store)
        for count in (70, 30, 5):
            for name in order:
                await clerk.do((name, count // 2))
        await clerk.finish()
        clerk.check()

    run_on_store(test)


def full(commit: Append, queue_max: int) -> Append:
    return replace(commit, queue_max=queue_max)


def test_a_new_stream_is_refused_while_too_many_tasks_are_unfinished(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        first = stream_id()
        await store.append(full(with_task(first), 1))
        refused = full(replace(with_task(stream_id()), set_entries=(IndexEntry("due", "x", 1),)), 1)
        with pytest.raises(QueueFullError) as error:
            await store.append(refused)
        assert (error.value.partition, error.value.depth) == (PARTITION, 1)
        assert list(await store.read_stream(refused.stream)) == []
        assert await store.read_index(PARTITION, "due") == []
        # Only new streams are refused, and a task that a worker holds is not finished.
        await store.append(full(after_first(first), 1))
        held, also_held = await store.take_tasks("w", 10)
        for unfinished in (held, also_held):
            with pytest.raises(QueueFullError):
                await store.append(refused)
            await store.finish_task(unfinished)
        assert isinstance(await store.append(refused), Appended)

    run_on_store(test)


def test_waiting_tasks_are_unfinished_ones(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        await flood(store, "a", DIRECT_MAX + 3)
        with pytest.raises(QueueFullError) as error:
            await store.append(full(in_lane(stream_id()), DIRECT_MAX + 3))
        assert error.value.depth == DIRECT_MAX + 3
        await store.append(full(in_lane(stream_id()), DIRECT_MAX + 4))

    run_on_store(test)


def test_an_append_that_is_answered_anyway_is_not_refused(run_on_store: RunOnStore) -> None:
    async def test(store: EventStore) -> None:
        key = IdempotencyKey("client", "key", "f1")
        first = replace(keyed(stream_id(), key, "c1"), add_task="attempt")
        await store.append(first)
        again = await store.append(full(keyed(stream_id(), key, "c2"), 0))
        assert isinstance(again, Existing)
        assert again.stream == first.stream
        assert isinstance(await store.append(full(first, 0)), Duplicate)
        with pytest.raises(IdempotencyConflictError):
            await store.append(full(keyed(stream_id(), IdempotencyKey("client", "key", "f2"), "c3"), 0))
        with pytest.raises(WrongVersionError):
            await store.append(full(first_append(first.stream, commit_id="other"), 0))

    run_on_store(test)


def test_what_waits_leaves_with_its_partition(run_on_hot_store: RunOnHotStore) -> None:
    async def test(store: HotStore) -> None:
        await flood(store, "a", DIRECT_MAX + 2)
        await store.discard_partition(PARTITION)
        assert (await queue(store)).waiting == 0
        assert await store.discard_partition(PARTITION) == 0

    run_on_hot_store(test)
