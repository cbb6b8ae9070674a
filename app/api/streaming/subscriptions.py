"""Subscriptions: what a subscriber wants and where it is; what follows comes from the ring, the store or the logs."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from app.api.families.aliases import Update
from app.api.families.dialects import Dialect
from app.api.problems import FieldError, ProblemError
from app.api.resume import PAGE as EVENTS_PAGE
from app.api.resume import After, Resumed, read_events, read_on, resume, resume_from_ring
from app.api.streaming.logs import LogReader
from app.api.streaming.places import LogPlace, OrderPlace, Place
from app.api.streaming.ring import Frame, Ring, frame_of_event
from app.api.streaming.scopes import (
    AllScope,
    Filter,
    FromNow,
    FromStart,
    Last,
    LogScope,
    OrderScope,
    Scope,
    Since,
    Snapshot,
    Start,
    covers,
    format_cursors,
    topic_of,
)
from app.api.streaming.snapshots import OrderSnapshot, Snapshots
from app.orders.times import format_time
from eventstore.errors import BadIdError
from eventstore.ids import LOG_START, MAX_PARTITIONS, Cursor
from eventstore.store import EventStore

PAGE: Final = 100
CATCH_UPS_MAX: Final = 8
ASSETS_MAX: Final = 20_000
"""Of so many orders the assets are remembered."""

P = TypeVar("P")
T = TypeVar("T")


class Wanted(Struct, frozen=True, kw_only=True):
    """What a subscriber asks for."""

    scope: Scope
    start: Start
    name: str | None = None
    """Put as ``sub`` into everything that is sent; None: frames as they are, for whoever has one subscription only."""
    filter: Filter = Filter()
    until_caught_up: bool = False
    window: int | None = None
    """Events that may be sent before one of them is acknowledged; None: any number."""
    batch: int | None = None
    """Events in one message; None: each is a message."""


class Subscription:
    """Where a subscriber is in the events that it wants."""

    def __init__(self, wanted: Wanted, start: Start | None) -> None:
        self.wanted: Final = wanted
        self.scope: Final = wanted.scope
        self.topic: Final = topic_of(wanted.scope)
        self.start = start
        """What was asked to begin with, until that is checked; None: the place is checked."""
        self.place: Place = (
            OrderPlace(wanted.scope.order_id) if isinstance(wanted.scope, OrderScope) else LogPlace(wanted.scope, {})
        )
        self.replaying = True
        """It has not caught up yet, for the first time."""
        self._outstanding: Final = array("Q")
        """The events that were sent and not acknowledged, oldest first, where that matters; at most ``window``.

        As numbers, see :func:`_number`: the cursors of all partitions together are hundreds of times as large.
        """
        self._head = "" if wanted.name is None else f'"sub":{msgspec.json.encode(wanted.name).decode()},'

    @property
    def room(self) -> int:
        """How many events may be sent now."""
        window = self.wanted.window
        return PAGE if window is None else window - len(self._outstanding)

    def text_of(self, frame: Frame) -> str:
        """Return a frame that was just passed, as this subscriber gets it."""
        text = frame.text
        if isinstance(self.scope, AllScope):
            text = f'{frame.without_cursor},"cursor":"{self.place.text}"}}'
        if not self._head:
            return text
        marks = '"replay":true,' if self.replaying else ""
        return f"{{{self._head}{marks}{text[1:]}"

    def sent(self, frame: Frame) -> None:
        """Take note that the event at the place went out."""
        if self.wanted.window is not None:
            self._outstanding.append(_number(frame.partition, frame.cursor.position))

    def acknowledge(self, cursor: str) -> None:
        """Give back the room of the events that are not after a cursor; it may be that of a bookmark.

        Raises:
            ProblemError: ``invalid_message``: it cannot be a cursor of this subscription.
        """
        if not self._outstanding:
            return
        try:
            positions = self.place.positions_of(cursor)
        except (BadIdError, ProblemError):
            message = "must be the cursor of an event or a bookmark of the subscription"
            raise ProblemError("invalid_message", f"cursor {message}", [FieldError("/cursor", message)]) from None
        kept = 0
        for number in self._outstanding:
            partition, position = _of_number(number)
            if position > positions.get(partition, 0):
                break
            kept += 1
        del self._outstanding[:kept]


class Started(Struct, frozen=True, kw_only=True):
    """The place that a subscriber begins at, checked."""

    after: str | int
    """What leads there: the seq of an order's event, else a cursor."""
    ended: bool = False
    """Nothing will ever follow."""
    snapshot: OrderSnapshot | None = None


