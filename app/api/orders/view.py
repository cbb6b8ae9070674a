"""An order as clients read it."""

from typing import cast

from msgspec import Struct

from app.api.orders.freshness import AsOf
from app.orders.lifecycle import Phase, Status, phase
from app.orders.money import PRICE_DECIMALS, format_units
from projections.fold.orders import LAMPORTS_DECIMALS, OrderRow


class OrderFailure(Struct, frozen=True):
    """Why an order ended without a swap; docs/failures.md explains the codes."""

    code: str
    message: str


class PointInTime(Struct, frozen=True, kw_only=True, rename="camel"):
    """Of which moment an order is shown, where the request asked for one."""

    as_of: str
    """As the request named it."""
    seq: int
    """Of the last event in it; ``at``: when that happened."""
    at: str
    cursor: str


class OrderView(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An order as ``GET /api/orders/{id}`` shows it; amounts are decimal text in the unit of their asset."""

    order_id: str
    client_id: str | None = None
    side: str
    order_type: str
    base_asset: str
    quote_asset: str
    amount: str
    slippage_bps: int
    limit_price: str | None = None
    """Quote asset per base asset."""
    time_in_force: str | None = None
    """Limit orders."""
    expire_at: str | None = None
    status: str
    phase: Phase
    attempts: int
    venue: str | None = None
    tx_id: str | None = None
    amount_in: str | None = None
    amount_out: str | None = None
    executed_price: str | None = None
    """Quote asset per base asset, pool fees included; rounded down."""
    fee: str | None = None
    """Pool fees, in the asset that was paid in."""
    network_fee: str | None = None
    """In SOL."""
    error: OrderFailure | None = None
    seq: int
    created_at: str
    updated_at: str
    quality: str | None = None
    """Absent while the row tells all that the stream does. ``quarantined``: it stands still before an event that cannot
    be applied; ``incomplete``: one was passed over."""
    quality_reason: str | None = None
    quality_since: str | None = None
    as_of: AsOf | None = None
    """How fresh an order is that is shown alone, as it is now."""
    point_in_time: PointInTime | None = None
    """Instead of that, for an order as it was."""


def view_of(row: OrderRow, as_of: AsOf | None = None, point_in_time: PointInTime | None = None) -> OrderView:
    """Return what a client sees of ``row``."""
    paid, received = row.base_decimals, row.quote_decimals
    if row.side == "buy":
        paid, received = received, paid
    failure = None
    if row.failure_code is not None:
        failure = OrderFailure(row.failure_code, row.failure_message or "")
    return OrderView(
        order_id=row.id,
        client_id=row.client_id,
        side=row.side,
        order_type=row.type,
        base_asset=row.base_asset,
        quote_asset=row.quote_asset,
        amount=row.amount,
        slippage_bps=row.slippage_bps,
        limit_price=row.limit_price,
        time_in_force=row.time_in_force,
        expire_at=row.expire_at,
        status=row.status,
        phase=phase(cast(Status, row.status)),
        attempts=row.attempts,
        venue=row.venue,
        tx_id=row.tx_id,
        amount_in=_text(row.amount_in, paid),
        amount_out=_text(row.amount_out, received),
        executed_price=_price(row),
        fee=_text(row.fee, paid),
        network_fee=_text(row.network_fee, LAMPORTS_DECIMALS),
        error=failure,
        seq=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        quality=None if row.quality == "ok" else row.quality,
        quality_reason=row.quality_reason,
        quality_since=row.quality_since,
        as_of=as_of,
        point_in_time=point_in_time,
    )


def _price(row: OrderRow) -> str | None:
    """Return what was paid or received for one base asset."""
    base, quote = (row.amount_in, row.amount_out) if row.side == "sell" else (row.amount_out, row.amount_in)
    if base is None or quote is None or base == 0:
        return None
    scaled = quote * 10 ** (row.base_decimals + PRICE_DECIMALS) // (base * 10**row.quote_decimals)
    return format_units(scaled, PRICE_DECIMALS)


def _text(units: int | None, decimals: int) -> str | None:
    return None if units is None else format_units(units, decimals)
