"""Archived events as the store returned them: the same numbers, the same bytes."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Text, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.canonical import canonical
from eventstore.errors import NotCanonicalError
from eventstore.ids import Cursor
from eventstore.store import MAX_EVENTS, StoredCommit, StoredEvent
from projections.models.orders import orders
from projections.schema.tables import order_events

_columns: Final = order_events.c
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_hashes: Final = text(
    "SELECT order_id, version, hash "
    "FROM unnest(CAST(:streams AS text[]), CAST(:versions AS integer[])) AS wanted (order_id, version) "
    "JOIN order_events USING (order_id, version)"
)
_selected: Final = (
    _columns.order_id,
    _columns.version,
    _columns.epoch,
    _columns.position,
    _columns.commit_id,
    _columns.hash,
    cast(_columns.payload, Text),
    _columns.recorded_at,
    _columns.data,
)


async def read_stream(
    connection: AsyncConnection, stream: str, after: int = 0, limit: int | None = None
) -> list[StoredEvent]:
    """See :meth:`EventStore.read_stream`; without ``limit``, all events."""
    query = select(*_selected).where(_columns.order_id == stream, _columns.version > after).order_by(_columns.version)
    return [_event(row) for row in await connection.execute(query.limit(limit))]


async def read_streams(connection: AsyncConnection, streams: Collection[str]) -> dict[str, list[StoredEvent]]:
    """Return all events of each of ``streams`` that is archived."""
    query = select(*_selected).where(_columns.order_id == func.any(list(streams)))
    found = await connection.execute(query.order_by(_columns.order_id, _columns.version))
    return {stream: [_event(row) for row in rows] for stream, rows in groupby(found, lambda row: row.order_id)}


async def read_log(connection: AsyncConnection, partition: int, after: int, limit: int) -> list[StoredCommit]:
    """Return up to ``limit`` whole commits with events after position ``after``, in order."""
    query = select(*_selected).where(_columns.partition == partition).order_by(_columns.position)
    # Commits end anywhere: read more than one further commit can have, and leave out what may be cut off.
    most = limit + MAX_EVENTS
    rows = list(await connection.execute(query.where(_columns.position > after).limit(most)))
    if rows and (first := await _commit_start(connection, rows[0])) <= after:
        rows = list(await connection.execute(query.where(_columns.position >= first).limit(most)))
    # No further than needed: to spell an event canonically again costs more than to read it.
    commits = list(islice(_commits(partition, rows), limit + 1))
    return commits[: limit if len(rows) < most else min(limit, len(commits) - 1)]


async def _commit_start(connection: AsyncConnection, row: Row[Any]) -> int:
    query = select(func.min(_columns.position)).where(
        _columns.order_id == row.order_id, _columns.commit_id == row.commit_id
    )
    return int((await connection.execute(query)).scalar_one())


def _commits(partition: int, rows: Iterable[Row[Any]]) -> Iterable[StoredCommit]:
    for (stream, commit_id), group in groupby(rows, lambda row: (row.order_id, row.commit_id)):
        events = list(group)
        last = events[-1]
        yield StoredCommit(
            partition=partition,
            epoch=last.epoch,
            position=last.position,
            stream=stream,
            version=last.version,
            commit_id=commit_id,
            recorded_us=(last.recorded_at - _EPOCH) // _MICROSECOND,
            events=tuple(_data(row) for row in events),
            anchors=tuple(row.hash[:8] for row in events),
        )


async def cursor_at(connection: AsyncConnection, partition: int, position: int) -> Cursor | None:
    """Return the cursor of the event at a position; None where none is archived."""
    query = select(_columns.epoch, _columns.hash).where(_columns.partition == partition, _columns.position == position)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Cursor(row[0], position, row[1][:8])


async def hashes(connection: AsyncConnection, events: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Return the hash of each of ``events``, (stream, version), that is archived."""
    wanted = {"streams": [stream for stream, _ in events], "versions": [version for _, version in events]}
    return {(row[0], row[1]): row[2] for row in await connection.execute(_hashes, wanted)}


async def find_key(connection: AsyncConnection, scope: str, key: str) -> tuple[str, str] | None:
    """Return the order that an idempotency key created, and its fingerprint; None for a key that is not archived."""
    query = select(orders.c.id, orders.c.fingerprint).where(
        func.coalesce(orders.c.client_id, "") == scope, orders.c.idempotency_key == key
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


def _event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        version=row.version,
        epoch=row.epoch,
        position=row.position,
        commit_id=row.commit_id,
        hash=row.hash,
        data=_data(row),
    )


def _data(row: Row[Any]) -> bytes:
    if row.data is not None:
        return bytes(row.data)
    # JSONB keeps the value, not the spelling; an event's bytes are its value's one canonical spelling.
    try:
        return canonical(msgspec.json.decode(row.payload))
    except NotCanonicalError:
        # Somebody changed it: whoever checks its hash finds out.
        return bytes(row.payload.encode())
