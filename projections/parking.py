"""Parked and skipped events in PostgreSQL: what waits behind one that could not be applied, and what is left out."""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.fold.histories import Parked, time_text_of
from projections.schema.tables import parked_events, skipped_events

_columns: Final = parked_events.c
_park: Final = text(
    "INSERT INTO parked_events (projection, order_id, version, partition, position, reason, recorded_at) "
    "SELECT :projection, order_id, version, partition, position, reason, recorded_at "
    "FROM json_populate_recordset(CAST(NULL AS parked_events), CAST(:rows AS json))"
)
_inherit: Final = text(
    "UPDATE parked_events p SET told = coalesce((SELECT l.told FROM parked_events l WHERE l.projection = :live "
    "AND l.order_id = p.order_id AND l.version = p.version), CAST(:others AS text[])) WHERE p.projection = :following"
)


class Quarantine(Struct, frozen=True, kw_only=True):
    """An order whose row stands still, and why."""

    order_id: str
    version: int
    """Of the event that could not be applied; its row is at the version before."""
    reason: str
    since: str
    """When that event was appended."""
    parked: int
    """Events that wait, that one included."""


async def park(connection: AsyncConnection, projection: str, parked: Sequence[Parked]) -> None:
    """Add events to those that wait."""
    if parked:
        rows = [{**msgspec.structs.asdict(event), "recorded_at": time_text_of(event.recorded_us)} for event in parked]
        await connection.execute(_park, {"projection": projection, "rows": msgspec.json.encode(rows).decode()})


async def unpark(
    connection: AsyncConnection, projection: str, order_ids: Collection[str]
) -> dict[tuple[str, int], list[str]]:
    """Remove the parked events of some orders, and return them as :func:`parked_versions` does."""
    ours = (_columns.projection == projection, _columns.order_id == func.any(list(order_ids)))
    removing = delete(parked_events).where(*ours).returning(_columns.order_id, _columns.version, _columns.told)
    return {(row[0], row[1]): row[2] for row in await connection.execute(removing)}


async def drop_parked(connection: AsyncConnection, projection: str) -> None:
    """Forget a generation's parked events."""
    await connection.execute(delete(parked_events).where(_columns.projection == projection))


async def rename_parked(connection: AsyncConnection, projection: str, becomes: str) -> None:
    """Give a generation's parked events to another, which must have none."""
    await connection.execute(update(parked_events).where(_columns.projection == projection).values(projection=becomes))


async def parked_versions(connection: AsyncConnection, projection: str) -> dict[tuple[str, int], list[str]]:
    """Return all parked events, by order and version, with the projections that know them all the same."""
    query = select(_columns.order_id, _columns.version, _columns.told).where(_columns.projection == projection)
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def inherit_told(connection: AsyncConnection, live: str, following: str, others: Sequence[str]) -> None:
    """Note of each event that ``following`` parks who knows it: all, if ``live`` applied it; else as ``live`` says."""
    await connection.execute(_inherit, {"live": live, "following": following, "others": list(others)})


async def forget_told(connection: AsyncConnection, projection: str, other: str) -> None:
    """Note that ``other`` knows none of the parked events."""
    ours = update(parked_events).where(_columns.projection == projection)
    await connection.execute(ours.values(told=func.array_remove(_columns.told, other)))


async def held_orders(connection: AsyncConnection, projection: str, order_ids: Collection[str]) -> dict[str, int]:
    """Return which of ``order_ids`` have parked events, each with the version of the first."""
    query = select(_columns.order_id, func.min(_columns.version)).where(
        _columns.projection == projection, _columns.order_id == func.any(list(order_ids))
    )
    return {row[0]: row[1] for row in await connection.execute(query.group_by(_columns.order_id))}


async def all_held(connection: AsyncConnection, projection: str) -> dict[str, int]:
    """Return every order with parked events, with the version of the first."""
    query = select(_columns.order_id, func.min(_columns.version)).where(_columns.projection == projection)
    return {row[0]: row[1] for row in await connection.execute(query.group_by(_columns.order_id))}


async def list_quarantined(
    connection: AsyncConnection, projection: str, order_ids: Collection[str] | None = None
) -> list[Quarantine]:
    """Return the orders that stand still, longest first; of ``order_ids`` only, if given."""
    query = select(
        _columns.order_id,
        func.min(_columns.version),
        func.max(_columns.reason),
        func.to_char(func.timezone("UTC", func.min(_columns.recorded_at)), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        func.count(),
    ).where(_columns.projection == projection)
    if order_ids is not None:
        query = query.where(_columns.order_id == func.any(list(order_ids)))
    grouped = query.group_by(_columns.order_id).order_by(func.min(_columns.recorded_at), _columns.order_id)
    return [
        Quarantine(order_id=row[0], version=row[1], reason=row[2] or "", since=row[3], parked=row[4])
        for row in await connection.execute(grouped)
    ]


async def read_skips(
    connection: AsyncConnection, order_ids: Collection[str] | None = None
) -> dict[tuple[str, int], str]:
    """Return why events, by order and version, are passed over; of ``order_ids`` only, if given."""
    query = select(skipped_events.c.order_id, skipped_events.c.version, skipped_events.c.reason)
    if order_ids is not None:
        query = query.where(skipped_events.c.order_id == func.any(list(order_ids)))
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def skip(connection: AsyncConnection, order_id: str, version: int, reason: str) -> None:
    """Decide that an event is passed over from now on, by every fold. Idempotent: the later reason stands."""
    values = {"order_id": order_id, "version": version, "reason": reason}
    adding = insert(skipped_events).values(values)
    keys = [skipped_events.c.order_id, skipped_events.c.version]
    await connection.execute(adding.on_conflict_do_update(index_elements=keys, set_={"reason": reason}))


async def waiting_versions(connection: AsyncConnection, projection: str, order_id: str) -> list[int]:
    """Return the versions of an order's parked events, in order; [] for none."""
    query = select(_columns.version).where(_columns.projection == projection, _columns.order_id == order_id)
    return list(await connection.scalars(query.order_by(_columns.version)))
