"""The event store with both copies: Redis for what is hot, PostgreSQL as witness, healer and archive."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.errors import (
    EpochStaleError,
    ForkError,
    IdempotencyConflictError,
    LevelNotReachedError,
    PartitionForkedError,
    StoreUnavailableError,
    TruncatedError,
)
from eventstore.hot import HotStore
from eventstore.ids import Cursor
from eventstore.levels import MEMORY, WITNESSED, Level
from eventstore.rates import RateTaken
from eventstore.store import (
    Append,
    AppendResult,
    Existing,
    IndexEntry,
    IndexRange,
    ParkedTask,
    PartitionStatus,
    StoredCommit,
    StoredEvent,
    Task,
)
from projections.archive import events as archive
from projections.archive.epochs import Epochs, Opened
from projections.archive.witness import Witness
from projections.database import archive_reading

log: Final = logging.getLogger(__name__)

WITNESS_SECONDS: Final = 1.0
"""How long an append of level ``witnessed`` waits for PostgreSQL once it has happened."""
EPOCH_TRIES: Final = 3
FORK_SECONDS: Final = 5.0
"""A forked partition is left out of reads for so long before it is looked at again."""


class ArchivedEventStore:
    """See :class:`eventstore.store.EventStore`.

    A partition that its server closed is healed and opened again by whoever notices it first. What has left Redis is
    read from PostgreSQL: the same numbers, the same bytes.

    Args:
        hot: the store with the recent data; closed with this one.
        engine: on a database with this code's schema; disposed of by the caller. Three connections or more.
        epochs: opens closed partitions.
        level: what an append is worth that does not ask for a level itself.
    """

    def __init__(self, hot: HotStore, engine: AsyncEngine, epochs: Epochs, level: Level) -> None:
        self.hot: Final = hot
        self.level: Final = level
        self._engine = engine
        self._epochs = epochs
        self._witness = Witness(engine)
        self._forked: dict[int, tuple[float, PartitionForkedError]] = {}

    @property
    def partitions(self) -> int:
        """See :attr:`EventStore.partitions`."""
        return self.hot.partitions

    @property
    def store_id(self) -> str:
        """See :attr:`EventStore.store_id`."""
        return self.hot.store_id

    async def open_partition(self, partition: int) -> Opened:
        """Heal and open a partition that is closed, register one that is not yet; see :meth:`Epochs.open`."""
        return await self._epochs.open(partition)

    async def report_fork(self, fork: ForkError) -> None:
        """Close a partition whose log does not hold what PostgreSQL ends with: a person must choose between them."""
        log.error("copies_differ", extra={"partition": fork.partition, "cursor": str(fork.cursor), "found": fork.found})
        await self.hot.close_partition(fork.partition)

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        level = commit.level or self.level
        known = await self._archived(commit)
        if known is not None:
            return known
        result = await self._append(replace(commit, level=MEMORY if level == WITNESSED else level))
        if level != WITNESSED:
            return result
        if await self._is_witnessed(commit, result):
            return replace(result, level=WITNESSED)
        raise LevelNotReachedError(commit.commit_id, level, result.level)

    async def _append(self, commit: Append) -> AppendResult:
        for tries_left in reversed(range(EPOCH_TRIES)):
            try:
                return await self.hot.append(commit)
            except EpochStaleError as error:
                if tries_left == 0:
                    raise StoreUnavailableError(str(error)) from error
                await self._epochs.open(error.partition)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _archived(self, commit: Append) -> Existing | None:
        """Return the archived order that the idempotency key of a new one belongs to."""
        key = commit.idempotency
        if key is None or commit.expected_version > 0:
            return None
        async with archive_reading(self._engine, "whether this idempotency key was used cannot be known") as connection:
            found = await archive.find_key(connection, key.scope, key.key)
        # A repetition of this very append is the hot store's to answer.
        if found is None or found[0] == commit.stream:
            return None
        if found[1] != key.fingerprint:
            raise IdempotencyConflictError(found[0])
        return Existing(found[0], WITNESSED)

    async def _is_witnessed(self, commit: Append, result: AppendResult) -> bool:
        if isinstance(result, Existing):
            first = await self.read_stream(result.stream, 0, 1)
            return await self._witness.seen(result.stream, 1, first[0].hash, WITNESS_SECONDS) if first else False
        return await self._witness.seen(commit.stream, result.version, commit.events[-1].hash, WITNESS_SECONDS)

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """See :meth:`EventStore.confirm`."""
        if level == WITNESSED:
            if await self._witness.seen(stream, version, event_hash, WITNESS_SECONDS):
                return WITNESSED
            raise LevelNotReachedError(f"of {stream}/{version}", level, MEMORY)
        try:
            return await self.hot.confirm(stream, version, event_hash, level)
        except EpochStaleError as error:
            await self._epochs.open(error.partition)
            return await self.hot.confirm(stream, version, event_hash, level)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """See :meth:`EventStore.read_stream`."""
        found = await self.hot.read_stream(stream, after, limit)
        if found or (after > 0 and await self.hot.read_stream(stream, 0, 1)):
            return found
        async with archive_reading(self._engine, f"{stream} is not in Redis, and cannot be read") as connection:
            return await archive.read_stream(connection, stream, after, limit)

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`. A forked partition yields nothing, unless it is the only one asked for."""
        # A loss strikes every partition, and each is healed when it is met; then what was healed is read.
        for _ in range(2 * self.partitions + 1):
            wanted = self._unforked(after)
            try:
                return await self.hot.read_log(wanted, limit, wait_seconds)
            except TruncatedError as error:
                return await self._read_archive(error.partition, wanted[error.partition], limit, error)
            except ForkError as error:
                await self._recover(error.partition, error)
            wait_seconds = 0
        raise StoreUnavailableError("partitions are lost faster than they are healed")

    def _unforked(self, after: Mapping[int, Cursor]) -> dict[int, Cursor]:
        now = asyncio.get_running_loop().time()
        forked = {number: found for number, (until, found) in self._forked.items() if until > now and number in after}
        wanted = {number: cursor for number, cursor in after.items() if number not in forked}
        if forked and not wanted:
            raise next(iter(forked.values()))
        return wanted

    async def _recover(self, partition: int, fork: ForkError) -> None:
        """Heal a closed partition; of an open one, a reader's fork is the truth, and raised."""
        record = await self.hot.partition_record(partition)
        if record.is_open:
            raise fork
        try:
            await self._epochs.open(partition)
        except PartitionForkedError as error:
            log.error("partition_forked", extra={"partition": partition, "report": error.report})
            until = asyncio.get_running_loop().time() + FORK_SECONDS
            self._forked[partition] = (until, error)

    async def _read_archive(
        self, partition: int, cursor: Cursor, limit: int, truncated: TruncatedError
    ) -> Sequence[StoredCommit]:
        async with archive_reading(self._engine, f"{truncated}, and cannot be read") as connection:
            if cursor.anchor:
                found = await archive.cursor_at(connection, partition, cursor.position)
                if found is None:
                    raise truncated
                if found != cursor:
                    raise ForkError(partition, cursor, found.anchor)
            commits = await archive.read_log(connection, partition, cursor.position, limit)
        if not commits or commits[0].position - len(commits[0].events) > cursor.position:
            raise truncated
        return commits

    async def log_ends(self) -> Mapping[int, Cursor]:
        """See :meth:`EventStore.log_ends`."""
        return await self.hot.log_ends()

    async def take_tasks(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""
        return await self.hot.take_tasks(consumer, limit, wait_seconds)

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        return await self.hot.claim_tasks(consumer, idle_ms, limit)

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        await self.hot.finish_task(task)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        return await self.hot.list_tasks(partition)

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        return await self.hot.fire_timers(limit)

    async def deliveries(self, task: Task) -> int:
        """See :meth:`EventStore.deliveries`."""
        return await self.hot.deliveries(task)

    async def park_task(self, task: Task, error: str) -> None:
        """See :meth:`EventStore.park_task`."""
        await self.hot.park_task(task, error)

    async def list_parked(self) -> Sequence[ParkedTask]:
        """See :meth:`EventStore.list_parked`."""
        return await self.hot.list_parked()

    async def retry_parked(self, stream: str) -> bool:
        """See :meth:`EventStore.retry_parked`."""
        return await self.hot.retry_parked(stream)

    async def skip_parked(self, stream: str, reason: str) -> bool:
        """See :meth:`EventStore.skip_parked`."""
        return await self.hot.skip_parked(stream, reason)

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        """See :meth:`EventStore.drop_dead_consumers`."""
        return await self.hot.drop_dead_consumers(idle_ms)

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """See :meth:`EventStore.read_index`."""
        return await self.hot.read_index(partition, index)

    async def find_entries(
        self, partition: int, ranges: Sequence[IndexRange], limit: int
    ) -> Sequence[Sequence[IndexEntry]]:
        """See :meth:`EventStore.find_entries`."""
        return await self.hot.find_entries(partition, ranges, limit)

    async def count_entries(self, partition: int, indexes: Sequence[str]) -> Sequence[int]:
        """See :meth:`EventStore.count_entries`."""
        return await self.hot.count_entries(partition, indexes)

    async def read_mark(self, partition: int, name: str) -> int | None:
        """See :meth:`EventStore.read_mark`."""
        return await self.hot.read_mark(partition, name)

    async def advance_mark(self, partition: int, name: str, value: int) -> None:
        """See :meth:`EventStore.advance_mark`."""
        try:
            await self.hot.advance_mark(partition, name, value)
        except EpochStaleError as error:
            await self._epochs.open(error.partition)
            await self.hot.advance_mark(partition, name, value)

    async def take_rate(self, partition: int, name: str, count: int, period_ms: int) -> RateTaken:
        """See :meth:`EventStore.take_rate`."""
        return await self.hot.take_rate(partition, name, count, period_ms)

    async def status(self) -> Sequence[PartitionStatus]:
        """See :meth:`EventStore.status`."""
        return await self.hot.status()

    async def close(self) -> None:
        """See :meth:`EventStore.close`."""
        await self._witness.close()
        await self.hot.close()
