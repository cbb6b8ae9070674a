"""What became of an order's row that was folded anew: said to people and to programs."""

from collections.abc import Awaitable, Callable, Sequence

import typer
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.audit import printable
from app.cli.connections import Connected
from app.cli.projections.answers import EXIT_FINDINGS, refuse, run, write_json
from eventstore.ids import partition_in
from projections.errors import NotParkedError, OrderUnknownError
from projections.rebuild.mending import Mended, repair

Act = Callable[[AsyncEngine, str], Awaitable[Mended]]


class MendedView(Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of one order's row; see :class:`Mended`. ``outcome`` is ``none`` where there was no such order."""

    order_id: str
    outcome: str
    columns: list[str]
    version: int
    reason: str | None


class RepairedView(MendedView, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """The same as the last line of a rebuild of one order."""


async def mend(engine: Connected, order_ids: Sequence[str], act: Act) -> list[MendedView]:
    """Return what ``act`` made of each order's row, in the order given.

    Raises:
        BadIdError: one of them is no order id; nothing was changed.
    """
    # Every name before the first change: a mistyped one must not leave half of the work done.
    for order_id in order_ids:
        partition_in(order_id)
    return [await _mend_one(engine, order_id, act) for order_id in dict.fromkeys(order_ids)]


async def _mend_one(engine: Connected, order_id: str, act: Act) -> MendedView:
    try:
        mended = await act(engine.database, order_id)
    except (NotParkedError, OrderUnknownError) as error:
        return MendedView(order_id=order_id, outcome="none", columns=[], version=0, reason=str(error))
    return MendedView(
        order_id=order_id,
        outcome=mended.outcome,
        columns=mended.columns,
        version=mended.version,
        reason=mended.reason,
    )


def repair_one(order_id: str, *, as_json: bool) -> None:
    """Fold one order's row anew, and say what became of it."""
    (view,) = run(lambda engine: mend(engine, [order_id], repair))
    if as_json:
        write_json(RepairedView(**{name: getattr(view, name) for name in view.__struct_fields__}))
    else:
        tell(view)
    exit_after([view])


def tell(view: MendedView) -> None:
    """Print for people what became of an order's row."""
    if view.outcome == "none":
        refuse(view.reason or "")
        return
    says = f"{view.order_id} is {view.outcome}"
    if view.version:
        says += f", at version {view.version}"
    if view.columns:
        says += f": {', '.join(view.columns)}"
    if view.reason:
        says += f" ({view.reason})"
    typer.echo(printable(says))


def exit_after(views: Sequence[MendedView]) -> None:
    """Exit with 1 if some order was not there, or stands still."""
    raise typer.Exit(EXIT_FINDINGS if any(view.outcome in ("none", "quarantined") for view in views) else 0)
