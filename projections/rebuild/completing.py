"""Completing the archive: its events and those that Redis still has, in a new table that may lose none of them."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateTable

from eventstore.canonical import chain_fault, is_chained
from eventstore.hot import HotStore
from eventstore.ids import event_id, partition_in
from eventstore.store import StoredCommit, StoredEvent
from projections.archive.events import read_streams
from projections.archive.lines import EVENT_COLUMNS, copy_events, event_line
from projections.checkpoints import lock_checkpoints, read_checkpoints
from projections.database import reading
from projections.errors import ArchiveLossError
from projections.fold.frames import read_event
from projections.fold.histories import Entry
from projections.projector.refusals import REFUSALS
from projections.rebuild import state
from projections.rebuild.building import Progress, Report
from projections.rebuild.histories import read_whole
from projections.rebuild.swapping import TABLE_LOCK_TIMEOUT_MS, rename_table, uncontended
from projections.rebuild.times import recorded_us
from projections.schema.migrations import require_own_schema
from projections.schema.tables import order_events, order_events_table

NAME: Final = str(order_events.name)
NEXT: Final = f"{NAME}_next"
CONFLICTS_MAX: Final = 20
"""How many are named."""
COPY_POSITIONS: Final = 50_000
_PAGE_STREAMS: Final = 200
_ANCHOR_DIGITS: Final = 8

_COLUMNS: Final = ", ".join(EVENT_COLUMNS)
_copied: Final = text(
    f"INSERT INTO {NEXT} ({_COLUMNS}) SELECT {_COLUMNS} FROM {NAME} "
    "WHERE partition = :partition AND position > :after AND position <= :upto ON CONFLICT DO NOTHING"
)
"""What Redis has filled the place of is not copied: whether anything is lost by that is looked at before the swap."""
_ends: Final = text(f"SELECT partition, max(position) FROM {NEXT} GROUP BY partition")
_remove: Final = text(f"DELETE FROM {NEXT} WHERE order_id = :order_id AND version = :version AND hash = :hash")
_taken: Final = (
    "SELECT count(*) FROM {table} WHERE (order_id = :order_id AND version = :version) "
    "OR (partition = :partition AND position = :position)"
)
_lost: Final = (
    f"FROM {NAME} live WHERE {{scope}} AND NOT EXISTS (SELECT FROM {NEXT} next "
    "WHERE next.order_id = live.order_id AND next.version = live.version "
    # The archive knows only the first digits of the hash of an event that could not be read.
    "AND starts_with(next.hash, live.hash))"
)


class _Place(Struct, frozen=True, rename="camel"):
    """What an event says that it is."""

    order_id: str
    seq: int


class Lack(Struct, frozen=True):
    """An event that Redis has, and the archive not, or not so."""

    order_id: str
    event: StoredEvent
    kind: Literal["missing", "damaged", "conflict"]
    """``missing``: the archive has no such event. ``damaged``: it has it, with the same hash and other content.
    ``conflict``: it has another event there, which stays; `ordertape audit verify` tells which one is right."""
    archived_hash: str = ""
    """What the archive calls the hash of a damaged one: whole, or its first digits."""


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


class _Found:
    """Counts what Redis has beside the archive, and holds no more of it than is named."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.conflicts: list[str] = []

    def add(self, lacks: Sequence[Lack]) -> None:
        self.counts.update(lack.kind for lack in lacks)
        conflicts = [event_id(lack.order_id, lack.event.version) for lack in lacks if lack.kind == "conflict"]
        self.conflicts = (self.conflicts + conflicts)[:CONFLICTS_MAX]


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
    the swap is refused if an (order, version, hash) were. Interrupted while it copies, it goes on where it was, and
    begins anew otherwise.

    Args:
        hot: the store with the recent data.
        verify_only: look only.

    Raises:
        ArchiveLossError: the new table would lack events. Nothing was swapped; the next attempt begins anew.
        RebuildRunningError, RebuildBlockedError, SchemaError: see :func:`projections.rebuild.rebuilding.rebuild`.
    """
    started = asyncio.get_running_loop().time()
    await require_own_schema(engine)
    async with state.only_one(engine) as alone:
        copied: dict[int, int] = {}
        if not verify_only:
            await _begin(engine)
            copied = await _copy(engine, report)
        found = await _overlay(engine, hot, report, write=not verify_only)
        events = await _count(engine) if verify_only else await _swap(alone, copied, report, sleep)
    return Completed(
        missing=found.counts["missing"],
        damaged=found.counts["damaged"],
        conflicts=found.conflicts,
        events=events,
        seconds=asyncio.get_running_loop().time() - started,
        swapped=not verify_only,
    )


async def drop_completion(engine: AsyncEngine) -> bool:
    """Remove what an unfinished completion made; return whether there was any. The live archive stays as it is.

    Raises:
        RebuildRunningError: a rebuild is running.
    """
    async with state.only_one(engine), engine.begin() as connection:
        found = await state.read_rebuild(connection, NAME)
        await connection.execute(text(f"DROP TABLE IF EXISTS {NEXT}"))
        await state.forget(connection, NAME)
    return found is not None


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


async def _copy_span(connection: AsyncConnection, partition: int, after: int, upto: int) -> int:
    span = {"partition": partition, "after": after, "upto": upto}
    return (await connection.execute(_copied, span)).rowcount


async def _next_ends(connection: AsyncConnection) -> dict[int, int]:
    return {row[0]: row[1] for row in await connection.execute(_ends)}


async def _count(engine: AsyncEngine, table: str = NAME) -> int:
    async with reading(engine) as connection:
        return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


async def _overlay(engine: AsyncEngine, hot: HotStore, report: Report, *, write: bool) -> _Found:
    """Return what Redis has beside the archive; with ``write``, after putting it into the new table."""
    found = _Found()
    async with aclosing(_lacks(engine, hot, report)) as pages:
        async for page in pages:
            async with engine.begin() as connection:
                page = [await _judged(connection, lack, NEXT if write else NAME) for lack in page]
                for lack in page:
                    if write and lack.kind != "conflict":
                        await _put(connection, hot, lack)
            found.add(page)
    return found


async def _lacks(engine: AsyncEngine, hot: HotStore, report: Report) -> AsyncGenerator[list[Lack]]:
    streams = [sorted(await hot.list_streams(partition)) for partition in range(hot.partitions)]
    total, looked_at = sum(map(len, streams)), 0
    for partition, ids in enumerate(streams):
        for start in range(0, len(ids), _PAGE_STREAMS):
            page = ids[start : start + _PAGE_STREAMS]
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
            looked_at += len(page)
            report(Progress("completing", looked_at, total, looked_at))


def lacks_of(order_id: str, held: Sequence[StoredEvent], archived: Collection[StoredEvent]) -> list[Lack]:
    """Return what of an order's events in Redis the archive lacks: what verifies, up to the first that does not."""
    known = {event.version: event for event in archived}
    found: list[Lack] = []
    prev = ""
    for event in held:
        if not _verifies(order_id, event, prev):
            break
        prev = event.hash
        ours = known.get(event.version)
        if ours is None:
            found.append(Lack(order_id, event, "missing"))
        elif not _same_hash(ours.hash, event.hash) or ours.position != event.position:
            found.append(Lack(order_id, event, "conflict"))
        elif replace(ours, hash=event.hash) != event:
            found.append(Lack(order_id, event, "damaged", ours.hash))
    return found


