"""Why a command on the read model was not carried out: told in the manner that was asked for, with what differs."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import typer
from msgspec import Struct
from rich.console import Console

from app.cli.audit import printable
from app.cli.connections import Connected
from app.cli.projections.answers import EXIT_CANNOT, EXIT_FINDINGS, console, refuse, run, table, write_json
from eventstore.errors import EventStoreError
from projections.errors import NoRebuildError, ProjectionError, RebuildRefusedError
from projections.rebuild.gate import Difference

_T = TypeVar("_T")

_SAMPLE: Final = ("column", "key", "live", "rebuilt")


class Refused(Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """Why nothing was done, for programs; ``columns`` and ``samples`` where tables differ."""

    projection: str
    reason: str
    columns: dict[str, int]
    samples: Sequence[object]


def answered(projection: str, work: Callable[[Connected], Awaitable[_T]], as_json: bool) -> _T:
    """Return what ``work`` does; where it is refused, tell why in the manner that was asked for, and exit."""
    try:
        return run(work)
    except (ProjectionError, EventStoreError) as error:
        refused = Refused(projection=projection, reason=str(error), columns={}, samples=[])
        status = EXIT_FINDINGS if isinstance(error, NoRebuildError) else EXIT_CANNOT
        if isinstance(error, RebuildRefusedError):
            refused = Refused(projection=projection, reason=str(error), columns=error.columns, samples=error.samples)
    tell_refusal(refused, as_json)
    raise typer.Exit(status)


def tell_refusal(refused: Refused, as_json: bool) -> None:
    """Say why nothing was done, and show what differs."""
    if as_json:
        write_json(refused)
        return
    show_differences(console(errors=True), refused.samples)
    refuse(refused.reason)


def show_differences(out: Console, samples: Sequence[object]) -> None:
    """Print samples of what two generations of a table differ in."""
    rows = [
        (each.column, each.key, _spelled(each.live), _spelled(each.rebuilt))
        for each in samples
        if isinstance(each, Difference)
    ]
    if rows:
        out.print(table(_SAMPLE, rows))


def _spelled(value: str | None) -> str:
    return "–" if value is None else printable(value)
