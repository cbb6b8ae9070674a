"""One order's row folded anew from its whole life: repair, and retrying or skipping what was parked."""

from collections.abc import Collection, Mapping
from typing import Final, Literal

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.ids import partition_in
from projections import parking
from projections.checkpoints import lock_projections
from projections.errors import NotParkedError, OrderUnknownError, SkipError
from projections.fold.orders import OrderRow
from projections.models.orders import PROJECTION as ORDERS
from projections.models.orders import read_orders
from projections.models.projection import Step
from projections.models.registry import OTHERS
from projections.projector.writing import WANTED, bound_statements, move_along
from projections.rebuild import state
from projections.rebuild.histories import Bounds, entries_of, follow_life
from projections.rebuild.narrowing import storable

_delete: Final = text("DELETE FROM orders WHERE id = :order_id")


class Mended(Struct, frozen=True):
    """What became of one order's row."""

    order_id: str
    outcome: Literal["unchanged", "mended", "added", "removed", "quarantined"]
    """``quarantined``: it still, or now, stands still; ``reason`` says why."""
    columns: list[str]
    """Which columns have other values than before."""
    version: int
    """Of the row; 0 where there is none."""
    reason: str | None


async def repair(engine: AsyncEngine, order_id: str) -> Mended:
    """Fold an order's row anew from its archived events, up to where its partition is projected, in one transaction.

    Events that were parked and can be applied now are told to the other projections, too.

    Raises:
        BadIdError: not an order id.
        OrderUnknownError: neither the archive nor the read model has the order.
        RebuildRunningError: a rebuild runs, which would not know of it. Wait for its end.
    """
    async with engine.begin() as connection:
        return await _fold_anew(connection, order_id)


async def retry(engine: AsyncEngine, order_id: str) -> Mended:
    """As :func:`repair`, for an order with parked events.

    Raises:
        NotParkedError: it has none.
    """
    async with engine.begin() as connection:
        await _require_parked(connection, order_id)
        return await _fold_anew(connection, order_id)


async def skip(engine: AsyncEngine, order_id: str, reason: str) -> Mended:
    """Pass over the event that an order stands still at, for good, and go on with those after it.

    The row is ``incomplete`` from then on; later rebuilds pass over the event, too.

    Raises:
        NotParkedError: it has no parked events.
        SkipError: it is the order's first event, without which there is no row.
    """
    async with engine.begin() as connection:
        version = await _require_parked(connection, order_id)
        if version == 1:
            raise SkipError(order_id)
        await parking.skip(connection, order_id, version, reason)
        return await _fold_anew(connection, order_id)


async def tell(connection: AsyncConnection, mended: Mapping[tuple[str, int], Collection[str]]) -> None:
    """Tell the other projections what was parked and is applied now; ``mended`` says who knows which event already."""
    order_ids = {order_id for order_id, _ in mended}
    places = await lock_projections(connection, [ORDERS.name, *OTHERS])
    ends = places[ORDERS.name]
    upto = {number: end.position for number, end in ends.items()}
    bounds = Bounds(upto=upto, skips=await parking.read_skips(connection, order_ids), held={}, wanted=WANTED)
    lives = await entries_of(connection, order_ids, upto)
    changes = [change for each, life in lives.items() for change in follow_life(each, life, bounds).changes]
    for name in OTHERS:
        joined = {number for number, at in places[name].items() if at == ends[number]}
        news = [c for c in changes if name not in mended.get((c.row.id, c.frame.seq), (name,))]
        await move_along(connection, news, {name: joined})


async def _require_parked(connection: AsyncConnection, order_id: str) -> int:
    partition_in(order_id)
    found = await parking.held_orders(connection, ORDERS.name, [order_id])
    if order_id not in found:
        raise NotParkedError(order_id)
    return found[order_id]


async def _fold_anew(connection: AsyncConnection, order_id: str) -> Mended:
    partition = partition_in(order_id)
    await bound_statements(connection)
    await state.keep_rebuilds_out(connection)
    places = await lock_projections(connection, [ORDERS.name, *OTHERS], [partition])
    upto = {number: at.position for number, at in places[ORDERS.name].items()}
    skips = await parking.read_skips(connection, [order_id])
    before = (await read_orders(connection, [order_id])).get(order_id)
    life = (await entries_of(connection, [order_id], upto)).get(order_id, [])
    if not life and before is None:
        raise OrderUnknownError(order_id)
    bounds = Bounds(upto=upto, skips=skips, held={}, wanted=WANTED)
    followed = follow_life(order_id, await storable(connection, ORDERS, ORDERS.name, life, bounds), bounds)
    parked = await parking.unpark(connection, ORDERS.name, [order_id])
    await parking.park(connection, ORDERS.name, followed.parked)
    if followed.row is None:
        await connection.execute(_delete, {"order_id": order_id})
    else:
        await ORDERS.apply(connection, ORDERS.name, Step([followed.row], []))
    still = {(order_id, event.version) for event in followed.parked}
    if parked.keys() != still:
        await state.begin_anew(connection)
    if mended := {event: told for event, told in parked.items() if event not in still}:
        await tell(connection, mended)
    return _mended(order_id, before, followed.row)


def _mended(order_id: str, before: OrderRow | None, after: OrderRow | None) -> Mended:
    if after is None:
        return Mended(order_id, "removed" if before is not None else "quarantined", [], 0, None)
    if before is None:
        return Mended(order_id, "added", [], after.version, after.quality_reason)
    columns = [name for name in after.__struct_fields__ if getattr(after, name) != getattr(before, name)]
    outcome: Literal["unchanged", "mended", "quarantined"] = "mended" if columns else "unchanged"
    if after.quality == "quarantined":
        outcome = "quarantined"
    return Mended(order_id, outcome, columns, after.version, after.quality_reason)
