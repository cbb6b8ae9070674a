"""`rebuild`: the read model folded anew beside the live one, then swapped in."""

import asyncio
import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.connections import connected, settings_here
from projections.models.orders import PROJECTION as ORDERS
from projections.rebuild.rebuilding import Rebuilt
from projections.rebuild.rebuilding import rebuild as rebuild_projection


def rebuild(
    projection: Annotated[str, typer.Argument(help="which projection; there is one: orders")] = "orders",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Fold the table `orders` anew beside the live one and swap it in, while everything runs."""
    if projection != "orders":
        raise typer.BadParameter("the only projection to rebuild is: orders")

    async def run() -> Rebuilt:
        async with connected(settings_here()) as engine:
            columns = (TextColumn("rebuilding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            console = Console(stderr=True)
            with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
                task = bar.add_task("events", total=None)
                return await rebuild_projection(
                    engine.database,
                    ORDERS,
                    report=lambda at: bar.update(task, completed=at.events, total=at.total),
                )

    result = asyncio.run(run())
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        Console().print(f"rebuilt {result.orders} orders from {result.events} events in {result.seconds:.2f} s")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(rebuild)
