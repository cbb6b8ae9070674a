"""The errors of the projections; each says what the caller does next."""

from collections.abc import Mapping, Sequence
from typing import Final

_REBUILD: Final = "run `ordertape audit verify` to find out which side is damaged"


class ProjectionError(Exception):
    """Base of every error that the projections raise on purpose."""


class DatabaseUrlError(ProjectionError):
    """The database URL is not one of PostgreSQL. Correct the setting that it came from."""


class EncodingError(ProjectionError):
    """The database does not store UTF-8, so it cannot hold every event. Create it again, with ENCODING 'UTF8'."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"the database's encoding is {encoding}: create it again with ENCODING 'UTF8'")
        self.encoding = encoding


class SchemaError(ProjectionError):
    """The database's schema is not the one of this code. Migrate the database, or install the newer code.

    ``current`` is None for a database without any schema of ours.
    """

    def __init__(self, current: str | None, head: str) -> None:
        super().__init__(
            f"the database's schema is {current or 'empty'}, this code needs {head}: start `ordertape up` or "
            "`ordertape project`, which migrate it, or install the version of OrderTape that wrote it"
        )
        self.current = current
        self.head = head


class ReadModelMismatchError(ProjectionError):
    """The database holds the read model of another event store. Correct one of the two URLs, or use an empty database.

    ``found`` and ``expected`` are (store id, partitions).
    """

    def __init__(self, found: tuple[str, int], expected: tuple[str, int]) -> None:
        super().__init__(
            f"the database is the read model of event store {found[0]} ({found[1]} partitions), not of {expected[0]} "
            f"({expected[1]} partitions): correct REDIS_URL or DATABASE_URL, or name an empty database"
        )
        self.found = found
        self.expected = expected


class OrderMismatchError(ProjectionError):
    """An event does not follow its order's row. Nothing of its batch was projected; do not skip it.

    ``version`` is the row's version (0: no row), ``seq`` the event's.
    """

    def __init__(self, order_id: str, version: int, seq: int, problem: str) -> None:
        super().__init__(f"order {order_id} at version {version}: event {seq} {problem}: {_REBUILD}")
        self.order_id = order_id
        self.version = version
        self.seq = seq


class FrameError(ProjectionError):
    """An event is not what its type promises. Nothing of its batch was projected; repair the producer."""

    def __init__(self, event: str, problem: str) -> None:
        super().__init__(f"event {event}: {problem}")
        self.event = event
        self.problem = problem


class ArchiveConflictError(ProjectionError):
    """The archive holds another event where the log's next one belongs. Nothing was written.

    Find out which copy is right: `ordertape audit verify`.
    """

    def __init__(self, partition: int, position: int, detail: str) -> None:
        place = f"partition {partition}, position {position}"
        super().__init__(f"{place}: the archive holds another event there: {detail}: {_REBUILD}")
        self.partition = partition
        self.position = position


class NotReachedError(ProjectionError):
    """The projection did not get to a position in time. Wait again, or see whether the projector runs.

    ``found`` is how far it got.
    """

    def __init__(self, partition: int, position: int, found: int) -> None:
        super().__init__(f"partition {partition}: the projection is at position {found}, not yet at {position}")
        self.partition = partition
        self.position = position
        self.found = found


class OrderUnknownError(ProjectionError):
    """The read model has no such order: the id is wrong, or the order is not projected yet."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"order {order_id} is not in the read model")
        self.order_id = order_id


class RebuildRunningError(ProjectionError):
    """Another rebuild runs, of this table or of another; this one changed nothing. Wait for its end."""

    def __init__(self) -> None:
        super().__init__("another rebuild is running: wait for its end")


class RebuildBlockedError(ProjectionError):
    """The rebuilt table could not be swapped in: somebody holds the live one. Nothing changed; end them, try again."""

    def __init__(self, table: str, attempts: int) -> None:
        super().__init__(
            f"the table {table} was in use at each of {attempts} attempts to swap the rebuilt one in: "
            "end the long transaction that holds it (see pg_stat_activity) and rebuild again"
        )
        self.table = table
        self.attempts = attempts


class RebuildKeptError(ProjectionError):
    """The old table of an earlier rebuild is kept. Bring it back or drop it, then rebuild; nothing was changed."""

    def __init__(self, projection: str) -> None:
        super().__init__(
            f"the table that {projection} had before its last rebuild is kept: `ordertape rebuild rollback "
            f"{projection}` brings it back, `ordertape rebuild drop {projection}` removes it; then rebuild"
        )
        self.projection = projection


class NoRebuildError(ProjectionError):
    """There is nothing to bring back: no old table is kept."""

    def __init__(self, projection: str) -> None:
        super().__init__(f"{projection} has no old table to bring back: rebuild with --keep-old to have one")
        self.projection = projection


class OldShapeError(ProjectionError):
    """The old table has the columns of an earlier schema, which this code does not write. Drop it."""

    def __init__(self, projection: str) -> None:
        super().__init__(
            f"the old table of {projection} has the columns of an earlier schema: bring it back with the code of then, "
            f"or remove it with `ordertape rebuild drop {projection}`"
        )
        self.projection = projection


class ArchiveIncompleteError(ProjectionError):
    """The archive lacks events, so nothing can be built from it. Complete it from Redis first; nothing was changed."""

    def __init__(self, partition: int, missing: int, position: int) -> None:
        super().__init__(
            f"partition {partition}: the archive lacks {missing} of the events up to position {position}: "
            "run `ordertape rebuild order_events`, which completes it from Redis"
        )
        self.partition = partition
        self.missing = missing
        self.position = position


class RebuildRefusedError(ProjectionError):
    """The rebuilt table differs from the live one, at the same position, in columns that nobody declared as changed.

    Nothing was swapped. ``columns`` counts the rows that differ, by column; ``samples`` are the first of them.
    """

    def __init__(self, projection: str, columns: Mapping[str, int], samples: Sequence[object]) -> None:
        found = ", ".join(f"{name} ({count})" for name, count in columns.items())
        flags = " ".join(f"--changed {name}" for name in columns)
        super().__init__(
            f"the rebuilt {projection} differs from the live one in {found}, rows in brackets: nothing was swapped. "
            f"If it is meant to, rebuild with {flags}; if rows were damaged, `ordertape projections diff` shows which, "
            f"and `ordertape projections repair ORDER` mends them; `ordertape rebuild drop {projection}` gives up"
        )
        self.projection = projection
        self.columns = dict(columns)
        self.samples = list(samples)


class PositionsDifferError(ProjectionError):
    """Two generations to be compared are not at the same position: a defect, report it. Nothing was swapped."""

    def __init__(self, projection: str) -> None:
        super().__init__(f"{projection}: live and rebuilt table are at different positions: nothing was swapped")
        self.projection = projection


class NotParkedError(ProjectionError):
    """The order has no parked event; nothing was changed."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"no event of order {order_id} is parked")
        self.order_id = order_id


class SkipError(ProjectionError):
    """An order's first event cannot be skipped: without it there is no row. Repair the event; nothing was changed."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"the first event of order {order_id} cannot be skipped: without it, there is no row")
        self.order_id = order_id


class ArchiveLossError(ProjectionError):
    """The completed archive would lack events that the live one has. Nothing was swapped."""

    def __init__(self, lost: int, sample: str) -> None:
        super().__init__(
            f"the new archive lacks {lost} events that the live one has, such as {sample}: nothing was swapped"
        )
        self.lost = lost
        self.sample = sample
