"""`projections status`: checkpoints, lag, owners, rebuilds, and what stands still."""

from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from app.cli.audit import printable
from app.cli.connections import Connected
from app.cli.projections.answers import Json, console, run, table, write_json
from projections.database import reading
from projections.models.registry import PROJECTIONS
from projections.projector.standing import Lease, Place, Standing, Trouble, read_standing


class PlaceView(Struct, frozen=True, kw_only=True, rename="camel"):
    """One projection in one partition, for programs."""

    partition: int
    epoch: int
    position: int
    lag: int
    lag_seconds: float | None


class ProjectionView(Struct, frozen=True, kw_only=True, rename="camel"):
    """One projection, for programs; one that was never built has no partitions."""

    projection: str
    partitions: list[PlaceView]


class RebuildView(Struct, frozen=True, kw_only=True, rename="camel"):
    """A rebuild under way, or whose old table is kept."""

    projection: str
    state: str
    source: str
    orders: int
    events: int
    total: int


class StandingView(Struct, frozen=True, kw_only=True, rename="camel"):
    """How all projections stand, for programs."""

    projections: list[ProjectionView]
    leases: list[Lease]
    projectors: list[str]
    rebuilds: list[RebuildView]
    quarantined: int
    incomplete: int


def status(as_json: Json = False) -> None:
    """Show how far every projection is in each partition, who owns it, and what stands still."""

    async def work(engine: Connected) -> Standing:
        ends = {part.partition: part.position for part in await engine.store.status()}
        async with reading(engine.database) as connection:
            return await read_standing(connection, list(PROJECTIONS), ends)

    standing = run(work)
    if as_json:
        write_json(view_of(standing))
    else:
        show(console(), standing)


def view_of(standing: Standing) -> StandingView:
    """Return what ``--json`` prints."""
    return StandingView(
        projections=[
            ProjectionView(
                projection=name, partitions=[_place_view(at) for at in standing.places if at.projection == name]
            )
            for name in PROJECTIONS
        ],
        leases=standing.leases,
        projectors=standing.projectors,
        rebuilds=[
            RebuildView(**{name: getattr(each, name) for name in RebuildView.__struct_fields__})
            for each in standing.rebuilds
        ],
        quarantined=standing.trouble.quarantined,
        incomplete=standing.trouble.incomplete,
    )


def _place_view(at: Place) -> PlaceView:
    seconds = None if at.lag_ms is None else at.lag_ms / 1000
    return PlaceView(partition=at.partition, epoch=at.epoch, position=at.position, lag=at.lag, lag_seconds=seconds)


def show(out: Console, standing: Standing) -> None:
    """Print for people how the projections stand."""
    leases = {lease.partition: lease for lease in standing.leases}
    names = ("projection", "partition", "epoch", "position", "lag", "seconds", "owner", "until")
    out.print(table(names, [_cells(at, leases.get(at.partition)) for at in standing.places]))
    for name in PROJECTIONS:
        if not any(at.projection == name for at in standing.places):
            out.print(f"{name} is not projected yet: ordertape rebuild {name}")
    living = ", ".join(map(printable, standing.projectors)) or "none: nothing is projected"
    out.print(Text(f"projectors: {living}"))
    for each in standing.rebuilds:
        out.print(_rebuild_text(msgspec.to_builtins(each)))
    for line in trouble_lines(standing.trouble):
        out.print(Text(line, style="yellow"))


def _cells(at: Place, lease: Lease | None) -> tuple[str, ...]:
    seconds = "–" if at.lag_ms is None else f"{at.lag_ms / 1000:.1f}"
    owner = lease.owner if lease is not None and lease.held and lease.owner is not None else "nobody"
    until = lease.until if lease is not None and lease.held else ""
    return (at.projection, str(at.partition), str(at.epoch), str(at.position), str(at.lag), seconds, owner, until)


def _rebuild_text(rebuild: dict[str, Any]) -> str:
    name = rebuild["projection"]
    if rebuild["state"] == "kept":
        return f"{name}: the old table is kept: `ordertape rebuild rollback {name}`, or `ordertape rebuild drop {name}`"
    done = f"{rebuild['events']} of {rebuild['total']} events from {rebuild['source']}"
    return (
        f"{name}: a rebuild is {rebuild['state']}, {done}; `ordertape rebuild {name}` goes on with one that was cut off"
    )


def trouble_lines(trouble: Trouble) -> list[str]:
    """Return a line for each thing that stands still or lacks something; for `ordertape status`, too."""
    lines = [f"partition {at.partition} stands still: {printable(at.problem)}" for at in trouble.stopped]
    if trouble.quarantined:
        lines.append(f"{_count(trouble.quarantined)} quarantined: ordertape projections parked list")
    if trouble.incomplete:
        lines.append(f"{_count(trouble.incomplete)} incomplete: an event of each was skipped")
    return lines


def _count(orders: int) -> str:
    return f"{orders} order is" if orders == 1 else f"{orders} orders are"
