"""An event store in one process's memory: the executable specification of the Redis one. Keeps nothing on disk."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from msgspec import structs

from eventstore.errors import LevelUnavailableError, storable_error
from eventstore.hot import ClosedStream, PartitionRecord, Restored
from eventstore.ids import Cursor, partition_in
from eventstore.levels import MEMORY, Level
from eventstore.partition import Partition
from eventstore.rates import RateTaken, rate_of
from eventstore.store import (
    WAITING,
    Append,
    AppendResult,
    IndexEntry,
    IndexRange,
    ParkedTask,
    PartitionStatus,
    StoredCommit,
    StoredEvent,
    Task,
    check_append,
)

_T = TypeVar("_T")


class MemoryEventStore:
    """See :class:`eventstore.hot.HotStore`. One event loop, no threads.

    Args:
        partitions: 1 to 100.
        store_id: names the data.
        now_us: the server's clock, microseconds since 1970.
    """

    def __init__(self, *, partitions: int, store_id: str, now_us: Callable[[], int]) -> None:
        self.partitions: Final = partitions
        self.store_id = store_id
        self._now_us = now_us
        self._parts = [Partition(number, store_id) for number in range(partitions)]
        self._changed = asyncio.Event()

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        check_append(commit)
        if commit.level is not None and commit.level != MEMORY:
            raise LevelUnavailableError(f"a store in memory does not give {commit.level}")
        result = self._parts[partition_in(commit.stream)].append(commit, self._now_us())
        self._wake()
        return result

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """See :meth:`EventStore.confirm`."""
        if level != MEMORY:
            raise LevelUnavailableError(f"a store in memory does not give {level}")
        self._parts[partition_in(stream)].require(stream, version, event_hash)
        return MEMORY

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """See :meth:`EventStore.read_stream`."""
        part = self._parts[self._partition_number(stream)]
        return part.streams.get(stream, [])[after : after + limit]

    def _partition_number(self, stream: str) -> int:
        number = partition_in(stream)
        return number if number < self.partitions else 0

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`."""

        def read() -> list[StoredCommit]:
            return [commit for number, cursor in after.items() for commit in self._parts[number].after(cursor)[:limit]]

        return await self._wait_for(read, wait_seconds)

    async def log_ends(self) -> Mapping[int, Cursor]:
        """See :meth:`EventStore.log_ends`."""
        return {part.number: part.end for part in self._parts}

    async def take_tasks(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""

        def take() -> list[Task]:
            taken: list[Task] = []
            for part in self._parts:
                part.consumers[consumer] = self._now_us()
                free = [task_id for task_id in part.tasks if task_id not in part.holders][:limit]
                taken += [part.hand_out(task_id, consumer, self._now_us()) for task_id in free]
                if free and part.admit():
                    self._wake()
            return taken

        return await self._wait_for(take, wait_seconds)

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        claimed: list[Task] = []
        now = self._now_us()
        for part in self._parts:
            part.consumers[consumer] = now
            stale = [task_id for task_id, (_, since) in part.holders.items() if now - since >= idle_ms * 1000][:limit]
            claimed += [part.hand_out(task_id, consumer, now) for task_id in stale]
        return claimed

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        self._parts[task.partition].drop_task(task)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        return list(self._parts[partition].tasks.values())

    async def deliveries(self, task: Task) -> int:
        """See :meth:`EventStore.deliveries`."""
        return self._parts[task.partition].deliveries.get(task.id, 0)

    async def park_task(self, task: Task, error: str) -> None:
        """See :meth:`EventStore.park_task`."""
        part = self._parts[task.partition]
        if task.id not in part.tasks:
            return
        part.parked[task.stream] = ParkedTask(
            stream=task.stream,
            kind=task.kind,
            partition=task.partition,
            error=storable_error(error),
            deliveries=part.deliveries.get(task.id, 0),
            parked_ms=self._now_us() // 1000,
            skipped_reason=None,
        )
        part.drop_task(task)

    async def list_parked(self) -> Sequence[ParkedTask]:
        """See :meth:`EventStore.list_parked`."""
        return [
            task
            for part in self._parts
            for task in sorted(part.parked.values(), key=lambda task: (task.parked_ms, task.stream))
        ]

    async def retry_parked(self, stream: str) -> bool:
        """See :meth:`EventStore.retry_parked`."""
        number = self._partition_number(stream)
        task = self._parts[number].parked.pop(stream, None)
        if task is None:
            return False
        self._parts[number].add_task(stream, task.kind)
        self._wake()
        return True

    async def skip_parked(self, stream: str, reason: str) -> bool:
        """See :meth:`EventStore.skip_parked`."""
        parked = self._parts[self._partition_number(stream)].parked
        if stream not in parked:
            return False
        parked[stream] = structs.replace(parked[stream], skipped_reason=storable_error(reason))
        return True

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        """See :meth:`EventStore.drop_dead_consumers`."""
        seen_before_us = self._now_us() - idle_ms * 1000
        return sorted({name for part in self._parts for name in part.drop_consumers(seen_before_us)})

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        now_ms = self._now_us() // 1000
        for part in self._parts:
            timers = part.indexes.get("due", {})
            due = sorted((score, member) for member, score in timers.items() if score <= now_ms)[:limit]
            for _, member in due:
                del timers[member]
                kind, _, stream = member.partition(" ")
                part.add_task(stream, kind)
            part.admit()
        self._wake()
        scores = [score for part in self._parts for score in part.indexes.get("due", {}).values()]
        return max(0, min(scores) - now_ms) if scores else None

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """See :meth:`EventStore.read_index`."""
        return self._parts[partition].entries(index)

    async def find_entries(
        self, partition: int, ranges: Sequence[IndexRange], limit: int
    ) -> Sequence[Sequence[IndexEntry]]:
        """See :meth:`EventStore.find_entries`."""
        return [self._parts[partition].within(one)[:limit] for one in ranges]

    async def count_entries(self, partition: int, indexes: Sequence[str]) -> Sequence[int]:
        """See :meth:`EventStore.count_entries`."""
        return [len(self._parts[partition].entries(index)) for index in indexes]

    async def read_mark(self, partition: int, name: str) -> int | None:
        """See :meth:`EventStore.read_mark`."""
        return self._parts[partition].marks.get(name)

    async def advance_mark(self, partition: int, name: str, value: int) -> None:
        """See :meth:`EventStore.advance_mark`."""
        self._parts[partition].require_open()
        marks = self._parts[partition].marks
        marks[name] = max(value, marks.get(name, value))

    async def take_rate(self, partition: int, name: str, count: int, period_ms: int) -> RateTaken:
        """See :meth:`EventStore.take_rate`."""
        return self._parts[partition].take_rate(name, rate_of(count, period_ms), self._now_us())

    async def status(self) -> Sequence[PartitionStatus]:
        """See :meth:`EventStore.status`."""
        return [
            PartitionStatus(
                partition=part.number,
                epoch=part.epoch,
                position=part.position,
                tasks=len(part.tasks),
                pending=len(part.holders),
                timers=len(part.indexes.get("due", {})),
                parked=len(part.parked),
                waiting=len(part.entries(WAITING)),
            )
            for part in self._parts
        ]

    async def partition_record(self, partition: int) -> PartitionRecord:
        """See :meth:`HotStore.partition_record`."""
        return self._parts[partition].record()

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        """See :meth:`HotStore.restore`."""
        for piece in restored:
            self._parts[partition].restore(piece)

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        """See :meth:`HotStore.open_epoch`."""
        self._parts[partition].open_epoch(store_id, epoch, end)
        self.store_id = store_id
        self._wake()

    async def close_partition(self, partition: int) -> None:
        """See :meth:`HotStore.close_partition`."""
        self._parts[partition].incarnation = ""

    async def now_ms(self, partition: int) -> int:
        """See :meth:`HotStore.now_ms`."""
        return self._now_us() // 1000

    async def ended_before(
        self, partition: int, index: str, score: int, limit: int, skip: int = 0
    ) -> Sequence[IndexEntry]:
        """See :meth:`HotStore.ended_before`."""
        found = [entry for entry in self._parts[partition].entries(index) if entry.score < score]
        return found[skip : skip + limit]

    async def list_streams(self, partition: int) -> Sequence[str]:
        """See :meth:`HotStore.list_streams`."""
        return list(self._parts[partition].streams)

    async def discard_partition(self, partition: int) -> int:
        """See :meth:`HotStore.discard_partition`."""
        part = self._parts[partition]
        keys = len(part.streams) + len(part.indexes) + bool(part.log) + bool(part.epoch)
        part.lose()
        return keys

    async def log_start(self, partition: int) -> int:
        """See :meth:`HotStore.log_start`."""
        return self._parts[partition].log_start()

    async def remove_closed(self, partition: int, streams: Sequence[ClosedStream], index: str) -> Sequence[str]:
        """See :meth:`HotStore.remove_closed`."""
        return [closed.stream for closed in streams if self._parts[partition].remove(closed, index)]

    async def trim_log(self, partition: int, keep: Cursor) -> int:
        """See :meth:`HotStore.trim_log`."""
        return self._parts[partition].trim(keep)

    def lose(self) -> None:
        """Lose everything, as a server does that kept it in memory only and was replaced; for tests."""
        for part in self._parts:
            part.lose()

    async def close(self) -> None:
        """See :meth:`EventStore.close`."""

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, read: Callable[[], list[_T]], wait_seconds: float) -> list[_T]:
        found = read()
        if found or wait_seconds <= 0:
            return found
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while not found:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
            found = read()
        return found
