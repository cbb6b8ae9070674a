"""Completing the archive: its events and those that Redis still has, in a new table that may lose none of them."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateTable

from eventstore.canonical import chain_fault
from eventstore.errors import ForkError, PositionMissingError, TruncatedError
from eventstore.hot import HotStore
from eventstore.ids import Cursor, created_ms, event_id, partition_in
from eventstore.store import StoredCommit, StoredEvent
from projections.archive.events import read_streams
from projections.archive.lines import EVENT_COLUMNS, EventLine, copy_events, event_line
from projections.checkpoints import lock_checkpoints, read_checkpoints
from projections.database import reading
from projections.errors import ArchiveLossError
from projections.fold.frames import read_event
from projections.fold.histories import Entry
from projections.rebuild import state
from projections.rebuild.building import Progress, Report
from projections.rebuild.histories import read_whole
from projections.rebuild.swapping import TABLE_LOCK_TIMEOUT_MS, rename_table, uncontended
from projections.schema.migrations import require_own_schema
from projections.schema.tables import order_events, order_events_table

NAME: Final = order_events.name
NEXT: Final = f"{NAME}_next"
CONFLICTS_MAX: Final = 20
"""How many are named."""
COPY_POSITIONS: Final = 50_000
_PAGE_STREAMS: Final = 200
_PAGE_EVENTS: Final = 1000
_MILLISECONDS: Final = 1000

_COLUMNS: Final = ", ".join(EVENT_COLUMNS)
_copied: Final = text(
    f"INSERT INTO {NEXT} ({_COLUMNS}) SELECT {_COLUMNS} FROM {NAME} "
    "WHERE partition = :partition AND position > :after AND position <= :upto"
)
_ends: Final = text(f"SELECT partition, max(position) FROM {NEXT} GROUP BY partition")
_remove: Final = text(f"DELETE FROM {NEXT} WHERE order_id = :order_id AND version = :version AND hash = :hash")
_taken: Final = text(
    f"SELECT count(*) FROM {NEXT} WHERE (order_id = :order_id AND version = :version) "
    "OR (partition = :partition AND position = :position)"
)
_lost: Final = (
    f"FROM {NAME} live WHERE {{scope}} AND NOT EXISTS (SELECT FROM {NEXT} next "
    "WHERE next.order_id = live.order_id AND next.version = live.version AND next.hash = live.hash)"
)


class Lack(Struct, frozen=True):
    """An event that Redis has, and the archive not, or not so."""

    order_id: str
    event: StoredEvent
    kind: Literal["missing", "damaged", "conflict"]
    """``missing``: the archive has no such event. ``damaged``: it has it, with the same hash and other content.
    ``conflict``: it has another event there, which stays; `ordertape audit verify` tells which one is right."""


class Completed(Struct, frozen=True):
    """What completing the archive did: how many events of each kind Redis had, and whether the new table is live."""

    missing: int
    damaged: int
    conflicts: list[str]
    """Ids of the events of which both copies have another one; at most 20."""
    events: int
    """Events in the archive afterwards."""
    seconds: float
    swapped: bool


async def complete_archive(
    engine: AsyncEngine,
    hot: HotStore,
    *,
    verify_only: bool = False,
    report: Report = lambda progress: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Completed:
    """Build the archive anew beside the live one, with what Redis has and it lacks; then swap, in one transaction.

    Only what is projected counts, and only events whose hash and chain are right. Nothing that the archive has is lost:
    the swap is refused if an (order, version, hash) were. Interrupted, it goes on where it was.

    Args:
        hot: the store with the recent data.
        verify_only: look only.

    Raises:
        ArchiveLossError: the new table would lack events. Nothing was swapped.
        RebuildRunningError, RebuildBlockedError, SchemaError: see :func:`projections.rebuild.rebuilding.rebuild`.
    """
    started = asyncio.get_running_loop().time()
    await require_own_schema(engine)
    async with state.only_one(engine):
        copied: dict[int, int] = {}
        if not verify_only:
            await _begin(engine)
            copied = await _copy(engine, report)
        found = await _overlay(engine, hot, write=not verify_only)
        events = 0 if verify_only else await _swap(engine, copied, sleep)
    seconds = asyncio.get_running_loop().time() - started
    conflicts = [event_id(lack.order_id, lack.event.version) for lack in found if lack.kind == "conflict"]
    return Completed(
        missing=sum(lack.kind == "missing" for lack in found),
        damaged=sum(lack.kind == "damaged" for lack in found),
        conflicts=conflicts[:CONFLICTS_MAX],
        events=events,
        seconds=seconds,
        swapped=not verify_only,
    )


async def _begin(engine: AsyncEngine) -> None:
    table = order_events_table(MetaData(), NEXT)
    code = hashlib.sha256(str(CreateTable(table)).encode()).hexdigest()
    async with engine.begin() as connection:
        found = await state.read_rebuild(connection, NAME)
        if found is not None and (found.code, found.state) == (code, "filling"):
            return
        await connection.execute(text(f"DROP TABLE IF EXISTS {NEXT}"))
        await connection.execute(CreateTable(table))
        total = sum(at.position for at in (await read_checkpoints(connection)).values())
        await state.begin(connection, state.Rebuild(NAME, "filling", "redis", code, "", 0, 0, total))


async def _copy(engine: AsyncEngine, report: Report) -> dict[int, int]:
    """Copy what the archive has, in bounded steps; return how far that is."""
    async with reading(engine) as connection:
        copied = await _next_ends(connection)
    while True:
        async with engine.begin() as connection:
            live = {number: at.position for number, at in (await read_checkpoints(connection)).items()}
            report(Progress("filling", sum(copied.values()), sum(live.values()), 0))
            steps = {
                n: min(end, copied.get(n, 0) + COPY_POSITIONS) for n, end in live.items() if copied.get(n, 0) < end
            }
            for number, upto in steps.items():
                await _copy_span(connection, number, copied.get(number, 0), upto)
            if not steps:
                found = await state.read_rebuild(connection, NAME)
                assert found is not None
                # From now on the new table's last position says nothing: it may come from Redis.
                await state.advance(connection, replace(found, state="following"))
                return copied
        copied |= steps


async def _copy_span(connection: AsyncConnection, partition: int, after: int, upto: int) -> None:
    await connection.execute(_copied, {"partition": partition, "after": after, "upto": upto})


async def _next_ends(connection: AsyncConnection) -> dict[int, int]:
    return {row[0]: row[1] for row in await connection.execute(_ends)}


async def _overlay(engine: AsyncEngine, hot: HotStore, *, write: bool) -> list[Lack]:
    """Return what Redis has beside the archive; with ``write``, after putting it into the new table."""
    found: list[Lack] = []
    async with aclosing(_lacks(engine, hot)) as pages:
        async for page in pages:
            if write:
                async with engine.begin() as connection:
                    page = [await _put(connection, hot, lack) for lack in page]
            found += page
    return found


async def _lacks(engine: AsyncEngine, hot: HotStore) -> AsyncGenerator[list[Lack]]:
    for partition in range(hot.partitions):
        streams = sorted(await hot.list_streams(partition))
        for start in range(0, len(streams), _PAGE_STREAMS):
            page = streams[start : start + _PAGE_STREAMS]
            # The database first: what it says is projected, Redis has, or had.
            async with reading(engine) as connection:
                checkpoint = (await read_checkpoints(connection)).get(partition)
                archived = await read_streams(connection, page)
            upto = checkpoint.position if checkpoint is not None else 0
            held = await asyncio.gather(*(read_whole(hot, stream) for stream in page))
            yield [
                lack
                for stream, events in zip(page, held, strict=True)
                for lack in lacks_of(stream, [e for e in events if e.position <= upto], archived.get(stream, ()))
            ]


def lacks_of(order_id: str, held: Sequence[StoredEvent], archived: Collection[StoredEvent]) -> list[Lack]:
    """Return what of an order's events in Redis the archive lacks: what verifies, up to the first that does not."""
    known = {event.version: event for event in archived}
    found: list[Lack] = []
    prev = ""
    for event in held:
        if chain_fault(event.data, prev) is not None or isinstance(
            read_event(order_id, event.version, event.hash, event.data), str
        ):
            break
        prev = event.hash
        ours = known.get(event.version)
        if ours is None:
            found.append(Lack(order_id, event, "missing"))
        elif ours.hash != event.hash or ours.position != event.position:
            found.append(Lack(order_id, event, "conflict"))
        elif ours != event:
            found.append(Lack(order_id, event, "damaged"))
    return found


