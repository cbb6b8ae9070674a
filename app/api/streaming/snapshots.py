"""Snapshots: orders as they are at a place that events go on from."""

from typing import Any, Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.orders.listing import text_of
from app.api.orders.lookup import fold
from app.api.orders.view import OrderView, view_of
from app.api.problems import ProblemError, unavailable
from app.api.streaming.places import LogPlace, OrderPlace
from app.api.streaming.ring import frame_of_event
from app.api.streaming.scopes import ClientScope, LogScope
from eventstore.ids import LOG_START, Cursor
from eventstore.store import EventStore
from projections.checkpoints import read_checkpoints
from projections.database import DATABASE_OUTAGES, reading
from projections.queries.orders import OrderFilter, list_orders

ORDERS_MAX: Final = 100
"""In one snapshot, newest first; ``next`` leads to the others over HTTP."""


class OrderSnapshot(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Orders, none of them older than ``asOf``. Events that one has already come again: its ``seq`` tells which."""

    as_of: str
    orders: list[OrderView]
    next: str | None = None


class Snapshots:
    """Takes snapshots: of one order from its stream, of several from the read model."""

    def __init__(self, store: EventStore, database: AsyncEngine) -> None:
        self._store = store
        self._database = database

    async def of_order(self, place: OrderPlace) -> tuple[OrderSnapshot, bool]:
        """Move ``place`` to an order's end; return the order as it is there, and whether it has ended.

        Raises:
            ProblemError: ``not_found``; ``order_unreadable``: an event of it cannot be applied.
            StoreUnavailableError: back off and ask again.
        """
        folded = await fold(self._store, place.order_id)
        if folded.fault is not None:
            detail = f"{folded.fault}; its events can still be read without a snapshot"
            raise ProblemError("order_unreadable", detail, orderId=place.order_id)
        if folded.row is None or folded.last is None:
            raise ProblemError("not_found", f"there is no order {place.order_id}")
        last = frame_of_event(place.order_id, folded.last)
        place.move(last.seq, last.anchor, str(last.cursor))
        return OrderSnapshot(as_of=place.text, orders=[view_of(folded.row)]), last.terminal

    async def of_orders(self, scope: LogScope, covered: dict[int, Cursor]) -> tuple[OrderSnapshot, LogPlace]:
        """Return the newest orders of a scope, and a place that no event of theirs which they lack is before.

        Raises:
            ProblemError: ``unavailable``.
        """
        client = scope.client if isinstance(scope, ClientScope) else None
        try:
            # The place first: orders that move meanwhile are newer than it, never older.
            async with reading(self._database) as connection:
                checkpoints = await read_checkpoints(connection)
            page = await list_orders(self._database, OrderFilter(client_id=client), limit=ORDERS_MAX)
        except DATABASE_OUTAGES as error:
            raise unavailable("subscribe without snapshot, or ask again") from error
        ends = {number: found.end for number, found in checkpoints.items()}
        place = LogPlace(scope, {number: ends.get(number, LOG_START) for number in covered})
        orders, following = [view_of(row) for row in page.orders], None if page.next is None else text_of(page.next)
        return OrderSnapshot(as_of=place.text, orders=orders, next=following), place


def members_of(snapshot: OrderSnapshot | None) -> dict[str, Any]:
    """Return the member ``snapshot`` of an answer, if there is one."""
    return {} if snapshot is None else {"snapshot": snapshot}
