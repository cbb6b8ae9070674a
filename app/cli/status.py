"""`status`: what is in the streams, what waits, how far the read model is, and what of it stands still."""

import asyncio
import sys
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.connections import connected, settings_here
from app.cli.projections.answers import console
from app.cli.projections.status import trouble_lines
from projections.checkpoints import read_checkpoints
from projections.database import reading
from projections.projector.standing import Trouble, read_trouble
from projections.queries.orders import count_by_status


def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show streams, lag, pending work and checkpoints, per partition."""

    async def run() -> tuple[dict[str, Any], Trouble]:
        async with connected(settings_here()) as engine:
            async with reading(engine.database) as connection:
                checkpoints = await read_checkpoints(connection)
                trouble = await read_trouble(connection)
            partitions = []
            for part in await engine.store.status():
                checkpoint = checkpoints.get(part.partition)
                projected = checkpoint.position if checkpoint is not None else 0
                facts = msgspec.to_builtins(part)
                partitions.append({**facts, "projected": projected, "lag": part.position - projected})
            orders = await count_by_status(engine.database)
            facts = {"storeId": engine.store.store_id, "partitions": partitions, "orders": orders}
            return {**facts, "quarantined": trouble.quarantined, "stopped": trouble.stopped}, trouble

    report, trouble = asyncio.run(run())
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print(report)
        for line in trouble_lines(trouble):
            console().print(Text(line, style="yellow"))


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(status)


def _print(report: dict[str, Any]) -> None:
    out = Console()
    table = Table(title=f"store {report['storeId']}")
    columns = ["partition", "epoch", "position", "projected", "lag", "tasks", "pending", "timers"]
    columns += [name for name in ("waiting", "parked") if any(part[name] for part in report["partitions"])]
    for name in columns:
        table.add_column(name, justify="right")
    for part in report["partitions"]:
        table.add_row(*(str(part[name]) for name in columns))
    out.print(table)
    counts = ", ".join(f"{count} {name}" for name, count in report["orders"].items())
    out.print(f"orders: {counts or 'none'}")
