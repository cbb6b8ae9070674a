"""The archiver: ended streams leave the hot store once the second copy is proven, and the log's old end follows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.canonical import chain_fault, is_chained
from eventstore.errors import (
    BadIdError,
    DamagedEntryError,
    ForkError,
    PartitionForkedError,
    PositionMissingError,
    StoreUnavailableError,
    TruncatedError,
)
from eventstore.hot import ClosedStream
from eventstore.ids import Cursor, event_id
from eventstore.store import StoredEvent
from projections.archive import events as archive
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import ORDERS
from projections.database import DATABASE_OUTAGES, reading
from projections.errors import FrameError
from projections.fold.frames import decode_frame
from projections.models.orders import orders
from projections.schema.tables import checkpoints, order_events

log: Final = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 3.0
"""Pause between two sweeps."""
RETRY_SECONDS_MAX: Final = 30.0
PAGE_STREAMS: Final = 50
"""Streams that are proven and removed together: what the projector in the same process may have to wait for."""
TRIM_POSITIONS: Final = 20_000
"""Positions that one trim removes at most: the server does nothing else meanwhile."""
_PAGE_EVENTS: Final = 1000

_spelled: Final = msgspec.json.Encoder(order="sorted").encode


class Retention(Struct, frozen=True, kw_only=True):
    """What stays in the hot store, and for how long."""

    index: str
    """Sorted index of the streams that have ended: the score is when, in milliseconds since 1970."""
    terminal: Collection[str]
    """Statuses after which nothing follows."""
    archive_seconds: int
    """How long an ended stream stays, by the server's clock."""
    log_window: int
    """Positions of each partition's log that stay behind its end."""


class Swept(Struct, frozen=True):
    """What one sweep removed: streams, and entries of the logs."""

    removed: int
    trimmed: int


class _Row(Struct, frozen=True):
    """What the row of an ended stream says; an idempotency key is looked up there once the stream is gone."""

    head: tuple[int, str]
    key: tuple[str | None, str | None, str | None]
    """Client, key, fingerprint."""


class _Copies(Struct, frozen=True):
    """PostgreSQL's copies of some streams."""

    events: Mapping[str, Sequence[StoredEvent]]
    rows: Mapping[str, _Row]


class _Unproven(Exception):
    """A stream may not leave; the message says why."""