def _verifies(order_id: str, event: StoredEvent, prev: str) -> bool:
    """Return whether an event is what its stream takes it for, even where no projection can read it."""
    if chain_fault(event.data, prev) is not None or not is_chained(event.data, event.hash, prev):
        return False
    try:
        return msgspec.json.decode(event.data, type=_Place) == _Place(order_id, event.version)
    except msgspec.DecodeError:
        return False


def _same_hash(archived: str, whole: str) -> bool:
    # Of an event that could not be read, its log entry told the first digits.
    return archived == (whole[:_ANCHOR_DIGITS] if len(archived) == _ANCHOR_DIGITS else whole)


async def _judged(connection: AsyncConnection, lack: Lack, table: str) -> Lack:
    """Return ``lack`` as a conflict where another event has its place in ``table``."""
    if lack.kind != "missing":
        return lack
    event = lack.event
    place: dict[str, str | int] = {"order_id": lack.order_id, "version": event.version, "position": event.position}
    place["partition"] = partition_in(lack.order_id)
    taken = await connection.scalar(text(_taken.format(table=table)), place)
    return replace(lack, kind="conflict") if taken else lack


async def _put(connection: AsyncConnection, hot: HotStore, lack: Lack) -> None:
    if lack.kind == "damaged":
        place = {"order_id": lack.order_id, "version": lack.event.version, "hash": lack.archived_hash}
        await connection.execute(_remove, place)
    event = lack.event
    found = read_event(lack.order_id, event.version, event.hash, event.data)
    frame = None if isinstance(found, str) else found
    commit = _commit(lack, await recorded_us(connection, hot, NEXT, lack.order_id, event, frame))
    entry = Entry(
        lack.order_id,
        event.version,
        commit.partition,
        event.position,
        commit.recorded_us,
        event.hash if frame is not None else event.hash[:_ANCHOR_DIGITS],
        frame,
    )
    try:
        async with connection.begin_nested():
            await copy_events(connection, [event_line(commit, entry, event.data)], NEXT)
    except REFUSALS:
        # No column takes what it says: it is archived as it is.
        await copy_events(connection, [event_line(commit, replace(entry, frame=None), event.data)], NEXT)


