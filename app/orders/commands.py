"""What may be asked of an order. Everything drawn, measured or read from a clock arrives as a field."""

from msgspec import Struct

from app.orders.events import (
    IMPACT_BPS_MAX,
    FailureCode,
    OrderType,
    Proof,
    Quote,
    Receipt,
    Side,
    TimeInForce,
    Trigger,
)


class PlaceOrder(Struct, frozen=True, kw_only=True):
    """Accept an order; the caller has validated every field, alone and together."""

    side: Side
    base_asset: str
    quote_asset: str
    base_decimals: int
    quote_decimals: int
    amount: int
    """Base units of the base asset, 1 to 2^64 − 1."""
    slippage_bps: int
    order_type: OrderType = "market"
    limit_price: str | None = None
    """Limit orders: a plain decimal, quote asset per base asset."""
    time_in_force: TimeInForce = "GTC"
    expire_at_us: int | None = None
    max_fee_bps: int | None = None
    max_impact_bps: int = IMPACT_BPS_MAX
    min_venues: int = 1
    idempotency_key: str | None = None
    fingerprint: str | None = None


class RestOrder(Struct, frozen=True, kw_only=True):
    """Let the order wait for ``trigger``, which is not met at ``slot``."""

    trigger: Trigger
    slot: int


class FireTrigger(Struct, frozen=True, kw_only=True):
    """The trigger is met at ``slot``; see :class:`app.orders.events.TriggerFired`."""

    trigger: Trigger
    slot: int
    observed: int
    venue: str | None = None
    launch_slot: int | None = None


class RejectOrder(Struct, frozen=True, kw_only=True):
    """The order cannot be worked on at all; it has not begun."""

    code: FailureCode


class RetryDraw(Struct, frozen=True, kw_only=True):
    """The drawn part of a back-off: ``jitter_ppm`` of the full delay, 0 to 1,000,000, counted from ``now_us``."""

    now_us: int
    jitter_ppm: int
    speed_ppm: int
    """Simulation speed in millionths: delays are divided by it; 0 means no waiting."""


class StartAttempt(Struct, frozen=True, kw_only=True):
    """Begin the attempt that is due."""


class Selection(Struct, frozen=True, kw_only=True):
    """What the router made of the quotes; see :mod:`app.dex.router`."""

    policy: str
    venue: str
    amount: int
    """Quote base units: received for a sell, paid for a buy."""
    decision: str
    runner_up: str | None
    edge_bps: int | None


class RouteAttempt(Struct, frozen=True, kw_only=True):
    """Record the venues' answers and what follows; ``selection`` is None when no venue gave a usable quote."""

    slot: int
    quotes: tuple[Quote, ...]
    selection: Selection | None
    retry: RetryDraw
    reference: int | None = None
    """What the amount is worth at the reference price, in quote base units; None where there is no such price."""
    launch_slot: int | None = None
    rearmed: Trigger | None = None
    """What an order that rests waits for if its limit, anchor or fee guard trips."""
    steps: tuple[str, ...] = ()
    """The instructions of the transaction that would be built."""


class RecordIntent(Struct, frozen=True, kw_only=True):
    """Record the signed swap before it is sent."""

    tx_id: str
    message: str
    last_valid_height: int


class ConfirmOrder(Struct, frozen=True, kw_only=True):
    """The chain shows the swap as executed."""

    tx_id: str
    receipt: Receipt


class EndSubmission(Struct, frozen=True, kw_only=True):
    """The chain proves that the submitted swap did not and will not happen."""

    proof: Proof
    retry: RetryDraw


class PostponeResolve(Struct, frozen=True, kw_only=True):
    """The outcome is still unknown: ask again later."""

    now_us: int
    speed_ppm: int


class CancelOrder(Struct, frozen=True, kw_only=True):
    """End the order: at once, or, while a swap may be on its way, when that one proves not to happen."""

    by: str
    """Who asks, e.g. ``client``."""


class ExpireOrder(Struct, frozen=True, kw_only=True):
    """End the order if its time has come and no swap may be on its way."""

    now_us: int


Command = (
    PlaceOrder
    | RestOrder
    | FireTrigger
    | RejectOrder
    | StartAttempt
    | RouteAttempt
    | RecordIntent
    | ConfirmOrder
    | EndSubmission
    | PostponeResolve
    | CancelOrder
    | ExpireOrder
)
