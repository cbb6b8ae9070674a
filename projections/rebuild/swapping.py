"""Swapping generations: the next one in, the old one back, whatever is not needed away, each in one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import psycopg
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.checkpoints import lock_projections
from projections.errors import NoRebuildError, OldShapeError, RebuildBlockedError, RebuildRefusedError
from projections.models.orders import PROJECTION as ORDERS
from projections.models.projection import Key, Projection
from projections.models.registry import NEXT, OLD, OTHERS, table_of
from projections.parking import drop_parked, forget_told, inherit_told, parked_versions, rename_parked
from projections.rebuild import state
from projections.rebuild.building import FOLLOW_EVENTS_MAX, Builder, Reach, discard
from projections.rebuild.gate import compare_generations
from projections.rebuild.mending import tell
from projections.schema.migrations import keep_migrations_out, require_own_schema, require_own_version

SWAP_ATTEMPTS_MAX: Final = 30
SWAP_PAUSE_SECONDS: Final = 1.0
CHECKPOINT_LOCK_TIMEOUT_MS: Final = 5_000
TABLE_LOCK_TIMEOUT_MS: Final = 100
"""Readers that arrive while the swap waits for the table wait no longer than this."""
_constraints: Final = text(
    "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) ORDER BY conname"
)
_indexes: Final = text("SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND tablename = :table")
_names: Final = text(
    "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = :table"
)


class Terms(Struct, frozen=True):
    """On what terms the next generation takes the live one's place."""

    changed: Collection[str]
    """Columns that may differ; see :mod:`projections.rebuild.gate`."""
    keep_old: bool
    compare: bool
    """False where there is no live table worth comparing: then nothing may be lost by it."""


