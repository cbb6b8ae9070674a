"""The event store on Redis or Valkey: one hash tag per partition, one script per append."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from eventstore.errors import (
    BadIdError,
    ConnectionLostError,
    EpochStaleError,
    IdempotencyConflictError,
    OutcomeUnknownError,
    PositionMissingError,
    StoreMismatchError,
    StoreUnavailableError,
    WrongVersionError,
)
from eventstore.ids import LOG_START, LogPosition, partition_in
from eventstore.redis.connection import CONNECTION_LOST, WAIT_SECONDS_MAX, Pipeline, connect, read_streams
from eventstore.redis.entries import append_arguments, fields_of, stored_commit, stored_event
from eventstore.redis.opening import StoreSettings, ensure_level, open_partitions
from eventstore.redis.scripts import APPEND
from eventstore.redis.tasks import Tasks, create_group
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


class RedisEventStore:
    """See :class:`eventstore.store.EventStore`. Each event is also published on ``order-events-<stream>``.

    Open it with :meth:`open`; the constructor connects nothing.
    """

    def __init__(self, url: str, settings: StoreSettings, *, store_id: str, epochs: Sequence[int]) -> None:
        self.partitions: Final = settings.partitions
        self.store_id: Final = store_id
        self.level: Final[Level] = settings.level
        self._epochs = list(epochs)
        self._keys = [settings.key_prefix(number) for number in range(settings.partitions)]
        self._pipeline = Pipeline(connect(url))
        self._waiting = connect(url, wait_seconds=WAIT_SECONDS_MAX)
        self._tasks = Tasks(self._pipeline, self._waiting, self._keys)

    @classmethod
    async def open(cls, url: str, settings: StoreSettings, *, new_store_id: str) -> Self:
        """Connect, check the server's durability, and create the store where there is none.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            settings: must agree with those the store was created with.
            new_store_id: names the store's data if it is created now.

        Raises:
            LevelUnavailableError: the server does not give ``settings.level``.
            StoreMismatchError: created with another number of partitions, or part of its records is gone.
            StoreUnavailableError: the server cannot be reached.
        """
        client = connect(url)
        try:
            await ensure_level(client, settings.level)
            store_id, epochs = await open_partitions(client, settings, new_store_id)
            for number in range(settings.partitions):
                await create_group(client, f"{settings.key_prefix(number)}:tasks")
        except CONNECTION_LOST as error:
            raise StoreUnavailableError(f"cannot use the Redis server: {error}") from error
        finally:
            await client.aclose()
        return cls(url, settings, store_id=store_id, epochs=epochs)

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        check_append(commit)
        number = self._partition(commit.stream)
        epoch = self._epochs[number]
        keys, args = append_arguments(self._keys[number], epoch, commit)
        try:
            reply = await self._pipeline.run(APPEND, keys, args)
        except ConnectionLostError as error:
            raise OutcomeUnknownError(commit.commit_id, str(error)) from error
        return self._append_result(commit, epoch, reply)

    def _append_result(self, commit: Append, epoch: int, reply: list[Any]) -> AppendResult:
        match reply:
            case [b"Appended", version, at_epoch, position]:
                return Appended(int(version), int(at_epoch), int(position), self.level)
            case [b"Duplicate", version, at_epoch, position]:
                return Duplicate(int(version), int(at_epoch), int(position), self.level)
            case [b"Existing", stream]:
                return Existing(stream.decode(), self.level)
            case [b"IdempotencyConflict", stream]:
                raise IdempotencyConflictError(stream.decode())
            case [b"WrongVersion", version, head_hash]:
                raise WrongVersionError(commit.stream, commit.expected_version, int(version), head_hash.decode())
            case [b"EpochStale", at_epoch]:
                raise EpochStaleError(epoch, int(at_epoch))
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
        self, after: Mapping[int, LogPosition], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`."""
        streams: dict[str, str] = {f"{self._keys[number]}:log": start.entry_id for number, start in after.items()}
        numbers = {f"{self._keys[number]}:log".encode(): number for number in after}
        replies = await read_streams(self._waiting, "XREAD", limit, wait_seconds, streams)
        if not replies:
            await self._check_ends(after)
        commits: list[StoredCommit] = []
        for key, entries in replies:
            number = numbers[key]
            last = after[number].position
            for entry in entries:
                commit = stored_commit(number, entry)
                first = commit.position - len(commit.events) + 1
                if first > last + 1:
                    raise PositionMissingError(number, last + 1, first)
                last = commit.position
                commits.append(commit)
        return commits

    async def _check_ends(self, after: Mapping[int, LogPosition]) -> None:
        ends = await self.log_ends()
        for number, start in after.items():
            if start.position > ends[number].position:
                raise PositionMissingError(number, start.position, ends[number].position)

    async def log_ends(self) -> Mapping[int, LogPosition]:
        """See :meth:`EventStore.log_ends`."""
        ends: dict[int, LogPosition] = {}
        for number, prefix in enumerate(self._keys):
            newest = await self._pipeline.execute("XREVRANGE", f"{prefix}:log", "+", "-", "COUNT", 1)
            ends[number] = LogPosition.of_entry(newest[0][0]) if newest else LOG_START
        return ends

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

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        return await self._tasks.fire_timers(limit)

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """See :meth:`EventStore.read_index`."""
        found = await self._pipeline.execute("ZRANGE", f"{self._keys[partition]}:{index}", 0, -1, "WITHSCORES")
        pairs = zip(found[::2], found[1::2], strict=True) if found and not isinstance(found[0], tuple) else found
        return [IndexEntry(index, member.decode(), int(score)) for member, score in pairs]

    async def status(self) -> Sequence[PartitionStatus]:
        """See :meth:`EventStore.status`."""
        statuses: list[PartitionStatus] = []
        for number, prefix in enumerate(self._keys):
            epoch, position = await self._pipeline.execute("HMGET", f"{prefix}:meta", "epoch", "position")
            tasks = await self._pipeline.execute("XLEN", f"{prefix}:tasks")
            groups = await self._pipeline.execute("XINFO", "GROUPS", f"{prefix}:tasks")
            timers = await self._pipeline.execute("ZCARD", f"{prefix}:due")
            pending = sum(fields_of(group)[b"pending"] for group in groups)
            statuses.append(PartitionStatus(number, int(epoch or 0), int(position or 0), tasks, pending, timers))
        return statuses

    async def close(self) -> None:
        """See :meth:`EventStore.close`."""
        await self._pipeline.close()
        await self._waiting.aclose()

    def _partition(self, stream: str) -> int:
        number = partition_in(stream)
        if number >= self.partitions:
            raise BadIdError(f"{stream} names partition {number:02d}, but the store has {self.partitions}")
        return number
