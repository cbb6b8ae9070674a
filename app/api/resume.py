"""Where a client goes on: ``after`` as a seq, an event id or a cursor, and the events that follow it."""

import asyncio
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NoReturn

from msgspec import Struct

from app.api.problems import FieldError, ProblemError
from app.api.streaming.ring import Frame, NotChainedError, Ring, frame_of_event
from eventstore.errors import BadIdError, ForkError, PartitionForkedError, PositionMissingError, TruncatedError
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
    anchor: str
    """Of the event ``seq``; "" for seq 0."""
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
        return Resumed(0, "", False, frames, False) if frames else None
    frames = ring.after(order_id, after - 1)
    return Resumed(after, frames[0].anchor, frames[0].terminal, frames[1:], False) if frames else None


async def resume(store: EventStore, order_id: str, after: After, limit: int) -> Resumed:
    """Return up to ``limit`` of the order's events after ``after``, which must be an event of the order.

    Args:
        order_id: see :func:`parse_order_id`.
        limit: 1 to 1,000.

    Raises:
        ProblemError: ``not_found``; for a seq, ``after_beyond_end`` with the order's ``last`` one; for a cursor,
            ``fork`` with the ``lastCommon`` event, ``cursor_unavailable`` or ``truncated``.
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


async def is_held(store: EventStore, partition: int, cursor: Cursor) -> bool:
    """Return whether the partition's history has the event that ``cursor`` names, in the log or in the archive.

    A store that heals itself has done so before it answers.

    Raises:
        TruncatedError: that part of the log is gone, and the archive does not have it.
        StoreUnavailableError: back off and ask again.
    """
    for tries_left in (1, 0):
        try:
            await store.read_log({partition: cursor}, 1)
        except ForkError:
            return False
        except PositionMissingError:
            # The hole is behind the event.
            return True
        except TruncatedError:
            # What was healed by this very question has left the log for the archive, which answers the next one.
            if tries_left == 0:
                raise
        else:
            return True
    raise AssertionError("unreachable: the last try returns or raises")


class _Place(Struct, frozen=True):
    """Where a cursor leads to in an order's stream."""

    event: StoredEvent | None
    """The event that the cursor names."""
    before: StoredEvent | None
    """The newest event before the cursor's place in the log, of the events that there are."""
    following: Sequence[StoredEvent]
    """Events after the cursor's place, as far as they were read on the way."""
    more: bool
    """There may be events after the last of ``following``."""

    @property
    def is_empty(self) -> bool:
        """Whether the order has no event at all."""
        return self.event is None and self.before is None and not self.following


async def _after_cursor(store: EventStore, order_id: str, cursor: Cursor, limit: int) -> Resumed:
    place = await _find(store, order_id, cursor)
    if place.event is None:
        place = await _find_healed(store, order_id, cursor)
    event, following = place.event, place.following
    assert event is not None
    if len(following) <= limit and place.more:
        following = await read_events(store, order_id, event.version, limit + 1)
    return _resumed(order_id, event.version, event, following, limit)


async def _find(store: EventStore, order_id: str, cursor: Cursor) -> _Place:
    before: StoredEvent | None = None
    while page := await read_events(store, order_id, before.version if before else 0, PAGE):
        # Later events of a stream are later in the log, so what lies beyond the cursor's place need not be read.
        index = bisect_left(page, (cursor.epoch, cursor.position), key=lambda event: (event.epoch, event.position))
        before = page[index - 1] if index else before
        if index < len(page):
            event = page[index] if page[index].cursor == cursor else None
            return _Place(event, before, page[index + 1 :] if event else page[index:], len(page) == PAGE)
        if len(page) < PAGE:
            break
    return _Place(None, before, (), False)


