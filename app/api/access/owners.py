"""Whose an order is: what its first event says, which never changes."""

from typing import Final

import msgspec

from app.api.resume import read_events
from app.orders.codec import client_in
from eventstore.ids import partition_in, partition_of
from eventstore.store import EventStore

OWNERS_MAX: Final = 50_000
"""Of so many orders the owner is remembered."""


class Owners:
    """Knows the owners of orders."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known: dict[str, str | None] = {}

    def partition_of(self, client: str) -> int:
        """Return the partition that all orders of a client are in."""
        return partition_of(client, self._store.partitions)

    async def is_owner(self, client: str, order_id: str) -> bool:
        """Return whether the order exists and is the client's.

        Args:
            order_id: see :func:`app.api.resume.parse_order_id`.

        Raises:
            StoreUnavailableError: back off and ask again.
        """
        if partition_in(order_id) != self.partition_of(client):
            return False
        if order_id not in self._known:
            first = await read_events(self._store, order_id, 0, 1)
            if not first:
                return False
            try:
                owner = client_in(first[0].data)
            except msgspec.MsgspecError:
                # An event that names nobody is nobody's.
                return False
            if len(self._known) >= OWNERS_MAX:
                del self._known[next(iter(self._known))]
            self._known[order_id] = owner
        return self._known[order_id] == client
