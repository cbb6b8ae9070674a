"""The event store's port: what every store does, whatever keeps its data."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from eventstore.canonical import SealedEvent
from eventstore.ids import Cursor
from eventstore.levels import Level
from eventstore.rates import RateTaken

MAX_EVENTS: Final = 512
"""Largest number of events in one append."""

MAX_COMMIT_BYTES: Final = 256 * 1024
"""Largest total size of the events of one append."""

DIRECT_MAX: Final = 64
"""A partition with so many tasks that no worker holds lets those of new streams wait in their lanes."""

WAITING: Final = "waiting"
"""Index of the tasks that wait for their lane's turn, in that order; members are ``<kind> <stream>``."""

NEW_STREAM_SECONDS_MAX: Final = 30
"""Greatest age of the id of a stream that begins now; closed streams stay in the store for longer than that."""


class Task(Struct, frozen=True):
    """One bounded piece of work on a stream, held by a worker until it is finished or claimed by another."""

    stream: str
    kind: str
    partition: int
    id: str
    """The task's entry id in its partition's tasks stream."""


class ParkedTask(Struct, frozen=True, kw_only=True):
    """A task that was taken away from the workers, because working on it failed again and again."""

    stream: str
    kind: str
    partition: int
    error: str
    """Why, for people: at most :data:`eventstore.errors.ERROR_CHARACTERS_MAX` characters."""
    deliveries: int
    """How often it was handed out."""
    parked_ms: int
    """The server's clock, milliseconds since 1970."""
    skipped_reason: str | None
    """Why somebody left it as it is, knowingly; None until then."""


class IndexEntry(Struct, frozen=True):
    """A member of a sorted index of the partition; timers are entries of the index ``due``."""

    index: str
    member: str
    score: int
    """Below 2^53 in magnitude; for timers the due time in milliseconds since 1970."""


class IndexRange(Struct, frozen=True):
    """Entries of a sorted index with scores of ``low`` to ``high``, less the ``skip`` lowest ones; None: unbounded."""

    index: str
    low: int | None
    high: int | None
    skip: int = 0


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
    lane: str | None = None
    """Whose queue the task of a new stream waits in ("" for anonymous ones); None: the task is free at once."""
    queue_max: int | None = None
    """A new stream is refused while its partition has so many unfinished tasks, waiting ones included; None: never."""
    finish_task: Task | None = None
    """A task of the same partition to acknowledge and delete."""
    set_entries: tuple[IndexEntry, ...] = ()
    clear_entries: tuple[tuple[str, str], ...] = ()
    """(index, member) pairs."""
    idempotency: IdempotencyKey | None = None
    level: Level | None = None
    """What the answer must be worth at least; None: the store's own level."""


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
    """The append happened now; ``version`` and ``position`` are those of its last event.

    ``level``, here and in the other answers, is what was reached, measured; at least what was asked for.
    """

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
    def end(self) -> Cursor:
        """Where a reader is after this commit."""
        return Cursor(self.epoch, self.position, self.anchors[-1] if self.anchors else "")


