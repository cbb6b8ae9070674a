"""The store with both copies against a model in a few lines: whatever is appended, lost, archived, read and retried."""

import asyncio
import random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace

from app.execution.streams import CLOSED, duties
from app.main import OBLIGATIONS
from app.orders.lifecycle import TERMINAL
from eventstore.errors import ForkError, IdempotencyConflictError, QueueFullError, WrongVersionError
from eventstore.hot import ClosedStream, HotStore
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.levels import MEMORY
from eventstore.memory import MemoryEventStore
from eventstore.store import (
    DIRECT_MAX,
    WAITING,
    Append,
    Appended,
    Duplicate,
    Existing,
    IdempotencyKey,
    IndexRange,
    StoredCommit,
)
from projections.archive.epochs import Epochs
from projections.archive.opening import open_archived, open_closed, restore
from projections.archive.store import ArchivedEventStore
from projections.diff import diff
from projections.fold.frames import decode_frame
from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import appends, execute, random_life
from tests.integration.rewinding import TABLES, Rewindable, Snapshot, obliged, rewindable

PARTITIONS = 2
OWNERS = ("owner 0", "owner 1", "owner 2")
KEYS = ("one", "two", "three")
FINGERPRINT = "f" * 32

T = TypeVar("T")
Entry = tuple[int, int, str, int, str, tuple[bytes, ...], tuple[str, ...]]
"""Epoch, position, stream, version, commit id, events and anchors."""

numbers = st.integers(0, 1 << 16)


class Kept(Struct):
    """What a server held at some time: how much of each log, and the streams that had left it."""

    lengths: list[int]
    gone: set[str]
    snapshot: Snapshot


def entry_of(commit: StoredCommit) -> Entry:
    return (
        commit.epoch,
        commit.position,
        commit.stream,
        commit.version,
        commit.commit_id,
        commit.events,
        commit.anchors,
    )


