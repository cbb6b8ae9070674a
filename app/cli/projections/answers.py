"""How these commands reach the engine's data and answer: text or JSON, and an exit status that says what was found."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.audit import printable
from app.cli.connections import Connected, connected, settings_here
from projections.database import DATABASE_OUTAGES

EXIT_FINDINGS: Final = 1
"""Something is not as it should be, or what was named is not there."""
EXIT_CANNOT: Final = 2

_T = TypeVar("_T")

Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, one object a line.")]


def run(work: Callable[[Connected], Awaitable[_T]]) -> _T:
    """Return what ``work`` does on the engine's data; without PostgreSQL, say so and exit."""

    async def on_engine() -> _T:
        async with connected(settings_here()) as engine:
            return await work(engine)

    try:
        return asyncio.run(on_engine())
    except DATABASE_OUTAGES as error:
        sys.stderr.write(f"ordertape: PostgreSQL cannot be used: {printable(str(error).splitlines()[0])}\n")
    raise typer.Exit(EXIT_CANNOT)


def write_json(value: Any) -> None:
    """Print one JSON object on a line of its own, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def refuse(reason: str) -> None:
    """Say on standard error why something was not done."""
    sys.stderr.write(f"ordertape: {printable(reason)}\n")


def console(*, errors: bool = False) -> Console:
    """Return a console on which long lines stay whole."""
    return Console(soft_wrap=True, highlight=False, stderr=errors)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose cells a terminal shows, and does not obey."""
    made = Table(box=None)
    for name in names:
        made.add_column(name, overflow="fold", no_wrap=name in ("order", "projection", "partition"))
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made