class Following(Struct, frozen=True, kw_only=True):
    """What a subscription lacks."""

    started: Started | None = None
    """Set the first time."""
    frames: Sequence[Frame] = ()
    more: bool = False
    """That is not all that there was when it was read."""


class Source:
    """Reads what subscriptions lack; one for all of a process, so that reads behind the ring are bounded."""

    def __init__(self, store: EventStore, ring: Ring, snapshots: Snapshots) -> None:
        self._store = store
        self._ring = ring
        self._snapshots = snapshots
        self._catch_ups = asyncio.Semaphore(CATCH_UPS_MAX)
        self._assets: dict[str, tuple[str, str]] = {}
        self.logs: Final = LogReader(store, ring, self._catch_ups)

    async def following(self, subscription: Subscription) -> Following:
        """Return what follows; the first time also the checked place, which is then the subscription's own.

        Frames that the subscription does not want are among them: :meth:`admits` tells.

        Raises:
            ProblemError: nothing follows the place that the client asked for. Tell it.
            NotChainedError, LogNotChainedError: what was sent last did not last. Send the client away, to resume by
                its cursor.
            StoreUnavailableError: back off and ask again.
        """
        if isinstance(subscription.place, OrderPlace):
            return await self._of_order(subscription, subscription.place)
        if subscription.start is not None:
            return await self._begin_in_logs(subscription)
        frames, more = await self.logs.following(subscription.place, PAGE)
        return Following(frames=frames, more=more)

    def is_settled(self, subscription: Subscription) -> bool:
        """Whether a place that nothing followed any more may be left alone until the ring tells of an event."""
        return isinstance(subscription.place, OrderPlace) or subscription.place.settle(self._ring.heads)

    async def admits(self, wanted: Wanted, frame: Frame) -> bool:
        """Whether a subscriber wants the event."""
        if not covers(wanted.scope, frame):
            return False
        if wanted.filter.is_open:
            return True
        assets = None if wanted.filter.assets is None else await self._assets_of(frame)
        return wanted.filter.admits(frame, assets)

    async def update_of(self, frame: Frame, dialect: Dialect) -> Update:
        """Return an event with what ``dialect`` tells of its order's past.

        Raises:
            StoreUnavailableError: back off and ask again.
        """
        members = msgspec.json.decode(frame.text)
        first = await self._event(frame.order_id, 1) if "receipt" in members else None
        before = await self._event(frame.order_id, frame.seq - 1) if dialect.needs_before and frame.seq > 1 else None
        return Update(
            frame=members,
            is_last=frame.terminal,
            side=None if first is None else msgspec.json.decode(first.text)["side"],
            before=None if before is None else before.status,
        )

    async def _event(self, order_id: str, seq: int) -> Frame | None:
        found = self._ring.after(order_id, seq - 1)
        if found:
            return found[0]
        async with self._catch_ups:
            events = await read_events(self._store, order_id, seq - 1, 1)
        return frame_of_event(order_id, events[0]) if events else None

    def where(self, subscription: Subscription) -> str:
        """Return the cursor of a subscription's place, which moves with the ring while nothing follows."""
        if isinstance(subscription.place, LogPlace):
            subscription.place.follow(self._ring.heads)
        return subscription.place.text

    def behind(self, subscription: Subscription) -> int:
        """Return how many positions of the logs it covers are after a subscription's place; 0 for one order's."""
        if isinstance(subscription.place, OrderPlace):
            return 0
        heads = self._ring.heads
        places = subscription.place.cursors.items()
        return sum(max(0, heads[number].position - cursor.position) for number, cursor in places if number in heads)

    def head(self, partition: int | None = None) -> str:
        """Return the cursor of everything that this process has read, of one partition or of all."""
        heads = self._ring.heads.items()
        return format_cursors(AllScope(), {number: cursor for number, cursor in heads if partition in (None, number)})

    def head_of(self, scope: LogScope) -> str:
        """Return the cursor of what this process has read of a scope's logs."""
        heads = self._ring.heads
        covered = self.logs.partitions(scope)
        return format_cursors(scope, {number: heads.get(number, LOG_START) for number in covered})

    async def _begin_in_logs(self, subscription: Subscription) -> Following:
        scope, start, snapshot = subscription.scope, subscription.start, None
        assert not isinstance(scope, OrderScope)
        if isinstance(start, Snapshot):
            snapshot, place = await self._snapshots.of_orders(scope, self.logs.partitions(scope))
        else:
            assert not isinstance(start, int | Cursor) and start is not None
            place = await self.logs.place(scope, start, lambda frame: self.admits(subscription.wanted, frame))
        subscription.place, subscription.start = place, None
        return Following(started=Started(after=place.text, snapshot=snapshot), more=True)

    async def _of_order(self, subscription: Subscription, place: OrderPlace) -> Following:
        if subscription.start is not None:
            return await self._begin_in_order(subscription, place, subscription.start)
        found = self._ring.after(place.order_id, place.seq, place.anchor)
        if found is not None:
            return Following(frames=found)
        frames, more = await self._read(read_on, place.order_id, (place.seq, place.anchor))
        return Following(frames=frames, more=more)

    async def _begin_in_order(self, subscription: Subscription, place: OrderPlace, start: Start) -> Following:
        if isinstance(start, Snapshot):
            async with self._catch_ups:
                snapshot, ended = await self._snapshots.of_order(place)
            subscription.start = None
            return Following(started=Started(after=place.seq, ended=ended, snapshot=snapshot), more=True)
        after = await self._after(subscription.wanted, place.order_id, start)
        resumed = resume_from_ring(self._ring, place.order_id, after)
        if resumed is None:
            resumed = await self._read(resume, place.order_id, after)
        place.move(resumed.seq, resumed.anchor, _text_of(resumed, after))
        subscription.start = None
        started = Started(after=resumed.seq, ended=resumed.ended)
        return Following(started=started, frames=resumed.frames, more=resumed.more)

    async def _after(self, wanted: Wanted, order_id: str, start: Start) -> After:
        """Return the event of an order that ``start`` means."""
        match start:
            case int() | Cursor():
                return start
            case FromStart():
                return 0
            case FromNow() | Since() | Last():
                async with self._catch_ups:
                    seqs, last = await self._seqs(wanted, order_id, start)
                if isinstance(start, Last):
                    seqs = seqs[-start.count :]
                return seqs[0] - 1 if seqs else last
            case _:
                raise AssertionError(f"{start} is no place in an order")

    async def _seqs(self, wanted: Wanted, order_id: str, start: FromNow | Since | Last) -> tuple[list[int], int]:
        """Return the seqs of an order's events that are meant, and its last seq."""
        since = format_time(start.at_us) if isinstance(start, Since) else None
        seqs: list[int] = []
        last = 0
        while page := await read_events(self._store, order_id, last, EVENTS_PAGE):
            for event in page:
                frame = frame_of_event(order_id, event)
                if since is not None and frame.at >= since:
                    seqs.append(frame.seq)
                if isinstance(start, Last) and await self.admits(wanted, frame):
                    seqs.append(frame.seq)
            last = page[-1].version
            if len(page) < EVENTS_PAGE:
                break
        return seqs, last

    async def _read(self, read: Callable[[EventStore, str, P, int], Awaitable[T]], order_id: str, position: P) -> T:
        async with self._catch_ups:
            return await read(self._store, order_id, position, PAGE)

    async def _assets_of(self, frame: Frame) -> tuple[str, str] | None:
        found = frame.assets or self._assets.get(frame.order_id)
        if found is None:
            first = await read_events(self._store, frame.order_id, 0, 1)
            found = frame_of_event(frame.order_id, first[0]).assets if first else None
        if found is not None and frame.order_id not in self._assets:
            if len(self._assets) >= ASSETS_MAX:
                del self._assets[next(iter(self._assets))]
            self._assets[frame.order_id] = found
        return found


def _number(partition: int, position: int) -> int:
    """Return one number for an event's place in the logs."""
    return position * MAX_PARTITIONS + partition


def _of_number(number: int) -> tuple[int, int]:
    """Return the partition and the position that make a number."""
    position, partition = divmod(number, MAX_PARTITIONS)
    return partition, position


def _text_of(resumed: Resumed, after: After) -> str:
    return str(after) if isinstance(after, Cursor) else str(resumed.seq)