def _commit(lack: Lack, at_us: int) -> StoredCommit:
    event = lack.event
    return StoredCommit(
        partition=partition_in(lack.order_id),
        epoch=event.epoch,
        position=event.position,
        stream=lack.order_id,
        version=event.version,
        commit_id=event.commit_id,
        recorded_us=at_us,
        events=(event.data,),
        anchors=(event.hash[:_ANCHOR_DIGITS],),
    )


async def _swap(
    alone: state.Alone, copied: Mapping[int, int], report: Report, sleep: Callable[[float], Awaitable[None]]
) -> int:
    """Put the new table in the live one's place; return how many events it has."""
    spans = _spans(copied)
    async with reading(alone.engine) as connection:
        await connection.execute(text(f"ANALYZE {NEXT}"))
        await _require_nothing_lost(connection, spans)
    looked_at = await _count(alone.engine, NEXT)
    report(Progress("swapping", looked_at, looked_at, 0))
    events = 0

    async def attempt(connection: AsyncConnection) -> None:
        nonlocal events
        live = {number: at.position for number, at in (await lock_checkpoints(connection)).items()}
        late = [await _copy_span(connection, n, copied.get(n, 0), end) for n, end in live.items()]
        events = int(await connection.scalar(text(f"SELECT count(*) FROM {NEXT}")) or 0)
        # Nobody else writes while the checkpoints are locked, and what was looked at is still there.
        unchanged = events == looked_at + sum(late)
        await _require_nothing_lost(connection, f"NOT ({spans})" if unchanged else "true")
        await connection.execute(text(f"SET LOCAL lock_timeout = {TABLE_LOCK_TIMEOUT_MS}"))
        await connection.execute(text(f"DROP TABLE {NAME}"))
        await rename_table(connection, NEXT, NAME)
        await state.forget(connection, NAME)

    await uncontended(alone, NAME, attempt, sleep)
    return events


def _spans(ends: Mapping[int, int]) -> str:
    """Return SQL for the events of the live table up to some positions."""
    spans = [f"(live.partition = {number} AND live.position <= {end})" for number, end in ends.items()]
    return " OR ".join(spans) or "false"


async def _require_nothing_lost(connection: AsyncConnection, scope: str) -> None:
    lost = _lost.format(scope=f"({scope})")
    found = await connection.scalar(text(f"SELECT count(*) {lost}"))
    if found:
        sample = await connection.scalar(text(f"SELECT live.id {lost} ORDER BY live.id LIMIT 1"))
        raise ArchiveLossError(found, str(sample))
