"""Subscriptions: positions in orders' streams, and what follows each of them, from ring or store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from app.api.resume import After, Resumed, read_on, resume, resume_from_ring
from app.api.streaming.messages import MessageId
from app.api.streaming.ring import Frame, Ring
from eventstore.store import EventStore

PAGE: Final = 100
CATCH_UPS_MAX: Final = 8

P = TypeVar("P")
T = TypeVar("T")


class Subscription:
    """Where a socket is in an order's events."""

    def __init__(self, order_id: str, start: After | None, reply_to: MessageId) -> None:
        self.order_id: Final = order_id
        self.seq = 0
        """The last event sent; meaningful once ``start`` is None."""
        self.anchor = ""
        """That event's, so that nothing is sent that does not follow it."""
        self.start = start
        """What the client asked to resume after, until that is checked."""
        self.reply_to = reply_to
        self.held = False
        """Its order is being appended: events wait until the append has answered."""
        self.missed = False
        """The ring told of an event while it was held."""


class Following(Struct, frozen=True, kw_only=True):
    """What a subscription lacks."""

    resumed: Resumed | None
    """The place that its client asked for, when that has just been checked."""
    frames: Sequence[Frame]
    more: bool
    """More may follow at once."""


class Source:
    """Reads what subscriptions lack; one for all sockets of a process, so that reads behind the ring are bounded."""

    def __init__(self, store: EventStore, ring: Ring) -> None:
        self._store = store
        self._ring = ring
        self._catch_ups = asyncio.Semaphore(CATCH_UPS_MAX)

    async def following(self, subscription: Subscription) -> Following:
        """Return what follows; the first time also the checked place, which is then the subscription's own.

        Raises:
            ProblemError: nothing follows the place that the client asked for. Tell it.
            NotChainedError: what was sent last did not last. Send the client away, to resume by its cursor.
            StoreUnavailableError: back off and ask again.
        """
        order_id = subscription.order_id
        if subscription.start is not None:
            resumed = resume_from_ring(self._ring, order_id, subscription.start)
            if resumed is None:
                resumed = await self._read(resume, order_id, subscription.start)
            subscription.seq, subscription.anchor = resumed.seq, resumed.anchor
            subscription.start = None
            return Following(resumed=resumed, frames=resumed.frames, more=resumed.more)
        place = subscription.seq, subscription.anchor
        found = self._ring.after(order_id, *place)
        if found is not None:
            return Following(resumed=None, frames=found, more=False)
        frames, more = await self._read(read_on, order_id, place)
        return Following(resumed=None, frames=frames, more=more)

    async def _read(self, read: Callable[[EventStore, str, P, int], Awaitable[T]], order_id: str, position: P) -> T:
        async with self._catch_ups:
            return await read(self._store, order_id, position, PAGE)