class StoreMachine(RuleBasedStateMachine):
    """The rules; ``logs`` is all that the model knows, and everything else follows from it."""

    redis_url: str | None
    database_url: str

    def __init__(self) -> None:
        super().__init__()
        execute(self.database_url, f"TRUNCATE {TABLES}")
        self.runner = asyncio.Runner()
        self.logs: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
        self.lost: list[tuple[int, Cursor]] = []
        self.projected = [0] * PARTITIONS
        self.gone: set[str] = set()
        self.kept: Kept | None = None
        self.epoch = 1
        self.lives: dict[str, list[Append]] = {}
        self.rushed = False
        self.context = rewindable(self.redis_url or "redis://unused", self.database_url, PARTITIONS)
        self.on: Rewindable = self.run(self.context.__aenter__())
        self.memory = MemoryEventStore(partitions=PARTITIONS, store_id="", now_us=StepClock().now_us)
        self.store: ArchivedEventStore = self.run(self._start())

    async def _start(self) -> ArchivedEventStore:
        if self.redis_url:
            return await self.on.open("1")
        self.memory.lose()
        store = await open_archived(self.memory, self.on.engine, OBLIGATIONS, MEMORY, new_store_id="memory")
        await open_closed(store, self.on.engine)
        return store

    def run(self, action: Any) -> Any:
        return self.runner.run(action)

    def teardown(self) -> None:
        if self.redis_url is None:
            self.on.flush = self._nothing  # type: ignore[method-assign]
        self.run(self.context.__aexit__(None, None, None))
        self.runner.close()

    async def _nothing(self) -> None:
        """There is no server to tidy up."""

    def hot(self) -> HotStore:
        return self.store.hot

    def version(self, stream: str) -> int:
        return max((entry[3] for entry in self.logs[partition_in(stream)] if entry[2] == stream), default=0)

    def cursors(self, partition: int) -> list[Cursor]:
        """The place after each event."""
        return [
            Cursor(epoch, position - len(anchors) + 1 + index, anchor)
            for epoch, position, *_, anchors in self.logs[partition]
            for index, anchor in enumerate(anchors)
        ]

    def has_ended(self, stream: str) -> bool:
        entries = [entry for entry in self.logs[partition_in(stream)] if entry[2] == stream]
        return bool(entries) and decode_frame(entries[-1][5][-1], stream).status in TERMINAL

    def keys(self) -> dict[tuple[str, str], str]:
        """The stream of each idempotency key."""
        firsts = {stream: life[0].idempotency for stream, life in self.lives.items() if self.version(stream)}
        return {(key.scope, key.key): stream for stream, key in firsts.items() if key is not None}

    def append_next(self, stream: str) -> None:
        life = self.lives[stream]
        commit = next(one for one in life if one.expected_version == self.version(stream))
        number = partition_in(stream)
        position = (self.logs[number][-1][1] if self.logs[number] else 0) + len(commit.events)
        version = commit.expected_version + len(commit.events)
        result = self.run(self.store.append(commit))
        assert result == Appended(version, self.epoch, position, result.level)
        anchors = tuple(event.hash[:8] for event in commit.events)
        data = tuple(event.data for event in commit.events)
        self.logs[number].append((self.epoch, position, stream, version, commit.commit_id, data, anchors))

    def life_of(self, seed: int, owner: str, key: str | None) -> list[Append]:
        """The appends of a new order, whose first task waits in its owner's lane."""
        stream = stream_id(owner, PARTITIONS)
        life = [list(events) for events in random_life(random.Random(seed))]
        life[0][0] = replace(life[0][0], idempotency_key=key, fingerprint=key and FINGERPRINT)
        first, *following = obliged(appends(stream, life, client=owner))
        return [replace(first, lane=owner, queue_max=1000), *following]

    def tasks(self, partition: int) -> list[tuple[str, str]]:
        """Stream and kind of every unfinished task, those that wait for their lane included; sorted."""
        tasks = [(task.stream, task.kind) for task in self.run(self.store.list_tasks(partition))]
        for entry in self.run(self.store.find_entries(partition, [IndexRange(WAITING, None, None)], 1000))[0]:
            kind, _, stream = entry.member.partition(" ")
            tasks.append((stream, kind))
        return sorted(tasks)

    @precondition(lambda self: not self.rushed)
    @rule(seed=numbers, owner=st.sampled_from(OWNERS))
    def rush(self, seed: int, owner: str) -> None:
        """More orders of one owner than there may be free tasks."""
        self.rushed = True
        for number in range(DIRECT_MAX + 6):
            commits = self.life_of(seed + number, owner, None)
            self.lives[commits[0].stream] = commits
            self.append_next(commits[0].stream)

    @rule(limit=st.integers(1, 20))
    def take(self, limit: int) -> None:
        before = [self.tasks(partition) for partition in range(PARTITIONS)]
        self.run(self.store.take_tasks("w", limit))
        assert [self.tasks(partition) for partition in range(PARTITIONS)] == before

    @rule(seed=numbers, owner=st.sampled_from(OWNERS))
    def refuse(self, seed: int, owner: str) -> None:
        commit = self.life_of(seed, owner, None)[0]
        number = partition_in(commit.stream)
        before = self.tasks(number)
        with pytest.raises(QueueFullError) as refused:
            self.run(self.store.append(replace(commit, queue_max=len(before))))
        assert refused.value.depth == len(before)
        assert self.tasks(number) == before
        assert self.run(self.store.read_stream(commit.stream)) == []

    @rule(seed=numbers, owner=st.sampled_from(OWNERS), key=st.sampled_from((None, *KEYS)))
    def begin(self, seed: int, owner: str, key: str | None) -> None:
        commits = self.life_of(seed, owner, key)
        stream = commits[0].stream
        ours = commits[0].idempotency
        held = self.keys().get((ours.scope, ours.key)) if ours else None
        if held is None:
            self.lives[stream] = commits
            self.append_next(stream)
            return
        assert ours is not None
        result = self.run(self.store.append(commits[0]))
        assert isinstance(result, Existing)
        assert result.stream == held
        other = replace(commits[0], idempotency=IdempotencyKey(ours.scope, ours.key, "e" * 32))
        with pytest.raises(IdempotencyConflictError) as conflict:
            self.run(self.store.append(other))
        assert conflict.value.stream == held

    @rule(number=numbers, count=st.integers(1, 4))
    def go_on(self, number: int, count: int) -> None:
        for _ in range(count):
            going = [
                stream
                for stream, life in self.lives.items()
                if any(commit.expected_version == self.version(stream) for commit in life) and self.may_write(stream)
            ]
            if going:
                self.append_next(going[number % len(going)])

    def may_write(self, stream: str) -> bool:
        """Not where another order has the key of one that was lost."""
        key = self.lives[stream][0].idempotency
        return self.version(stream) > 0 or key is None or (key.scope, key.key) not in self.keys()

    @rule(number=numbers)
    def retry(self, number: int) -> None:
        done = [entry for log in self.logs for entry in log if entry[2] not in self.gone]
        if done:
            epoch, position, stream, version, commit_id, *_ = done[number % len(done)]
            commit = next(one for one in self.lives[stream] if one.commit_id == commit_id)
            result = self.run(self.store.append(commit))
            assert result == Duplicate(version, epoch, position, result.level)

    @rule(number=numbers, other_hash=st.booleans())
    def conflict(self, number: int, other_hash: bool) -> None:
        known = [stream for stream in self.lives if self.version(stream) and stream not in self.gone]
        if not known:
            return
        stream = known[number % len(known)]
        commit = replace(self.lives[stream][0], commit_id="another", idempotency=None)
        if other_hash:
            commit = replace(commit, expected_version=self.version(stream), expected_hash="0" * 64)
        with pytest.raises(WrongVersionError) as refused:
            self.run(self.store.append(commit))
        assert refused.value.version == self.version(stream)

    @rule()
    def project(self) -> None:
        self.run(Projector(self.store, self.on.engine).project_available())
        self.projected = [len(log) for log in self.logs]

    @rule()
    def archive(self) -> None:
        """Remove what the archiver removes: ended orders that are archived, and the log up to the checkpoint."""
        for partition, log in enumerate(self.logs):
            archived = log[: self.projected[partition]]
            if not archived:
                continue
            heads = {entry[2]: entry for entry in archived}
            ended = [stream for stream in heads if self.has_ended(stream) and self.version(stream) == heads[stream][3]]
            closed = [
                ClosedStream(stream, self.version(stream), self.run(self.store.read_stream(stream))[-1].hash, None)
                for stream in ended
            ]
            assert set(self.run(self.hot().remove_closed(partition, closed, CLOSED))) == set(ended)
            self.gone |= set(ended)
            keep = Cursor(archived[-1][0], archived[-1][1], archived[-1][6][-1])
            self.run(self.hot().trim_log(partition, keep))

    @precondition(lambda self: self.redis_url is not None)
    @rule()
    def remember(self) -> None:
        self.kept = Kept([len(log) for log in self.logs], set(self.gone), self.run(self.on.snapshot()))

    @rule(flush=st.booleans())
    def lose(self, flush: bool) -> None:
        kept = None if flush else self.kept
        lengths = [max(pair) for pair in zip(self.projected, kept.lengths if kept else [0] * PARTITIONS, strict=True)]
        for partition, length in enumerate(lengths):
            known = set(self.cursors(partition))
            self.logs[partition] = self.logs[partition][:length]
            self.lost += [(partition, cursor) for cursor in known - set(self.cursors(partition))]
        # Where everything was lost, the streams come back that began lately, ended or not: all of them, here.
        self.gone = {stream for stream in kept.gone if kept.lengths[partition_in(stream)]} if kept else set()
        self.kept = None
        self.epoch += 1
        self.store = self.run(self._reopen(kept))

    async def _reopen(self, kept: Kept | None) -> ArchivedEventStore:
        if self.redis_url:
            await self.on.set_back(kept.snapshot if kept else {})
            return await self.on.open_after_loss(str(self.epoch))
        self.memory.lose()
        store = ArchivedEventStore(
            self.memory, self.on.engine, Epochs(self.memory, self.on.engine, OBLIGATIONS), MEMORY
        )
        await restore(store, self.on.engine)
        return store

    @rule(number=numbers, limit=st.integers(1, 20))
    def read_on(self, number: int, limit: int) -> None:
        partition = number % PARTITIONS
        cursors = [LOG_START, *self.cursors(partition)]
        cursor = cursors[number % len(cursors)]
        expected = [entry for entry in self.logs[partition] if entry[1] > cursor.position][:limit]
        read: list[StoredCommit] = []
        # What has left the server comes from the archive, and the rest from the server when it is asked again.
        while len(read) < len(expected):
            page = self.run(self.store.read_log({partition: cursor}, limit - len(read)))
            assert page
            read += page
            cursor = page[-1].end
        assert [entry_of(commit) for commit in read] == expected

    @precondition(lambda self: self.lost)
    @rule(number=numbers)
    def read_on_from_what_was_lost(self, number: int) -> None:
        partition, cursor = self.lost[number % len(self.lost)]
        with pytest.raises(ForkError):
            self.run(self.store.read_log({partition: cursor}, 10))

    @rule()
    def compare(self) -> None:
        assert self.run(diff(self.store, self.on.engine)) == []
        for stream in self.lives:
            stored = self.run(self.store.read_stream(stream))
            entries = [entry for entry in self.logs[partition_in(stream)] if entry[2] == stream]
            assert [event.data for event in stored] == [data for entry in entries for data in entry[5]]
            if stored and stream not in self.gone:
                self.compare_timers(stream)

    def compare_timers(self, stream: str) -> None:
        owed = duties(stream, self.run(self.store.read_stream(stream)))
        number = partition_in(stream)
        assert owed.add_task is None or (stream, owed.add_task) in self.tasks(number)
        for index in ("due", CLOSED):
            found = {one for one in self.run(self.store.read_index(number, index)) if one.member.endswith(stream)}
            assert found == {one for one in owed.set_entries if one.index == index}

    @invariant()
    def ends_where_the_model_ends(self) -> None:
        ends = self.run(self.store.log_ends())
        assert [ends[number].position for number in range(PARTITIONS)] == [
            log[-1][1] if log else 0 for log in self.logs
        ]


@pytest.mark.parametrize("server", ["memory", "valkey"])
def test_both_copies_together_do_what_the_model_does(redis_url: str, database_url: str, server: str) -> None:
    class Machine(StoreMachine):
        pass

    Machine.redis_url = redis_url if server == "valkey" else None
    Machine.database_url = database_url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )
