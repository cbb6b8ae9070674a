"""Events to the archive, thousands at a time, within the caller's transaction."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.store import StoredCommit
from projections.database import copy_rows
from projections.fold.histories import Entry

EventLine = tuple[str, int, str, str, str, str, str | datetime, int, int, int, str, str, datetime, bytes | None]
"""A row of ``order_events``: the columns of ``EVENT_COLUMNS``."""

EVENT_COLUMNS: Final = (
    "order_id",
    "version",
    "event",
    "status",
    "type",
    "payload",
    "created_at",
    "partition",
    "epoch",
    "position",
    "commit_id",
    "hash",
    "recorded_at",
    "data",
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def copy_events(connection: AsyncConnection, lines: Iterable[EventLine], table: str = "order_events") -> None:
    """Add events to the archive; one that is there already fails the transaction."""
    await copy_rows(connection, table, EVENT_COLUMNS, lines)


def event_line(commit: StoredCommit, entry: Entry, data: bytes) -> EventLine:
    """Return the archive's row of one event of ``commit``; ``data`` are its canonical bytes, or whatever it has."""
    recorded_at = _EPOCH + timedelta(microseconds=commit.recorded_us)
    frame = entry.frame
    return (
        entry.order_id,
        entry.version,
        "" if frame is None else frame.event,
        "" if frame is None else frame.status,
        "" if frame is None else frame.meta.type,
        "null" if frame is None else data.decode(),
        recorded_at if frame is None else frame.at,
        commit.partition,
        commit.epoch,
        entry.position,
        commit.commit_id,
        entry.hash,
        recorded_at,
        data if frame is None else None,
    )
