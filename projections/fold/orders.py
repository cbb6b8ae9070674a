"""The orders read model as a pure fold over published events: (row, frame) -> row."""

import re
from typing import Final, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from eventstore.ids import event_id, partition_in
from projections.errors import FrameError, OrderMismatchError
from projections.fold.frames import Frame

LAMPORTS_DECIMALS: Final = 9
DEFAULT_TIME_IN_FORCE: Final = "GTC"
"""What a limit order that names none asks for: events omit it."""

_AMOUNT: Final = re.compile(r"([0-9]{1,39})(?:\.([0-9]{1,18}))?", re.ASCII)
ANCHOR_CHARACTERS: Final = 8
"""Of a hash in the log; all that is known of the hash of an event that cannot be read."""
_PRICE: Final = re.compile(r"0*([0-9]{1,20})(?:\.([0-9]{1,18}))?", re.ASCII)
_T = TypeVar("_T")


class OrderRow(Struct, frozen=True, gc=False):
    """A row of the table ``orders``, its fields named and ordered as the columns.

    ``amount`` is decimal text in the base asset's unit, ``limit_price`` in the quote asset per base asset;
    ``amount_in``, ``amount_out``, ``fee`` and ``network_fee`` are base units of the asset paid in, received, paid in
    and of SOL. Times are text, ``YYYY-MM-DDThh:mm:ss.ffffffZ``. ``venue`` and ``tx_id`` are those of the latest
    attempt, and so is the failure, unless it says why the order was cancelled; a confirmed order has none.
    ``limit_price`` and ``time_in_force`` are None for all but limit orders. ``quality`` says whether the row tells all
    that its stream does: see :func:`projections.fold.histories.follow`.
    """

    id: str
    client_id: str | None
    side: Literal["buy", "sell"]
    type: str
    base_asset: str
    quote_asset: str
    amount: str
    slippage_bps: int
    status: str
    attempts: int
    venue: str | None
    tx_id: str | None
    amount_in: int | None
    amount_out: int | None
    fee: int | None
    network_fee: int | None
    base_decimals: int
    quote_decimals: int
    failure_code: str | None
    failure_message: str | None
    idempotency_key: str | None
    fingerprint: str | None
    version: int
    head_hash: str
    partition: int
    created_at: str
    updated_at: str
    limit_price: str | None
    time_in_force: str | None
    expire_at: str | None
    quality: Literal["ok", "quarantined", "incomplete"] = "ok"
    quality_reason: str | None = None
    quality_since: str | None = None


def apply(row: OrderRow | None, frame: Frame) -> OrderRow:
    """Return the order's row after ``frame``. Event types unknown here change status, version and time only.

    Args:
        row: the row before it; None before the first event.

    Raises:
        OrderMismatchError: the frame is not the one that follows the row: another version, or another history.
        FrameError: the frame lacks what its type promises.
    """
    if row is None:
        return _accepted(frame)
    if frame.seq != row.version + 1:
        raise OrderMismatchError(row.id, row.version, frame.seq, "is not the next one")
    if frame.order_id != row.id or not _continues(frame, row.head_hash):
        raise OrderMismatchError(row.id, row.version, frame.seq, "continues another history")
    row = replace(row, status=frame.status, version=frame.seq, head_hash=frame.meta.hash, updated_at=frame.at)
    match frame.meta.type:
        case "AttemptStarted":
            return replace(row, attempts=_of(frame, "attempt", frame.attempt), venue=None, tx_id=None)
        case "RouteSelected":
            return replace(row, venue=_of(frame, "chosen", frame.chosen).venue)
        case "SubmitIntentRecorded":
            return replace(row, tx_id=_of(frame, "txId", frame.tx_id))
        case "AttemptFailed" | "OrderFailed" | "OrderRejected":
            failure = _of(frame, "error", frame.error)
            return replace(row, failure_code=failure.code, failure_message=failure.message)
        case "OrderCancelled":
            code, message = _of(frame, "code", frame.code), _of(frame, "message", frame.message)
            return replace(row, failure_code=code, failure_message=message)
        case "OrderConfirmed":
            return _confirmed(row, frame)
        case _:
            return row


