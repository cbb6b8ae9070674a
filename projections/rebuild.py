"""Rebuilding the read model: folded from the archive beside the live table, then swapped in, in one transaction."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import psycopg
from msgspec import Struct
from sqlalchemy import MetaData, Select, Text, cast, func, or_, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from projections.checkpoints import lock_checkpoints, read_checkpoints
from projections.database import reading
from projections.errors import RebuildBlockedError, RebuildRunningError
from projections.fold.frames import decode_frame
from projections.fold.orders import OrderRow, apply
from projections.models.orders import copy_orders, orders_table, write_orders
from projections.schema.tables import order_events

REBUILD_LOCK: Final = 0x6F72646572_02
"""Key of the advisory lock that keeps rebuilds apart."""

NEXT: Final = "orders_next"
PAGE_EVENTS: Final = 2000
PAGE_ORDERS: Final = 1000
CATCH_UP_EVENTS_MAX: Final = 500
"""How far behind the new table may be when the projector is paused for the swap."""

CATCH_UP_ROUNDS_MAX: Final = 20
SWAP_ATTEMPTS_MAX: Final = 30
SWAP_PAUSE_SECONDS: Final = 1.0
CHECKPOINT_LOCK_TIMEOUT_MS: Final = 5_000
TABLE_LOCK_TIMEOUT_MS: Final = 100
"""Readers that arrive while the swap waits for the table wait no longer than this."""

Progress = Callable[[int, int], None]
"""Called with events folded so far and, as counted at the start, in total."""

_next_table: Final = orders_table(MetaData(), NEXT)
_events: Final = order_events


class Rebuilt(Struct, frozen=True):
    """What a rebuild did; ``orders`` and ``events`` count what the new table was folded from."""

    orders: int
    events: int
    seconds: float


async def rebuild_orders(
    engine: AsyncEngine,
    *,
    progress: Progress = lambda done, total: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Rebuilt:
    """Replace the table ``orders`` by one folded anew from ``order_events``, while projector and readers go on.

    Readers see the old table whole, then the new one whole. Memory does not grow with the archive; disk holds both
    tables for a while. Privileges granted on the old table are not carried over: grant them as default privileges.
    Leftovers of a crashed rebuild are dropped first.

    Raises:
        RebuildRunningError: another one is running.
        RebuildBlockedError: somebody held the live table throughout.
        OrderMismatchError, FrameError: the archive is damaged; the live table was not touched.
    """
    started = asyncio.get_running_loop().time()
    async with _only_one(engine):
        await _create(engine)
        folded = await _fold_archive(engine, progress)
        await _finish_table(engine)
        noted = await _catch_up(engine, folded.noted)
        await _swap(engine, noted, sleep)
    return Rebuilt(folded.orders, folded.events, asyncio.get_running_loop().time() - started)


class _Folded(Struct, frozen=True):
    orders: int
    events: int
    noted: dict[int, int]


@asynccontextmanager
async def _only_one(engine: AsyncEngine) -> AsyncIterator[None]:
    async with reading(engine) as connection:
        if not await connection.scalar(select(func.pg_try_advisory_lock(REBUILD_LOCK))):
            raise RebuildRunningError
        try:
            yield
        finally:
            await connection.execute(select(func.pg_advisory_unlock(REBUILD_LOCK)))


async def _create(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP TABLE IF EXISTS {NEXT}"))
        await connection.execute(CreateTable(_next_table))


async def _fold_archive(engine: AsyncEngine, progress: Progress) -> _Folded:
    """Fold every archived order into the new table; what is projected meanwhile may be in it or not."""
    orders = events = 0
    async with engine.connect() as source:
        noted = await _positions(source)
        total = sum(noted.values())
        async with aclosing(_folds(source, _history())) as folds:
            async for page, count in folds:
                async with engine.begin() as target:
                    await copy_orders(target, page, NEXT)
                orders += len(page)
                events += count
                progress(events, total)
    return _Folded(orders, events, noted)


async def _folds(connection: AsyncConnection, history: Select[Any]) -> AsyncGenerator[tuple[list[OrderRow], int], None]:
    """Yield the rows of finished folds, page by page, with the number of events read for the page."""
    row: OrderRow | None = None
    records = await connection.stream(history.execution_options(yield_per=PAGE_EVENTS))
    try:
        async for page in records.partitions():
            finished: list[OrderRow] = []
            for name, order_id, payload in page:
                if row is not None and row.id != order_id:
                    finished.append(row)
                    row = None
                row = apply(row, decode_frame(payload, name))
            yield finished, len(page)
    finally:
        await records.close()
    if row is not None:
        yield [row], 0


def _history() -> Select[Any]:
    columns = select(_events.c.id, _events.c.order_id, cast(_events.c.payload, Text))
    return columns.order_by(_events.c.order_id, _events.c.version)


async def _finish_table(engine: AsyncEngine) -> None:
    """Add what is cheaper to make once than to keep up: indexes and statistics."""
    async with engine.begin() as connection:
        for index in sorted(_next_table.indexes, key=lambda index: str(index.name)):
            await connection.execute(CreateIndex(index))
        await connection.execute(text(f"ANALYZE {NEXT}"))


async def _catch_up(engine: AsyncEngine, noted: Mapping[int, int]) -> dict[int, int]:
    """Fold what was projected meanwhile, until little is left; return the positions that the new table has."""
    for _ in range(CATCH_UP_ROUNDS_MAX):
        async with engine.begin() as connection:
            reached = await _positions(connection)
            await _refold(connection, noted)
        behind = sum(reached.values()) - sum(noted.values())
        noted = reached
        if behind <= CATCH_UP_EVENTS_MAX:
            break
    return dict(noted)


async def _refold(connection: AsyncConnection, noted: Mapping[int, int]) -> None:
    """Fold every order with events after the noted positions into the new table, from its first event."""
    later = [(_events.c.partition == number) & (_events.c.position > at) for number, at in noted.items()]
    if not later:
        return
    changed = list(await connection.scalars(select(_events.c.order_id).where(or_(*later)).distinct()))
    for start in range(0, len(changed), PAGE_ORDERS):
        await _refold_orders(connection, changed[start : start + PAGE_ORDERS])


async def _refold_orders(connection: AsyncConnection, order_ids: Collection[str]) -> None:
    history = _history().where(_events.c.order_id == func.any(list(order_ids)))
    async with aclosing(_folds(connection, history)) as folds:
        async for page, _ in folds:
            await write_orders(connection, page, NEXT)


async def _swap(engine: AsyncEngine, noted: Mapping[int, int], sleep: Callable[[float], Awaitable[None]]) -> None:
    """Put the new table in the live one's place, with the projector paused by its checkpoints' locks."""
    for _ in range(SWAP_ATTEMPTS_MAX):
        try:
            async with engine.begin() as connection:
                await _set_lock_timeout(connection, CHECKPOINT_LOCK_TIMEOUT_MS)
                await lock_checkpoints(connection)
                await _refold(connection, noted)
                await _set_lock_timeout(connection, TABLE_LOCK_TIMEOUT_MS)
                await connection.execute(text("DROP TABLE orders"))
                await connection.execute(text(f"ALTER TABLE {NEXT} RENAME TO orders"))
                await _rename_parts(connection)
            return
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
        await sleep(SWAP_PAUSE_SECONDS)
    raise RebuildBlockedError(SWAP_ATTEMPTS_MAX)


async def _set_lock_timeout(connection: AsyncConnection, milliseconds: int) -> None:
    await connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))


async def _rename_parts(connection: AsyncConnection) -> None:
    """Give constraints and indexes the live table's names; a constraint takes its index along."""
    constraints = "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass AND conname LIKE :ours"
    ours = {"ours": f"{NEXT}\\_%"}
    for name in list(await connection.scalars(text(constraints), ours)):
        await connection.execute(text(f'ALTER TABLE orders RENAME CONSTRAINT "{name}" TO "{_live(name)}"'))
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'orders' AND indexname LIKE :ours"
    for name in list(await connection.scalars(text(indexes), ours)):
        await connection.execute(text(f'ALTER INDEX "{name}" RENAME TO "{_live(name)}"'))


def _live(name: str) -> str:
    return "orders" + name.removeprefix(NEXT)


async def _positions(connection: AsyncConnection) -> dict[int, int]:
    return {number: at.position for number, at in (await read_checkpoints(connection)).items()}
