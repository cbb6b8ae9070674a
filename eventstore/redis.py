"""The event store on Redis or Valkey: one hash tag per partition, one script per append."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self, cast

from redis.exceptions import ResponseError

from eventstore.connection import CONNECTION_LOST, Pipeline, connect
from eventstore.errors import (
    BadIdError,
    ConnectionLostError,
    DamagedEntryError,
    EpochStaleError,
    IdempotencyConflictError,
    OutcomeUnknownError,
    PositionMissingError,
    StoreMismatchError,
    StoreUnavailableError,
    WrongVersionError,
)
from eventstore.ids import LOG_START, LogPosition, partition_in
from eventstore.opening import StoreSettings, ensure_level, open_partitions
from eventstore.scripts import APPEND, FIRE
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

GROUP: Final = "workers"
_WAIT_SECONDS_MAX: Final = 30
_LIST_PAGE: Final = 1000


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
        self._waiting = connect(url, wait_seconds=_WAIT_SECONDS_MAX)

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
                await _create_group(client, f"{settings.key_prefix(number)}:tasks")
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
        keys, args = _append_arguments(self._keys[number], epoch, commit)
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
            return [_stored_event(entry) for entry in entries]
        # The epoch of a version is not known, so versions are counted from the end of the stream.
        newest = await self._pipeline.execute("XREVRANGE", key, "+", "-", "COUNT", 1)
        missing = (_stored_event(newest[0]).version if newest else 0) - after
        if missing <= 0:
            return ()
        # From that entry, not from the end: the stream may have grown meanwhile.
        entries = await self._pipeline.execute("XREVRANGE", key, newest[0][0], "-", "COUNT", missing)
        events = [_stored_event(entry) for entry in reversed(entries)]
        return [event for event in events if event.version > after][:limit]

    async def read_log(
        self, after: Mapping[int, LogPosition], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """See :meth:`EventStore.read_log`."""
        streams: dict[str, str] = {f"{self._keys[number]}:log": start.entry_id for number, start in after.items()}
        numbers = {f"{self._keys[number]}:log".encode(): number for number in after}
        replies = await self._wait("XREAD", limit, wait_seconds, streams)
        if not replies:
            await self._check_ends(after)
        commits: list[StoredCommit] = []
        for key, entries in replies:
            number = numbers[key]
            last = after[number].position
            for entry in entries:
                commit = _stored_commit(number, entry)
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
        streams = {f"{prefix}:tasks": ">" for prefix in self._keys}
        numbers = {f"{prefix}:tasks".encode(): number for number, prefix in enumerate(self._keys)}
        try:
            replies = await self._wait("XREADGROUP", limit, wait_seconds, streams, "GROUP", GROUP, consumer)
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise StoreUnavailableError(f"the Redis server refused to give tasks: {error}") from error
            for key in streams:
                await _create_group(self._waiting, key)
            return ()
        return [_task(numbers[key], entry) for key, entries in replies for entry in entries]

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        tasks: list[Task] = []
        for number, prefix in enumerate(self._keys):
            reply = await self._pipeline.execute(
                "XAUTOCLAIM", f"{prefix}:tasks", GROUP, consumer, idle_ms, "0-0", "COUNT", limit
            )
            # Servers before 7.0 report entries that were deleted meanwhile as nil.
            tasks += [_task(number, entry) for entry in reply[1] if entry and entry[0] and entry[1]]
        return tasks

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        key = f"{self._keys[task.partition]}:tasks"
        await self._pipeline.execute("XACK", key, GROUP, task.id)
        await self._pipeline.execute("XDEL", key, task.id)

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        key = f"{self._keys[partition]}:tasks"
        tasks: list[Task] = []
        start = "-"
        while page := await self._pipeline.execute("XRANGE", key, start, "+", "COUNT", _LIST_PAGE):
            tasks += [_task(partition, entry) for entry in page]
            start = f"({tasks[-1].id}"
        return tasks

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        waits = [
            await self._pipeline.run(FIRE, (f"{prefix}:due", f"{prefix}:tasks"), (limit,)) for prefix in self._keys
        ]
        known = [int(wait) for wait in waits if wait is not None]
        return min(known) if known else None

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
            pending = sum(_fields(group)[b"pending"] for group in groups)
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

    async def _wait(
        self, command: str, limit: int, wait_seconds: float, streams: Mapping[str, str], *prefix: str
    ) -> list[Any]:
        wait_ms = int(min(wait_seconds, _WAIT_SECONDS_MAX) * 1000)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()
        try:
            arguments = (command, *prefix, "COUNT", limit, *block, "STREAMS", *streams, *streams.values())
            replies = await cast("Any", self._waiting).execute_command(*arguments)
        except CONNECTION_LOST as error:
            raise StoreUnavailableError(f"cannot read from the Redis server: {error}") from error
        return cast("list[Any]", replies or [])


async def _create_group(client: Any, key: str) -> None:
    try:
        await client.execute_command("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def _append_arguments(prefix: str, epoch: int, commit: Append) -> tuple[list[str], list[Any]]:
    names = [entry.index for entry in commit.set_entries] + [index for index, _ in commit.clear_entries]
    indexes = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    keys = [f"{prefix}:meta", f"{prefix}:stream:{commit.stream}", f"{prefix}:log", f"{prefix}:tasks"]
    keys += [f"{prefix}:idempotency", *(f"{prefix}:{name}" for name in indexes)]
    record = commit.idempotency
    args: list[Any] = [epoch, commit.expected_version, commit.expected_hash, commit.commit_id, commit.stream]
    args += [commit.add_task or "", commit.finish_task.id if commit.finish_task else ""]
    args += [f"{record.scope}\0{record.key}", record.fingerprint] if record else ["", ""]
    args += [len(commit.events), len(commit.set_entries)]
    for event in commit.events:
        args += [event.hash, event.data]
    for entry in commit.set_entries:
        args += [indexes[entry.index], entry.score, entry.member]
    for index, member in commit.clear_entries:
        args += [indexes[index], member]
    return keys, args


def _fields(flat: Any) -> dict[bytes, Any]:
    if isinstance(flat, dict):
        return {name if isinstance(name, bytes) else name.encode(): value for name, value in flat.items()}
    return dict(zip(flat[::2], flat[1::2], strict=True))


@contextmanager
def _reading(entry_id: bytes) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError) as error:
        raise DamagedEntryError(entry_id.decode(), error) from error


def _stored_event(entry: tuple[bytes, Any]) -> StoredEvent:
    with _reading(entry[0]):
        at = LogPosition.of_entry(entry[0])
        fields = _fields(entry[1])
        return StoredEvent(
            version=at.position,
            epoch=at.epoch,
            position=int(fields[b"position"]),
            commit_id=fields[b"commit"].decode(),
            hash=fields[b"hash"].decode(),
            data=fields[b"event"],
        )


def _stored_commit(number: int, entry: tuple[bytes, Any]) -> StoredCommit:
    with _reading(entry[0]):
        at = LogPosition.of_entry(entry[0])
        fields = _fields(entry[1])
        anchors = fields[b"anchors"].decode()
        return StoredCommit(
            partition=number,
            epoch=at.epoch,
            position=at.position,
            stream=fields[b"stream"].decode(),
            version=int(fields[b"version"]),
            commit_id=fields[b"commit"].decode(),
            recorded_us=int(fields[b"recorded"]),
            events=tuple(fields[b"events"].split(b"\n")),
            anchors=tuple(anchors[start : start + 8] for start in range(0, len(anchors), 8)),
        )


def _task(number: int, entry: tuple[bytes, Any]) -> Task:
    with _reading(entry[0]):
        fields = _fields(entry[1])
        return Task(fields[b"stream"].decode(), fields[b"kind"].decode(), number, entry[0].decode())
