"""The event store's port: what every store does, whatever keeps its data."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from eventstore.canonical import SealedEvent
from eventstore.ids import Cursor, LogPosition

Level = Literal["memory", "fsync"]
"""What an acknowledgement is worth: kept in the server's memory, or flushed to its disk."""

MAX_EVENTS: Final = 512
"""Largest number of events in one append."""

MAX_COMMIT_BYTES: Final = 256 * 1024
"""Largest total size of the events of one append."""


class Task(Struct, frozen=True):
    """One bounded piece of work on a stream, held by a worker until it is finished or claimed by another."""

    stream: str
    kind: str
    partition: int
    id: str
    """The task's entry id in its partition's tasks stream."""


class IndexEntry(Struct, frozen=True):
    """A member of a sorted index of the partition; timers are entries of the index ``due``."""

    index: str
    member: str
    score: int
    """Below 2^53 in magnitude; for timers the due time in milliseconds since 1970."""


class IdempotencyKey(Struct, frozen=True):
    """A client's key for one request: ``scope`` is the client id, "" for an anonymous one."""

    scope: str
    key: str
    fingerprint: str


class Append(Struct, frozen=True, kw_only=True):
    """One commit: everything in it happens, or nothing."""

    stream: str
    expected_version: int
    """Events already in the stream; 0 for a new one."""
    expected_hash: str
    """Hash of the stream's last event; "" for a new one."""
    commit_id: str
    """Chosen by the writer, new for each decision, the same when the append is sent again."""
    events: tuple[SealedEvent, ...]
    """1 to 512, oldest first, chained to ``expected_hash``."""
    add_task: str | None = None
    """Kind of the task to add for this stream."""
    finish_task: Task | None = None
    """A task of the same partition to acknowledge and delete."""
    set_entries: tuple[IndexEntry, ...] = ()
    clear_entries: tuple[tuple[str, str], ...] = ()
    """(index, member) pairs."""
    idempotency: IdempotencyKey | None = None


def check_append(commit: Append) -> None:
    """Refuse an append that no store takes.

    Raises:
        ValueError: no events, too many, or too large together.
    """
    if not 1 <= len(commit.events) <= MAX_EVENTS:
        raise ValueError(f"an append has 1 to {MAX_EVENTS} events, not {len(commit.events)}")
    size = sum(len(event.data) for event in commit.events)
    if size > MAX_COMMIT_BYTES:
        raise ValueError(f"the events of one append have at most {MAX_COMMIT_BYTES} bytes, not {size}")


class Appended(Struct, frozen=True):
    """The append happened now; ``version`` and ``position`` are those of its last event."""

    version: int
    epoch: int
    position: int
    level: Level


class Duplicate(Struct, frozen=True):
    """The same commit was appended before; the original numbers. As durable as ``level`` says, measured now."""

    version: int
    epoch: int
    position: int
    level: Level


class Existing(Struct, frozen=True):
    """The idempotency key belongs to ``stream``, created with the same fingerprint; nothing was appended now."""

    stream: str
    level: Level


AppendResult = Appended | Duplicate | Existing


class StoredEvent(Struct, frozen=True):
    """An event of one stream, with its place in the partition's log."""

    version: int
    epoch: int
    position: int
    commit_id: str
    hash: str
    data: bytes

    @property
    def cursor(self) -> Cursor:
        """Where a reader is after this event."""
        return Cursor(self.epoch, self.position, self.hash[:8])


class StoredCommit(Struct, frozen=True):
    """One log entry: the events of one append, at positions ``position`` − len(events) + 1 to ``position``."""

    partition: int
    epoch: int
    position: int
    stream: str
    version: int
    """Version of the last event."""
    commit_id: str
    recorded_us: int
    """The server's clock at the append, microseconds since 1970."""
    events: tuple[bytes, ...]
    anchors: tuple[str, ...]
    """First 8 hex digits of each event's hash."""

    @property
    def end(self) -> LogPosition:
        """The position of the last event."""
        return LogPosition(self.epoch, self.position)


class PartitionStatus(Struct, frozen=True):
    """One partition as an operator sees it."""

    partition: int
    epoch: int
    position: int
    tasks: int
    """Tasks that are not finished."""
    pending: int
    """Of these, tasks held by a worker."""
    timers: int


class EventStore(Protocol):
    """Append-only streams in partitions, each partition with a log, tasks and sorted indexes.

    All methods may raise :class:`~eventstore.errors.StoreUnavailableError`: back off and retry.
    """

    @property
    def partitions(self) -> int:
        """How many partitions the store has, 1 to 100; fixed when it was created."""
        ...

    @property
    def store_id(self) -> str:
        """Names this store's data for ever; a read model belongs to one store id."""
        ...

    async def append(self, commit: Append) -> AppendResult:
        """Append all events with their task, timers and idempotency record, or nothing, at the store's level.

        The idempotency key is looked at only for a new stream. An append that is sent again is answered with its
        original numbers. Events reach readers, and the channel ``order-events-<stream>``, in commit order.

        Raises:
            WrongVersionError: another writer was first; nothing was written. Reload and decide again.
            IdempotencyConflictError: the key is another request's; nothing was written.
            EpochStaleError: the store was replaced or failed over; nothing was written.
            OutcomeUnknownError: time-out or lost connection. Send the same append again.
            ValueError: too many or too large events.
        """
        ...

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return up to ``limit`` events after version ``after``, oldest first; empty for an unknown stream.

        Raises:
            BadIdError: ``stream`` is not a stream id.
        """
        ...

    async def read_log(
        self, after: Mapping[int, LogPosition], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """Return commits after the given positions, per partition in order, at most ``limit`` for each partition.

        Waits up to ``wait_seconds`` while there is none; then returns an empty sequence.

        Raises:
            PositionMissingError: a position is missing between two commits, or after the given one.
        """
        ...

    async def log_ends(self) -> Mapping[int, LogPosition]:
        """Return the last position of every partition; epoch 0, position 0 for an empty one."""
        ...

    async def take_tasks(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """Return up to ``limit`` tasks per partition that no worker holds; they are then held by ``consumer``."""
        ...

    async def claim_tasks(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """Return tasks that any consumer has held for ``idle_ms`` or longer; they are then held by ``consumer``.

        A task that the caller itself is slow with may be among them: whoever still works on it ignores it.
        """
        ...

    async def finish_task(self, task: Task) -> None:
        """Acknowledge and delete a task that caused no event. Idempotent."""
        ...

    async def list_tasks(self, partition: int) -> Sequence[Task]:
        """Return all tasks of a partition that are not finished, held or free, oldest first; nothing is taken.

        Tasks that are added or finished while it reads may or may not be among them.
        """
        ...

    async def fire_timers(self, limit: int) -> int | None:
        """Turn due entries of the index ``due``, at most ``limit`` per partition, into tasks.

        Members are ``<kind> <stream>``. Entry and task change places in one step. Returns milliseconds until the next
        entry is due (0: more are due now), or None where no timer is set.
        """
        ...

    async def read_index(self, partition: int, index: str) -> Sequence[IndexEntry]:
        """Return all entries of a sorted index, lowest score first."""
        ...

    async def status(self) -> Sequence[PartitionStatus]:
        """Return one entry for each partition, in order."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...
