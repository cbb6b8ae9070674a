"""The event store on Redis or Valkey: one hash tag per partition, one script per append."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from eventstore.errors import (
    BadIdError,
    ConnectionLostError,
    EpochStaleError,
    IdempotencyConflictError,
    LevelNotReachedError,
    LevelUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
    SeamError,
    StoreMismatchError,
    StreamExpiredError,
    WrongVersionError,
)
from eventstore.hot import ClosedStream, PartitionRecord, Restored
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.levels import WITNESSED, Level
from eventstore.rates import RateTaken
from eventstore.redis import keeping
from eventstore.redis.connection import Pipeline, RefusedError
from eventstore.redis.entries import append_arguments, fields_of, stored_event
from eventstore.redis.indexes import advance_mark, count_entries, find_entries, read_index, read_mark, take_rate
from eventstore.redis.log import Logs
from eventstore.redis.opening import Flushing, StoreSettings, flushing_of, probe_key
from eventstore.redis.scripts import APPEND, CONFIRM, Script
from eventstore.redis.tasks import Tasks
from eventstore.store import (
    WAITING,
    Append,
    Appended,
    AppendResult,
    Duplicate,
    Existing,
    IndexEntry,
    IndexRange,
    ParkedTask,
    PartitionStatus,
    StoredCommit,
    StoredEvent,
    Task,
    check_append,
)


class RedisEventStore:
    """See :class:`eventstore.hot.HotStore`. Each event is also published on ``order-events-<stream>``.

    Open it with :meth:`open`; the constructor connects nothing.
    """

    def __init__(self, pipeline: Pipeline, settings: StoreSettings, flushing: Flushing) -> None:
        self.partitions: Final = settings.partitions
        self.store_id = ""
        self.level: Final = settings.level
        self.flushing = flushing
        self._epochs = [0] * settings.partitions
        self._found = [""] * settings.partitions
        self._keys = [settings.key_prefix(number) for number in range(settings.partitions)]
        self._fixed = settings.incarnation or ""
        self._probe = probe_key(settings)
        self._pipeline = pipeline
        self._tasks = Tasks(pipeline, self._keys)
        self._logs = Logs(pipeline, self._keys)

    @classmethod
    async def open(cls, url: str, settings: StoreSettings, *, new_store_id: str | None) -> Self:
        """Connect, check the servers' durability and records, and create the store where there is none.

        A partition whose record is missing or whose server's data is another stays closed: see
        :class:`EpochStaleError`.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``; of any server of a cluster.
            settings: must agree with those the store was created with.
            new_store_id: names the store's data if it is created now; None: it is not created.

        Raises:
            LevelUnavailableError: the servers do not give ``settings.level``.
            StoreMismatchError: created with another number of partitions.
            StoreUnavailableError: the servers cannot be reached.
        """
        pipeline = Pipeline(url)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(pipeline.close)
            flushing = await flushing_of(pipeline, settings.level, probe_key(settings))
            flushing.durability(settings.level)
            store = cls(pipeline, settings, flushing)
            await store._adopt(new_store_id)
            stack.pop_all()
        return store

    async def _adopt(self, new_store_id: str | None) -> None:
        records = [await self.partition_record(number) for number in range(self.partitions)]
        self.store_id = next((record.store_id for record in records if record.store_id), "")
        await self._require_partitions()
        if self.store_id or new_store_id is None or any(record.end.position for record in records):
            return
        for record in records:
            try:
                await self.open_epoch(record.partition, new_store_id, 1, LOG_START)
            except SeamError:
                # Somebody else creates it at the same time: the name that the first partition got is everybody's.
                self.store_id = new_store_id = (await self.partition_record(record.partition)).store_id

    async def close_partition(self, partition: int) -> None:
        """See :meth:`HotStore.close_partition`."""
        await self._pipeline.execute("HDEL", f"{self._keys[partition]}:meta", "incarnation")

    async def _require_partitions(self) -> None:
        for prefix in self._keys:
            found = await self._pipeline.execute("HGET", f"{prefix}:meta", "partitions")
            if found is not None and int(found) != self.partitions:
                raise StoreMismatchError(
                    f"the store was created with {int(found)} partitions, which is fixed; it cannot be opened with "
                    f"{self.partitions}"
                )

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        check_append(commit)
        level = commit.level or self.level
        number = self._partition(commit.stream)
        epoch = self._epochs[number]
        keys, args = append_arguments(self._keys[number], epoch, self._fixed, commit)
        reply, reached = await self._write(APPEND, keys, args, level, commit.commit_id)
        result = self._append_result(commit, epoch, reply, reached)
        if reached < level:
            raise LevelNotReachedError(commit.commit_id, level, reached)
        return result

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """See :meth:`EventStore.confirm`."""
        number = self._partition(stream)
        epoch, prefix = self._epochs[number], self._keys[number]
        args = (epoch, self._fixed, version, event_hash)
        name = f"of {stream}/{version}"
        reply, reached = await self._write(CONFIRM, (f"{prefix}:meta", f"{prefix}:stream:{stream}"), args, level, name)
        match reply:
            case [b"Confirmed"] if reached < level:
                raise LevelNotReachedError(name, level, reached)
            case [b"Confirmed"]:
                return reached
            case [b"WrongVersion", found, head_hash]:
                raise WrongVersionError(stream, version, int(found), head_hash.decode())
            case _:
                raise EpochStaleError(number, epoch, int(reply[1]))

    async def _write(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], level: Level, name: str
    ) -> tuple[list[Any], Level]:
        """Run a script that writes, and return its reply and what that reply is worth."""
        if level == WITNESSED:
            raise LevelUnavailableError("witnessed is given by a store with an archive, not by Redis alone")
        durability = self.flushing.durability(level)
        try:
            if durability is None:
                return await self._pipeline.run(script, keys, args), self.flushing.reached(None, 0, False)
            written = await self._pipeline.run_durably(script, keys, args, durability)
        except ConnectionLostError as error:
            raise OutcomeUnknownError(name, str(error)) from error
        return written.reply, self.flushing.reached(durability, written.replicas, written.flushed)

    def _append_result(self, commit: Append, epoch: int, reply: list[Any], reached: Level) -> AppendResult:
        match reply:
            case [b"Appended", version, at_epoch, position]:
                return Appended(int(version), int(at_epoch), int(position), reached)
            case [b"Duplicate", version, at_epoch, position]:
                return Duplicate(int(version), int(at_epoch), int(position), reached)
            case [b"Existing", stream]:
                return Existing(stream.decode(), reached)
            case [b"IdempotencyConflict", stream]:
                raise IdempotencyConflictError(stream.decode())
            case [b"WrongVersion", version, head_hash]:
                raise WrongVersionError(commit.stream, commit.expected_version, int(version), head_hash.decode())
            case [b"EpochStale", at_epoch]:
                raise EpochStaleError(partition_in(commit.stream), epoch, int(at_epoch))
            case [b"Expired"]:
                raise StreamExpiredError(commit.stream)
            case [b"QueueFull", depth]:
                raise QueueFullError(partition_in(commit.stream), int(depth))
            case _:
                raise StoreMismatchError(f"the records of stream {commit.stream} are damaged: the script says {reply}")

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """See :meth:`EventStore.read_stream`."""
        key = f"{self._keys[self._partition(stream)]}:stream:{stream}"
        if after == 0:
            entries = await self._pipeline.execute("XRANGE", key, "-", "+", "COUNT", limit)
            return [stored_event(entry) for entry in entries]
        # The epoch of a version is not known, so versions are counted from the end of the stream.
        newest = await self._pipeline.execute("XREVRANGE", key, "+", "-", "COUNT", 1)
        missing = (stored_event(newest[0]).version if newest else 0) - after
        if missing <= 0:
            return ()
        # From that entry, not from the end: the stream may have grown meanwhile.
        entries = await self._pipeline.execute("XREVRANGE", key, newest[0][0], "-", "COUNT", missing)
        events = [stored_event(entry) for entry in reversed(entries)]
        return [event for event in events if event.version > after][:limit]

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`."""
        return await self._logs.read(after, limit, wait_seconds)

    async def log_ends(self) -> Mapping[int, Cursor]:
        """See :meth:`EventStore.log_ends`."""
        return await self._logs.ends()

    async def take_tasks(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""
        return await self._tasks.take(consumer, limit, wait_seconds)

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        return await self._tasks.claim(consumer, idle_ms, limit)

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        await self._tasks.finish(task)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        return await self._tasks.unfinished(partition)

    async def deliveries(self, task: Task) -> int:
        """See :meth:`EventStore.deliveries`."""
        return await self._tasks.deliveries(task)

    async def park_task(self, task: Task, error: str) -> None:
        """See :meth:`EventStore.park_task`."""
        await self._tasks.park(task, error)

    async def list_parked(self) -> Sequence[ParkedTask]:
        """See :meth:`EventStore.list_parked`."""
        return await self._tasks.parked()

    async def retry_parked(self, stream: str) -> bool:
        """See :meth:`EventStore.retry_parked`."""
        return await self._tasks.retry(self._partition(stream), stream)

    async def skip_parked(self, stream: str, reason: str) -> bool:
        """See :meth:`EventStore.skip_parked`."""
        return await self._tasks.skip(self._partition(stream), stream, reason)

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        """See :meth:`EventStore.drop_dead_consumers`."""
        return await self._tasks.drop_dead_consumers(idle_ms)

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        return await self._tasks.fire_timers(limit)

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """See :meth:`EventStore.read_index`."""
        return await read_index(self._pipeline, self._keys[partition], index)

    async def find_entries(
        self, partition: int, ranges: Sequence[IndexRange], limit: int
    ) -> Sequence[Sequence[IndexEntry]]:
        """See :meth:`EventStore.find_entries`."""
        return await find_entries(self._pipeline, self._keys[partition], ranges, limit)

    async def count_entries(self, partition: int, indexes: Sequence[str]) -> Sequence[int]:
        """See :meth:`EventStore.count_entries`."""
        return await count_entries(self._pipeline, self._keys[partition], indexes)

    async def read_mark(self, partition: int, name: str) -> int | None:
        """See :meth:`EventStore.read_mark`."""
        return await read_mark(self._pipeline, self._keys[partition], name)

    async def advance_mark(self, partition: int, name: str, value: int) -> None:
        """See :meth:`EventStore.advance_mark`."""
        epoch = self._epochs[partition]
        opened = (epoch, self._fixed)
        match await advance_mark(self._pipeline, self._keys[partition], opened, name, value):
            case [b"EpochStale", at_epoch]:
                raise EpochStaleError(partition, epoch, int(at_epoch))

    async def take_rate(self, partition: int, name: str, count: int, period_ms: int) -> RateTaken:
        """See :meth:`EventStore.take_rate`."""
        return await take_rate(self._pipeline, f"{self._keys[partition]}:rate:{name}", count, period_ms)

    async def status(self) -> Sequence[PartitionStatus]:
        """See :meth:`EventStore.status`."""
        statuses: list[PartitionStatus] = []
        for number, prefix in enumerate(self._keys):
            epoch, position = await self._pipeline.execute("HMGET", f"{prefix}:meta", "epoch", "position")
            tasks = await self._pipeline.execute("XLEN", f"{prefix}:tasks")
            groups = await self._groups(f"{prefix}:tasks")
            timers = await self._pipeline.execute("ZCARD", f"{prefix}:due")
            pending = sum(fields_of(group)[b"pending"] for group in groups)
            parked = await self._pipeline.execute("HLEN", f"{prefix}:parked")
            waiting = await self._pipeline.execute("ZCARD", f"{prefix}:{WAITING}")
            statuses.append(
                PartitionStatus(number, int(epoch or 0), int(position or 0), tasks, pending, timers, parked, waiting)
            )
        return statuses

    async def _groups(self, key: str) -> list[Any]:
        try:
            return list(await self._pipeline.execute("XINFO", "GROUPS", key, key=key))
        except RefusedError as error:
            # A partition that has lost its keys has no group.
            if "no such key" not in str(error):
                raise
            return []

    async def partition_record(self, partition: int) -> PartitionRecord:
        """See :meth:`HotStore.partition_record`."""
        record = await keeping.read_record(self._pipeline, self._keys[partition], partition, self._fixed)
        self._epochs[partition] = record.epoch
        if self._found[partition] not in ("", record.found):
            # Another server, or the same with another configuration: what it was able to give says nothing of it.
            self.flushing = await flushing_of(self._pipeline, self.level, self._probe)
        self._found[partition] = record.found
        self._logs.doubt(partition)
        self.store_id = self.store_id or record.store_id
        return record

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        """See :meth:`HotStore.restore`."""
        await keeping.restore(self._pipeline, self._keys[partition], partition, self._fixed, restored)

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        """See :meth:`HotStore.open_epoch`."""
        identity, incarnations = (store_id, self.partitions), (self._fixed, self._found[partition])
        await keeping.open_epoch(self._pipeline, self._keys[partition], identity, epoch, end, incarnations)
        self._epochs[partition] = epoch
        self.store_id = store_id

    async def now_ms(self, partition: int) -> int:
        """See :meth:`HotStore.now_ms`."""
        seconds, micros = await self._pipeline.execute("TIME", key=f"{self._keys[partition]}:meta")
        return int(seconds) * 1000 + int(micros) // 1000

    async def ended_before(
        self, partition: int, index: str, score: int, limit: int, skip: int = 0
    ) -> Sequence[IndexEntry]:
        """See :meth:`HotStore.ended_before`."""
        return await keeping.ended_before(self._pipeline, f"{self._keys[partition]}:{index}", score, (skip, limit))

    async def list_streams(self, partition: int) -> Sequence[str]:
        """See :meth:`HotStore.list_streams`."""
        return await keeping.list_streams(self._pipeline, self._keys[partition])

    async def discard_partition(self, partition: int) -> int:
        """See :meth:`HotStore.discard_partition`."""
        return await keeping.discard(self._pipeline, self._keys[partition])

    async def log_start(self, partition: int) -> int:
        """See :meth:`HotStore.log_start`."""
        return await self._logs.start(partition)

    async def remove_closed(self, partition: int, streams: Sequence[ClosedStream], index: str) -> Sequence[str]:
        """See :meth:`HotStore.remove_closed`."""
        return await keeping.remove_closed(self._pipeline, self._keys[partition], streams, index)

    async def trim_log(self, partition: int, keep: Cursor) -> int:
        """See :meth:`HotStore.trim_log`."""
        return await self._logs.trim(partition, keep)

    async def close(self) -> None:
        """See :meth:`EventStore.close`."""
        await self._pipeline.close()

    def _partition(self, stream: str) -> int:
        number = partition_in(stream)
        if number >= self.partitions:
            raise BadIdError(f"{stream} names partition {number:02d}, but the store has {self.partitions}")
        return number
