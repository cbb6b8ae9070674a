"""The one table of the names by which clients of engines like this one know what an event says."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Final

from msgspec import Struct

PRICE_DIGITS: Final = 18
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MESSAGES: Final = {
    "pending": "order received and queued",
    "resting": "waiting for the price, or for the launch",
    "triggered": "triggered",
    "routing": "comparing the venues' prices",
    "routing:quotes": "the venues have answered",
    "building": "creating the transaction",
    "price_protected": "protected from a bad price",
    "submitted": "transaction sent to the network",
    "submitted:unknown": "the outcome of the transaction is not known yet",
    "retrying": "the attempt ended without a swap, another one follows",
    "attempt_failed": "the attempt ended without a swap",
    "cancel_pending": "cancellation requested, a swap may be on its way",
    "cancel_rejected": "too late to cancel, the swap was executed",
    "confirmed": "transaction successful",
    "expired": "the order's time is over",
}
"""Of events that carry no message of their own, in words."""


class Update(Struct, frozen=True, kw_only=True):
    """An event, and what of its order's past it does not repeat."""

    frame: Mapping[str, Any]
    """As our own clients read it."""
    is_last: bool
    """The order has ended."""
    side: str | None = None
    """Of the order; needed for a price."""
    before: str | None = None
    """The status before."""


def _venue(update: Update) -> Any:
    found = update.frame.get("receipt") or update.frame.get("chosen") or {}
    return found.get("venue")


def _tx_id(update: Update) -> Any:
    return update.frame.get("txId")


def _price(update: Update) -> Decimal | None:
    """Return quote asset per base asset, as the chain exchanged them."""
    receipt = update.frame.get("receipt")
    if receipt is None or update.side is None:
        return None
    paid, received = Decimal(receipt["amountIn"]), Decimal(receipt["amountOut"])
    quote, base = (received, paid) if update.side == "sell" else (paid, received)
    return Context(prec=PRICE_DIGITS).divide(quote, base) if base else None


def _at(update: Update) -> Any:
    return update.frame["at"]


def _at_ms(update: Update) -> int:
    return (datetime.fromisoformat(update.frame["at"]) - _EPOCH) // timedelta(milliseconds=1)


def _message(update: Update) -> str:
    frame = update.frame
    if frame["event"] == "cancelled":
        return str(frame["message"])
    return _error(update) or _MESSAGES[frame["event"]]


def _error(update: Update) -> str | None:
    """Return why the order failed. Clients take what has an error for the end, so an attempt's is not shown as such."""
    found = update.frame.get("error")
    return str(found["message"]) if found is not None and update.is_last else None


def _attempt_error(update: Update) -> str | None:
    found = update.frame.get("error")
    return None if found is None or update.is_last else str(found["message"])


def _retry(name: str) -> Callable[[Update], Any]:
    return lambda update: (update.frame.get("retry") or {}).get(name)


def _routing_decision(update: Update) -> dict[str, Any] | None:
    chosen = update.frame.get("chosen")
    if chosen is None:
        return None
    named = {"selectedDex": chosen["venue"], "amount": chosen["amount"]}
    return named | {name: update.frame[name] for name in ("runnerUp", "edgeBps") if name in update.frame}


def _member(name: str) -> Callable[[Update], Any]:
    return lambda update: update.frame.get(name)


ALIASES: Final[Mapping[str, Callable[[Update], Any]]] = {
    "timestamp": _at,
    "tsMs": _at_ms,
    "message": _message,
    "detail": _message,
    "error": _error,
    "reason": _error,
    "dex": _venue,
    "selectedDex": _venue,
    "chosenDex": _venue,
    "dexUsed": _venue,
    "txHash": _tx_id,
    "tx_hash": _tx_id,
    "transactionHash": _tx_id,
    "txSignature": _tx_id,
    "executedPrice": _price,
    "executed_price": _price,
    "executionPrice": _price,
    "price": _price,
    "finalRate": _price,
    "result": _member("receipt"),
    "order_id": _member("orderId"),
    "sequenceNumber": _member("seq"),
    "previousStatus": lambda update: update.before,
    "currentStatus": _member("status"),
    "attempt": lambda update: _retry("attempt")(update) or update.frame.get("attempt"),
    "nextRetryAt": _retry("dueAt"),
    "lastError": _attempt_error,
    "quotes": _member("quotes"),
    "routingDecision": _routing_decision,
}
"""What each name says; None where the event says nothing of the kind, and the name is left out."""
