"""What happens to an order: each Struct is one event's public payload, as stored and as streamed.

Amounts are decimal text in the asset's own unit ("1.5" SOL). ``amount`` of an order is in the base asset; quoted
amounts are in the quote asset: received for a sell, paid for a buy, net of every pool fee.
"""

from typing import Literal

from msgspec import Struct

Side = Literal["buy", "sell"]
QuoteStatus = Literal["ok", "timeout", "error"]
FailureCode = Literal[
    "no_quote",
    "price_protected",
    "slippage_exceeded",
    "swap_rejected",
    "blockhash_expired",
]
"""Why an attempt, or the order, ended without a swap. Closed: a new reason is a new word here."""


class Payload(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The part of an event that differs by type; absent fields are omitted from the JSON."""


class Quote(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One venue's answer. ``amount`` and the fields after it are present when ``status`` is ``ok``."""

    venue: str
    status: QuoteStatus = "ok"
    amount: str | None = None
    fee: str | None = None
    """Pool fees, in the asset that is paid in (base for a sell, quote for a buy)."""
    impact_ppm: int | None = None
    latency_ms: int | None = None
    reason: str | None = None


class Chosen(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The route an attempt takes."""

    venue: str
    amount: str


class Proof(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Why a submitted swap did not and will not happen; heights and slots as the chain counts them, confirmed."""

    kind: Literal["expired", "failed_on_chain"]
    tx_id: str
    slot: int
    """Expired: the slot of the view in which the signature was absent. Failed on chain: the slot it landed in."""
    height: int | None = None
    last_valid_height: int | None = None
    error: str | None = None


class Failure(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A reason that a person can act on."""

    code: FailureCode
    message: str


class Retry(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The next attempt: its number, the drawn delay and when it is due."""

    attempt: int
    delay_ms: int
    due_at: str


class Receipt(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What the chain says was exchanged; amounts are the chain's, never the quote's."""

    venue: str
    amount_in: str
    amount_out: str
    fee: str
    """Pool fees, in the asset that was paid in."""
    network_fee: str
    """In SOL: signature fee and priority fee."""
    slot: int


class OrderAccepted(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    side: Side
    base_asset: str
    quote_asset: str
    amount: str
    decimals: tuple[int, int]
    """Fraction digits of base and quote asset, so that the history can be read without any token table."""
    order_type: Literal["market"]
    slippage_bps: int
    idempotency_key: str | None = None
    fingerprint: str | None = None
    """First 32 hex digits of SHA-256 over the canonical order; present with ``idempotency_key``."""


class AttemptStarted(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    attempt: int


class QuotesCollected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Every venue's answer, in the fixed venue order, time-outs and errors too."""

    slot: int
    quotes: tuple[Quote, ...]


class RouteSelected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    policy: str
    chosen: Chosen
    decision: str
    """First 16 hex digits of SHA-256 over the canonical inputs and result of the policy: ``rerun`` compares it."""
    runner_up: str | None = None
    edge_bps: int | None = None
    min_out: str | None = None
    """Sell: the swap fails rather than pay out less, in the quote asset."""
    max_in: str | None = None
    """Buy: the swap fails rather than cost more, in the quote asset."""


class PriceProtectionTripped(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    guard: Literal["anchor"]
    limit: str
    observed: str


class SubmitIntentRecorded(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Durable before anything is sent. ``message`` is what was signed, base64; ``tx_id`` its signature, base58."""

    tx_id: str
    message: str
    last_valid_height: int


class SubmissionUnknown(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The outcome is not known yet; it is asked again at ``next_check_at``. Not a failure, uses no attempt up."""

    checks: int
    next_check_at: str


class AttemptFailed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The attempt ended without a swap. ``retry`` absent: there is no further attempt."""

    attempt: int
    error: Failure
    proof: Proof | None = None
    retry: Retry | None = None


class OrderConfirmed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    tx_id: str
    receipt: Receipt


class OrderFailed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    error: Failure
    attempts: int


Event = (
    OrderAccepted
    | AttemptStarted
    | QuotesCollected
    | RouteSelected
    | PriceProtectionTripped
    | SubmitIntentRecorded
    | SubmissionUnknown
    | AttemptFailed
    | OrderConfirmed
    | OrderFailed
)
