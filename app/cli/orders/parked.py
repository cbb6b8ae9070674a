"""`parked`: tasks whose work failed again and again; listed, shown, retried, or left as they are with a reason."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.audit.errors import AuditError
from app.audit.replay import OrderView, replay
from app.cli.audit import printable
from app.cli.connections import Connected, connected, settings_here
from app.orders.times import format_time
from eventstore.errors import DamagedEntryError
from eventstore.ids import partition_in
from eventstore.store import EventStore, ParkedTask
from projections.database import DATABASE_OUTAGES

EXIT_NONE: Final = 1
EXIT_CANNOT: Final = 2

_T = TypeVar("_T")

parked = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Tasks that were taken away from the workers, because working on them failed again and again. "
    "Exit status 0: done, 1: no such parked task, 2: it could not be carried out.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


class ParkedView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A parked task as this command shows it."""

    order_id: str
    kind: str
    partition: int
    deliveries: int
    parked_at: str
    error: str
    skipped_reason: str | None


class Shown(msgspec.Struct, frozen=True, rename="camel"):
    """A parked task and its order's state; ``unreadable`` says why there is no state."""

    task: ParkedView
    state: OrderView | None
    unreadable: str | None


@parked.command("list")
def list_(as_json: Json = False) -> None:
    """List the parked tasks, oldest first in each partition."""

    async def work(engine: Connected) -> list[ParkedView]:
        return [_view(task) for task in await engine.store.list_parked()]

    views = _run(work)
    if as_json:
        _write_json({"parked": views})
    elif views:
        Console(soft_wrap=True, highlight=False).print(_table(views))
    else:
        sys.stdout.write("nothing is parked\n")


@parked.command()
def show(order: Annotated[str, typer.Argument(help="order id")], as_json: Json = False) -> None:
    """Show one parked task with its whole error, and the state that its order is in."""

    async def work(engine: Connected) -> Shown | None:
        task = await _parked_task(engine.store, order)
        return await _shown(engine.store, task) if task is not None else None

    shown = _run(work)
    if shown is None:
        _say_none(order)
        raise typer.Exit(EXIT_NONE)
    if as_json:
        _write_json(shown)
    else:
        _print(Console(soft_wrap=True, highlight=False), shown)


@parked.command()
def retry(
    orders: Annotated[list[str] | None, typer.Argument(metavar="ORDER", help="order ids")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked task, but for skipped ones.")] = False,
) -> None:
    """Give parked tasks back to the workers, once the cause is gone; otherwise they are soon parked again."""
    if bool(orders) == everything:
        raise typer.BadParameter("name orders, or give --all")

    async def work(engine: Connected) -> dict[str, bool]:
        chosen = orders or [task.stream for task in await engine.store.list_parked() if task.skipped_reason is None]
        # Every name before the first change: a mistyped one must not leave half of the work done.
        for order_id in chosen:
            partition_in(order_id)
        return {order_id: await engine.store.retry_parked(order_id) for order_id in dict.fromkeys(chosen)}

    found = _run(work)
    for order_id, retried in found.items():
        if retried:
            sys.stdout.write(f"{order_id} is retried\n")
        else:
            _say_none(order_id)
    if not found:
        sys.stdout.write("nothing to retry\n")
    raise typer.Exit(0 if all(found.values()) else EXIT_NONE)


@parked.command()
def skip(
    order: Annotated[str, typer.Argument(help="order id")],
    reason: Annotated[str, typer.Option(help="Why the order is left as it is; kept with the task.")],
) -> None:
    """Leave an order as it is, knowingly. Its task stays parked, marked with the reason, and can still be retried."""
    if not reason.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--reason")
    if not _run(lambda engine: engine.store.skip_parked(order, reason)):
        _say_none(order)
        raise typer.Exit(EXIT_NONE)
    sys.stdout.write(f"{order} is skipped: {printable(reason)}\n")


def add_to(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(parked, name="parked")


def _run(work: Callable[[Connected], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with connected(settings_here()) as engine:
            return await work(engine)

    try:
        return asyncio.run(run())
    except DATABASE_OUTAGES as error:
        sys.stderr.write(f"ordertape: PostgreSQL cannot be used: {str(error).splitlines()[0]}\n")
    raise typer.Exit(EXIT_CANNOT)


async def _parked_task(store: EventStore, order_id: str) -> ParkedTask | None:
    partition_in(order_id)
    return next((task for task in await store.list_parked() if task.stream == order_id), None)


async def _shown(store: EventStore, task: ParkedTask) -> Shown:
    try:
        told = await replay(store, task.stream)
    except (AuditError, DamagedEntryError) as error:
        return Shown(_view(task), None, str(error))
    finding = next((f"{found.rule}: {found.found}" for found in told.findings), "the events cannot be folded")
    return Shown(_view(task), told.state, None if told.state is not None else finding)


def _view(task: ParkedTask) -> ParkedView:
    return ParkedView(
        order_id=task.stream,
        kind=task.kind,
        partition=task.partition,
        deliveries=task.deliveries,
        parked_at=format_time(task.parked_ms * 1000),
        error=task.error,
        skipped_reason=task.skipped_reason,
    )


def _say_none(order_id: str) -> None:
    sys.stderr.write(f"ordertape: no task of {printable(order_id)} is parked\n")


def _write_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _table(views: Sequence[ParkedView]) -> Table:
    table = Table(box=None)
    for name in ("order", "kind", "deliveries", "error"):
        table.add_column(name, overflow="fold", no_wrap=name == "order")
    for view in views:
        says = view.error.partition("\n")[0] if view.skipped_reason is None else f"skipped: {view.skipped_reason}"
        cells = (view.order_id, view.kind, str(view.deliveries), says)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print(console: Console, shown: Shown) -> None:
    task = shown.task
    console.print(Text(f"order {task.order_id}", style="bold"))
    console.print(Text(f"task {printable(task.kind)}, parked at {task.parked_at} after {task.deliveries} deliveries"))
    if task.skipped_reason is not None:
        console.print(Text(f"skipped: {printable(task.skipped_reason)}"))
    for line in task.error.splitlines():
        console.print(Text(f"  {printable(line)}", style="red"))
    if shown.state is None:
        console.print(Text(f"state unknown: {printable(shown.unreadable or '')}"))
        return
    console.print(Text("state:", style="bold"))
    for name, value in msgspec.to_builtins(shown.state).items():
        console.print(Text(f"  {name:<12} {printable(str(value))}"))
