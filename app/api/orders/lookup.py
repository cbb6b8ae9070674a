"""One order: as its stream has it now or had it once; as the read model has it where the stream cannot tell."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.orders.freshness import AsOf, Freshness, Wanted
from app.api.orders.view import PointInTime
from app.api.problems import ProblemError, unavailable
from app.api.requests import TIME_ACCEPTED, invalid_parameter, time_us
from app.api.resume import PAGE, After, parse_after, read_events, resume
from app.clock import Clock
from app.orders.times import format_time
from eventstore.errors import StoreUnavailableError
from eventstore.ids import event_id, partition_in
from eventstore.store import EventStore, StoredEvent
from projections.database import DATABASE_OUTAGES
from projections.errors import FrameError, OrderMismatchError
from projections.fold.frames import Frame, decode_frame
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
    stopped_at: Frame | None = None
    """The next event, where the caller wanted no more."""


async def fold(store: EventStore, order_id: str, stops_at: Callable[[Frame], bool] = lambda _: False) -> Folded:
    """Fold an order's events up to the first that ``stops_at`` is true of, or that cannot be applied.

    Raises:
        EventMissingError, StoreUnavailableError: see :func:`read_events`.
    """
    row: OrderRow | None = None
    last: StoredEvent | None = None
    while page := await read_events(store, order_id, last.version if last else 0, PAGE):
        for event in page:
            try:
                frame = decode_frame(event.data, event_id(order_id, event.version))
                if stops_at(frame):
                    return Folded(row, last, stopped_at=frame)
                row = apply(row, frame)
            except (FrameError, OrderMismatchError) as error:
                return Folded(row, last, str(error))
            last = event
        if len(page) < PAGE:
            break
    return Folded(row, last)


class Found(Struct, frozen=True):
    """An order, and how fresh it is or of when."""

    row: OrderRow
    as_of: AsOf | None = None
    point_in_time: PointInTime | None = None
    from_stream: bool = True
    """False: from the read model, whose row may change without a new version."""


class Lookup:
    """Finds single orders."""

    def __init__(self, store: EventStore, database: AsyncEngine, freshness: Freshness, clock: Clock) -> None:
        self._store = store
        self._database = database
        self._freshness = freshness
        self._clock = clock

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

    async def find_at(self, order_id: str, text: str) -> Found:
        """Return an order as it was at a time, or after one of its events; see :func:`_read_moment`.

        An order's events are taken up to the first that happened later, by the clocks of those that wrote them.

        Raises:
            ProblemError: ``not_found``, also where it did not exist yet; ``invalid_query``; ``order_unreadable``; for a
                seq, event id or cursor as :func:`resume`.
        """
        at_us, after = _read_moment(text, order_id, self._clock.now_us())
        try:
            if after is None:
                until = format_time(max(0, at_us))
                folded = await fold(self._store, order_id, lambda frame: frame.at > until)
            else:
                seq = (await resume(self._store, order_id, after, 1)).seq
                folded = await fold(self._store, order_id, lambda frame: frame.seq > seq)
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        return _at(order_id, text, folded)

    async def _projected(self, order_id: str, folded: Folded, wanted: Wanted) -> Found | None:
        """Return the order as the read model has it, or as far as its stream can be folded, if that is further."""
        await self._freshness.projected(wanted)
        as_of = await self._freshness.as_of(partition_in(order_id))
        row = await get_order(self._database, order_id)
        if folded.row is not None and (row is None or row.version < folded.row.version):
            reason = (folded.fault or "")[:REASON_CHARACTERS_MAX]
            row = replace(folded.row, quality=QUARANTINED, quality_reason=reason)
        return None if row is None else Found(row, as_of, from_stream=False)


def _read_moment(text: str, order_id: str, now_us: int) -> tuple[int, After | None]:
    """Return the time that the parameter ``asOf`` names, or the event: a seq, an event id or a cursor."""
    at_us = time_us(text)
    if at_us is None:
        try:
            return 0, parse_after(text, order_id)
        except ProblemError as error:
            message = f'{TIME_ACCEPTED}, with "+" written as %2B; or a seq, an event id or a cursor of the order'
            raise invalid_parameter("asOf", message) from error
    if at_us > now_us:
        raise invalid_parameter("asOf", f"must not be in the future; the server's time is {format_time(now_us)}")
    return at_us, None


def _at(order_id: str, text: str, folded: Folded) -> Found:
    if folded.fault is not None:
        raise ProblemError("order_unreadable", f"{folded.fault}; its events can still be read", orderId=order_id)
    if folded.row is None or folded.last is None:
        if folded.stopped_at is None:
            raise ProblemError("not_found", f"there is no order {order_id}")
        detail = f"order {order_id} did not exist yet at {text[:64]}: it was accepted at {folded.stopped_at.at}"
        raise ProblemError("not_found", detail, orderId=order_id)
    row, cursor = folded.row, str(folded.last.cursor)
    return Found(row, point_in_time=PointInTime(as_of=text, seq=row.version, at=row.updated_at, cursor=cursor))
