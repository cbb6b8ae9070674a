"""`audit`: one order replayed, and everything that is stored verified; both only read."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from app.audit.errors import AuditError
from app.audit.findings import Finding
from app.audit.replay import OrderView, Replay, ReplayedEvent
from app.audit.replay import replay as replay_order
from app.audit.verify import Report
from app.audit.verify import verify as verify_all
from app.cli.connections import Connected, connected, settings_here
from app.clock import SystemClock
from projections.database import DATABASE_OUTAGES

EXIT_FINDINGS: Final = 1
EXIT_CANNOT: Final = 2

_COLOURS: Final = {"confirmed": "green", "failed": "red", "retrying": "yellow", "attempt_failed": "red"}
_T = TypeVar("_T")

audit = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Replay an order, or verify everything that is stored. Only reads. "
    "Exit status 0: clean, 1: findings, 2: it could not be carried out.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


@audit.command()
def replay(
    order: Annotated[str, typer.Argument(help="order id")],
    as_of: Annotated[int | None, typer.Option(min=1, metavar="SEQ", help="Stop after this event of the order.")] = None,
    as_json: Json = False,
) -> None:
    """Tell an order's life and check every event.

    Hashes, chain, public names and every routing decision are computed again and compared with what is recorded.
    """
    told = _run(lambda engine: replay_order(engine.store, order, as_of))
    if as_json:
        _write_json(told)
    else:
        show_replay(Console(soft_wrap=True, highlight=False), told)
    raise typer.Exit(EXIT_FINDINGS if told.findings else 0)


@audit.command()
def verify(
    orders: Annotated[list[str] | None, typer.Argument(metavar="ORDER", help="order ids; all without any")] = None,
    as_json: Json = False,
) -> None:
    """Check everything that is stored against itself.

    Log and streams, hash chains, lifecycle and decisions, tasks and timers, and PostgreSQL's copy are compared.
    Safe while the engine runs: what is not projected yet, and orders being worked on, are no findings.
    """
    report = _run(lambda engine: _verify(engine, orders or [], quiet=as_json))
    if as_json:
        _write_json(report)
    else:
        show_report(Console(soft_wrap=True, highlight=False), report)
    raise typer.Exit(EXIT_FINDINGS if report.finding_count else 0)


def add_to(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(audit, name="audit")


async def _verify(engine: Connected, orders: list[str], *, quiet: bool) -> Report:
    console = Console(stderr=True)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("events", total=None)
        return await verify_all(
            engine.store,
            engine.database,
            SystemClock().now_us,
            orders,
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def _run(work: Callable[[Connected], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with connected(settings_here()) as engine:
            return await work(engine)

    try:
        return asyncio.run(run())
    except AuditError as error:
        reason = str(error)
    except DATABASE_OUTAGES as error:
        reason = f"PostgreSQL cannot be used: {str(error).splitlines()[0]}"
    sys.stderr.write(f"ordertape: {reason}\n")
    raise typer.Exit(EXIT_CANNOT)


def _write_json(value: Replay | Report) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def show_replay(console: Console, told: Replay) -> None:
    """Print a replay for people: one line per event, its findings below it, the state at the end."""
    console.print(Text(f"order {told.order_id}", style="bold"))
    for event in told.events:
        console.print(_event_text(event))
        for finding in told.findings:
            if finding.seq == event.seq:
                console.print(_finding_text(finding, "     "))
    intact = sum(event.intact for event in told.events)
    console.print(f"hash chain: {intact} of {len(told.events)} events intact, head {told.head}")
    console.print(Text(f"state after seq {told.seq} of {told.last_seq}:", style="bold"))
    for name, value in _state_lines(told.state):
        console.print(Text(f"  {name:<12} {printable(value)}"))
    if told.findings:
        console.print(Text(f"{len(told.findings)} findings", style="bold red"))


def printable(text: str) -> str:
    """Return recorded text without anything that a terminal would obey, line breaks included."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _event_text(event: ReplayedEvent) -> Text:
    text = Text(f"{event.seq:>4}  {printable(event.at):<27}  ")
    text.append(f"{printable(event.event):<17}", style=_COLOURS.get(event.event, "cyan"))
    text.append(f"  {printable(event.status):<9}  ")
    text.append("hash ok" if event.intact else "BROKEN ", style="green" if event.intact else "bold red")
    return text.append(f"  {printable(event.says)}")


def _state_lines(state: OrderView | None) -> list[tuple[str, str]]:
    if state is None:
        return [("unknown", "the events cannot be folded; see the first finding")]
    return [(name, str(value)) for name, value in msgspec.to_builtins(state).items()]


def _finding_text(finding: Finding, indent: str) -> Text:
    text = Text(f"{indent}{finding.rule}", style="bold red")
    contrast = f"  expected: {printable(finding.expected)}  found: {printable(finding.found)}"
    return text.append(contrast, style="not bold default")


def show_report(console: Console, report: Report) -> None:
    """Print a verification for people: a line for each finding, then the summary."""
    for finding in report.findings:
        console.print(Text(f"{finding.place}:"))
        console.print(_finding_text(finding, "  "))
    if report.finding_count > len(report.findings):
        console.print(f"… and {report.finding_count - len(report.findings)} more")
    copies = "streams, log and PostgreSQL" if report.both_copies else "streams and log"
    verdict = "clean" if not report.finding_count else f"{report.finding_count} findings"
    seconds = f"{report.duration_ms // 1000}.{report.duration_ms % 1000:03d} s"
    summary = f"{verdict}: {report.orders} orders, {report.events} events in {copies}, {seconds}"
    console.print(Text(summary, style="bold red" if report.finding_count else "bold green"))
    if report.parked:
        console.print(f"{report.parked} parked: ordertape parked list")
