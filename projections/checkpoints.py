"""Checkpoints: how far a projection got in each partition, moved in the transaction that moves its rows."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.ids import Cursor
from eventstore.store import EventStore
from projections.database import reading
from projections.errors import NotReachedError, ReadModelMismatchError
from projections.fold.histories import time_text_of
from projections.models.registry import OTHERS
from projections.schema import tables

ORDERS: Final = "orders"
"""The projection that fills ``orders`` and ``order_events``."""

POLL_SECONDS: Final = 0.01

_table: Final = tables.checkpoints
_columns: Final = select(_table.c.partition, _table.c.epoch, _table.c.position, _table.c.anchor)
_move: Final = text(
    "UPDATE checkpoints SET epoch = moved.epoch, position = moved.position, anchor = moved.anchor, "
    "recorded_at = moved.recorded_at, updated_at = now() "
    "FROM json_populate_recordset(CAST(NULL AS checkpoints), CAST(:moves AS json)) AS moved "
    "WHERE checkpoints.projection = moved.projection AND checkpoints.partition = moved.partition"
)


_join: Final = text(
    "INSERT INTO checkpoints (projection, partition, epoch, position, anchor) "
    "SELECT other, partition, epoch, position, anchor FROM checkpoints, unnest(CAST(:projections AS text[])) AS other "
    "WHERE projection = 'orders' AND position = 0 ON CONFLICT DO NOTHING"
)


class Checkpoint(Struct, frozen=True):
    """The last projected position of a partition; position 0, epoch 0 and anchor "" before the first."""

    partition: int
    epoch: int
    position: int
    anchor: str
    """First 8 hex digits of the hash of the event at that position."""

    @property
    def end(self) -> Cursor:
        """The position to read on from."""
        return Cursor(self.epoch, self.position, self.anchor)


Checkpoints = Mapping[int, Checkpoint]
"""By partition."""


async def read_checkpoints(connection: AsyncConnection, projection: str = ORDERS) -> dict[int, Checkpoint]:
    """Return a projection's checkpoint in each partition that it has one in, in order of partition."""
    found = await connection.execute(_columns.where(_table.c.projection == projection).order_by(_table.c.partition))
    return {row[0]: Checkpoint(*row) for row in found}


async def lock_checkpoints(connection: AsyncConnection, partitions: Iterable[int] | None = None) -> Checkpoints:
    """Return the checkpoints of ``partitions``, all by default, locked until the transaction ends.

    Whoever writes rows of a partition holds its lock; always in order of partition, so that nobody deadlocks.
    """
    locked = _columns.where(_table.c.projection == ORDERS)
    if partitions is not None:
        locked = locked.where(_table.c.partition.in_(list(partitions)))
    found = await connection.execute(locked.order_by(_table.c.partition).with_for_update())
    return {row[0]: Checkpoint(*row) for row in found}


async def lock_projections(
    connection: AsyncConnection, projections: Collection[str], partitions: Collection[int] | None = None
) -> dict[str, dict[int, Checkpoint]]:
    """As :func:`lock_checkpoints`, for several projections: by name, each as far as it has checkpoints."""
    query = _columns.add_columns(_table.c.projection).where(_table.c.projection.in_(list(projections)))
    if partitions is not None:
        query = query.where(_table.c.partition.in_(list(partitions)))
    found: dict[str, dict[int, Checkpoint]] = {name: {} for name in projections}
    locked = query.order_by(_table.c.partition, _table.c.projection).with_for_update()
    for *place, name in await connection.execute(locked):
        found[name][place[0]] = Checkpoint(*place)
    return found


async def move_checkpoints(
    connection: AsyncConnection, moves: Mapping[str, Iterable[Checkpoint]], recorded_us: Mapping[int, int]
) -> None:
    """Set locked checkpoints, by projection. ``recorded_us``: when each partition's event there was appended."""
    moved = [
        {"projection": name, "recorded_at": time_text_of(recorded_us[end.partition]), **asdict(end)}
        for name, ends in moves.items()
        for end in ends
    ]
    await connection.execute(_move, {"moves": msgspec.json.encode(moved).decode()})


async def bind(connection: AsyncConnection, store_id: str, partitions: int) -> None:
    """Make the database the read model of a store, with a checkpoint for every partition, unless it is already.

    Raises:
        ReadModelMismatchError: it is another store's read model. Correct a URL; nothing was changed.
    """
    identity = (store_id, partitions)
    ours = insert(tables.store).values(store_id=store_id, partitions=partitions)
    await connection.execute(ours.on_conflict_do_nothing())
    found = (await connection.execute(select(tables.store.c.store_id, tables.store.c.partitions))).one()
    if tuple(found) != identity:
        raise ReadModelMismatchError((found[0], found[1]), identity)
    nothing = {"projection": ORDERS, "epoch": 0, "position": 0, "anchor": ""}
    start = [{**nothing, "partition": number} for number in range(partitions)]
    await connection.execute(insert(_table).values(start).on_conflict_do_nothing())
    owned = [{"partition": number} for number in range(partitions)]
    await connection.execute(insert(tables.leases).values(owned).on_conflict_do_nothing())
    # Another projection begins with the log; where that has begun without it, it must be built first.
    await connection.execute(_join, {"projections": list(OTHERS)})


async def adopt_checkpoints(engine: AsyncEngine, store: EventStore) -> dict[int, Checkpoint]:
    """Bind the database to ``store``, if it belongs to none yet, and return the checkpoint of every partition.

    Raises:
        ReadModelMismatchError: it is another store's read model. Correct a URL; nothing was changed.
    """
    async with engine.begin() as connection:
        await bind(connection, store.store_id, store.partitions)
        return await read_checkpoints(connection)


async def wait_for(engine: AsyncEngine, partition: int, position: int, timeout_seconds: float) -> None:
    """Return once everything up to ``position`` is projected.

    Raises:
        NotReachedError: it was not within ``timeout_seconds``.
    """
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while True:
        async with reading(engine) as connection:
            found = await _position(connection, partition)
        if found >= position:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise NotReachedError(partition, position, found)
        await asyncio.sleep(POLL_SECONDS)


async def _position(connection: AsyncConnection, partition: int) -> int:
    query = select(_table.c.position).where(_table.c.projection == ORDERS, _table.c.partition == partition)
    found: int | None = await connection.scalar(query)
    return found or 0
