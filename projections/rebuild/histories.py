"""Orders' whole lives from the archive, or from Redis where it has them: what a projection is built from."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.hot import HotStore
from eventstore.ids import partition_in
from eventstore.store import EventStore, StoredEvent
from projections.database import driver_connection
from projections.errors import ProjectionError
from projections.fold.frames import Frame, decode_frames, read_event
from projections.fold.histories import Change, Entry, Followed, Skips, follow
from projections.fold.orders import OrderRow, apply
from projections.projector.refusals import UNARCHIVABLE

PAGE_EVENTS: Final = 20_000
_PAGE_STREAM: Final = 1000
_page: Final = (
    "SELECT order_id, version, position, CAST(payload AS text), data FROM order_events "
    "WHERE order_id > %s ORDER BY order_id, version LIMIT %s"
)
_entries: Final = text(
    "SELECT order_id, version, partition, position, "
    "CAST(extract(epoch FROM recorded_at) * 1000000 AS bigint), hash, CAST(payload AS text), data FROM order_events "
    "WHERE order_id = ANY(:order_ids) ORDER BY order_id, version"
)
_ids: Final = text("SELECT DISTINCT order_id FROM order_events WHERE order_id > :after ORDER BY order_id LIMIT :most")

Upto = Mapping[int, int]
"""By partition, the last position that counts."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What of the orders' lives counts, and what is known of them."""

    upto: Upto
    skips: Skips
    held: Mapping[str, int]
    """Orders whose events from a version on are left out, since they are parked elsewhere."""
    wanted: Collection[str]
    """Event types whose changes are needed."""


class Folded(Struct):
    """What the lives of some orders come to."""

    lives: list[Followed]
    last: str
    """Greatest order id among them, or looked at and found empty; "" where there are no more orders."""
    events: int


async def entries_of(connection: AsyncConnection, order_ids: Collection[str], upto: Upto) -> dict[str, list[Entry]]:
    """Return the archived events of some orders, as far as they count, whole: by order, in order."""
    rows = await connection.execute(_entries, {"order_ids": list(order_ids)})
    lives = {
        order_id: [_entry(row) for row in life if row[3] <= upto.get(row[2], 0)]
        for order_id, life in groupby(rows, key=itemgetter(0))
    }
    return {order_id: life for order_id, life in lives.items() if life}


def follow_life(order_id: str, entries: Sequence[Entry], bounds: Bounds) -> Followed:
    """Return what a whole life comes to."""
    held_from = bounds.held.get(order_id)
    counted = entries if held_from is None else [entry for entry in entries if entry.version < held_from]
    return follow(order_id, None, counted, skips=bounds.skips, wanted=bounds.wanted)


class ArchivedLives:
    """Lives from the archive, page after page, in the order of their ids."""

    def __init__(self, connection: AsyncConnection, bounds: Bounds) -> None:
        self._connection = connection
        self._bounds = bounds
        self._special = {order_id for order_id, _ in bounds.skips} | bounds.held.keys()

    async def pages(self, after: str) -> AsyncGenerator[Folded]:
        """Yield the lives of the orders after ``after``; the next page is read while one is worked on."""
        reading = asyncio.create_task(self._read(after))
        try:
            while rows := await reading:
                last = rows[-1][0]
                reading = asyncio.create_task(self._read(last))
                yield await self._fold(rows, last)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, after: str) -> list[tuple[Any, ...]]:
        """Return the events of whole orders: a page, or one order that is longer than that."""
        raw = await driver_connection(self._connection)
        limit = PAGE_EVENTS
        while True:
            rows = await (await raw.execute(_page, (after, limit), binary=False)).fetchall()
            if len(rows) < limit:
                return rows
            # The last order may go on: it is the next page's.
            whole = next((n for n in range(len(rows), 0, -1) if rows[n - 1][0] != rows[-1][0]), 0)
            if whole:
                return rows[:whole]
            limit *= 2

    async def _fold(self, rows: Sequence[tuple[Any, ...]], last: str) -> Folded:
        upto = self._bounds.upto
        counted = [row for row in rows if row[2] <= upto.get(int(row[0][-2:]), 0)]
        frames = decode_frames([row[3].encode() for row in counted])
        folded = Folded([], last, len(counted))
        suspects: list[str] = []
        start = 0
        for order_id, life in groupby(counted, key=itemgetter(0)):
            events = list(life)
            own = None if frames is None else frames[start : start + len(events)]
            start += len(events)
            plain = None
            if own is not None and order_id not in self._special:
                plain = _fold_plainly(order_id, events, own, self._bounds.wanted)
            if plain is None:
                suspects.append(order_id)
            else:
                folded.lives.append(plain)
        # Rare: whatever is unusual goes the careful way.
        if suspects:
            lives = await entries_of(self._connection, suspects, upto)
            folded.lives += [follow_life(order_id, life, self._bounds) for order_id, life in lives.items()]
        return folded


