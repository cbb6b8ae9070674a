"""The intake: new orders and requests to cancel, over REST and WebSocket alike, with the limits that apply to them."""

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from app.api.orders.request import OrderRequest
from app.api.problems import RETRY_AFTER_MS, ProblemError, cancel_problem, store_problem
from app.api.requests import tag_of
from app.execution.streams import CancelAnswer, OrderStreams, Placed
from app.orders.lifecycle import Status
from app.orders.state import Cancelled, CancelPending, Confirmed, Expired, Failed, Rejected
from eventstore.errors import EventStoreError
from eventstore.ids import Cursor, partition_of
from eventstore.rates import RateTaken
from eventstore.store import EventStore

CLOSE_SECONDS: Final = 5
MINUTE_MS: Final = 60_000
CLIENT: Final = "client"
"""Who cancels an order on request; also the rate of one client's orders."""
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
    """How many new orders are taken, and which; 0: any number. Rates are shared by every process on the same store."""

    client_per_minute: int = 0
    """Of one client; all orders without a client count as one client's."""
    per_minute: int = 0
    """Of all clients together."""
    key_required: bool = False
    """Whether an order without an idempotency key is refused."""
    in_flight_seconds: float = 1.0
    """How long a repeated order waits for the first one with its key."""


class Placement(Struct, frozen=True, kw_only=True):
    """An order that was accepted, now or before."""

    order_id: str
    repeated: bool
    cursor: Cursor | None
    headers: Mapping[str, str] = field(default_factory=dict)
    """What an answer says of the rates that the order counted for."""


class Cancel(Struct, frozen=True, kw_only=True):
    """What a request to cancel came to."""

    order_id: str
    status: Status
    """``cancelled``, or ``cancel_pending`` while a swap may be on its way."""
    seq: int
    cursor: Cursor | None
    """Of the last event that the request caused; None: it caused none."""


class _InFlight(Struct, frozen=True):
    """The append of an order with an idempotency key, until it ends."""

    fingerprint: str | None
    placing: asyncio.Task[Placed]


