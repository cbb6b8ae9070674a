"""When an event was appended that the archive lacks: the log says so, else what the archive has around it bounds it."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.errors import ForkError, PositionMissingError, TruncatedError
from eventstore.hot import HotStore
from eventstore.ids import Cursor, created_ms, partition_in
from eventstore.store import StoredCommit, StoredEvent
from projections.fold.frames import Frame

_MILLISECONDS: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_commit_time: Final = text(
    "SELECT recorded_at FROM order_events WHERE order_id = :order_id "
    "AND (version = :version OR commit_id = :commit_id) ORDER BY version <> :version, version LIMIT 1"
)
_beside: Final = "SELECT recorded_at FROM {table} WHERE partition = :partition AND position"
_bounds: Final = (
    f"SELECT ({_beside} < :position ORDER BY position DESC LIMIT 1), ({_beside} > :position ORDER BY position LIMIT 1)"
)


async def recorded_us(
    connection: AsyncConnection, hot: HotStore, table: str, order_id: str, event: StoredEvent, frame: Frame | None
) -> int:
    """Return when an event was appended, in microseconds since 1970.

    Where its place in the log has left Redis, the archive says of the event, or of its commit. Where that has neither,
    it is when the event says that it happened, but neither before what ``table`` has before it in the log nor after
    what that or Redis has after it: whoever looks for a time finds a log in order.

    Args:
        table: the archive as far as it is complete.
        frame: what the event says; None where it cannot be read.
    """
    after = Cursor(event.epoch, event.position - 1)
    logged, oldest = await _logged(hot, order_id, after)
    if logged is not None and logged.stream == order_id:
        return logged.recorded_us
    commit_of = {"order_id": order_id, "version": event.version, "commit_id": event.commit_id}
    archived: datetime | None = await connection.scalar(_commit_time, commit_of)
    if archived is not None:
        return _microseconds(archived)
    place = {"partition": partition_in(order_id), "position": event.position}
    before, later = (await connection.execute(text(_bounds.format(table=table)), place)).one()
    latest = [_microseconds(later)] if later is not None else []
    latest += [oldest.recorded_us] if oldest is not None else []
    told = _told_us(order_id, frame)
    return min([told if before is None else max(told, _microseconds(before)), *latest])


async def _logged(hot: HotStore, order_id: str, after: Cursor) -> tuple[StoredCommit | None, StoredCommit | None]:
    """Return the commit after a cursor, and, where that has left the log, the first one that has not."""
    partition = partition_in(order_id)
    with suppress(ForkError, TruncatedError, PositionMissingError):
        try:
            return next(iter(await hot.read_log({partition: after}, 1)), None), None
        except TruncatedError as error:
            begin = Cursor(after.epoch, error.oldest - 1)
            return None, next(iter(await hot.read_log({partition: begin}, 1)), None)
    return None, None


def _told_us(order_id: str, frame: Frame | None) -> int:
    if frame is not None:
        with suppress(ValueError):
            return _microseconds(datetime.fromisoformat(frame.at))
    return created_ms(order_id) * _MILLISECONDS


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