class Archiver:
    """Removes ended streams and the logs' old ends from the hot store; reads of them fall through to PostgreSQL.

    Several may run, beside writers, projectors and healing: each removal is checked again by the store.

    Args:
        store: open; closed by the caller.
        engine: on a database with this code's schema; disposed of by the caller.
        retention: what stays.
        sleep: waits between sweeps.
    """

    def __init__(
        self,
        store: ArchivedEventStore,
        engine: AsyncEngine,
        retention: Retention,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._hot = store.hot
        self._engine = engine
        self._retention = retention
        self._sleep = sleep
        self._stopping = asyncio.Event()
        # What was logged already, by partition, so that a sweep does not repeat the one before.
        self._unproven: dict[int, set[str]] = {}
        self._untrimmed: dict[int, str] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep every few seconds until ``stopping`` is set. While a server is down, wait and try again."""
        self._stopping = stopping
        pause = SWEEP_SECONDS
        while not stopping.is_set():
            try:
                await self.sweep()
                pause = SWEEP_SECONDS
            except (*DATABASE_OUTAGES, StoreUnavailableError) as error:
                problem = str(error).partition("\n")[0]
                log.warning("archiver_outage", extra={"problem": problem, "retry_seconds": pause})
                await self._pause(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            else:
                await self._pause(pause)

    async def sweep(self) -> Swept:
        """Remove what may leave now, in every partition that is open; return how much that was.

        Raises:
            StoreUnavailableError, and whatever a database that is down raises. What was done is done; call again.
        """
        removed = trimmed = 0
        for partition in range(self._hot.partitions):
            if self._stopping.is_set() or not await self._is_open(partition):
                continue
            removed += await self._remove_ended(partition)
            trimmed += await self._trim(partition)
        return Swept(removed, trimmed)

    async def _is_open(self, partition: int) -> bool:
        """Whether a partition may be touched; one that is closed is opened, since perhaps nobody appends to it."""
        if (await self._hot.partition_record(partition)).is_open:
            return True
        try:
            await self._store.open_partition(partition)
        except PartitionForkedError:
            return False
        return True

    async def _remove_ended(self, partition: int) -> int:
        before_ms = await self._hot.now_ms(partition) - self._retention.archive_seconds * 1000
        unproven: set[str] = set()
        removed = stayed = 0
        while not self._stopping.is_set():
            # Those that stay are skipped, so that they hold nobody up.
            page = await self._hot.ended_before(partition, self._retention.index, before_ms, PAGE_STREAMS, stayed)
            proven, problems, waiting = await self._prove(partition, [entry.member for entry in page])
            gone = await self._hot.remove_closed(partition, proven, self._retention.index)
            removed += len(gone)
            stayed += len(page) - len(gone)
            self._tell(partition, problems)
            unproven |= problems.keys()
            if len(page) < PAGE_STREAMS or waiting == len(page):
                break
        self._unproven[partition] = unproven
        return removed

    def _tell(self, partition: int, problems: Mapping[str, str]) -> None:
        for stream in problems.keys() - self._unproven.get(partition, set()):
            log.error("order_not_archived", extra={"order_id": stream, "reason": problems[stream]})

    async def _prove(self, partition: int, streams: Sequence[str]) -> tuple[list[ClosedStream], dict[str, str], int]:
        """Return the streams that may leave, why others may not, and how many only wait for the projector."""
        if not streams:
            return [], {}, 0
        async with reading(self._engine) as connection:
            reached = (await _checkpoint_positions(connection, partition)).get(ORDERS, 0)
            copies = await _read_copies(connection, streams)
        held = await asyncio.gather(*(self._read_hot(stream) for stream in streams), return_exceptions=True)
        proven: list[ClosedStream] = []
        problems: dict[str, str] = {}
        waiting = 0
        for stream, events in zip(streams, held, strict=True):
            if isinstance(events, DamagedEntryError | BadIdError):
                problems[stream] = str(events)
            elif isinstance(events, BaseException):
                raise events
            elif events and events[-1].position > reached:
                waiting += 1
            else:
                try:
                    proven.append(closed_stream(stream, events, copies, self._retention.terminal))
                except _Unproven as reason:
                    problems[stream] = str(reason)
            # The projector in the same process is not to wait for a whole page.
            await asyncio.sleep(0)
        return proven, problems, waiting

    async def _read_hot(self, stream: str) -> list[StoredEvent]:
        events: list[StoredEvent] = []
        while page := await self._hot.read_stream(stream, events[-1].version if events else 0, _PAGE_EVENTS):
            events += page
            if len(page) < _PAGE_EVENTS:
                break
        return events

    async def _trim(self, partition: int) -> int:
        """Trim the log in bounded steps; the entry that holds the last position to go up to stays."""
        end = (await self._hot.log_ends())[partition].position
        async with reading(self._engine) as connection:
            reached = await _checkpoint_positions(connection, partition)
        # The projector finds the entry at its checkpoint in the log; whatever is built anew reads the archive.
        keep = min(reached.get(ORDERS, 0), end - self._retention.log_window)
        trimmed = 0
        while not self._stopping.is_set() and 0 < (start := await self._hot.log_start(partition)) < keep:
            removed = await self._trim_to(partition, min(keep, start + TRIM_POSITIONS))
            trimmed += removed
            if not removed:
                break
        return trimmed

    async def _trim_to(self, partition: int, position: int) -> int:
        async with reading(self._engine) as connection:
            cursor = await archive.cursor_at(connection, partition, position)
        try:
            if cursor is None:
                raise _Unproven(f"PostgreSQL has no event at position {position}")
            # Asks whether the log holds that very event; trimming only needs its place.
            await self._hot.read_log({partition: cursor}, 1)
        except (_Unproven, ForkError, TruncatedError, PositionMissingError, DamagedEntryError) as error:
            if self._untrimmed.get(partition) != str(error):
                log.error("log_not_trimmed", extra={"partition": partition, "reason": str(error)})
            self._untrimmed[partition] = str(error)
            return 0
        self._untrimmed.pop(partition, None)
        return await self._hot.trim_log(partition, Cursor(cursor.epoch, cursor.position))

    async def _pause(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def closed_stream(stream: str, held: Sequence[StoredEvent], copies: _Copies, terminal: Collection[str]) -> ClosedStream:
    """Return a stream as what may leave; pure. ``held`` is the hot store's copy, empty where it has left already.

    Raises:
        _Unproven: the copies differ, the chain is broken, the stream has not ended, or its row is another's.
    """
    events = copies.events.get(stream, [])
    if held:
        _require_equal(held, events)
    if not events:
        raise _Unproven("neither copy has an event of it")
    prev = ""
    for number, event in enumerate(events, start=1):
        # What Redis holds byte for byte was canonical when it was appended; only the rest is looked at closely.
        if not held or not is_chained(event.data, event.hash, prev):
            fault = chain_fault(event.data, prev) or ("" if not held else "does not match its hash")
            if fault:
                raise _Unproven(f"event {event_id(stream, event.version)} {fault}")
        if event.version != number:
            raise _Unproven(f"event {event_id(stream, event.version)} is not version {number}")
        prev = event.hash
    key = _require_row(stream, events, copies.rows.get(stream), terminal)
    return ClosedStream(stream, events[-1].version, prev, key)


def _require_equal(held: Sequence[StoredEvent], archived: Sequence[StoredEvent]) -> None:
    for ours, theirs in zip(held, archived, strict=False):
        if ours != theirs:
            differing = [name for name in ours.__struct_fields__ if getattr(ours, name) != getattr(theirs, name)]
            raise _Unproven(f"version {ours.version} is not the same in both copies: {', '.join(differing)}")
    if len(held) != len(archived):
        raise _Unproven(f"Redis has {len(held)} events, PostgreSQL {len(archived)}")


def _require_row(
    stream: str, events: Sequence[StoredEvent], row: _Row | None, terminal: Collection[str]
) -> tuple[str, str] | None:
    """Require that the row is this stream's, which has ended; return the scope and key of its idempotency record."""
    try:
        first, last = (decode_frame(event.data, event_id(stream, event.version)) for event in (events[0], events[-1]))
    except FrameError as error:
        raise _Unproven(str(error)) from error
    if last.status not in terminal:
        raise _Unproven(f"its status is {last.status}")
    client, key = first.meta.client, first.idempotency_key
    if row != _Row((events[-1].version, events[-1].hash), (client, key, first.fingerprint)):
        raise _Unproven("its row in PostgreSQL is not what its events say; `ordertape rebuild` mends it")
    return None if key is None else (client or "", key)


async def _read_copies(connection: AsyncConnection, streams: Sequence[str]) -> _Copies:
    columns = orders.c
    query = select(
        columns.id,
        columns.version,
        columns.head_hash,
        columns.client_id,
        columns.idempotency_key,
        columns.fingerprint,
    ).where(columns.id == func.any(list(streams)))
    rows = {row[0]: _Row((row[1], row[2]), (row[3], row[4], row[5])) for row in await connection.execute(query)}
    return _Copies(await _read_events(connection, streams), rows)


async def _read_events(connection: AsyncConnection, streams: Sequence[str]) -> dict[str, list[StoredEvent]]:
    """Return the archived events as :func:`archive.read_streams` does, their form unchecked: half the work.

    What has no canonical form differs from the hot copy, and :func:`chain_fault` checks what has no hot copy.
    """
    columns = order_events.c
    query = select(
        columns.order_id,
        columns.version,
        columns.epoch,
        columns.position,
        columns.commit_id,
        columns.hash,
        cast(columns.payload, Text),
        columns.data,
    ).where(columns.order_id == func.any(list(streams)))
    found: dict[str, list[StoredEvent]] = {}
    for row in await connection.execute(query.order_by(columns.order_id, columns.version)):
        data = bytes(row[7]) if row[7] is not None else _spelled(msgspec.json.decode(row[6]))
        found.setdefault(row[0], []).append(StoredEvent(row[1], row[2], row[3], row[4], row[5], data))
    return found


async def _checkpoint_positions(connection: AsyncConnection, partition: int) -> dict[str, int]:
    """Return how far each projection got in a partition."""
    columns = checkpoints.c
    query = select(columns.projection, columns.position).where(columns.partition == partition)
    return {row[0]: row[1] for row in await connection.execute(query)}
