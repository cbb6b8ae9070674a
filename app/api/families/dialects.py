"""How frames are written on the paths of other engines: which names they have there beside ours, and in their place."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from app.api.families.aliases import ALIASES, Update

Asked = Literal["order", "client", "all", "id", "members", "subscribe", "payload", "action"]
"""How events were asked for: in the URL for an order, a client or all; by a bare order id, by members without a type
or as an order, by ``type`` ``subscribe`` alone or with a ``payload``, or by an ``action`` with an order."""

_SHARED: Final = ("timestamp", "message", "error", "dex", "selectedDex", "txHash", "executedPrice")
_DETAILS: Final = ("attempt", "nextRetryAt", "lastError", "quotes", "routingDecision")
_REPLACED: Final = ("message", "error")
"""Ours, that clients of others read as something else."""
_WITHOUT_SWAP: Final = ("failed", "rejected", "cancelled", "expired")

_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Dialect(Struct, frozen=True, kw_only=True):
    """What a frame has in place of, and beside, our own members."""

    kind: str = "order_update"
    """The member ``type``."""
    kinds: Mapping[str, str] = {}
    """Other values of it, by event."""
    event: str | None = None
    """In place of our name of the event."""
    names: tuple[str, ...] = ()
    """Of :data:`ALIASES`, beside those that all have."""
    inside: str = "data"
    """The member that has all of it once more, with the details of routes and retries."""
    upper: bool = False
    """That one's ``status`` is in upper case, and its details are its ``metadata``."""

    @property
    def needs_before(self) -> bool:
        """Whether it tells the status before."""
        return "previousStatus" in self.names

    def text_of(self, update: Update, cursor: str) -> str:
        """Return an event as one message; ``cursor`` is what to resume by."""
        frame = update.frame
        own = {name: value for name, value in frame.items() if name not in _REPLACED}
        given = _given((*_SHARED, *self.names), update)
        details = _given(_DETAILS, update)
        inner = {"orderId": frame["orderId"], "status": frame["status"], **given, **details}
        if self.upper:
            inner |= {"status": frame["status"].upper(), "metadata": details}
        message = {
            "type": self.kinds.get(frame["event"], self.kind),
            **own,
            "event": self.event or frame["event"],
            **given,
            self.inside: inner,
            "cursor": cursor,
        }
        return _encode(message).decode()


def _given(names: tuple[str, ...], update: Update) -> dict[str, Any]:
    found = {name: ALIASES[name](update) for name in names}
    return {name: value for name, value in found.items() if value is not None}


_FLAT: Final = Dialect()
_EXECUTE: Final = Dialect(kind="status_update", names=("detail", "tsMs", "dexUsed"))
_ACTION: Final = Dialect(kind="status", names=("transactionHash", "executionPrice"))
_PLAIN_ID: Final = Dialect(names=("order_id", "tx_hash", "executed_price"))
_STATUS: Final = Dialect(names=("executionPrice",))
_STREAM: Final = Dialect(
    kind="status_update",
    kinds={"routing:quotes": "routing_info", "confirmed": "execution_result", **dict.fromkeys(_WITHOUT_SWAP, "error")},
    event="order:update",
)
_RESULT: Final = Dialect(names=("result", "reason"))
_ORDER_STATUS: Final = Dialect(
    kind="orderStatus",
    kinds={"confirmed": "orderComplete", **dict.fromkeys(_WITHOUT_SWAP, "orderFailed")},
    names=("txSignature", "price", "finalRate"),
)
_SOCKET: Final = Dialect(names=("price", "executionPrice", "chosenDex"))
_NUMBERED: Final = Dialect(
    kind="status",
    kinds={"building": "routed", "submitted": "submitted", "confirmed": "confirmed", "failed": "failed"},
    names=("sequenceNumber",),
    inside="payload",
)
_PAYLOAD: Final = Dialect(kind="order-update", inside="payload", upper=True)
_CHANNEL: Final = Dialect(event="order:update", inside="payload")
_TRANSITION: Final = Dialect(names=("previousStatus", "currentStatus"))

Family = Mapping[Asked, Dialect]

_ASKED: Final[tuple[Asked, ...]] = ("order", "client", "all", "id", "members", "subscribe", "payload", "action")


def _family(usual: Dialect, others: Family | None = None) -> Family:
    return {**dict.fromkeys(_ASKED, usual), **(others or {})}


OWN_PATH: Final = "/api/orders/ws"
FAMILIES: Final[Mapping[str, Family]] = {
    OWN_PATH: {},
    "/api/orders/execute": _family(_EXECUTE, {"action": _ACTION, "id": _PLAIN_ID}),
    "/api/orders/execute/{order_id}": _family(_EXECUTE),
    "/api/orders/{order_id}/status": _family(_STATUS),
    "/api/orders/{order_id}/stream": _family(_STREAM),
    "/api/orders/status": _family(_FLAT),
    "/api/orders/status/{order_id}": _family(_FLAT),
    "/api/orders/stream/{order_id}": _family(_RESULT),
    "/ws": _family(_SOCKET, {"subscribe": _NUMBERED, "payload": _PAYLOAD, "client": _CHANNEL, "all": _TRANSITION}),
    "/ws/orders/{order_id}": _family(_ORDER_STATUS),
    "/ws/{order_id}": _family(_FLAT),
}
"""Every path of the WebSocket: the first one is ours and has the stored frames, the others write each anew."""