class Intake:
    """Appends new orders and cancellations; an append that was started ends, whatever becomes of its request."""

    def __init__(self, streams: OrderStreams, store: EventStore, limits: OrderLimits) -> None:
        self._streams = streams
        self._store = store
        self._limits = limits
        self._started: set[asyncio.Task[Any]] = set()
        self._in_flight: dict[tuple[str, str], _InFlight] = {}

    def new_order_id(self, request: OrderRequest) -> str:
        """Return an unused id for the order."""
        return self._streams.new_order_id(request.client, request.command.idempotency_key)

    async def place(self, order_id: str, request: OrderRequest) -> Placement:
        """Accept an order under ``order_id``, or find the one that its idempotency key names.

        Raises:
            ProblemError: not, or not known to be, accepted.
        """
        if self._limits.key_required and request.command.idempotency_key is None:
            raise ProblemError(
                "idempotency_key_missing",
                "this server takes orders with an idempotency key only: send the header Idempotency-Key, or "
                "idempotencyKey in the order",
            )
        rates: dict[str, tuple[int, RateTaken]] = {}
        try:
            placed = await self._count_and_place(order_id, request, rates)
        except ProblemError as problem:
            problem.headers.update(_headers_of(rates))
            raise
        return Placement(
            order_id=placed.order_id, repeated=placed.repeated, cursor=placed.cursor, headers=_headers_of(rates)
        )

    async def cancel(self, order_id: str, only_at: Collection[int] | None = None) -> Cancel:
        """End an order, or have it ended as soon as the swap that may be on its way proves not to happen.

        Args:
            only_at: the versions at which the client wants it; None: any.

        Raises:
            ProblemError: ``not_found``; ``version_mismatch`` with the order's ``seq``; ``order_ended`` with the
                ``orderStatus``; or not known to be cancelled.
        """
        try:
            answer = await self._kept(self._streams.cancel(order_id, CLIENT, only_at))
        except EventStoreError as error:
            raise cancel_problem(error, order_id) from error
        return _cancel(order_id, answer)

    async def close(self) -> None:
        """Wait for the appends that were started, a few seconds at most."""
        if self._started:
            await asyncio.wait(self._started, timeout=CLOSE_SECONDS)

    async def _count_and_place(
        self, order_id: str, request: OrderRequest, rates: dict[str, tuple[int, RateTaken]]
    ) -> Placed:
        try:
            await self._take_rates(request.client, rates)
            return await self._place(order_id, request)
        except EventStoreError as error:
            raise store_problem(error, order_id) from error

    async def _place(self, order_id: str, request: OrderRequest) -> Placed:
        """Append the order, unless one with its key is under way: then take that one's result, after a wait."""
        key = (request.client or "", request.command.idempotency_key or "")
        deadline = asyncio.get_running_loop().time() + self._limits.in_flight_seconds
        while key[1] and (first := self._in_flight.get(key)) is not None:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait([first.placing], timeout=max(0.0, left))
            if not first.placing.done():
                raise ProblemError(
                    "idempotency_in_flight",
                    "the first request with this idempotency key has not been answered yet: send this one again",
                    retryAfterMs=RETRY_AFTER_MS,
                )
            if first.fingerprint == request.command.fingerprint and first.placing.exception() is None:
                return replace(first.placing.result(), repeated=True)
            # Otherwise it is for the store to say: the first one failed, or it has another content.
        placing = self._start(self._streams.place(order_id, request.client, request.command))
        if key[1]:
            self._in_flight[key] = _InFlight(request.command.fingerprint, placing)
            placing.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asyncio.shield(placing)

    async def _kept(self, append: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.shield(self._start(append))

    def _start(self, append: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(append)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    async def _take_rates(self, client: str | None, rates: dict[str, tuple[int, RateTaken]]) -> None:
        """Take one of each rate; ``rates`` are then those that were asked, by name, with what each allows a minute."""
        # The client's own first: what is refused for one client's haste is not taken from the others.
        if self._limits.client_per_minute:
            partition = partition_of(client or "", self._store.partitions)
            who = "orders without a clientId" if client is None else "this client's orders"
            name, count = f"{CLIENT} {client or ''}", self._limits.client_per_minute
            rates[CLIENT] = count, await self._store.take_rate(partition, name, count, MINUTE_MS)
            _require(*rates[CLIENT], who)
        if self._limits.per_minute:
            count = self._limits.per_minute
            rates[_ALL] = count, await self._store.take_rate(0, _ALL, count, MINUTE_MS)
            _require(*rates[_ALL], "orders of all clients")


def _require(count: int, answer: RateTaken, whose: str) -> None:
    if answer.wait_ms:
        raise ProblemError(
            "rate_limited",
            f"at most {count} {whose} are taken per minute: send this one again in {answer.wait_ms} ms",
            retryAfterMs=answer.wait_ms,
        )


def _headers_of(rates: Mapping[str, tuple[int, RateTaken]]) -> dict[str, str]:
    """Return the fields ``RateLimit-Policy`` and ``RateLimit``, as draft-ietf-httpapi-ratelimit-headers-10 has them."""
    if not rates:
        return {}
    window = MINUTE_MS // 1_000
    policies = [f'"{name}";q={count};w={window}' for name, (count, _) in rates.items()]
    limits = [f'"{name}";r={answer.left};t={-(-answer.more_ms // 1_000)}' for name, (_, answer) in rates.items()]
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(limits)}


def _cancel(order_id: str, answer: CancelAnswer) -> Cancel:
    order = answer.order
    if order.version == 0:
        raise ProblemError("not_found", f"there is no order {order_id}")
    if not answer.expected:
        problem = ProblemError(
            "version_mismatch",
            f"order {order_id} has {order.version} events, which If-Match does not name: nothing was changed",
            orderId=order_id,
            seq=order.version,
        )
        problem.headers["ETag"] = tag_of(order.version)
        raise problem
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