def _continues(frame: Frame, head_hash: str) -> bool:
    prev = frame.meta.prev or ""
    return prev == head_hash or (len(head_hash) == ANCHOR_CHARACTERS and prev.startswith(head_hash))


def _accepted(frame: Frame) -> OrderRow:
    if frame.seq != 1:
        raise OrderMismatchError(frame.order_id, 0, frame.seq, "is not the first one")
    if frame.meta.prev is not None:
        raise OrderMismatchError(frame.order_id, 0, frame.seq, "continues another history")
    if frame.meta.type != "OrderAccepted":
        raise FrameError(event_id(frame.order_id, 1), f"{frame.meta.type} cannot be an order's first event")
    base_decimals, quote_decimals = _of(frame, "decimals", frame.decimals)
    amount = _of(frame, "amount", frame.amount)
    _units(frame, amount, base_decimals)
    order_type = _of(frame, "orderType", frame.order_type)
    limited = order_type == "limit"
    return OrderRow(
        id=frame.order_id,
        client_id=frame.meta.client,
        side=_of(frame, "side", frame.side),
        type=order_type,
        base_asset=_of(frame, "baseAsset", frame.base_asset),
        quote_asset=_of(frame, "quoteAsset", frame.quote_asset),
        amount=amount,
        slippage_bps=_of(frame, "slippageBps", frame.slippage_bps),
        status=frame.status,
        attempts=0,
        venue=None,
        tx_id=None,
        amount_in=None,
        amount_out=None,
        fee=None,
        network_fee=None,
        base_decimals=base_decimals,
        quote_decimals=quote_decimals,
        failure_code=None,
        failure_message=None,
        idempotency_key=frame.idempotency_key,
        fingerprint=frame.fingerprint,
        version=1,
        head_hash=frame.meta.hash,
        partition=partition_in(frame.order_id),
        created_at=frame.at,
        updated_at=frame.at,
        limit_price=_price(frame, _of(frame, "limitPrice", frame.limit_price)) if limited else None,
        time_in_force=(frame.time_in_force or DEFAULT_TIME_IN_FORCE) if limited else None,
        expire_at=frame.expire_at,
    )


def _confirmed(row: OrderRow, frame: Frame) -> OrderRow:
    receipt = _of(frame, "receipt", frame.receipt)
    paid_in, received = row.base_decimals, row.quote_decimals
    if row.side == "buy":
        paid_in, received = received, paid_in
    return replace(
        row,
        venue=receipt.venue,
        tx_id=_of(frame, "txId", frame.tx_id),
        amount_in=_units(frame, receipt.amount_in, paid_in),
        amount_out=_units(frame, receipt.amount_out, received),
        fee=_units(frame, receipt.fee, paid_in),
        network_fee=_units(frame, receipt.network_fee, LAMPORTS_DECIMALS),
        failure_code=None,
        failure_message=None,
    )


def _of(frame: Frame, field: str, value: _T | None) -> _T:
    """Return a field that the frame's type promises."""
    if value is None:
        raise FrameError(event_id(frame.order_id, frame.seq), f"{frame.meta.type} lacks {field}")
    return value


def _units(frame: Frame, amount: str, decimals: int) -> int:
    """Return an amount in base units, exactly."""
    match = _AMOUNT.fullmatch(amount)
    if match is None or len(match[2] or "") > decimals:
        raise FrameError(event_id(frame.order_id, frame.seq), f"{amount!r} is not an amount with {decimals} decimals")
    return int(match[1] + (match[2] or "").ljust(decimals, "0"))


def _price(frame: Frame, price: str) -> str:
    """Return a price as the shortest exact decimal, which is how the column reads back."""
    match = _PRICE.fullmatch(price)
    if match is None:
        raise FrameError(event_id(frame.order_id, frame.seq), f"{price!r} is not a price")
    whole, fraction = match[1].lstrip("0") or "0", (match[2] or "").rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
