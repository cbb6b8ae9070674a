"""What may be asked of an order. Everything drawn, measured or read from a clock arrives as a field."""

from msgspec import Struct

from app.orders.events import Proof, Quote, Receipt, Side


class PlaceOrder(Struct, frozen=True, kw_only=True):
    """Accept a market order; the caller has validated assets, amount and slippage."""

    side: Side
    base_asset: str
    quote_asset: str
    base_decimals: int
    quote_decimals: int
    amount: int
    """Base units of the base asset, 1 to 2^64 − 1."""
    slippage_bps: int
    idempotency_key: str | None = None
    fingerprint: str | None = None


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


Command = PlaceOrder | StartAttempt | RouteAttempt | RecordIntent | ConfirmOrder | EndSubmission | PostponeResolve
