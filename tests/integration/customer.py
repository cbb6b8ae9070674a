"""A customer of the API: orders by HTTP and by WebSocket, follows, cancels and reads; knows public JSON alone."""

from asyncio import gather
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, Final, Literal

from websockets.asyncio.client import ClientConnection

from app.dex.profile import Profile
from app.orders.commands import PlaceOrder
from app.orders.events import IMPACT_BPS_MAX
from app.orders.money import format_units
from app.orders.times import format_time
from tests.integration.api import Api, connected, hear, problem, ready, running, say
from tests.integration.test_guards_end_to_end import CALM
from tests.integration.trading import Trading, on_trading

Json = dict[str, Any]
Way = Literal["http", "socket"]
"""How an order is placed."""
Ask = Literal["delete", "post", "socket"]
"""How an order is cancelled."""
WAYS: Final[tuple[Way, ...]] = ("http", "socket")
ASKS: Final[tuple[Ask, ...]] = ("delete", "post", "socket")
CLIENT: Final = "user01"
STANDING: Final = {
    "pending": ("pending", "PENDING"),
    "resting": ("resting", "PENDING"),
    "triggered": ("routing", "PROCESSING"),
    "routing": ("routing", "PROCESSING"),
    "routing:quotes": ("routing", "PROCESSING"),
    "price_protected": ("routing", "PROCESSING"),
    "building": ("building", "PROCESSING"),
    "submitted": ("submitted", "PROCESSING"),
    "retrying": ("pending", "PENDING"),
    "attempt_failed": ("routing", "PROCESSING"),
    "cancel_pending": ("cancel_pending", "PROCESSING"),
    "cancel_rejected": ("submitted", "PROCESSING"),
    "confirmed": ("confirmed", "COMPLETED"),
    "cancelled": ("cancelled", "FAILED"),
    "expired": ("expired", "FAILED"),
    "failed": ("failed", "FAILED"),
}
"""Status and phase after each event."""


class Followed:
    """An order on a socket of its own: the events that came, oldest first."""

    def __init__(self, api: Api, socket: ClientConnection, order_id: str) -> None:
        self.order_id = order_id
        self.frames: list[Json] = []
        self._api = api
        self._socket = socket

    @property
    def names(self) -> list[str]:
        return [frame["event"] for frame in self.frames]

    @property
    def path(self) -> str:
        return f"/api/orders/{self.order_id}"

    async def reach(self, name: str) -> Json:
        """Read events until the next one of this name."""
        while (frame := await self._next())["event"] != name:
            assert frame["phase"] not in ("COMPLETED", "FAILED"), frame
        return frame

    async def end(self) -> Json:
        """Read to the last event and return it; every way of reading the order tells the same."""
        while not self.frames or self.frames[-1]["phase"] not in ("COMPLETED", "FAILED"):
            await self._next()
        await self.told_alike()
        return self.frames[-1]

    async def told_alike(self) -> None:
        """Events, list of events and order agree with one another, and statuses with the events' names."""
        numbered = [(frame["orderId"], frame["seq"]) for frame in self.frames]
        assert numbered == [(self.order_id, seq) for seq in range(1, len(self.frames) + 1)]
        assert [(frame["status"], frame["phase"]) for frame in self.frames] == [STANDING[name] for name in self.names]
        listed = (await self._api.http.get(f"{self.path}/events")).json()
        assert listed == {"orderId": self.order_id, "last": len(self.frames), "more": False, "events": self.frames}
        alone = (await self._api.http.get(self.path)).json()
        position = int(self.frames[-1]["cursor"].split("-")[1])
        assert alone.pop("asOf") == {"positions": {self.order_id[-2:]: position}, "lagMs": 0}
        assert alone == shown(self.frames)

    async def cancel(self, ask: Ask) -> tuple[str, int]:
        """Ask for the order's end, be heard, and return the status and the seq that the answer names."""
        if ask == "socket":
            answer = await self._cancel_by_socket()
            status = answer["type"]
            # Of the event that the request caused, unless an earlier one had.
            answer.pop("cursor", None)
            assert answer == {"type": status, "id": "cancel", "orderId": self.order_id, "seq": answer["seq"]}
            return status, answer["seq"]
        response = await self._cancel_by_http(ask)
        answer = response.json()
        # Of the event that the request caused, unless an earlier one had.
        answer.pop("cursor", None)
        status, phase = STANDING[answer["status"]]
        assert answer == {"orderId": self.order_id, "status": status, "phase": phase, "seq": answer["seq"]}
        assert response.status_code == {"cancelled": 200, "cancel_pending": 202}[status]
        return status, answer["seq"]

    async def cancel_too_late(self, ask: Ask) -> str:
        """Ask for the order's end after it has ended, be refused, and return the status that the answer names."""
        if ask == "socket":
            answer = await self._cancel_by_socket()
            assert (answer["type"], answer["code"]) == ("error", "order_ended")
        else:
            answer = problem(await self._cancel_by_http(ask), 409, "order_ended")
        assert answer["orderId"] == self.order_id
        return str(answer["orderStatus"])

    async def _cancel_by_http(self, ask: Ask) -> Any:
        if ask == "delete":
            return await self._api.http.delete(self.path)
        return await self._api.http.post(f"{self.path}/cancel")

    async def _cancel_by_socket(self) -> Json:
        await say(self._socket, type="cancel", orderId=self.order_id, id="cancel")
        while "event" in (frame := await hear(self._socket)):
            self.frames.append(frame)
        return frame

    async def _next(self) -> Json:
        frame = await hear(self._socket)
        assert "event" in frame, frame
        self.frames.append(frame)
        return frame


