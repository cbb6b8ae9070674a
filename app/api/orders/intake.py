"""The intake: new orders and requests to cancel, over REST and WebSocket alike, with the limits that apply to them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from msgspec import Struct

from app.api.orders.request import OrderRequest
from app.api.problems import ProblemError, cancel_problem, store_problem
from app.execution.streams import CancelAnswer, OrderStreams, Placed
from app.orders.lifecycle import Status
from app.orders.state import Cancelled, CancelPending, Confirmed, Expired, Failed, Rejected
from eventstore.errors import EventStoreError
from eventstore.ids import Cursor, partition_of
from eventstore.store import EventStore

CLOSE_SECONDS: Final = 5
MINUTE_MS: Final = 60_000
CLIENT: Final = "client"
"""Who cancels an order on request."""
_ALL: Final = "all"
_T = TypeVar("_T")

_ENDS: Final[dict[type, Status]] = {
    Confirmed: "confirmed",
    Cancelled: "cancelled",
    Expired: "expired",
    Rejected: "rejected",
    Failed: "failed",
}


class OrderLimits(Struct, frozen=True, kw_only=True):
    """How many new orders are taken; 0: any number. Shared by every process on the same store."""

    client_per_minute: int = 0
    """Of one client; all orders without a client count as one client's."""
    per_minute: int = 0
    """Of all clients together."""


class Cancel(Struct, frozen=True, kw_only=True):
    """What a request to cancel came to."""

    order_id: str
    status: Status
    """``cancelled``, or ``cancel_pending`` while a swap may be on its way."""
    seq: int
    cursor: Cursor | None
    """Of the last event that the request caused; None: it caused none."""


class Intake:
    """Appends new orders and cancellations; an append that was started ends, whatever becomes of its request."""

    def __init__(self, streams: OrderStreams, store: EventStore, limits: OrderLimits) -> None:
        self._streams = streams
        self._store = store
        self._limits = limits
        self._started: set[asyncio.Task[Any]] = set()

    def new_order_id(self, request: OrderRequest) -> str:
        """Return an unused id for the order."""
        return self._streams.new_order_id(request.client, request.command.idempotency_key)

    async def place(self, order_id: str, request: OrderRequest) -> Placed:
        """Accept an order under ``order_id``, or find the one that its idempotency key names.

        Raises:
            ProblemError: not, or not known to be, accepted.
        """
        try:
            await self._take_rates(request.client)
            return await self._kept(self._streams.place(order_id, request.client, request.command))
        except EventStoreError as error:
            raise store_problem(error, order_id) from error

    async def cancel(self, order_id: str) -> Cancel:
        """End an order, or have it ended as soon as the swap that may be on its way proves not to happen.

        Raises:
            ProblemError: ``not_found``; ``order_ended`` with the ``orderStatus``; or not known to be cancelled.
        """
        try:
            answer = await self._kept(self._streams.cancel(order_id, CLIENT))
        except EventStoreError as error:
            raise cancel_problem(error, order_id) from error
        return _cancel(order_id, answer)

    async def close(self) -> None:
        """Wait for the appends that were started, a few seconds at most."""
        if self._started:
            await asyncio.wait(self._started, timeout=CLOSE_SECONDS)

    async def _kept(self, append: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.create_task(append)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return await asyncio.shield(task)

    async def _take_rates(self, client: str | None) -> None:
        # The client's own first: what is refused for one client's haste is not taken from the others.
        if self._limits.client_per_minute:
            partition = partition_of(client or "", self._store.partitions)
            who = "orders without a clientId" if client is None else "this client's orders"
            await self._take_rate(partition, f"{CLIENT} {client or ''}", self._limits.client_per_minute, who)
        if self._limits.per_minute:
            await self._take_rate(0, _ALL, self._limits.per_minute, "orders of all clients")

    async def _take_rate(self, partition: int, name: str, count: int, whose: str) -> None:
        wait_ms = (await self._store.take_rate(partition, name, count, MINUTE_MS)).wait_ms
        if wait_ms:
            raise ProblemError(
                "rate_limited",
                f"at most {count} {whose} are taken per minute: send this one again in {wait_ms} ms",
                retryAfterMs=wait_ms,
            )


def _cancel(order_id: str, answer: CancelAnswer) -> Cancel:
    order = answer.order
    if order.version == 0:
        raise ProblemError("not_found", f"there is no order {order_id}")
    if isinstance(order.state, CancelPending):
        return Cancel(order_id=order_id, status="cancel_pending", seq=order.version, cursor=answer.cursor)
    status = _ENDS[type(order.state)]
    if not answer.changed:
        raise ProblemError(
            "order_ended",
            f"order {order_id} has ended as {status}: nothing was changed",
            orderId=order_id,
            orderStatus=status,
        )
    return Cancel(order_id=order_id, status=status, seq=order.version, cursor=answer.cursor)