class PartitionStatus(Struct, frozen=True):
    """One partition as an operator sees it."""

    partition: int
    epoch: int
    position: int
    tasks: int
    """Tasks that are not finished, without those that are ``waiting`` for their lane."""
    pending: int
    """Of these, tasks held by a worker."""
    timers: int
    parked: int
    """Parked tasks, skipped ones included; these are no longer among ``tasks``."""
    waiting: int


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
        """Append all events with their task, timers and idempotency record, or nothing, at the level asked for.

        The idempotency key is looked at only for a new stream. An append that is sent again is answered with its
        original numbers. Events reach readers, and the channel ``order-events-<stream>``, in commit order.

        Raises:
            WrongVersionError: another writer was first; nothing was written. Reload and decide again.
            IdempotencyConflictError: the key is another request's; nothing was written.
            EpochStaleError: the server may have lost or replaced data; nothing was written. The partition is closed
                until its next epoch is opened.
            OutcomeUnknownError: time-out, lost connection, or the level was not reached in time
                (:class:`LevelNotReachedError`). Send the same append again.
            StreamExpiredError: the id of a new stream is too old to begin one now. Take a new id.
            QueueFullError: ``queue_max`` tasks are unfinished; nothing was written. Try again later.
            ValueError: too many or too large events.
        """
        ...

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """Return what an event that was appended before, by anybody, is worth: at least ``level``, measured now.

        Raises:
            WrongVersionError: the stream does not hold that event, or no longer. Reload.
            LevelNotReachedError: not yet worth ``level``. Ask again.
            EpochStaleError, OutcomeUnknownError, LevelUnavailableError: as :meth:`append`.
        """
        ...

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return up to ``limit`` events after version ``after``, oldest first; empty for an unknown stream.

        Raises:
            BadIdError: ``stream`` is not a stream id.
        """
        ...

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        """Return commits after the given positions, per partition in order, at most ``limit`` for each partition.

        Waits up to ``wait_seconds`` while there is none; then returns an empty sequence. The log is asked whether it
        still holds the event that a cursor's anchor names: at the first read after it, and whenever a connection was
        lost since.

        Raises:
            ForkError: the log does not hold that event: it was lost or replaced after it was read.
            TruncatedError: what follows the cursor has left the log.
            PositionMissingError: a position is missing between two commits.
        """
        ...

    async def log_ends(self) -> Mapping[int, Cursor]:
        """Return where every partition's log ends; :data:`~eventstore.ids.LOG_START` for an empty one."""
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

        Tasks that wait for their lane are in the index :data:`WAITING`. What changes meanwhile may or may not be seen.
        """
        ...

    async def deliveries(self, task: Task) -> int:
        """Return how often a task was handed out, taken and claimed; 0 for one that no worker holds."""
        ...

    async def park_task(self, task: Task, error: str) -> None:
        """Take a task away from the workers and record it as parked under its stream, in one step. Idempotent.

        A stream has one parked task: a later one replaces it. A task that is finished already is not parked. What of
        ``error`` is kept, :func:`eventstore.errors.storable_error` says.
        """
        ...

    async def list_parked(self) -> Sequence[ParkedTask]:
        """Return the parked tasks, by partition, oldest first; empty where there is none.

        A stream that went on by another task or timer keeps its record until that is retried, which does no harm.

        Raises:
            DamagedEntryError: a record cannot be read.
        """
        ...

    async def retry_parked(self, stream: str) -> bool:
        """Turn a stream's parked task, also a skipped one, into a task again, in one step; False where there is none.

        Raises:
            BadIdError: ``stream`` is not a stream id.
        """
        ...

    async def skip_parked(self, stream: str, reason: str) -> bool:
        """Mark a stream's parked task as one that is left as it is, knowingly; False where there is none.

        Raises:
            BadIdError: ``stream`` is not a stream id.
        """
        ...

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        """Forget consumers that hold no task and did nothing for longer than ``idle_ms``; return their names, sorted.

        Look and deletion are one step for each partition, so no task is lost. A consumer that is alive, but was given
        nothing for that long, may be among them; it is known again as soon as it takes or claims a task.
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

    async def find_entries(
        self, partition: int, ranges: Sequence[IndexRange], limit: int
    ) -> Sequence[Sequence[IndexEntry]]:
        """Return, for each range in order, at most ``limit`` entries, lowest score first; one round trip for all."""
        ...

    async def count_entries(self, partition: int, indexes: Sequence[str]) -> Sequence[int]:
        """Return how many entries each index has, in the order asked; 0 for an unknown one. One round trip."""
        ...

    async def read_mark(self, partition: int, name: str) -> int | None:
        """Return the greatest value that a mark was advanced to, None where it never was."""
        ...

    async def advance_mark(self, partition: int, name: str, value: int) -> None:
        """Let a mark be ``value``, below 2^53 in magnitude. It never goes back: a smaller value changes nothing.

        Raises:
            EpochStaleError: the partition is closed; the mark stays.
        """
        ...

    async def take_rate(self, partition: int, name: str, count: int, period_ms: int) -> RateTaken:
        """Take one of ``count`` per ``period_ms``, by the server's clock; ``count`` may be taken at once.
        A refusal takes nothing.

        Raises:
            ValueError: ``count`` is not 1 to 1000 per millisecond, or the period is not 1 ms to one day.
        """
        ...

    async def status(self) -> Sequence[PartitionStatus]:
        """Return one entry for each partition, in order."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...