class Customer:
    """Places orders, each on a socket of its own; made by :func:`customer_of`."""

    def __init__(self, api: Api, sockets: AsyncExitStack) -> None:
        self._api = api
        self._sockets = sockets

    async def order(self, way: Way, command: PlaceOrder) -> Followed:
        """Place an order and follow it from its first event on."""
        return await self.order_as_written(way, fields_of(command))

    async def order_as_written(self, way: Way, fields: Json) -> Followed:
        """The same for an order in a client's own words."""
        order: Json = {"clientId": CLIENT, **fields}
        if way == "http":
            response = await self._api.http.post("/api/orders", json=order)
            answer = response.json()
            order_id: str = answer["orderId"]
            # The event's cursor, which ends in its hash.
            assert answer.pop("cursor")
            url = f"/api/orders/ws?orderId={order_id}"
            facts = {"status": "pending", "phase": "PENDING", "seq": 1, "duplicate": False, "wsUrl": url}
            assert (response.status_code, answer) == (202, {"orderId": order_id, **facts})
            return Followed(self._api, await self._connect(f"?orderId={order_id}"), order_id)
        socket = await self._connect("")
        await say(socket, type=order.pop("orderType", "market"), id="order", **order)
        answer = await hear(socket)
        # The event's cursor, which ends in its hash.
        assert answer.pop("cursor")
        assert answer == {"type": "accepted", "id": "order", "orderId": answer["orderId"], "duplicate": False}
        return Followed(self._api, socket, answer["orderId"])

    async def order_each_way(self, commands: Sequence[PlaceOrder]) -> list[tuple[PlaceOrder, Followed]]:
        """Place each order once over HTTP and once over WebSocket."""

        async def place(way: Way, command: PlaceOrder) -> tuple[PlaceOrder, Followed]:
            return command, await self.order(way, command)

        return await gather(*(place(way, command) for way in WAYS for command in commands))

    async def _connect(self, query: str) -> ClientConnection:
        return await self._sockets.enter_async_context(connected(self._api, query))


@asynccontextmanager
async def customer_of(api: Api) -> AsyncIterator[Customer]:
    """A customer whose sockets are closed with the context."""
    await ready(api)
    async with AsyncExitStack() as sockets:
        yield Customer(api, sockets)


def on_market(
    redis_url: str,
    scenario: Callable[[Trading, Customer], Awaitable[None]],
    profile: Profile = CALM,
    **settings: Any,
) -> None:
    """Run a scenario with a customer of a real server, on a market of its own at speed 0."""

    async def main(trading: Trading) -> None:
        async with running(trading.store) as api, customer_of(api) as customer:
            await scenario(trading, customer)

    on_trading(redis_url, main, profile, **settings)


def fields_of(command: PlaceOrder) -> Json:
    """An order as a client writes it."""
    written: Json = {
        "orderType": command.order_type,
        "side": command.side,
        "baseAsset": command.base_asset,
        "quoteAsset": command.quote_asset,
        "amount": format_units(command.amount, command.base_decimals),
        "slippageBps": command.slippage_bps,
        "limitPrice": command.limit_price,
        "timeInForce": command.time_in_force if command.order_type == "limit" else None,
        "expireAt": None if command.expire_at_us is None else format_time(command.expire_at_us),
        "maxFeeBps": command.max_fee_bps,
        "maxImpactBps": None if command.max_impact_bps == IMPACT_BPS_MAX else command.max_impact_bps,
        "minVenues": None if command.min_venues == 1 else command.min_venues,
    }
    return {name: value for name, value in written.items() if value is not None}


def last_of(frames: Sequence[Json], name: str) -> Json:
    """The last event of this name."""
    return next(frame for frame in reversed(frames) if frame["event"] == name)


def shown(frames: Sequence[Json]) -> Json:
    """What GET is to show of an order with these events."""
    first, last = frames[0], frames[-1]
    attempts = [number for number, frame in enumerate(frames) if frame["event"] == "routing"]
    latest = frames[attempts[-1] :] if attempts else ()
    named = {frame["event"]: frame for frame in latest}
    copied = ("side", "orderType", "baseAsset", "quoteAsset", "amount", "slippageBps", "limitPrice", "expireAt")
    receipt = last.get("receipt", {})
    view: Json = {
        "orderId": first["orderId"],
        "clientId": CLIENT,
        **{name: first[name] for name in copied if name in first},
        "timeInForce": first.get("timeInForce", "GTC") if first["orderType"] == "limit" else None,
        **{"status": last["status"], "phase": last["phase"], "seq": last["seq"]},
        "attempts": latest[0]["attempt"] if latest else 0,
        "venue": named["building"]["chosen"]["venue"] if "building" in named else None,
        "txId": named["submitted"]["txId"] if "submitted" in named else None,
        **{name: receipt.get(name) for name in ("amountIn", "amountOut", "fee", "networkFee")},
        "executedPrice": _price_of(first["side"], receipt) if receipt else None,
        "error": None if receipt else _error_of(frames),
        **{"createdAt": first["at"], "updatedAt": last["at"]},
    }
    return {name: value for name, value in view.items() if value is not None}


def _price_of(side: str, receipt: Json) -> str:
    """Quote asset per base asset to 18 digits after the point, the rest cut off."""
    base, quote = receipt["amountIn"], receipt["amountOut"]
    if side == "buy":
        base, quote = quote, base
    with localcontext(prec=80, rounding=ROUND_DOWN):
        price = (Decimal(quote) / Decimal(base)).quantize(Decimal(10) ** -18)
    whole, _, fraction = f"{price:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0')}".rstrip(".")


def _error_of(frames: Sequence[Json]) -> Json | None:
    for frame in reversed(frames):
        if frame["event"] == "cancelled":
            return {"code": frame["code"], "message": frame["message"]}
        if "error" in frame:
            error: Json = frame["error"]
            return error
    return None
