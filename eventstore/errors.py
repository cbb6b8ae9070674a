"""The errors of the event store; each says what the caller does next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventstore.ids import Cursor
    from eventstore.levels import Level


ERROR_CHARACTERS_MAX: Final = 2_000
"""Longest error text of a parked task."""


def storable_error(text: str) -> str:
    """Return ``text`` as a parked task keeps it: cut to its first characters, without what UTF-8 cannot express."""
    return text[:ERROR_CHARACTERS_MAX].encode("utf-8", "replace").decode("utf-8")


class EventStoreError(Exception):
    """Base of every error that the event store raises on purpose."""


class WrongVersionError(EventStoreError):
    """Another writer appended first; nothing was written. Reload, decide again, retry a bounded number of times.

    ``version`` and ``hash`` are the stream's actual head; version 0 and hash "" for an empty stream.
    """

    def __init__(self, stream: str, expected: int, version: int, head_hash: str) -> None:
        super().__init__(f"stream {stream} is at version {version}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.version = version
        self.hash = head_hash


class IdempotencyConflictError(EventStoreError):
    """The idempotency key belongs to ``stream``, with another fingerprint; nothing was written. Refuse the request."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"the idempotency key was already used, with another content, by {stream}")
        self.stream = stream


class EpochStaleError(EventStoreError):
    """The partition is closed: its server may have lost or replaced data since its epoch was opened.

    Nothing was written. Whoever keeps the second copy heals the partition and opens its next epoch; then send the
    same append again. ``epoch`` is the partition's own; 0 where its record is missing altogether.
    """

    def __init__(self, partition: int, expected: int, epoch: int) -> None:
        super().__init__(
            f"partition {partition} is closed: its server's record is of epoch {epoch}, this client's of {expected}"
        )
        self.partition = partition
        self.expected = expected
        self.epoch = epoch


class OutcomeUnknownError(EventStoreError):
    """No answer came: the append may or may not have happened. Send the same append, with the same commit id, again."""

    def __init__(self, commit_id: str, cause: str) -> None:
        super().__init__(f"the outcome of commit {commit_id} is unknown ({cause}): send the same append again")
        self.commit_id = commit_id


class LevelNotReachedError(OutcomeUnknownError):
    """The append happened, but is worth less than was asked for, so far: ``reached``. Send the same append again."""

    def __init__(self, commit_id: str, wanted: Level, reached: Level) -> None:
        super().__init__(commit_id, f"it reached {reached}, not {wanted}, in time")
        self.wanted = wanted
        self.reached = reached


class StreamExpiredError(EventStoreError):
    """A new stream's id is too old: its stream may have ended and left the store already. Take a new id.

    Look for ``stream`` in the archive first where the append may have happened before.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(f"the id {stream} is too old to begin a stream: look for it in the archive, or take a new id")
        self.stream = stream


class QueueFullError(EventStoreError):
    """A new stream's partition has as many unfinished tasks as the append allows; nothing was written. Try again later.

    ``depth`` is how many it has, waiting ones included.
    """

    def __init__(self, partition: int, depth: int) -> None:
        super().__init__(
            f"partition {partition} has {depth} unfinished tasks, and takes no new stream: try again later"
        )
        self.partition = partition
        self.depth = depth


class StoreUnavailableError(EventStoreError):
    """The server cannot be reached or refuses commands (out of memory, loading, read-only). Back off and retry."""


class ConnectionLostError(StoreUnavailableError):
    """The connection was lost or timed out while a command was under way: it may or may not have run."""


class PartitionForkedError(StoreUnavailableError):
    """The two copies of a partition hold different events, so it stays closed until a person chooses one.

    ``report`` says where they part and what each holds.
    """

    def __init__(self, partition: int, report: str) -> None:
        super().__init__(
            f"partition {partition} is forked and stays closed: {report}. To keep PostgreSQL's history, stop the "
            f"engine and run `ordertape restore --partition {partition} --discard FILE`; FILE then has what Redis had"
        )
        self.partition = partition
        self.report = report


class StoreMismatchError(EventStoreError):
    """The store was created with other fixed settings, or another program owns its keys. Change the named setting."""


class StoreEmptyError(EventStoreError):
    """Redis holds nothing of a store whose second copy has events. Correct a URL, or restore Redis from PostgreSQL."""

    def __init__(self, store_id: str, events: int) -> None:
        super().__init__(
            f"Redis holds nothing, but PostgreSQL has {events} events of event store {store_id}: correct REDIS_URL or "
            "DATABASE_URL; if Redis lost its data, run `ordertape restore`"
        )
        self.store_id = store_id
        self.events = events


class DamagedEntryError(EventStoreError):
    """An entry of the store cannot be read: somebody else wrote or changed it. Restore the Redis data."""

    def __init__(self, entry_id: str, cause: Exception) -> None:
        super().__init__(f"the entry {entry_id} cannot be read ({type(cause).__name__}: {cause})")
        self.entry_id = entry_id


class LevelUnavailableError(EventStoreError):
    """The server cannot give the configured acknowledgement level; the message names the setting that accepts less."""


class ForkError(EventStoreError):
    """The log does not hold the event that a reader's cursor names: it was lost or replaced after it was read.

    What the reader knows after the last common event never happened. Begin anew from there, or from the log's end.
    """

    def __init__(self, partition: int, cursor: Cursor, found: str) -> None:
        instead = f", which has {found} there" if found else ""
        super().__init__(f"partition {partition}: the event {cursor} is not in the log{instead}")
        self.partition = partition
        self.cursor = cursor
        self.found = found
        """The anchor that the log has at that place; "" for none."""


class TruncatedError(EventStoreError):
    """What follows a reader's cursor has left the log. Read it from the archive; ``oldest`` is the first position."""

    def __init__(self, partition: int, cursor: Cursor, oldest: int) -> None:
        super().__init__(f"partition {partition}: the log begins at position {oldest}, after the cursor {cursor}")
        self.partition = partition
        self.cursor = cursor
        self.oldest = oldest


class SeamError(EventStoreError):
    """What was to be restored does not continue what the store holds; nothing was written. ``found`` is its head."""

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place} continues {expected}, but the store holds {found}")
        self.place = place
        self.expected = expected
        self.found = found


class PartitionOpenError(EventStoreError):
    """The partition is open, so nothing can be restored into it: another process has opened it meanwhile."""

    def __init__(self, partition: int) -> None:
        super().__init__(f"partition {partition} is open: another process has opened it")
        self.partition = partition


class PositionMissingError(EventStoreError):
    """A reader found a hole where the next position must be. Stop reading and run ``ordertape audit verify``."""

    def __init__(self, partition: int, expected: int, found: int) -> None:
        super().__init__(f"partition {partition}: position {expected} is missing, found {found}")
        self.partition = partition
        self.expected = expected
        self.found = found


class NotCanonicalError(EventStoreError):
    """A value has no canonical JSON form; ``path`` names it. It was not appended: repair the producer."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'the event'}: {problem}")
        self.path = path


class BadIdError(EventStoreError):
    """A text is not a stream id, an event id or a cursor of this store."""


class BadLevelError(EventStoreError):
    """A text names no acknowledgement level; the message lists them."""
