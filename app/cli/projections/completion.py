"""`rebuild order_events`: the archive completed from Redis, in a new table that may lose nothing of the old one."""

from collections.abc import Sequence
from typing import Annotated

import typer
from msgspec import Struct
from rich.console import Console

from app.cli.connections import Connected
from app.cli.projections.answers import EXIT_FINDINGS, Json, console, write_json
from app.cli.projections.progress import reporting
from app.cli.projections.refusals import answered
from projections.rebuild.completing import CONFLICTS_MAX, NAME, Completed, complete_archive


class CompletedView(Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """What completing the archive did, for programs; see :class:`Completed`."""

    projection: str
    missing: int
    damaged: int
    conflicts: Sequence[str]
    events: int
    seconds: float
    swapped: bool


def order_events(
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Only tell what the archive lacks.")] = False,
    as_json: Json = False,
) -> None:
    """Complete the archive from Redis: events that it lacks, or whose payload was damaged, in a new table.

    Nothing that the archive has is lost by it. Exit status 1: with --verify-only, it lacks something; otherwise, both
    copies have another event in some place: `ordertape audit verify` tells which one is right.
    """

    async def work(engine: Connected) -> Completed:
        with reporting(as_json=as_json) as report:
            return await complete_archive(engine.database, engine.store.hot, verify_only=verify_only, report=report)

    done = answered(NAME, work, as_json)
    if as_json:
        write_json(_view(done))
    else:
        _show(console(), done)
    lacks = bool(done.missing or done.damaged) and verify_only
    raise typer.Exit(EXIT_FINDINGS if lacks or done.conflicts else 0)


def _view(done: Completed) -> CompletedView:
    return CompletedView(
        projection=NAME,
        missing=done.missing,
        damaged=done.damaged,
        conflicts=done.conflicts,
        events=done.events,
        seconds=round(done.seconds, 3),
        swapped=done.swapped,
    )


def _show(out: Console, done: Completed) -> None:
    did = "completed" if done.swapped else "looked at"
    out.print(f"{did} {NAME}: {done.events} events in {done.seconds:.2f} s")
    if not (done.missing or done.damaged or done.conflicts):
        out.print("it has everything that Redis has")
    if done.missing:
        out.print(f"missing: {done.missing} events{', now there' if done.swapped else ''}")
    if done.damaged:
        out.print(f"damaged: {done.damaged} events{', now as Redis has them' if done.swapped else ''}")
    if done.conflicts:
        more = " and perhaps others" if len(done.conflicts) == CONFLICTS_MAX else ""
        out.print(f"conflicts, in which the archive was left as it is: {', '.join(done.conflicts)}{more}")
        out.print("`ordertape audit verify` tells which copy is right")
    if not done.swapped:
        out.print("nothing was changed")
