"""Events to the archive, thousands at a time, within the caller's transaction."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.store import StoredCommit
from projections.database import copy_rows
from projections.fold.frames import Frame

EventLine = tuple[str, int, str, str, str, str, str, int, int, int, str, str, datetime]
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
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def copy_events(connection: AsyncConnection, lines: Iterable[EventLine]) -> None:
    """Add events to the archive; one that is there already fails the transaction."""
    await copy_rows(connection, "order_events", EVENT_COLUMNS, lines)


def event_line(commit: StoredCommit, position: int, frame: Frame, data: bytes) -> EventLine:
    """Return the archive's row of one event of ``commit``; ``data`` are its canonical bytes."""
    return (
        frame.order_id,
        frame.seq,
        frame.event,
        frame.status,
        frame.meta.type,
        data.decode(),
        frame.at,
        commit.partition,
        commit.epoch,
        position,
        commit.commit_id,
        frame.meta.hash,
        _EPOCH + timedelta(microseconds=commit.recorded_us),
    )
