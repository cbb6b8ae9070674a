"""The errors of the projections; each says what the caller does next."""

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
    """Another rebuild of the same table runs; this one changed nothing. Wait for its end."""

    def __init__(self) -> None:
        super().__init__("another rebuild of orders is running: wait for its end")


class RebuildBlockedError(ProjectionError):
    """The rebuilt table could not be swapped in: somebody holds the live one. Nothing changed; end them, try again."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"the table orders was in use at each of {attempts} attempts to swap the rebuilt one in: "
            "end the long transaction that holds it (see pg_stat_activity) and rebuild again"
        )
        self.attempts = attempts