async def _put(connection: AsyncConnection, hot: HotStore, lack: Lack) -> Lack:
    if lack.kind == "conflict":
        return lack
    event, partition = lack.event, partition_in(lack.order_id)
    place = {"order_id": lack.order_id, "version": event.version}
    if lack.kind == "damaged":
        await connection.execute(_remove, {**place, "hash": event.hash})
    taken = await connection.scalar(_taken, {**place, "partition": partition, "position": event.position})
    if taken:
        return replace(lack, kind="conflict")
    await copy_events(connection, [await _line(hot, lack)], NEXT)
    return lack


async def _line(hot: HotStore, lack: Lack) -> EventLine:
    event, partition = lack.event, partition_in(lack.order_id)
    found = read_event(lack.order_id, event.version, event.hash, event.data)
    assert not isinstance(found, str)
    commit = StoredCommit(
        partition=partition,
        epoch=event.epoch,
        position=event.position,
        stream=lack.order_id,
        version=event.version,
        commit_id=event.commit_id,
        recorded_us=await _recorded_us(hot, lack),
        events=(event.data,),
        anchors=(event.hash[:8],),
    )
    entry = Entry(lack.order_id, event.version, partition, event.position, commit.recorded_us, event.hash, found)
    return event_line(commit, entry, event.data)


