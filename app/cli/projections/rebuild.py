"""`rebuild`: a projection folded anew beside the live one and swapped in, brought back, or given up."""

from typing import Annotated

import typer
from msgspec import Struct
from rich.console import Console
from typer.core import TyperGroup

from app.cli.connections import Connected
from app.cli.projections.answers import EXIT_FINDINGS, Json, console, write_json
from app.cli.projections.completion import order_events
from app.cli.projections.mended import repair_one
from app.cli.projections.progress import reporting
from app.cli.projections.refusals import Refused, answered, show_differences, tell_refusal
from projections.models.orders import PROJECTION as ORDERS
from projections.models.projection import Projection
from projections.models.registry import OTHERS, PROJECTIONS, table_of
from projections.rebuild.completing import NAME as ARCHIVE
from projections.rebuild.completing import drop_completion
from projections.rebuild.gate import EVERYTHING, ROW, Compared
from projections.rebuild.rebuilding import Rebuilt, Wanted
from projections.rebuild.rebuilding import rebuild as rebuild_projection
from projections.rebuild.state import Source
from projections.rebuild.swapping import drop as drop_rebuild
from projections.rebuild.swapping import roll_back


class OrdersByDefault(TyperGroup):
    """A group that takes options without a command for those of ``orders``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # Typer's is click's
        """See click."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [ORDERS.name, *args]
        return super().parse_args(ctx, args)


rebuild = typer.Typer(
    cls=OrdersByDefault,
    rich_markup_mode=None,
    help="Fold a projection anew beside the live one and swap it in, while everything runs; without a command, orders. "
    "`order_events` completes the archive from Redis instead. "
    "Exit status 0: done, or equal; 1: the tables differ, or there is nothing such; 2: it could not be carried out.",
)

From = Annotated[Source, typer.Option("--from", help="Where the events are read from.")]
VerifyOnly = Annotated[bool, typer.Option("--verify-only", help="Swap nothing: only tell how the tables differ.")]
KeepOld = Annotated[bool, typer.Option("--keep-old", help="Keep the old table, so that `rollback` can bring it back.")]
Changed = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="A column that may differ, `row` for rows that come or go; repeatable."),
]
Name = Annotated[str, typer.Argument(metavar="[PROJECTION]", help=f"one of: {', '.join(PROJECTIONS)}")]

Droppable = Annotated[str, typer.Argument(metavar="[PROJECTION]", help=f"one of: {', '.join(PROJECTIONS)}, {ARCHIVE}")]