class HotLives:
    """Lives from Redis; from the archive where an order has left Redis. Holds the ids of all hot orders."""

    def __init__(self, connection: AsyncConnection, hot: HotStore, bounds: Bounds) -> None:
        self._connection = connection
        self._hot = hot
        self._bounds = bounds

    async def pages(self, after: str) -> AsyncGenerator[Folded]:
        """Yield the lives of the orders after ``after``."""
        hot = sorted({id for number in range(self._hot.partitions) for id in await self._hot.list_streams(number)})
        most = PAGE_EVENTS // 20
        while True:
            archived = list(await self._connection.scalars(_ids, {"after": after, "most": most}))
            ids = sorted({*archived, *(order_id for order_id in hot if order_id > after)})[:most]
            if not ids:
                return
            yield await self._fold(ids)
            after = ids[-1]

    async def _fold(self, ids: Sequence[str]) -> Folded:
        upto = self._bounds.upto
        archived = await entries_of(self._connection, ids, upto)
        streams = await asyncio.gather(*(read_whole(self._hot, order_id) for order_id in ids))
        folded = Folded([], ids[-1], 0)
        for order_id, stream in zip(ids, streams, strict=True):
            known = {entry.version: entry.recorded_us for entry in archived.get(order_id, ())}
            partition = partition_in(order_id)
            life = [_hot_entry(order_id, e, known) for e in stream if e.position <= upto.get(partition, 0)]
            life = life or archived.get(order_id, [])
            if life:
                folded.lives.append(follow_life(order_id, life, self._bounds))
                folded.events += len(life)
        return folded


async def read_whole(hot: EventStore, order_id: str) -> list[StoredEvent]:
    """Return all events of a stream, oldest first; [] for one that the store does not have."""
    events: list[StoredEvent] = []
    while page := await hot.read_stream(order_id, events[-1].version if events else 0, _PAGE_STREAM):
        events += page
        if len(page) < _PAGE_STREAM:
            break
    return events


def _fold_plainly(
    order_id: str, events: Sequence[tuple[Any, ...]], frames: Sequence[Frame], wanted: Collection[str]
) -> Followed | None:
    """Return what a life comes to in which nothing is unusual; None where something is."""
    row: OrderRow | None = None
    changes: list[Change] = []
    try:
        for event, frame in zip(events, frames, strict=True):
            if event[4] is not None or frame.order_id != order_id or frame.seq != event[1]:
                return None
            row = apply(row, frame)
            if frame.meta.type in wanted:
                changes.append(Change(frame, row))
    except ProjectionError:
        return None
    return Followed(order_id, row, changes, [])


def _entry(row: Sequence[Any]) -> Entry:
    order_id, version, partition, position, recorded_us, event_hash, payload, data = row
    found = read_event(order_id, version, event_hash, payload if data is None else bytes(data))
    if data is not None and not isinstance(found, str):
        found = UNARCHIVABLE
    readable = None if isinstance(found, str) else found
    fault = found if isinstance(found, str) else None
    return Entry(order_id, version, partition, position, recorded_us, event_hash, readable, fault)


def _hot_entry(order_id: str, event: StoredEvent, recorded_us: Mapping[int, int]) -> Entry:
    found = read_event(order_id, event.version, event.hash, event.data)
    readable = None if isinstance(found, str) else found
    fault = found if isinstance(found, str) else None
    at = recorded_us.get(event.version, 0)
    return Entry(order_id, event.version, partition_in(order_id), event.position, at, event.hash, readable, fault)
