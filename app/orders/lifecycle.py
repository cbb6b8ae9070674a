"""The public names of events and statuses: the one table that writers fill frames from and ``verify`` checks."""

from typing import Final, Literal, assert_never

from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    OrderAccepted,
    OrderConfirmed,
    OrderFailed,
    PriceProtectionTripped,
    QuotesCollected,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
)

Status = Literal["pending", "routing", "building", "submitted", "confirmed", "failed"]
Phase = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED"]

TERMINAL: Final[frozenset[Status]] = frozenset({"confirmed", "failed"})

_PHASES: Final[dict[Status, Phase]] = {
    "pending": "PENDING",
    "routing": "PROCESSING",
    "building": "PROCESSING",
    "submitted": "PROCESSING",
    "confirmed": "COMPLETED",
    "failed": "FAILED",
}


def public_names(event: Event) -> tuple[str, Status]:
    """Return the public ``event`` name and the ``status`` that the order has after it."""
    match event:
        case OrderAccepted():
            return "pending", "pending"
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
        case SubmissionUnknown():
            return "submitted:unknown", "submitted"
        case AttemptFailed(retry=None):
            return "attempt_failed", "routing"
        case AttemptFailed():
            return "retrying", "pending"
        case OrderConfirmed():
            return "confirmed", "confirmed"
        case OrderFailed():
            return "failed", "failed"
        case _:
            assert_never(event)


def phase(status: Status) -> Phase:
    """Return the coarse phase that REST-first clients show for ``status``."""
    return _PHASES[status]