async def swap(
    builder: Builder,
    touched: set[Key],
    terms: Terms,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Put the next generation in the live one's place, with the projector paused by its checkpoints' locks.

    The rows of ``touched``, and of what was projected since, are compared once more before.

    Raises:
        RebuildRefusedError: they differ in columns that nobody declared as changed. Nothing was swapped.
        RebuildBlockedError: somebody held the live table throughout.
    """

    async def attempt(connection: AsyncConnection) -> None:
        projection = builder.projection
        late = touched | await _hold(connection, builder)
        if terms.compare:
            undeclared = (found := await compare_generations(connection, projection, late)).undeclared(terms.changed)
            if undeclared:
                raise RebuildRefusedError(projection.name, undeclared, found.samples)
        await _exchange(connection, projection, keep_old=terms.keep_old)
        builder.reach("exchanged")

    await uncontended(builder.alone, builder.projection.name, attempt, sleep)
    builder.reach("swapped")


async def roll_back(
    engine: AsyncEngine,
    projection: Projection,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    reach: Reach = lambda point: None,
) -> None:
    """Bring the kept old table back, caught up; the one that it replaces is kept in its place.

    Interrupted, it has done nothing that is seen: it can be repeated.

    Raises:
        NoRebuildError: no old table is kept.
        OldShapeError: it has the columns of an earlier schema.
        RebuildRunningError, RebuildBlockedError: see :func:`swap`.
        SchemaError: the schema is a later one, whose columns the old table lacks.
    """
    await require_own_schema(engine)
    async with state.only_one(engine) as alone:
        async with engine.begin() as connection:
            found = await state.read_rebuild(connection, projection.name)
            if found is None or found.state != "kept":
                raise NoRebuildError(projection.name)
            if set(await connection.scalars(_names, {"table": projection.name + OLD})) != _columns_of(projection):
                raise OldShapeError(projection.name)
        builder = Builder(alone, projection, generation=OLD, reach=reach)
        await catch_up(engine, builder)
        reach("caught_up")

        async def attempt(connection: AsyncConnection) -> None:
            await _hold(connection, builder)
            await _rename(connection, projection.name + OLD, projection.name + NEXT)
            await _exchange(connection, projection, keep_old=True)
            reach("exchanged")

        await uncontended(alone, projection.name, attempt, sleep)
        reach("swapped")


async def drop(engine: AsyncEngine, projection: Projection) -> bool:
    """Remove an unfinished rebuild, or the old table of a finished one; return whether there was any.

    Raises:
        RebuildRunningError: one is running.
    """
    async with state.only_one(engine), engine.begin() as connection:
        found = await state.read_rebuild(connection, projection.name)
        await discard(connection, projection)
    return found is not None


async def catch_up(engine: AsyncEngine, builder: Builder) -> set[Key]:
    """Follow the archive in bounded steps, until little is left; return the keys of the rows that were touched."""
    touched: set[Key] = set()
    while True:
        async with engine.begin() as connection:
            reached = await builder.reached(connection)
            ends = await builder.ends(connection)
            near = {n: min(end, reached[n] + FOLLOW_EVENTS_MAX) for n, end in ends.items() if reached[n] < end}
            if not near:
                return touched
            touched |= await builder.follow(connection, await state.archived_ends(connection, near))
        if sum(ends.values()) - sum(reached.values()) <= FOLLOW_EVENTS_MAX // 20:
            return touched


async def _hold(connection: AsyncConnection, builder: Builder) -> set[Key]:
    """Pause the projector by its checkpoints' locks, and bring the generation to where it stands.

    Returns the keys of the rows that were touched.
    """
    ends = (await lock_projections(connection, [ORDERS.name, builder.projection.name]))[ORDERS.name]
    builder.reach("locked")
    return await builder.follow(connection, ends)


async def _exchange(connection: AsyncConnection, projection: Projection, *, keep_old: bool) -> None:
    live, following, old = projection.name, projection.name + NEXT, projection.name + OLD
    await connection.execute(text(f"SET LOCAL lock_timeout = {TABLE_LOCK_TIMEOUT_MS}"))
    if projection is ORDERS:
        await _tell_mended(connection, following)
        await inherit_told(connection, live, following, list(OTHERS))
    else:
        # What was parked has not been told to the table that comes in.
        await forget_told(connection, ORDERS.name, projection.name)
    if keep_old:
        await rename_table(connection, live, old)
        await state.copy_checkpoints(connection, live, old)
        await rename_parked(connection, live, old)
    else:
        await connection.execute(text(f"DROP TABLE {live}"))
        await drop_parked(connection, live)
    await _rename(connection, following, live)
    found = await state.read_rebuild(connection, live)
    if keep_old and found is not None:
        await state.advance(connection, replace(found, state="kept"))
    else:
        await state.forget(connection, live)


async def _tell_mended(connection: AsyncConnection, following: str) -> None:
    """Tell the other projections the events that were parked in the live rows and are applied in the next ones."""
    parked = await parked_versions(connection, ORDERS.name)
    still = await parked_versions(connection, following)
    mended = {event: told for event, told in parked.items() if event not in still}
    if mended:
        await tell(connection, mended)


async def _rename(connection: AsyncConnection, generation: str, becomes: str) -> None:
    """Give a generation another's name: table, checkpoints, parked events."""
    await rename_table(connection, generation, becomes)
    await state.hand_over_checkpoints(connection, generation, becomes)
    await rename_parked(connection, generation, becomes)


async def rename_table(connection: AsyncConnection, table: str, becomes: str) -> None:
    """Rename a table, with its constraints and indexes, whose names begin with its own."""
    await connection.execute(text(f"ALTER TABLE {table} RENAME TO {becomes}"))
    constraints = list(await connection.scalars(_constraints, {"table": becomes}))
    # A constraint takes its index along.
    indexes = [name for name in await connection.scalars(_indexes, {"table": becomes}) if name not in constraints]
    for name in constraints:
        new = becomes + name.removeprefix(table)
        await connection.execute(text(f'ALTER TABLE {becomes} RENAME CONSTRAINT "{name}" TO "{new}"'))
    for name in indexes:
        await connection.execute(text(f'ALTER INDEX "{name}" RENAME TO "{becomes + name.removeprefix(table)}"'))


def _columns_of(projection: Projection) -> set[str]:
    return {column.name for column in table_of(projection).columns}


async def uncontended(
    alone: state.Alone,
    table: str,
    act: Callable[[AsyncConnection], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Run ``act``, which swaps ``table``, in a transaction of its own, again while somebody holds what it needs.

    Nothing is committed on a schema that a later release migrated meanwhile: the columns it added would be lost.

    Raises:
        SchemaError: one did.
        OperationalError: the right to rebuild was lost meanwhile; nothing was committed.
        RebuildBlockedError: somebody did at each attempt.
    """
    for _ in range(SWAP_ATTEMPTS_MAX):
        try:
            async with alone.engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL lock_timeout = {CHECKPOINT_LOCK_TIMEOUT_MS}"))
                await keep_migrations_out(connection)
                await act(connection)
                await require_own_version(connection)
                await alone.require()
            return
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
        await sleep(SWAP_PAUSE_SECONDS)
    raise RebuildBlockedError(table, SWAP_ATTEMPTS_MAX)
