"""`projections parked`: orders with an event that could not be applied; listed, shown, retried, or led past it."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct
from rich.text import Text

from app.cli.audit import printable
from app.cli.connections import Connected
from app.cli.projections import mended
from app.cli.projections.answers import EXIT_FINDINGS, Json, console, refuse, run, table, write_json
from eventstore.ids import partition_in
from projections.archive import events as archive
from projections.database import reading
from projections.models.orders import PROJECTION as ORDERS
from projections.parking import Quarantine, list_quarantined, waiting_versions
from projections.queries import orders as queries
from projections.rebuild import mending

parked = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Orders with an event that could not be applied: their rows stand still, and their later events wait. "
    "Exit status 0: done, 1: no such order, or it still stands still; 2: it could not be carried out.",
)


class QuarantineView(Struct, frozen=True, kw_only=True, rename="camel"):
    """An order whose row stands still, for programs; see :class:`Quarantine`."""

    order_id: str
    version: int
    reason: str
    since: str
    parked: int


class Shown(Struct, frozen=True, kw_only=True, rename="camel"):
    """An order that stands still, whole."""

    order: QuarantineView
    event: str | None
    """The event as it is archived (null: it is not); bytes that are no text are spelled out."""
    versions: list[int]
    """The events that wait, that one included."""
    row: dict[str, Any] | None
    """The order's row as it stands; null where there is none."""


@parked.command("list")
def list_(as_json: Json = False) -> None:
    """List the orders that stand still, longest first."""
    found = run(_quarantined)
    if as_json:
        write_json({"parked": [_view(each) for each in found]})
    elif found:
        rows = [(each.order_id, str(each.version), each.since, str(each.parked), each.reason) for each in found]
        console().print(table(("order", "event", "since", "waiting", "reason"), rows))
    else:
        typer.echo("no order stands still")


@parked.command()
def show(order: Annotated[str, typer.Argument(help="order id")], as_json: Json = False) -> None:
    """Show why an order stands still, the event itself, and the row as it is."""
    shown = run(lambda engine: _shown(engine, order))
    if shown is None:
        refuse(f"no event of order {order} is parked")
        raise typer.Exit(EXIT_FINDINGS)
    if as_json:
        write_json(shown)
    else:
        _print(shown)


@parked.command()
def retry(
    orders: Annotated[list[str] | None, typer.Argument(metavar="ORDER", help="order ids")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every order that stands still.")] = False,
    as_json: Json = False,
) -> None:
    """Apply what is parked of some orders, once the cause is gone; otherwise they stand still as before."""
    if bool(orders) == everything:
        raise typer.BadParameter("name orders, or give --all")

    async def work(engine: Connected) -> list[mended.MendedView]:
        chosen = orders or [each.order_id for each in await _quarantined(engine)]
        return await mended.mend(engine, chosen, mending.retry)

    _end("retried", run(work), as_json)


@parked.command()
def skip(
    order: Annotated[str, typer.Argument(help="order id")],
    reason: Annotated[str, typer.Option(help="Why the event is passed over; kept, and written into the row.")],
    as_json: Json = False,
) -> None:
    """Pass over the event that an order stands still at, for good, and apply those after it.

    The order's row is `incomplete` from then on, and later rebuilds pass over the event, too.
    """
    if not reason.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--reason")
    views = run(
        lambda engine: mended.mend(engine, [order], lambda database, each: mending.skip(database, each, reason))
    )
    _end("skipped", views, as_json)


async def _quarantined(engine: Connected) -> list[Quarantine]:
    async with reading(engine.database) as connection:
        return await list_quarantined(connection, ORDERS.name)


async def _shown(engine: Connected, order_id: str) -> Shown | None:
    partition_in(order_id)
    async with reading(engine.database) as connection:
        found = await list_quarantined(connection, ORDERS.name, [order_id])
        if not found:
            return None
        (quarantine,) = found
        versions = await waiting_versions(connection, ORDERS.name, order_id)
        events = await archive.read_stream(connection, order_id, quarantine.version - 1, 1)
    row = await queries.get_order(engine.database, order_id)
    return Shown(
        order=_view(quarantine),
        event=events[0].data.decode(errors="backslashreplace") if events else None,
        versions=versions,
        row=None if row is None else msgspec.to_builtins(row),
    )


def _end(done: str, views: Sequence[mended.MendedView], as_json: bool) -> None:
    if as_json:
        write_json({done: views})
    elif not views:
        typer.echo("no order stands still")
    else:
        for view in views:
            mended.tell(view)
    mended.exit_after(views)


def _view(each: Quarantine) -> QuarantineView:
    return QuarantineView(**msgspec.structs.asdict(each))


def _print(shown: Shown) -> None:
    out, order = console(), shown.order
    out.print(Text(f"order {order.order_id}", style="bold"))
    out.print(Text(f"stands still before event {order.version}, appended at {order.since}"))
    out.print(Text(f"  {printable(order.reason)}", style="red"))
    out.print(f"waiting: {', '.join(map(str, shown.versions))}")
    out.print(Text("the event as it is archived:", style="bold"))
    out.print(Text(f"  {printable(shown.event or 'the archive lacks it: ordertape audit verify')}"))
    if shown.row is None:
        out.print("there is no row")
        return
    out.print(Text("the row as it stands:", style="bold"))
    for name, value in shown.row.items():
        if value is not None:
            out.print(Text(f"  {name:<16} {printable(str(value))}"))
