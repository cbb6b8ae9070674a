"""The port of the store that holds the hot data, as the keeper of the second copy sees it."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from eventstore.ids import Cursor
from eventstore.store import EventStore, IdempotencyKey, IndexEntry, StoredCommit, StoredEvent


class PartitionRecord(Struct, frozen=True, kw_only=True):
    """What a partition's server says of it."""

    partition: int
    store_id: str
    """"" where the record is missing; then epoch and position are 0."""
    epoch: int
    incarnation: str
    """Identity of the server's data when the epoch was opened."""
    found: str
    """Identity of the server's data now; another one means that acknowledged writes may be lost."""
    position: int
    end: Cursor
    """Where the log really ends."""

    @property
    def is_open(self) -> bool:
        """Whether appends are accepted."""
        return self.epoch > 0 and self.incarnation == self.found


class Duties(Struct, frozen=True, kw_only=True):
    """What must exist beside a stream's events; see :class:`~eventstore.store.Append`."""

    add_task: str | None = None
    set_entries: tuple[IndexEntry, ...] = ()
    clear_entries: tuple[tuple[str, str], ...] = ()
    idempotency: IdempotencyKey | None = None


class Restored(Struct, frozen=True, kw_only=True):
    """One piece of lost data, taken from the second copy, with its original numbers."""

    stream: str
    entry: StoredCommit | None = None
    """The log entry to add; the first one of an empty log may have any position."""
    events: tuple[StoredEvent, ...] = ()
    """The events that follow the stream's last one."""
    prev: str = ""
    """Hash of the event before the first of ``events``; "" before version 1."""
    duties: Duties = Duties()


class ClosedStream(Struct, frozen=True):
    """A stream that has left for the archive: its head there, and the idempotency key that began it."""

    stream: str
    version: int
    hash: str
    idempotency: tuple[str, str] | None
    """(scope, key)."""


class HotStore(EventStore, Protocol):
    """An event store whose keeper restores what it lost and removes what it need not hold any more.

    The keeper makes sure that it is alone: these methods do not guard against another keeper.
    """

    async def partition_record(self, partition: int) -> PartitionRecord:
        """Return the partition's record; appends of this client use its epoch from now on."""
        ...

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        """Write lost data back, each piece whole or not at all, in order; tasks are added even where one exists.

        Raises:
            SeamError: a piece does not continue the log or its stream; the pieces before it are restored.
            PartitionOpenError: the partition accepts appends.
        """
        ...

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        """Let appends go on in ``epoch``, which must be greater than every earlier one; creates a missing record.

        Raises:
            SeamError: the log does not end at ``end``, or the record is of this or a later epoch.
        """
        ...

    async def close_partition(self, partition: int) -> None:
        """Take no append until an epoch is opened: the copies differ."""
        ...

    async def now_ms(self, partition: int) -> int:
        """Return the clock of the partition's server, in milliseconds since 1970."""
        ...

    async def ended_before(
        self, partition: int, index: str, score: int, limit: int, skip: int = 0
    ) -> Sequence[IndexEntry]:
        """Return up to ``limit`` entries of a sorted index with scores below ``score``, lowest first.

        Args:
            skip: so many of the lowest ones are left out.
        """
        ...

    async def list_streams(self, partition: int) -> Sequence[str]:
        """Return the ids of all streams that the partition holds, in no order."""
        ...

    async def discard_partition(self, partition: int) -> int:
        """Remove everything that the partition holds; return the number of keys. It is closed then, and empty.

        What is not in the second copy is lost for ever. Nobody else may use the partition meanwhile.
        """
        ...

    async def log_start(self, partition: int) -> int:
        """Return the first position that the log holds; 0 for an empty one."""
        ...

    async def remove_closed(self, partition: int, streams: Sequence[ClosedStream], index: str) -> Sequence[str]:
        """Remove streams with their idempotency records and their entries of ``index``; return those removed.

        A stream that is not at the given version and hash stays. One that is gone already counts as removed.
        """
        ...

    async def trim_log(self, partition: int, keep: Cursor) -> int:
        """Remove the log's entries before the one that holds ``keep``, which must exist; return how many."""
        ...