async def _find_healed(store: EventStore, order_id: str, cursor: Cursor) -> _Place:
    """Look again once the partition is known to hold all that it ever will of what was lost.

    Raises:
        ProblemError: the order does not have this event, or no longer.
    """
    partition = partition_in(order_id)
    if partition >= store.partitions:
        raise _not_found(order_id)
    try:
        foreign = await is_held(store, partition, cursor)
    except TruncatedError as error:
        raise ProblemError(
            "truncated",
            f"the log now begins at position {error.oldest} and the archive has nothing before it, so what became of "
            f"{cursor} cannot be told: read the order again from its first event",
            (),
            cursor=str(cursor),
            **await _extent(store, order_id),
        ) from error
    place = await _find(store, order_id, cursor)
    if place.event is None:
        raise await _refusal(store, order_id, cursor, place, foreign)
    return place


async def _refusal(store: EventStore, order_id: str, cursor: Cursor, place: _Place, foreign: bool) -> ProblemError:
    """Say why the order does not have the event; ``foreign``: its partition has it."""
    partition = partition_in(order_id)
    foreign = foreign or await _is_elsewhere(store, partition, cursor)
    if place.is_empty:
        end = (await store.log_ends())[partition]
        # Nothing was lost up to the log's end in the epoch that it ends with, so the order never had an event there.
        if foreign or (cursor.epoch == end.epoch and cursor.position <= end.position):
            return _not_found(order_id)
    elif foreign:
        return ProblemError(
            "cursor_unavailable",
            f"the cursor {cursor} names no event of order {order_id}: read the order again from its first event",
            (),
            cursor=str(cursor),
            **await _extent(store, order_id),
        )
    return _fork(order_id, cursor, place.before)


async def _extent(store: EventStore, order_id: str) -> dict[str, str | None]:
    """Return what of an order can be read: its first and its last event, null without any, and where the order is."""
    first = await read_events(store, order_id, 0, 1)
    last = first
    while page := await read_events(store, order_id, last[-1].version if last else 0, PAGE):
        last = page
    ends = {"earliest": first, "head": last}
    cursors = {name: str(events[-1].cursor) if events else None for name, events in ends.items()}
    return {**cursors, "snapshot": f"/api/orders/{order_id}"}


async def _is_elsewhere(store: EventStore, partition: int, cursor: Cursor) -> bool:
    """Whether another partition has the event: the cursor is one of an order there."""
    others = [number for number in range(store.partitions) if number != partition]
    found = await asyncio.gather(*(is_held(store, number, cursor) for number in others), return_exceptions=True)
    for answer in found:
        if isinstance(answer, BaseException) and not isinstance(answer, TruncatedError | PartitionForkedError):
            raise answer
    return True in found


def _fork(order_id: str, cursor: Cursor, common: StoredEvent | None) -> ProblemError:
    last: dict[str, str | int] | None = None
    if common is None:
        forget = f"forget everything about order {order_id}, and read it again from its first event if it has one"
    else:
        forget = f"forget the order's events after seq {common.version}, and resume after lastCommon.cursor"
        last = {"seq": common.version, "cursor": str(common.cursor)}
    return ProblemError("fork", f"the event {cursor} did not last: {forget}", cursor=str(cursor), lastCommon=last)


def _resumed(
    order_id: str, seq: int, event: StoredEvent | None, following: Sequence[StoredEvent], limit: int
) -> Resumed:
    at = None if event is None else frame_of_event(order_id, event)
    frames = [frame_of_event(order_id, stored) for stored in following[:limit]]
    anchor, ended = (at.anchor, at.terminal) if at else ("", False)
    return Resumed(seq, anchor, ended, frames, len(following) > limit)


async def read_on(store: EventStore, order_id: str, place: tuple[int, str], limit: int) -> tuple[list[Frame], bool]:
    """Return the order's events after the one that a subscriber has, and whether there may be more behind them.

    Args:
        place: that event's seq and anchor; (0, "") for none.
        limit: 2 to 1,000, that event included.

    Raises:
        NotChainedError: the order does not have that event any more.
        EventMissingError, StoreUnavailableError: see :func:`read_events`.
    """
    seq, anchor = place
    skip = min(seq, 1)
    events = await read_events(store, order_id, seq - skip, limit)
    if skip and (not events or events[0].cursor.anchor != anchor):
        raise NotChainedError(order_id, seq, f"is not the one with {anchor} any more")
    return [frame_of_event(order_id, event) for event in events[skip:]], len(events) == limit


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
