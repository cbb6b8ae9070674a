"""The rules that an event must keep in the state it meets: which ones they are."""

from collections.abc import Iterator

from app.audit.findings import Fault
from app.audit.rules import ending, routing, waiting
from app.audit.rules.comparing import Moment, same
from app.orders.errors import AmountError
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRejected,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    RouteSelected,
    SubmissionUnknown,
    TriggerFired,
)
from app.orders.state import (
    Absent,
    Accepted,
    CancelPending,
    Exhausted,
    Quoted,
    Resting,
    State,
    Submitted,
    Triggered,
    Unsent,
    Waiting,
)


def rule_faults(state: State, event: Event, moment: Moment) -> Iterator[Fault]:
    """Yield what ``event`` says that does not follow from ``state``; nothing for a pair that the lifecycle refuses.

    Guards and routing decision are evaluated again on the recorded quotes; limits, triggers, retries, proofs, receipts
    and ends are compared with what the order, its route and its intent say.
    """
    if isinstance(moment.last, CancelRejected) and not isinstance(event, OrderConfirmed):
        yield Fault("lifecycle", "the confirmation that the rejected cancellation names", type(event).__name__)
    try:
        yield from _waiting_faults(state, event, moment)
        yield from _attempt_faults(state, event, moment)
        yield from _end_faults(state, event, moment)
    except AmountError as error:
        yield Fault("readable", "amounts with no more digits than their assets have", error.message)


def _waiting_faults(state: State, event: Event, moment: Moment) -> Iterator[Fault]:
    match state, event:
        case Absent(), OrderAccepted():
            yield from waiting.term_faults(event)
        case ((Accepted() | Quoted()), OrderRested()):
            yield from waiting.rest_faults(state, event, moment)
        case ((Accepted() | Resting()), TriggerFired()):
            yield from waiting.trigger_faults(state, event)


def _attempt_faults(state: State, event: Event, moment: Moment) -> Iterator[Fault]:
    match state, event:
        case Accepted(), AttemptStarted(attempt=attempt):
            yield from same("attempts", "attempt", 1, attempt)
        case ((Triggered() | Waiting()), AttemptStarted(attempt=attempt)):
            yield from same("attempts", "attempt", state.attempt, attempt)
        case Quoted(), RouteSelected():
            yield from routing.route_faults(state, event)
        case Quoted(), PriceProtectionTripped():
            yield from routing.trip_faults(state, event)
        case Quoted(), AttemptFailed():
            yield from ending.failure_faults(state, event, moment)
            yield from routing.unrouted_faults(state, event, moment)
        case ((Submitted() | CancelPending()), AttemptFailed()):
            yield from ending.failure_faults(state, event, moment)
        case ((Submitted() | CancelPending()), SubmissionUnknown(checks=checks)):
            yield from same("attempts", "checks", ending.submission(state).checks + 1, checks)


def _end_faults(state: State, event: Event, moment: Moment) -> Iterator[Fault]:
    match state, event:
        case Submitted(), OrderConfirmed():
            yield from same("receipt", "txId", state.tx_id, event.tx_id)
            yield from ending.receipt_faults(state, event.receipt)
        case Exhausted(), OrderFailed():
            yield from ending.failed_faults(state, event, moment)
        case _, OrderCancelled() if isinstance(state, Unsent | Exhausted):
            yield from ending.cancelled_faults(state, event, moment)
        case _, OrderExpired() if isinstance(state, Unsent | Exhausted):
            yield from ending.expired_faults(state, event, moment)
        case Accepted(), OrderRejected(error=error):
            yield from ending.message_faults(error)