async def _recorded_us(hot: HotStore, lack: Lack) -> int:
    """Return when an event was appended, as the log says; where that has left Redis, when its order was begun."""
    event, partition = lack.event, partition_in(lack.order_id)
    with suppress(ForkError, TruncatedError, PositionMissingError):
        for commit in await hot.read_log({partition: Cursor(event.epoch, event.position - 1)}, 1):
            if (
                commit.stream == lack.order_id
                and commit.position - len(commit.events) < event.position <= commit.position
            ):
                return commit.recorded_us
    return created_ms(lack.order_id) * _MILLISECONDS


async def _swap(engine: AsyncEngine, copied: Mapping[int, int], sleep: Callable[[float], Awaitable[None]]) -> int:
    """Put the new table in the live one's place; return how many events it has."""
    async with reading(engine) as connection:
        await connection.execute(text(f"ANALYZE {NEXT}"))
        await _require_nothing_lost(connection, _spans(copied, "<="))
    events = 0

    async def attempt(connection: AsyncConnection) -> None:
        nonlocal events
        live = {number: at.position for number, at in (await lock_checkpoints(connection)).items()}
        for number, position in live.items():
            await _copy_span(connection, number, copied.get(number, 0), position)
        # Nobody else writes while the checkpoints are locked, and what was looked at does not change.
        await _require_nothing_lost(connection, _spans({number: copied.get(number, 0) for number in live}, ">"))
        events = int(await connection.scalar(text(f"SELECT count(*) FROM {NEXT}")) or 0)
        await connection.execute(text(f"SET LOCAL lock_timeout = {TABLE_LOCK_TIMEOUT_MS}"))
        await connection.execute(text(f"DROP TABLE {NAME}"))
        await rename_table(connection, NEXT, NAME)
        await state.forget(connection, NAME)

    await uncontended(engine, attempt, sleep)
    return events


def _spans(ends: Mapping[int, int], side: str) -> str:
    """Return SQL for the events of the live table up to, or after, some positions."""
    spans = [f"(live.partition = {number} AND live.position {side} {end})" for number, end in ends.items()]
    return f"({' OR '.join(spans)})" if spans else "false"


async def _require_nothing_lost(connection: AsyncConnection, scope: str) -> None:
    lost = _lost.format(scope=scope)
    found = await connection.scalar(text(f"SELECT count(*) {lost}"))
    if found:
        sample = await connection.scalar(text(f"SELECT live.id {lost} ORDER BY live.id LIMIT 1"))
        raise ArchiveLossError(found, str(sample))
