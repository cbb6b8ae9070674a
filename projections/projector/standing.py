"""How the projections stand: how far each is, who owns what, what stands still, and which rebuilds there are."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.rebuild.state import Rebuild, read_rebuilds

_TIME: Final = '\'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\''
_places: Final = text(
    "SELECT projection, partition, epoch, position, "
    "CAST(round(extract(epoch FROM now() - recorded_at) * 1000) AS bigint) "
    "FROM checkpoints WHERE projection = ANY(:projections) ORDER BY array_position(:projections, projection), partition"
)
_leases: Final = text(
    f"SELECT partition, owner, to_char(until AT TIME ZONE 'UTC', {_TIME}), until > now(), problem "
    "FROM leases ORDER BY partition"
)
_alive: Final = text("SELECT name FROM projectors WHERE until > now() ORDER BY name")
_quality: Final = text(
    "SELECT (SELECT count(DISTINCT order_id) FROM parked_events WHERE projection = 'orders'), "
    "(SELECT count(*) FROM orders WHERE quality <> 'ok' AND quality = 'incomplete')"
)
_stopped: Final = text("SELECT partition, problem FROM leases WHERE problem IS NOT NULL ORDER BY partition")


class Place(Struct, frozen=True, kw_only=True):
    """How far one projection is in one partition."""

    projection: str
    partition: int
    epoch: int
    position: int
    lag: int
    """Positions up to the log's end."""
    lag_ms: int | None
    """Age of the last projected event in milliseconds, 0 where the log ends with it; None: nothing is projected."""


class Lease(Struct, frozen=True, kw_only=True):
    """Who owns a partition."""

    partition: int
    owner: str | None
    until: str
    held: bool
    """Whether the owner still has it; else any projector takes it."""
    problem: str | None
    """Why it stands still; None: it does not."""


class Stopped(Struct, frozen=True):
    """A partition that stands still, and why."""

    partition: int
    problem: str


class Trouble(Struct, frozen=True, kw_only=True):
    """What of the read model stands still or lacks something."""

    quarantined: int
    """Orders with an event that could not be applied, those without any row included."""
    incomplete: int
    """Orders of which an event was skipped."""
    stopped: list[Stopped]


class Standing(Struct, frozen=True, kw_only=True):
    """How all projections stand."""

    places: list[Place]
    leases: list[Lease]
    projectors: list[str]
    """Those that live, by name."""
    rebuilds: list[Rebuild]
    trouble: Trouble


async def read_standing(connection: AsyncConnection, projections: Sequence[str], ends: Mapping[int, int]) -> Standing:
    """Return how ``projections`` stand, in their order; one that is not projected has no places.

    Args:
        ends: the log's last position by partition, read before this: it can only have grown since.
    """
    places = [
        _place(row[0], row[1], (row[2], row[3]), ends.get(row[1], 0), row[4])
        for row in await connection.execute(_places, {"projections": list(projections)})
    ]
    leases = [
        Lease(partition=row[0], owner=row[1], until=row[2], held=row[1] is not None and row[3], problem=row[4])
        for row in await connection.execute(_leases)
    ]
    return Standing(
        places=places,
        leases=leases,
        projectors=list(await connection.scalars(_alive)),
        rebuilds=await read_rebuilds(connection),
        trouble=await read_trouble(connection),
    )


async def read_trouble(connection: AsyncConnection) -> Trouble:
    """Return what stands still or lacks something."""
    quarantined, incomplete = (await connection.execute(_quality)).one()
    stopped = [Stopped(row[0], row[1]) for row in await connection.execute(_stopped)]
    return Trouble(quarantined=quarantined, incomplete=incomplete, stopped=stopped)


def _place(projection: str, partition: int, at: tuple[int, int], end: int, age_ms: int | None) -> Place:
    epoch, position = at
    lag = max(0, end - position)
    # Two clocks: the event's time is that of the event store's server.
    lag_ms = 0 if not lag else None if age_ms is None else max(0, age_ms)
    return Place(projection=projection, partition=partition, epoch=epoch, position=position, lag=lag, lag_ms=lag_ms)
