"""(state, event) -> state: the fold. Total over the lifecycle table; any other pair is a damaged history."""

from app.orders.errors import UndefinedTransitionError
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
from app.orders.money import parse_units
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Confirmed,
    Exhausted,
    Failed,
    Quoted,
    Routing,
    State,
    Submitted,
    Terms,
    Waiting,
)


def evolve(state: State, event: Event) -> State:
    """Return the state after ``event``.

    Raises:
        UndefinedTransitionError: the lifecycle has no such transition; terminal states have none at all.
    """
    match state, event:
        case Absent(), OrderAccepted():
            return Accepted(terms=_terms(event))
        case Accepted(terms=terms), AttemptStarted(attempt=attempt):
            return Routing(terms=terms, attempt=attempt, limit=None)
        case Waiting(terms=terms, limit=limit), AttemptStarted(attempt=attempt):
            return Routing(terms=terms, attempt=attempt, limit=limit)
        case Routing(terms=terms, attempt=attempt, limit=limit), QuotesCollected(quotes=quotes):
            return Quoted(terms=terms, attempt=attempt, limit=limit, quotes=quotes)
        case Quoted(), PriceProtectionTripped():
            return state
        case Quoted(), RouteSelected():
            return _building(state, event)
        case Building(), SubmitIntentRecorded():
            return _submitted(state, event)
        case Submitted(), SubmissionUnknown():
            return _unknown(state, event)
        case Quoted(terms=terms, attempt=attempt, limit=limit), AttemptFailed():
            return _attempt_failed(terms, attempt, limit, event)
        case Submitted(terms=terms, attempt=attempt, limit=limit), AttemptFailed():
            return _attempt_failed(terms, attempt, limit, event)
        case Exhausted(terms=terms), OrderFailed(error=error):
            return Failed(terms=terms, error=error)
        case Submitted(terms=terms), OrderConfirmed(tx_id=tx_id, receipt=receipt):
            return Confirmed(terms=terms, tx_id=tx_id, receipt=receipt)
        case _:
            raise UndefinedTransitionError(type(state).__name__, type(event).__name__)


def _terms(event: OrderAccepted) -> Terms:
    base_decimals, quote_decimals = event.decimals
    return Terms(
        side=event.side,
        base_asset=event.base_asset,
        quote_asset=event.quote_asset,
        base_decimals=base_decimals,
        quote_decimals=quote_decimals,
        amount=parse_units(event.amount, base_decimals),
        slippage_bps=event.slippage_bps,
    )


def _building(state: Quoted, event: RouteSelected) -> Building:
    limit = event.min_out if state.terms.side == "sell" else event.max_in
    if limit is None:
        raise UndefinedTransitionError("Quoted", "RouteSelected without its protection")
    return Building(
        terms=state.terms,
        attempt=state.attempt,
        limit=parse_units(limit, state.terms.quote_decimals),
        venue=event.chosen.venue,
    )


def _submitted(state: Building, event: SubmitIntentRecorded) -> Submitted:
    return Submitted(
        terms=state.terms,
        attempt=state.attempt,
        limit=state.limit,
        venue=state.venue,
        tx_id=event.tx_id,
        message=event.message,
        last_valid_height=event.last_valid_height,
    )


def _unknown(state: Submitted, event: SubmissionUnknown) -> Submitted:
    return Submitted(
        terms=state.terms,
        attempt=state.attempt,
        limit=state.limit,
        venue=state.venue,
        tx_id=state.tx_id,
        message=state.message,
        last_valid_height=state.last_valid_height,
        checks=event.checks,
        next_check_at=event.next_check_at,
    )


def _attempt_failed(terms: Terms, attempt: int, limit: int | None, event: AttemptFailed) -> Waiting | Exhausted:
    if event.retry is None:
        return Exhausted(terms=terms, attempt=attempt, error=event.error)
    return Waiting(terms=terms, attempt=event.retry.attempt, due_at=event.retry.due_at, limit=limit)
