"""Where a client goes on: ``after`` as a seq, an event id or a cursor, and the events that follow it."""

import re
from collections.abc import Sequence
from typing import Final, NoReturn

from msgspec import Struct

from app.api.problems import FieldError, ProblemError
from app.api.ring import Frame, Ring, frame_of_event
from eventstore.errors import BadIdError
from eventstore.ids import Cursor, partition_in, split_event_id
from eventstore.store import EventStore, StoredEvent

After = int | Cursor
"""The last event that the client has: its seq (0: none), or its cursor."""

PAGE: Final = 1000
_SEQ: Final = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)
_ACCEPTED: Final = 'must be a seq such as 3, an event id such as "<order id>/3", or the cursor of an event'


class EventMissingError(Exception):
    """A read of an order's stream came back with a hole; nothing of it may be passed on. Read again."""

    def __init__(self, order_id: str, after: int, versions: list[int]) -> None:
        super().__init__(f"order {order_id}: after version {after} the store returned {versions}")
        self.order_id = order_id


class Resumed(Struct, frozen=True):
    """An order's events after ``seq``."""

    seq: int
    ended: bool
    """The event ``seq`` is the order's last one for ever."""
    frames: Sequence[Frame]
    more: bool
    """There may be events after the last of ``frames``."""


def parse_order_id(text: str) -> str:
    """Return ``text`` if it has the form of an order id.

    Raises:
        ProblemError: ``order_id_malformed``.
    """
    try:
        partition_in(text)
    except BadIdError:
        raise ProblemError(
            "order_id_malformed",
            "an order id has 26 characters, a hyphen and two digits, such as 01ARZ3NDEKTSV4RRFFQ69G5FAV-03",
        ) from None
    return text


def parse_after(text: str, order_id: str) -> After:
    """Return what ``text`` names in the order's events.

    Raises:
        ProblemError: ``after_malformed``; an event id of another order is one too.
    """
    if _SEQ.fullmatch(text):
        return int(text)
    try:
        if "/" not in text:
            return Cursor.parse(text)
        stream, seq = split_event_id(text)
    except BadIdError:
        raise _malformed(_ACCEPTED) from None
    if stream != order_id:
        raise _malformed(f"must name an event of order {order_id}, not of {stream}")
    return seq


def resume_from_ring(ring: Ring, order_id: str, after: After) -> Resumed | None:
    """Return what follows ``after`` if the ring has it and the event before it; None: see :func:`resume`."""
    if isinstance(after, Cursor):
        return None
    if after == 0:
        frames = ring.after(order_id, 0)
        return Resumed(0, False, frames, False) if frames else None
    frames = ring.after(order_id, after - 1)
    return Resumed(after, frames[0].terminal, frames[1:], False) if frames else None


async def resume(store: EventStore, order_id: str, after: After, limit: int) -> Resumed:
    """Return up to ``limit`` of the order's events after ``after``, which must be an event of the order.

    Args:
        order_id: see :func:`parse_order_id`.
        limit: 1 to 1,000.

    Raises:
        ProblemError: ``not_found``, ``after_beyond_end`` with the order's ``last`` seq, or ``cursor_unavailable``.
        StoreUnavailableError: back off and ask again.
    """
    if isinstance(after, Cursor):
        return await _after_cursor(store, order_id, after, limit)
    skip = min(after, 1)
    # One event earlier, so that the answer shows that the event ``after`` exists.
    events = await read_events(store, order_id, after - skip, limit + skip + 1)
    if not events:
        await _refuse(store, order_id, after)
    return _resumed(order_id, after, events[0] if skip else None, events[skip:], limit)


async def _after_cursor(store: EventStore, order_id: str, cursor: Cursor, limit: int) -> Resumed:
    scanned = 0
    while page := await read_events(store, order_id, scanned, PAGE):
        for index, event in enumerate(page):
            if event.cursor == cursor:
                following = page[index + 1 :]
                if len(following) <= limit and len(page) == PAGE:
                    following = await read_events(store, order_id, event.version, limit + 1)
                return _resumed(order_id, event.version, event, following, limit)
        scanned = page[-1].version
    if not scanned:
        raise _not_found(order_id)
    raise ProblemError(
        "cursor_unavailable",
        f"the cursor {cursor} names no event of order {order_id}: read the order again from its first event",
        cursor=str(cursor),
    )


def _resumed(
    order_id: str, seq: int, event: StoredEvent | None, following: Sequence[StoredEvent], limit: int
) -> Resumed:
    ended = event is not None and frame_of_event(order_id, event).terminal
    frames = [frame_of_event(order_id, stored) for stored in following[:limit]]
    return Resumed(seq, ended, frames, len(following) > limit)


async def read_events(store: EventStore, order_id: str, after: int, limit: int) -> Sequence[StoredEvent]:
    """As :meth:`EventStore.read_stream` for a well-formed id: empty also when it names a partition there is none of.

    Raises:
        EventMissingError: see there.
    """
    try:
        events = await store.read_stream(order_id, after, limit)
    except BadIdError:
        return ()
    if events and events[-1].version != after + len(events):
        raise EventMissingError(order_id, after, [event.version for event in events])
    return events


async def _refuse(store: EventStore, order_id: str, after: int) -> NoReturn:
    last = 0
    while page := await read_events(store, order_id, last, PAGE):
        last = page[-1].version
    if last == 0:
        raise _not_found(order_id)
    raise ProblemError(
        "after_beyond_end",
        f"the last event of order {order_id} has seq {last}, so nothing can follow {after} yet",
        [FieldError("/after", f"must be at most {last}")],
        last=last,
    )


def _not_found(order_id: str) -> ProblemError:
    return ProblemError("not_found", f"there is no order {order_id}")


def _malformed(message: str) -> ProblemError:
    return ProblemError("after_malformed", f"after {message}", [FieldError("/after", message)])
