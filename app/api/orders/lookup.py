"""One order as its stream has it now; as the read model has it where the stream is gone or cannot be folded."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.orders.freshness import AsOf, Freshness, Wanted
from app.api.problems import ProblemError, unavailable
from app.api.resume import PAGE, read_events
from eventstore.errors import StoreUnavailableError
from eventstore.ids import event_id, partition_in
from eventstore.store import EventStore, StoredEvent
from projections.database import DATABASE_OUTAGES
from projections.errors import FrameError, OrderMismatchError
from projections.fold.frames import decode_frame
from projections.fold.histories import REASON_CHARACTERS_MAX
from projections.fold.orders import OrderRow, apply
from projections.queries.orders import get_order

QUARANTINED: Final = "quarantined"


class Folded(Struct, frozen=True):
    """An order as its events make it."""

    row: OrderRow | None
    """As it was before the first event that is not in it; None: no event is."""
    last: StoredEvent | None
    """The last event in ``row``."""
    fault: str | None = None
    """Why the next event cannot be applied; None: it can, or there is none."""


async def fold(store: EventStore, order_id: str) -> Folded:
    """Fold an order's events up to the first that cannot be applied.

    Raises:
        EventMissingError, StoreUnavailableError: see :func:`read_events`.
    """
    row: OrderRow | None = None
    last: StoredEvent | None = None
    while page := await read_events(store, order_id, last.version if last else 0, PAGE):
        for event in page:
            try:
                row = apply(row, decode_frame(event.data, event_id(order_id, event.version)))
            except (FrameError, OrderMismatchError) as error:
                return Folded(row, last, str(error))
            last = event
        if len(page) < PAGE:
            break
    return Folded(row, last)


class Found(Struct, frozen=True):
    """An order, and how fresh it is."""

    row: OrderRow
    as_of: AsOf
    from_stream: bool = True
    """False: from the read model, whose row may change without a new version."""


class Lookup:
    """Finds single orders."""

    def __init__(self, store: EventStore, database: AsyncEngine, freshness: Freshness) -> None:
        self._store = store
        self._database = database
        self._freshness = freshness

    async def find(self, order_id: str, wanted: Wanted) -> Found:
        """Return an order that contains what is wanted of its partition.

        Raises:
            ProblemError: ``not_found``; ``order_unreadable``; ``unavailable``; as :class:`Freshness`.
        """
        partition = partition_in(order_id)
        if partition >= self._store.partitions:
            wanted = replace(wanted, positions={}, cursors={})
        try:
            await self._freshness.logged(partition, wanted)
            folded = await fold(self._store, order_id)
            if folded.row is not None and folded.last is not None and folded.fault is None:
                return Found(folded.row, AsOf({f"{partition:02d}": folded.last.position}, 0))
            found = await self._projected(order_id, folded, wanted)
        except (StoreUnavailableError, *DATABASE_OUTAGES) as error:
            raise unavailable("ask again") from error
        if found is None and folded.fault is not None:
            raise ProblemError("order_unreadable", f"{folded.fault}; its events can still be read", orderId=order_id)
        if found is None:
            raise ProblemError("not_found", f"there is no order {order_id}")
        return found

    async def _projected(self, order_id: str, folded: Folded, wanted: Wanted) -> Found | None:
        """Return the order as the read model has it, or as far as its stream can be folded, if that is further."""
        await self._freshness.projected(wanted)
        as_of = await self._freshness.as_of(partition_in(order_id))
        row = await get_order(self._database, order_id)
        if folded.row is not None and (row is None or row.version < folded.row.version):
            reason = (folded.fault or "")[:REASON_CHARACTERS_MAX]
            row = replace(folded.row, quality=QUARANTINED, quality_reason=reason)
        return None if row is None else Found(row, as_of, from_stream=False)