class Result(Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """What a rebuild did, for programs; see :class:`Rebuilt`."""

    projection: str
    orders: int
    events: int
    seconds: float
    resumed: bool
    swapped: bool
    kept: bool
    """Whether the old table is kept."""
    compared: Compared | None


class Ended(Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """That an old table was brought back, or a rebuild given up, for programs."""

    projection: str
    done: str


@rebuild.command(ORDERS.name)
def orders(
    source: From = "archive",
    verify_only: VerifyOnly = False,
    keep_old: KeepOld = False,
    changed: Changed = None,
    order: Annotated[str | None, typer.Option(metavar="ID", help="Fold only this order's row anew, in place.")] = None,
    as_json: Json = False,
) -> None:
    """Fold the table `orders` anew; every other projection stands on its rows.

    Refused, with what differs, unless the new table equals the live one at one identical position.
    """
    wanted = _wanted(ORDERS, changed, verify_only=verify_only, keep_old=keep_old)
    if order is None:
        _carry_out(ORDERS, wanted, source, as_json)
    elif source != "archive" or wanted != Wanted():
        raise typer.BadParameter(
            "folds one row in place: no other option but --json goes with it", param_hint="--order"
        )
    else:
        repair_one(order, as_json=as_json)


@rebuild.command()
def rollback(projection: Name = ORDERS.name, as_json: Json = False) -> None:
    """Bring back the table that --keep-old kept, caught up; the one that it replaces is kept in its place."""
    chosen = chosen_projection(projection)
    answered(projection, lambda engine: roll_back(engine.database, chosen), as_json)
    _say_ended(
        projection, "rolled back", f"the old table of {projection} is back; the one it replaced is kept", as_json
    )


@rebuild.command()
def drop(projection: Droppable = ORDERS.name, as_json: Json = False) -> None:
    """Give up an unfinished rebuild, or remove the table that --keep-old kept. The live table stays as it is."""
    chosen = None if projection == ARCHIVE else chosen_projection(projection)

    async def work(engine: Connected) -> bool:
        return await (drop_completion(engine.database) if chosen is None else drop_rebuild(engine.database, chosen))

    if not answered(projection, work, as_json):
        refused = Refused(projection=projection, reason=f"{projection} has no rebuild", columns={}, samples=[])
        tell_refusal(refused, as_json)
        raise typer.Exit(EXIT_FINDINGS)
    _say_ended(projection, "dropped", f"what a rebuild of {projection} had made is removed", as_json)


rebuild.command(ARCHIVE)(order_events)


def _add(projection: Projection) -> None:
    """Add the command of a projection other than orders."""

    def command(
        source: From = "archive",
        verify_only: VerifyOnly = False,
        keep_old: KeepOld = False,
        changed: Changed = None,
        as_json: Json = False,
    ) -> None:
        wanted = _wanted(projection, changed, verify_only=verify_only, keep_old=keep_old)
        _carry_out(projection, wanted, source, as_json)

    command.__doc__ = f"Fold the table `{projection.name}` anew, as `orders` is."
    rebuild.command(projection.name)(command)


for _projection in OTHERS.values():
    _add(_projection)


def add_to(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(rebuild, name="rebuild")


def chosen_projection(name: str) -> Projection:
    """Return the projection that a person named."""
    if name not in PROJECTIONS:
        raise typer.BadParameter(f"{name} is no projection: name one of {', '.join(PROJECTIONS)}")
    return PROJECTIONS[name]


def _wanted(projection: Projection, changed: list[str] | None, *, verify_only: bool, keep_old: bool) -> Wanted:
    known = [*table_of(projection).columns.keys(), ROW, EVERYTHING]
    for column in changed or ():
        if column not in known:
            raise typer.BadParameter(f"{projection.name} has no column {column}", param_hint="--changed")
    if verify_only and (keep_old or changed):
        raise typer.BadParameter(
            "swaps nothing: neither --keep-old nor --changed goes with it", param_hint="--verify-only"
        )
    return Wanted(changed=tuple(changed or ()), keep_old=keep_old, verify_only=verify_only)


def _carry_out(projection: Projection, wanted: Wanted, source: Source, as_json: bool) -> None:
    async def work(engine: Connected) -> Rebuilt:
        hot = engine.store.hot if source == "redis" else None
        with reporting(as_json=as_json) as report:
            return await rebuild_projection(engine.database, projection, wanted, hot=hot, report=report)

    rebuilt = answered(projection.name, work, as_json)
    if as_json:
        write_json(_result(rebuilt, wanted))
    else:
        show(console(), rebuilt, wanted)
    if wanted.verify_only and rebuilt.compared is not None and rebuilt.compared.rows:
        raise typer.Exit(EXIT_FINDINGS)


def _say_ended(projection: str, done: str, says: str, as_json: bool) -> None:
    if as_json:
        write_json(Ended(projection=projection, done=done))
    else:
        typer.echo(says)


def _result(rebuilt: Rebuilt, wanted: Wanted) -> Result:
    return Result(
        projection=rebuilt.projection,
        orders=rebuilt.orders,
        events=rebuilt.events,
        seconds=round(rebuilt.seconds, 3),
        resumed=rebuilt.resumed,
        swapped=rebuilt.swapped,
        kept=rebuilt.swapped and wanted.keep_old,
        compared=rebuilt.compared,
    )


def show(out: Console, rebuilt: Rebuilt, wanted: Wanted) -> None:
    """Print for people what a rebuild did."""
    compared, name = rebuilt.compared, rebuilt.projection
    if compared is not None:
        show_differences(out, compared.samples)
    work = f"{rebuilt.orders} orders from {rebuilt.events} events in {rebuilt.seconds:.2f} s"
    resumed = ", going on where an earlier one was" if rebuilt.resumed else ""
    out.print(f"{'rebuilt' if rebuilt.swapped else 'folded'} {name}: {work}{resumed}")
    if compared is None:
        out.print(f"{name} was not projected yet: there was nothing to compare with")
    elif compared.rows:
        columns = ", ".join(f"{column} ({count})" for column, count in compared.columns.items())
        out.print(f"it differed from the live table in {compared.rows} rows: {columns}")
    else:
        out.print("it equals the live table at one identical position")
    if not rebuilt.swapped:
        out.print("nothing was swapped")
    elif wanted.keep_old:
        out.print(f"the old table is kept: `ordertape rebuild rollback {name}`, or `ordertape rebuild drop {name}`")
