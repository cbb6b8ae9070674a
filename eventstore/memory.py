"""An event store in one process's memory: the executable specification of the Redis one. Keeps nothing on disk."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from eventstore.errors import (
    EpochStaleError,
    IdempotencyConflictError,
    PositionMissingError,
    WrongVersionError,
)
from eventstore.ids import LOG_START, LogPosition, partition_in
from eventstore.store import (
    Append,
    Appended,
    AppendResult,
    Duplicate,
    Existing,
    IndexEntry,
    Level,
    PartitionStatus,
    StoredCommit,
    StoredEvent,
    Task,
    check_append,
)

_LEVEL: Final[Level] = "memory"
_T = TypeVar("_T")


class _Partition:
    """The data of one partition."""

    def __init__(self) -> None:
        self.position = 0
        self.streams: dict[str, list[StoredEvent]] = {}
        self.log: list[StoredCommit] = []
        self.tasks: dict[str, Task] = {}
        self.holders: dict[str, tuple[str, int]] = {}
        self.task_number = 0
        self.indexes: dict[str, dict[str, int]] = {}
        self.idempotency: dict[tuple[str, str], tuple[str, str]] = {}

    def add_task(self, number: int, stream: str, kind: str) -> None:
        self.task_number += 1
        task = Task(stream, kind, number, str(self.task_number))
        self.tasks[task.id] = task

    def drop_task(self, task: Task) -> None:
        self.tasks.pop(task.id, None)
        self.holders.pop(task.id, None)


class MemoryEventStore:
    """See :class:`eventstore.store.EventStore`. One event loop, no threads.

    Args:
        partitions: 1 to 100.
        store_id: names the data.
        now_us: the server's clock, microseconds since 1970.
    """

    def __init__(self, *, partitions: int, store_id: str, now_us: Callable[[], int]) -> None:
        self.partitions: Final = partitions
        self.store_id: Final = store_id
        self.epoch = 1
        self._now_us = now_us
        self._parts = [_Partition() for _ in range(partitions)]
        self._changed = asyncio.Event()

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        check_append(commit)
        number = partition_in(commit.stream)
        part = self._parts[number]
        stream = part.streams.get(commit.stream, [])
        repeated = self._repeated(stream, commit)
        if repeated is not None:
            return repeated
        if self.epoch == 0:
            raise EpochStaleError(1, 0)
        existing = self._existing(part, commit)
        if existing is not None:
            return existing
        head_hash = stream[-1].hash if stream else ""
        if len(stream) != commit.expected_version or head_hash != commit.expected_hash:
            raise WrongVersionError(commit.stream, commit.expected_version, len(stream), head_hash)
        self._write(number, commit)
        self._wake()
        return Appended(commit.expected_version + len(commit.events), self.epoch, part.position, _LEVEL)

    @staticmethod
    def _repeated(stream: list[StoredEvent], commit: Append) -> Duplicate | None:
        first = commit.expected_version
        if len(stream) <= first or stream[first].commit_id != commit.commit_id:
            return None
        last = [event for event in stream if event.commit_id == commit.commit_id][-1]
        return Duplicate(last.version, last.epoch, last.position, _LEVEL)

    @staticmethod
    def _existing(part: _Partition, commit: Append) -> Existing | None:
        key = commit.idempotency
        if key is None:
            return None
        record = part.idempotency.get((key.scope, key.key))
        if record is None:
            return None
        stream, fingerprint = record
        if fingerprint != key.fingerprint:
            raise IdempotencyConflictError(stream)
        return Existing(stream, _LEVEL)

    def _write(self, number: int, commit: Append) -> None:
        part = self._parts[number]
        stream = part.streams.setdefault(commit.stream, [])
        for event in commit.events:
            part.position += 1
            stream.append(
                StoredEvent(len(stream) + 1, self.epoch, part.position, commit.commit_id, event.hash, event.data)
            )
        part.log.append(
            StoredCommit(
                partition=number,
                epoch=self.epoch,
                position=part.position,
                stream=commit.stream,
                version=len(stream),
                commit_id=commit.commit_id,
                recorded_us=self._now_us(),
                events=tuple(event.data for event in commit.events),
                anchors=tuple(event.hash[:8] for event in commit.events),
            )
        )
        if commit.finish_task is not None:
            part.drop_task(commit.finish_task)
        if commit.add_task is not None:
            part.add_task(number, commit.stream, commit.add_task)
        for entry in commit.set_entries:
            part.indexes.setdefault(entry.index, {})[entry.member] = entry.score
        for index, member in commit.clear_entries:
            part.indexes.get(index, {}).pop(member, None)
        if commit.idempotency is not None:
            key = commit.idempotency
            part.idempotency[key.scope, key.key] = (commit.stream, key.fingerprint)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """See :meth:`EventStore.read_stream`."""
        part = self._parts[self._partition_number(stream)]
        return part.streams.get(stream, [])[after : after + limit]

    def _partition_number(self, stream: str) -> int:
        number = partition_in(stream)
        return number if number < self.partitions else 0

    async def read_log(
        self, after: Mapping[int, LogPosition], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`."""

        def read() -> list[StoredCommit]:
            return [commit for number, start in after.items() for commit in self._after(number, start)[:limit]]

        return await self._wait_for(read, wait_seconds)

    def _after(self, number: int, start: LogPosition) -> list[StoredCommit]:
        part = self._parts[number]
        if start.position > part.position:
            raise PositionMissingError(number, start.position, part.position)
        return [commit for commit in part.log if commit.position > start.position]

    async def log_ends(self) -> Mapping[int, LogPosition]:
        """See :meth:`EventStore.log_ends`."""
        return {
            number: LogPosition(self.epoch, part.position) if part.position else LOG_START
            for number, part in enumerate(self._parts)
        }

    async def take_tasks(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""

        def take() -> list[Task]:
            taken: list[Task] = []
            for part in self._parts:
                free = [task for task in part.tasks.values() if task.id not in part.holders][:limit]
                for task in free:
                    part.holders[task.id] = (consumer, self._now_us())
                taken += free
            return taken

        return await self._wait_for(take, wait_seconds)

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        claimed: list[Task] = []
        now = self._now_us()
        for part in self._parts:
            stale = [task_id for task_id, (_, since) in part.holders.items() if now - since >= idle_ms * 1000][:limit]
            for task_id in stale:
                part.holders[task_id] = (consumer, now)
                claimed.append(part.tasks[task_id])
        return claimed

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        self._parts[task.partition].drop_task(task)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        return list(self._parts[partition].tasks.values())

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        now_ms = self._now_us() // 1000
        for number, part in enumerate(self._parts):
            timers = part.indexes.get("due", {})
            due = sorted((score, member) for member, score in timers.items() if score <= now_ms)[:limit]
            for _, member in due:
                del timers[member]
                kind, _, stream = member.partition(" ")
                part.add_task(number, stream, kind)
        self._wake()
        scores = [score for part in self._parts for score in part.indexes.get("due", {}).values()]
        return max(0, min(scores) - now_ms) if scores else None

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """See :meth:`EventStore.read_index`."""
        entries = self._parts[partition].indexes.get(index, {})
        return [IndexEntry(index, member, score) for score, member in sorted((s, m) for m, s in entries.items())]

    async def status(self) -> Sequence[PartitionStatus]:
        """See :meth:`EventStore.status`."""
        return [
            PartitionStatus(
                partition=number,
                epoch=self.epoch,
                position=part.position,
                tasks=len(part.tasks),
                pending=len(part.holders),
                timers=len(part.indexes.get("due", {})),
            )
            for number, part in enumerate(self._parts)
        ]

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
