"""`projections`: how the read model stands, whether it is what the streams say, and mending it order by order."""

from typing import Annotated

import typer
from msgspec import Struct
from rich.text import Text

from app.cli.projections import mended
from app.cli.projections.answers import EXIT_FINDINGS, Json, console, run, table, write_json
from app.cli.projections.comparison import compare
from app.cli.projections.parked import parked
from app.cli.projections.rebuild import Name, chosen_projection
from app.cli.projections.status import status
from projections.diff import Finding, diff
from projections.models.orders import PROJECTION as ORDERS
from projections.rebuild.mending import repair as repair_order

projections = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What the projectors write: how far it is, whether it is what the streams say, and mending it. "
    "Exit status 0: done, or clean; 1: findings, or no such order; 2: it could not be carried out.",
)
projections.command()(status)
projections.add_typer(parked, name="parked")


class FindingView(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where PostgreSQL is not what the streams say, for programs; see :class:`Finding`."""

    order_id: str
    kind: str
    field: str
    expected: str
    found: str


@projections.command("diff")
def diff_(
    projection: Name = ORDERS.name,
    orders: Annotated[
        list[str] | None, typer.Option("--order", metavar="ID", help="Only this order; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare every row and archived event, field by field, with what its stream comes to.

    A projection other than orders is built beside the live one, from the archive, and compared; nothing is swapped.
    Safe while the engine runs: what is not projected yet is no difference.
    """
    chosen = chosen_projection(projection)
    if chosen is not ORDERS:
        if orders:
            raise typer.BadParameter(f"a row of {projection} is no single order's", param_hint="--order")
        compare(chosen, as_json=as_json)
    findings = run(lambda engine: diff(engine.store, engine.database, orders or None))
    if as_json:
        write_json({"projection": projection, "findings": [_view(each) for each in findings]})
    else:
        _show(findings)
    raise typer.Exit(EXIT_FINDINGS if findings else 0)


@projections.command()
def repair(
    orders: Annotated[list[str], typer.Argument(metavar="ORDER", help="order ids")], as_json: Json = False
) -> None:
    """Fold the rows of some orders anew from their archived events, in place, while everything runs."""
    views = run(lambda engine: mended.mend(engine, orders, repair_order))
    if as_json:
        write_json({"repaired": views})
    else:
        for view in views:
            mended.tell(view)
    mended.exit_after(views)


def add_to(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(projections, name="projections")


def _view(each: Finding) -> FindingView:
    return FindingView(
        order_id=each.order_id, kind=each.kind, field=each.field, expected=each.expected, found=each.found
    )


def _show(findings: list[Finding]) -> None:
    out = console()
    if findings:
        rows = [(each.order_id, each.kind, each.field, each.expected, each.found) for each in findings]
        out.print(table(("order", "kind", "field", "expected", "found"), rows))
        out.print(Text(f"{len(findings)} findings", style="bold red"))
    else:
        out.print(Text("clean: every row and archived event is what its stream says", style="bold green"))
