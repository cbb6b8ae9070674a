"""What clients of engines like this one call the members of our answers; given on the paths that are theirs alone."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from app.api.orders.answers import Accepted, OrderList
from app.api.orders.freshness import AsOf
from app.api.orders.view import OrderView
from app.orders.times import format_time

EXECUTE_PATH: Final = "/api/orders/execute"
ORDER_PATHS: Final = ("/orders/{order_id}", "/order/{order_id}")
LIST_PATHS: Final = ("/api/orders/history", "/orders")
SUBMIT_PATHS: Final = (EXECUTE_PATH, "/orders", "/order")


class AliasedOrder(OrderView, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An order under our names and theirs."""

    id: str
    user_id: str | None = None
    type: str
    token_in: str
    token_out: str
    tx_hash: str | None = None
    dex: str | None = None
    selected_dex: str | None = None
    price: str | None = None
    reason: str | None = None


class AliasedAccepted(Accepted, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The answer to an order under our names and theirs."""

    success: bool
    message: str
    timestamp: str
    """When this was answered."""
    ws_endpoint: str
    websocket_url: str
    upgrade_url: str


class AliasedOrders(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A page of orders under our names and theirs."""

    orders: list[AliasedOrder]
    as_of: AsOf
    has_more: bool
    next: str | None = None
    next_cursor: str | None = None


OF_ORDERS: Final[dict[str, Callable[[OrderView], Any]]] = {
    "id": lambda order: order.order_id,
    "user_id": lambda order: order.client_id,
    "type": lambda order: order.order_type,
    "token_in": lambda order: order.base_asset if order.side == "sell" else order.quote_asset,
    "token_out": lambda order: order.quote_asset if order.side == "sell" else order.base_asset,
    "tx_hash": lambda order: order.tx_id,
    "dex": lambda order: order.venue,
    "selected_dex": lambda order: order.venue,
    "price": lambda order: order.executed_price,
    "reason": lambda order: None if order.error is None else order.error.message,
}
"""Their names for what an order has under ours."""


def aliased_order(order: OrderView) -> AliasedOrder:
    """Return an order with the names of others beside ours."""
    return AliasedOrder(**asdict(order), **{name: read(order) for name, read in OF_ORDERS.items()})


def aliased_orders(page: OrderList) -> AliasedOrders:
    """Return a page with the names of others beside ours."""
    return AliasedOrders(
        orders=[aliased_order(order) for order in page.orders],
        as_of=page.as_of,
        has_more=page.next is not None,
        next=page.next,
        next_cursor=page.next,
    )


def aliased_accepted(accepted: Accepted, now_us: int) -> AliasedAccepted:
    """Return the answer to an order with the names of others beside ours; the WebSocket is at the path they post to."""
    url = f"{EXECUTE_PATH}?orderId={accepted.order_id}"
    message = "the order was accepted before" if accepted.duplicate else "the order is accepted and queued"
    return AliasedAccepted(
        **{**asdict(accepted), "ws_url": url},
        success=True,
        message=message,
        timestamp=format_time(now_us),
        ws_endpoint=url,
        websocket_url=url,
        upgrade_url=url,
    )
