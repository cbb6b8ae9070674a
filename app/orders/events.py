"""What happens to an order: each Struct is one event's public payload, as stored and as streamed.

Amounts are decimal text in the asset's own unit ("1.5" SOL). ``amount`` of an order is in the base asset; quoted
amounts are in the quote asset: received for a sell, paid for a buy, net of every pool fee.
"""

from typing import Final, Literal

from msgspec import Struct

Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit", "sniper"]
TimeInForce = Literal["GTC", "IOC", "FOK"]
"""Good till cancelled; immediate or cancel; fill or kill. A swap is atomic, so the last two both fill whole or not."""
When = Literal["rises_to", "falls_to", "launched"]
QuoteStatus = Literal["ok", "stale", "timeout", "error"]
QuoteCode = Literal[
    "unavailable", "timeout", "no_liquidity", "dust", "out_of_range", "not_launched", "unusable", "circuit_open"
]
"""Why a venue gave no usable price. Closed, as are the other codes here: a new reason is a new word."""
Guard = Literal["stale", "dust", "venues", "outlier", "impact", "collar", "fee", "limit", "anchor"]
"""The guards in the order in which they are evaluated; see :mod:`app.orders.guards`."""
FailureCode = Literal[
    "no_quote",
    "no_liquidity",
    "not_launched",
    "stale_quotes",
    "dust",
    "too_few_venues",
    "outlier_quote",
    "impact_exceeded",
    "collar_exceeded",
    "fee_exceeded",
    "limit_not_met",
    "price_protected",
    "slippage_exceeded",
    "swap_rejected",
    "blockhash_expired",
]
"""Why an attempt, or the order, ended without a swap; :data:`app.orders.lifecycle.FAILURES` says what to do."""
CancelCode = Literal["requested", "immediate_or_cancel", "fill_or_kill"]

LAUNCHES: Final = "resting:launches"
"""The sorted index of all orders that wait for a launch."""
LAUNCH_BITS: Final = 20
"""Room for the slots after a launch in a score of that index."""
IMPACT_BPS_MAX: Final = 1_000
"""Greatest price impact of an order that names none. Part of the events' meaning: it never changes."""


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
    code: QuoteCode | None = None
    slot: int | None = None
    """The slot whose state was priced, where it is not the one that was asked for."""
    circuit: Literal["open", "half_open"] | None = None
    """The venue failed before: it was not asked (open), or asked as a trial (half_open)."""


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


class Trigger(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a resting order waits for: the price of ``pair`` to reach ``level``, or the launch of its pool."""

    pair: str
    """In the pool's orientation, e.g. ``SOL/USDC``."""
    when: When
    level: int
    """A price as a whole power of 1.0001, base units; for ``launched`` slots after the launch."""

    number: int = 0
    """Of the launched token, for ``launched``."""

    @property
    def index(self) -> str:
        """The sorted index of the store that holds the order while it rests, with the score :attr:`score`."""
        return LAUNCHES if self.when == "launched" else f"resting:{self.pair}:{self.when}"

    @property
    def score(self) -> int:
        """The level; for ``launched`` below the token's number, so that one index holds all tokens in order."""
        return (self.number << LAUNCH_BITS) + self.level


class Fees(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Who got the pool fees, in the asset that was paid in; a kind that got nothing is absent."""

    lp: str | None = None
    protocol: str | None = None
    fund: str | None = None


class Receipt(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What the chain says was exchanged; amounts are the chain's, never the quote's."""

    venue: str
    amount_in: str
    amount_out: str
    fee: str
    """Pool fees, in the asset that was paid in."""
    network_fee: str
    """In SOL: the signature fee; there is no priority fee."""
    slot: int
    fees: Fees


class OrderAccepted(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    side: Side
    base_asset: str
    quote_asset: str
    amount: str
    decimals: tuple[int, int]
    """Fraction digits of base and quote asset, so that the history can be read without any token table."""
    order_type: OrderType
    slippage_bps: int
    limit_price: str | None = None
    """Limit orders: quote asset per base asset; the least for a sell, the most for a buy, pool fees included."""
    time_in_force: TimeInForce = "GTC"
    expire_at: str | None = None
    """The order ends then, unless a swap is on its way."""
    max_fee_bps: int | None = None
    """The greatest pool fee, anti-sniper fees included."""
    max_impact_bps: int = IMPACT_BPS_MAX
    min_venues: int = 1
    """So many venues must give a usable price."""
    idempotency_key: str | None = None
    fingerprint: str | None = None
    """First 32 hex digits of SHA-256 over the canonical order; present with ``idempotency_key``."""


class OrderRested(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The order waits for its trigger, looked at from the slot after ``slot`` on."""

    trigger: Trigger
    slot: int


class TriggerFired(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The evidence: at ``slot`` the venue's price stood at ``observed``, which meets the trigger."""

    trigger: Trigger
    slot: int
    observed: int
    """In the unit of the trigger's ``level``."""
    venue: str | None = None
    launch_slot: int | None = None


class AttemptStarted(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    attempt: int


class QuotesCollected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Every venue's answer, in the fixed venue order, time-outs and errors too."""

    slot: int
    quotes: tuple[Quote, ...]
    reference: str | None = None
    """What the amount is worth at the reference price, without any fee, in the quote asset."""
    launch_slot: int | None = None
    """Slot at which the pool of a launched token opened."""


class RouteSelected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    policy: str
    guards: str
    """The guard policy that let the route pass."""
    steps: tuple[str, ...]
    """The transaction's instructions in order, those that wrap and unwrap SOL included."""
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
    """A guard refused the trade; ``passed`` are the guards that were evaluated before it, in order."""

    guard: Guard
    unit: str
    """Of ``limit`` and ``observed``: ``slots``, ``venues``, ``bps``, or the symbol of the quote asset."""
    limit: str
    observed: str
    guards: str
    passed: tuple[Guard, ...] = ()


class SubmitIntentRecorded(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Durable before anything is sent. ``message`` is what was signed, base64; ``tx_id`` its signature, base58."""

    tx_id: str
    message: str
    last_valid_height: int


class SubmissionUnknown(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The outcome is not known yet; it is asked again at ``next_check_at``. Not a failure, uses no attempt up."""

    checks: int
    next_check_at: str
    cancel_pending: bool = False


class AttemptFailed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The attempt ended without a swap. ``retry`` absent: there is no further attempt."""

    attempt: int
    error: Failure
    proof: Proof | None = None
    retry: Retry | None = None


class OrderConfirmed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    tx_id: str
    receipt: Receipt


class CancelRequested(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A swap may be on its way: whether the order can be cancelled is known when that one's outcome is."""

    by: str


class CancelRejected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Too late: the swap was executed."""

    reason: str


class OrderCancelled(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Ended before any swap: no intent existed, or each has its proof."""

    by: str
    code: CancelCode
    message: str


class OrderExpired(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Ended at its time before any swap: no intent existed, or each has its proof."""

    expire_at: str


class OrderRejected(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Refused before the first attempt."""

    error: Failure


class OrderFailed(Payload, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    error: Failure
    attempts: int


Event = (
    OrderAccepted
    | OrderRested
    | TriggerFired
    | AttemptStarted
    | QuotesCollected
    | RouteSelected
    | PriceProtectionTripped
    | SubmitIntentRecorded
    | SubmissionUnknown
    | AttemptFailed
    | CancelRequested
    | CancelRejected
    | OrderConfirmed
    | OrderCancelled
    | OrderExpired
    | OrderRejected
    | OrderFailed
)
