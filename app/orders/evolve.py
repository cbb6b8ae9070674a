"""(state, event) -> state: the fold. Total over the lifecycle table; any other pair is a damaged history."""

from msgspec.structs import replace

from app.orders.errors import UndefinedTransitionError
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRejected,
    CancelRequested,
    Event,
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
from app.orders.money import parse_price, parse_units, price_floor
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Cancelled,
    CancelPending,
    Confirmed,
    Exhausted,
    Expired,
    Failed,
    Quoted,
    Rejected,
    Resting,
    Routing,
    State,
    Submitted,
    Terms,
    Triggered,
    Unsent,
    Waiting,
)


def evolve(state: State, event: Event) -> State:
    """Return the state after ``event``.

    Raises:
        UndefinedTransitionError: the lifecycle has no such transition; terminal states have none at all.
    """
    match event:
        case OrderAccepted() if isinstance(state, Absent):
            return Accepted(terms=_terms(event))
        case OrderRested() | TriggerFired():
            return _watched(state, event)
        case AttemptStarted():
            return _started(state, event)
        case QuotesCollected() | PriceProtectionTripped() | RouteSelected():
            return _routed(state, event)
        case SubmitIntentRecorded() | SubmissionUnknown() | CancelRequested() | CancelRejected() | OrderConfirmed():
            return _submitted(state, event)
        case AttemptFailed():
            return _attempt_failed(state, event)
        case _:
            return _ended(state, event)


def _undefined(state: State, event: Event) -> UndefinedTransitionError:
    return UndefinedTransitionError(type(state).__name__, type(event).__name__)


def _watched(state: State, event: OrderRested | TriggerFired) -> State:
    match state, event:
        case Accepted(terms=terms), OrderRested() if terms.rests:
            return Resting(terms=terms, attempt=1, limit=None, trigger=event.trigger, slot=event.slot)
        case Quoted(terms=terms), OrderRested() if terms.rests:
            return Resting(
                terms=terms, attempt=state.attempt, limit=state.limit, trigger=event.trigger, slot=event.slot
            )
        case Accepted(terms=terms), TriggerFired() if terms.rests:
            return Triggered(terms=terms, attempt=1, limit=None)
        case Resting(terms=terms), TriggerFired():
            return Triggered(terms=terms, attempt=state.attempt, limit=state.limit)
        case _:
            raise _undefined(state, event)


def _started(state: State, event: AttemptStarted) -> Routing:
    match state:
        case Accepted(terms=terms) if not terms.rests:
            return Routing(terms=terms, attempt=event.attempt, limit=None)
        case Triggered(terms=terms, limit=limit) | Waiting(terms=terms, limit=limit):
            return Routing(terms=terms, attempt=event.attempt, limit=limit)
        case _:
            raise _undefined(state, event)


def _routed(state: State, event: QuotesCollected | PriceProtectionTripped | RouteSelected) -> State:
    match state, event:
        case Routing(terms=terms), QuotesCollected(reference=reference):
            return Quoted(
                terms=terms,
                attempt=state.attempt,
                limit=state.limit,
                slot=event.slot,
                quotes=event.quotes,
                reference=None if reference is None else parse_units(reference, terms.quote_decimals),
                launch_slot=event.launch_slot,
            )
        case Quoted(), PriceProtectionTripped():
            return state
        case Quoted(), RouteSelected():
            return _building(state, event)
        case _:
            raise _undefined(state, event)


def _building(state: Quoted, event: RouteSelected) -> Building:
    limit = event.min_out if state.terms.side == "sell" else event.max_in
    if limit is None:
        raise UndefinedTransitionError("Quoted", "RouteSelected without its protection")
    return Building(
        terms=state.terms,
        attempt=state.attempt,
        limit=parse_units(limit, state.terms.quote_decimals),
        venue=event.chosen.venue,
        launch_slot=state.launch_slot,
    )


def _submitted(
    state: State,
    event: SubmitIntentRecorded | SubmissionUnknown | CancelRequested | CancelRejected | OrderConfirmed,
) -> State:
    match state, event:
        case Building(), SubmitIntentRecorded():
            return _intended(state, event)
        case Submitted(), SubmissionUnknown(cancel_pending=False):
            return replace(state, checks=event.checks, next_check_at=event.next_check_at)
        case CancelPending(submitted=submitted, by=by), SubmissionUnknown(cancel_pending=True):
            return CancelPending(
                submitted=replace(submitted, checks=event.checks, next_check_at=event.next_check_at), by=by
            )
        case Submitted(), CancelRequested():
            return CancelPending(submitted=state, by=event.by)
        case CancelPending(submitted=submitted), CancelRejected():
            return submitted
        case Submitted(terms=terms), OrderConfirmed():
            return Confirmed(terms=terms, tx_id=event.tx_id, receipt=event.receipt)
        case _:
            raise _undefined(state, event)


def _intended(state: Building, event: SubmitIntentRecorded) -> Submitted:
    return Submitted(
        terms=state.terms,
        attempt=state.attempt,
        limit=state.limit,
        venue=state.venue,
        tx_id=event.tx_id,
        message=event.message,
        last_valid_height=event.last_valid_height,
    )


def _attempt_failed(state: State, event: AttemptFailed) -> Waiting | Exhausted:
    live = state.submitted if isinstance(state, CancelPending) else state
    if not isinstance(live, Quoted | Submitted):
        raise _undefined(state, event)
    if event.retry is None:
        return Exhausted(terms=live.terms, attempt=live.attempt, error=event.error)
    if isinstance(state, CancelPending):
        raise UndefinedTransitionError("CancelPending", "AttemptFailed with a further attempt")
    return Waiting(terms=live.terms, attempt=event.retry.attempt, due_at=event.retry.due_at, limit=live.limit)


def _ended(state: State, event: Event) -> State:
    match state, event:
        case Exhausted(terms=terms), OrderFailed(error=error):
            return Failed(terms=terms, error=error)
        case (Exhausted(terms=terms), OrderCancelled(code=code)):
            return Cancelled(terms=terms, code=code)
        case (Exhausted(terms=terms), OrderExpired()):
            return Expired(terms=terms)
        case Accepted(terms=terms), OrderRejected(error=error):
            return Rejected(terms=terms, error=error)
        case _, OrderCancelled(code=code) if isinstance(state, Unsent):
            return Cancelled(terms=state.terms, code=code)
        case _, OrderExpired() if isinstance(state, Unsent):
            return Expired(terms=state.terms)
        case _:
            raise _undefined(state, event)


def _terms(event: OrderAccepted) -> Terms:
    amount = parse_units(event.amount, event.decimals[0])
    price = None if event.limit_price is None else parse_price(event.limit_price)
    return Terms(
        side=event.side,
        base_asset=event.base_asset,
        quote_asset=event.quote_asset,
        base_decimals=event.decimals[0],
        quote_decimals=event.decimals[1],
        amount=amount,
        slippage_bps=event.slippage_bps,
        order_type=event.order_type,
        price=price,
        floor=None if price is None else price_floor(amount, price, event.decimals, sell=event.side == "sell"),
        time_in_force=event.time_in_force,
        expire_at=event.expire_at,
        max_fee_bps=event.max_fee_bps,
        max_impact_bps=event.max_impact_bps,
        min_venues=event.min_venues,
    )
