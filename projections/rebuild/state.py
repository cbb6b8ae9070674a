"""The state of a rebuild in PostgreSQL, so that one that was killed goes on where it was."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Final, Literal

from msgspec import Struct
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections import fold
from projections.checkpoints import Checkpoint
from projections.database import DATABASE_OUTAGES, reading
from projections.errors import RebuildRunningError
from projections.models.projection import Projection
from projections.schema.tables import checkpoints, rebuilds

REBUILD_LOCK: Final = 0x6F72646572_02
"""Key of the advisory lock that keeps rebuilds apart."""

Stage = Literal["filling", "following", "kept"]
Source = Literal["archive", "redis"]

_columns: Final = rebuilds.c
_archived: Final = text(
    "SELECT e.partition, e.epoch, e.position, left(e.hash, 8) "
    "FROM unnest(CAST(:partitions AS smallint[]), CAST(:positions AS bigint[])) AS wanted (partition, position) "
    "JOIN order_events e USING (partition, position)"
)
_stand: Final = text(
    "INSERT INTO checkpoints (projection, partition, epoch, position, anchor, recorded_at) "
    "SELECT :generation, partition, epoch, position, anchor, recorded_at FROM checkpoints WHERE projection = 'orders'"
)
_hand_over: Final = text(
    "INSERT INTO checkpoints (projection, partition, epoch, position, anchor, recorded_at) "
    "SELECT :becomes, partition, epoch, position, anchor, recorded_at FROM checkpoints WHERE projection = :generation "
    "ON CONFLICT (projection, partition) DO UPDATE SET epoch = excluded.epoch, position = excluded.position, "
    "anchor = excluded.anchor, recorded_at = excluded.recorded_at"
)


class Rebuild(Struct, frozen=True):
    """A rebuild that is under way, or whose old table is kept; see :data:`projections.schema.tables.rebuilds`."""

    projection: str
    state: Stage
    source: Source
    code: str
    done: str
    orders: int
    events: int
    total: int


class Alone:
    """The right to rebuild, which one process has at a time: a lock, which goes with a connection of its own.

    Args:
        engine: of the database that the right is for.
        connection: that holds the lock.
    """

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection) -> None:
        self.engine: Final = engine
        self._connection = connection

    async def require(self) -> None:
        """Return if the right is still there. Call it before a commit, last of all.

        It also keeps a connection alive that says nothing else, and that a server or a network might end for it.

        Raises:
            OperationalError: the connection is gone, and the right with it. Commit nothing; begin again.
        """
        await self._connection.execute(select(1))


@asynccontextmanager
async def only_one(engine: AsyncEngine) -> AsyncIterator[Alone]:
    """Keep other rebuilds out while the context is open, or its connection.

    Raises:
        RebuildRunningError: another one is running.
    """
    async with reading(engine) as connection:
        if not await connection.scalar(select(func.pg_try_advisory_lock(REBUILD_LOCK))):
            raise RebuildRunningError
        try:
            yield Alone(engine, connection)
        finally:
            # With its connection, the lock has gone, too; what was committed stays so.
            with suppress(*DATABASE_OUTAGES):
                if not connection.invalidated:
                    await connection.execute(select(func.pg_advisory_unlock(REBUILD_LOCK)))


async def keep_rebuilds_out(connection: AsyncConnection) -> None:
    """Let no rebuild run until the transaction ends.

    Raises:
        RebuildRunningError: one is running.
    """
    if not await connection.scalar(select(func.pg_try_advisory_xact_lock_shared(REBUILD_LOCK))):
        raise RebuildRunningError


async def begin_anew(connection: AsyncConnection) -> None:
    """Let rebuilds that were interrupted begin anew: what they have folded is not what the live tables are told."""
    unfinished = update(rebuilds).where(_columns.state != "kept", _columns.projection != "order_events")
    await connection.execute(unfinished.values(code=""))


async def read_rebuild(connection: AsyncConnection, projection: str) -> Rebuild | None:
    """Return the rebuild of a projection; None where there is none."""
    return {rebuild.projection: rebuild for rebuild in await read_rebuilds(connection)}.get(projection)


async def read_rebuilds(connection: AsyncConnection) -> list[Rebuild]:
    """Return every rebuild, by name of its projection."""
    query = select(*(_columns[name] for name in Rebuild.__struct_fields__)).order_by(_columns.projection)
    return [Rebuild(*row) for row in await connection.execute(query)]


async def begin(connection: AsyncConnection, rebuild: Rebuild) -> None:
    """Record a rebuild, in the place of one of the same projection."""
    await forget(connection, rebuild.projection)
    values = {name: getattr(rebuild, name) for name in Rebuild.__struct_fields__}
    await connection.execute(insert(rebuilds).values(values))


async def advance(connection: AsyncConnection, rebuild: Rebuild) -> None:
    """Record how far a rebuild is, in the transaction that moves it."""
    moved = {name: getattr(rebuild, name) for name in ("state", "done", "orders", "events")}
    row = update(rebuilds).where(_columns.projection == rebuild.projection)
    await connection.execute(row.values(**moved, updated_at=func.now()))


async def forget(connection: AsyncConnection, projection: str) -> None:
    """Remove the record."""
    await connection.execute(delete(rebuilds).where(_columns.projection == projection))


async def stand_where_orders_do(connection: AsyncConnection, generation: str) -> None:
    """Give a generation, in each partition, the checkpoint of ``orders``."""
    await drop_checkpoints(connection, generation)
    await connection.execute(_stand, {"generation": generation})


async def drop_checkpoints(connection: AsyncConnection, generation: str) -> None:
    """Remove a generation's checkpoints."""
    await connection.execute(delete(checkpoints).where(checkpoints.c.projection == generation))


async def hand_over_checkpoints(connection: AsyncConnection, generation: str, becomes: str) -> None:
    """Give the checkpoints of a generation to another, whose own are updated in place.

    Whoever waits for the lock of a live checkpoint gets the row as it is then; a row in its place would be overlooked.
    """
    await connection.execute(_hand_over, {"generation": generation, "becomes": becomes})
    await drop_checkpoints(connection, generation)


async def copy_checkpoints(connection: AsyncConnection, generation: str, becomes: str) -> None:
    """Give another generation, too, the checkpoints of one."""
    await connection.execute(_hand_over, {"generation": generation, "becomes": becomes})


async def archived_ends(connection: AsyncConnection, positions: Mapping[int, int]) -> dict[int, Checkpoint]:
    """Return the checkpoint at each position, by partition, as the archive has it; none where it has no such event."""
    wanted = {"partitions": list(positions), "positions": list(positions.values())}
    return {row[0]: Checkpoint(*row) for row in await connection.execute(_archived, wanted)}


def code_of(projection: Projection) -> str:
    """Return what names the code that folds ``projection``: a table is not filled by two of them."""
    digest = hashlib.sha256()
    model = import_module(type(projection).__module__)
    for module in [*_modules_of(fold), model]:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def _modules_of(package: ModuleType) -> list[ModuleType]:
    return [import_module(found.name) for found in walk_packages(package.__path__, f"{package.__name__}.")]
