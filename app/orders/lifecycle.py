"""The public names of events, statuses and failures: the tables that writers fill frames from and ``verify`` checks."""

from typing import Final, Literal, assert_never

from msgspec import Struct

from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelCode,
    CancelRejected,
    CancelRequested,
    Event,
    Failure,
    FailureCode,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    QuotesCollected,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
    TriggerFired,
)

Status = Literal[
    "pending",
    "resting",
    "routing",
    "building",
    "submitted",
    "cancel_pending",
    "confirmed",
    "cancelled",
    "expired",
    "rejected",
    "failed",
]
Phase = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED"]

TERMINAL: Final[frozenset[Status]] = frozenset({"confirmed", "cancelled", "expired", "rejected", "failed"})

_PHASES: Final[dict[Status, Phase]] = {
    "pending": "PENDING",
    "resting": "PENDING",
    "routing": "PROCESSING",
    "building": "PROCESSING",
    "submitted": "PROCESSING",
    "cancel_pending": "PROCESSING",
    "confirmed": "COMPLETED",
    "cancelled": "FAILED",
    "expired": "FAILED",
    "rejected": "FAILED",
    "failed": "FAILED",
}


def public_names(event: Event) -> tuple[str, Status]:  # noqa: C901 - one line for each event
    """Return the public ``event`` name and the ``status`` that the order has after it."""
    match event:
        case OrderAccepted():
            return "pending", "pending"
        case OrderRested():
            return "resting", "resting"
        case TriggerFired():
            return "triggered", "routing"
        case AttemptStarted():
            return "routing", "routing"
        case QuotesCollected():
            return "routing:quotes", "routing"
        case RouteSelected():
            return "building", "building"
        case PriceProtectionTripped():
            return "price_protected", "routing"
        case SubmitIntentRecorded():
            return "submitted", "submitted"
        case SubmissionUnknown(cancel_pending=cancel_pending):
            return "submitted:unknown", "cancel_pending" if cancel_pending else "submitted"
        case AttemptFailed(retry=None):
            return "attempt_failed", "routing"
        case AttemptFailed():
            return "retrying", "pending"
        case CancelRequested():
            return "cancel_pending", "cancel_pending"
        case CancelRejected():
            return "cancel_rejected", "submitted"
        case OrderConfirmed():
            return "confirmed", "confirmed"
        case OrderCancelled():
            return "cancelled", "cancelled"
        case OrderExpired():
            return "expired", "expired"
        case OrderRejected():
            return "rejected", "rejected"
        case OrderFailed():
            return "failed", "failed"
        case _:
            assert_never(event)


def phase(status: Status) -> Phase:
    """Return the coarse phase that REST-first clients show for ``status``."""
    return _PHASES[status]


class Reason(Struct, frozen=True):
    """What a code means, what to do about it, and whether a further attempt may mend it."""

    message: str
    remedy: str
    passing: bool = True


FAILURES: Final[dict[FailureCode, Reason]] = {
    "no_quote": Reason(
        "no venue gave a usable quote; see the quotes of each attempt",
        "Submit again later; if it persists, look at the venues' reasons in `routing:quotes`.",
    ),
    "no_liquidity": Reason(
        "no pool holds enough for this amount",
        "Submit a smaller order.",
        passing=False,
    ),
    "not_launched": Reason(
        "the token's pool has not opened yet",
        "Submit a sniper order, which waits for the launch.",
        passing=False,
    ),
    "stale_quotes": Reason(
        "the venues answered with prices of the past only",
        "Submit again later.",
    ),
    "dust": Reason(
        "the amount is so small that every pool would pay out nothing for it",
        "Submit a larger order.",
        passing=False,
    ),
    "too_few_venues": Reason(
        "fewer venues than the order's minVenues gave a usable quote",
        "Submit again later, or with a smaller minVenues.",
    ),
    "outlier_quote": Reason(
        "the best quote is so much better than the second that it is taken for a mistake",
        "Submit again later.",
    ),
    "impact_exceeded": Reason(
        "the order would move the pool's price by more than its maxImpactBps",
        "Submit a smaller order, or a greater maxImpactBps.",
        passing=False,
    ),
    "collar_exceeded": Reason(
        "the best quote is too far from the reference price",
        "Submit again later.",
    ),
    "fee_exceeded": Reason(
        "the pool's fee is above the order's maxFeeBps",
        "Submit again later, or with a greater maxFeeBps.",
    ),
    "limit_not_met": Reason(
        "no venue offers the order's limit price, pool fees included",
        "Submit with another limitPrice, or with timeInForce GTC, which waits for the price.",
    ),
    "price_protected": Reason(
        "the price moved past the order's slippage limit, which is anchored to its first quote",
        "Submit again at the present price, or with a greater slippageBps.",
    ),
    "slippage_exceeded": Reason(
        "the swap failed on chain: the price moved past the limit",
        "Submit again, or with a greater slippageBps.",
    ),
    "swap_rejected": Reason(
        "the swap failed on chain",
        "Look at the program's error in the proof; submit again if it names a passing condition.",
    ),
    "blockhash_expired": Reason(
        "the swap never landed and its blockhash has expired, so it never will",
        "Submit again.",
    ),
}
"""Why an attempt, or an order, ended without a swap: the source of the messages and of docs/failures.md."""

CANCELLATIONS: Final[dict[CancelCode, Reason]] = {
    "requested": Reason("cancelled on request", "Nothing: no swap was or will be executed."),
    "immediate_or_cancel": Reason(
        "not filled at once, as IOC asks",
        "Look at the last attempt's error; submit again, or with timeInForce GTC.",
    ),
    "fill_or_kill": Reason(
        "not filled at once and whole, as FOK asks",
        "Look at the last attempt's error; submit again, or with timeInForce GTC.",
    ),
}
"""Why an order was cancelled."""


def failure_of(code: FailureCode, detail: str = "") -> Failure:
    """Return the failure that events record for ``code``; ``detail`` is added to its message."""
    message = FAILURES[code].message
    return Failure(code=code, message=f"{message}: {detail}" if detail else message)
