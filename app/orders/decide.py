"""(command, state) -> events: every decision about an order. A command that the state has outgrown yields no event."""

from typing import Final, assert_never

from app.orders.commands import (
    CancelOrder,
    Command,
    ConfirmOrder,
    EndSubmission,
    ExpireOrder,
    FireTrigger,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RejectOrder,
    RestOrder,
    RetryDraw,
    RouteAttempt,
    Selection,
    StartAttempt,
)
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelCode,
    CancelRejected,
    CancelRequested,
    Chosen,
    Event,
    Failure,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    Proof,
    Quote,
    QuotesCollected,
    Retry,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
    TriggerFired,
)
from app.orders.guards import FAILURES_OF, POLICY, WAITS, Answers, Trip, first_trip
from app.orders.lifecycle import CANCELLATIONS, FAILURES, failure_of
from app.orders.money import format_units, max_in, min_out
from app.orders.state import (
    MAX_ATTEMPTS,
    Absent,
    Accepted,
    Building,
    CancelPending,
    Live,
    Resting,
    Routing,
    State,
    Submitted,
    Terms,
    Triggered,
    Unsent,
    Waiting,
)
from app.orders.times import format_time, parse_time

RETRY_DELAY_MS: Final = 500
RETRY_DELAY_MS_MAX: Final = 8_000
CHECK_DELAY_MS: Final = 1_000
CHECK_DELAY_MS_MAX: Final = 8_000
ENGINE: Final = "engine"
"""Who cancels an order that its own terms end."""
_MILLION: Final = 1_000_000
_IMMEDIATE: Final[dict[str, CancelCode]] = {"IOC": "immediate_or_cancel", "FOK": "fill_or_kill"}


def decide(state: State, command: Command) -> tuple[Event, ...]:
    """Return the events that ``command`` causes in ``state``, oldest first; empty where the state has moved past it.

    The events of one call belong into one commit. :func:`app.orders.evolve.evolve` accepts them in this order.
    """
    match command:
        case PlaceOrder():
            return (_accepted(command),) if isinstance(state, Absent) else ()
        case RestOrder(trigger=trigger, slot=slot):
            return (OrderRested(trigger=trigger, slot=slot),) if _may_rest(state) else ()
        case FireTrigger():
            return (_triggered(command),) if _may_fire(state, command) else ()
        case RejectOrder(code=code):
            return (OrderRejected(error=failure_of(code)),) if isinstance(state, Accepted) else ()
        case StartAttempt():
            return _start(state)
        case RouteAttempt():
            return _route(state, command) if isinstance(state, Routing) else ()
        case RecordIntent():
            return _intent(command) if isinstance(state, Building) else ()
        case ConfirmOrder():
            return _confirm(state, command)
        case EndSubmission():
            return _end_submission(state, command) if isinstance(state, Live) else ()
        case PostponeResolve():
            return _postpone(state, command) if isinstance(state, Live) else ()
        case CancelOrder(by=by):
            return _cancel(state, by)
        case ExpireOrder(now_us=now_us):
            return (_expired(state.terms),) if isinstance(state, Unsent) and is_over(state.terms, now_us) else ()
        case _:
            assert_never(command)


def is_over(terms: Terms, now_us: int) -> bool:
    """Return whether the order's own time has come to end."""
    return terms.expire_at is not None and now_us >= parse_time(terms.expire_at)


def _accepted(command: PlaceOrder) -> OrderAccepted:
    return OrderAccepted(
        side=command.side,
        base_asset=command.base_asset,
        quote_asset=command.quote_asset,
        amount=format_units(command.amount, command.base_decimals),
        decimals=(command.base_decimals, command.quote_decimals),
        order_type=command.order_type,
        slippage_bps=command.slippage_bps,
        limit_price=command.limit_price,
        time_in_force=command.time_in_force,
        expire_at=None if command.expire_at_us is None else format_time(command.expire_at_us),
        max_fee_bps=command.max_fee_bps,
        max_impact_bps=command.max_impact_bps,
        min_venues=command.min_venues,
        idempotency_key=command.idempotency_key,
        fingerprint=command.fingerprint,
    )


def _may_rest(state: State) -> bool:
    return isinstance(state, Accepted) and state.terms.rests


def _may_fire(state: State, command: FireTrigger) -> bool:
    if isinstance(state, Resting):
        # A trigger counts from the slot after the one at which the order came to rest.
        return state.trigger == command.trigger and command.slot > state.slot
    return _may_rest(state)


def _triggered(command: FireTrigger) -> TriggerFired:
    return TriggerFired(
        trigger=command.trigger,
        slot=command.slot,
        observed=command.observed,
        venue=command.venue,
        launch_slot=command.launch_slot,
    )


def _start(state: State) -> tuple[Event, ...]:
    match state:
        case Accepted(terms=terms) if not terms.rests:
            return (AttemptStarted(attempt=1),)
        case Triggered(attempt=attempt) | Waiting(attempt=attempt):
            return (AttemptStarted(attempt=attempt),)
        case _:
            return ()


def _route(state: Routing, command: RouteAttempt) -> tuple[Event, ...]:
    terms, selection = state.terms, command.selection
    reference = None if command.reference is None else format_units(command.reference, terms.quote_decimals)
    collected = QuotesCollected(
        slot=command.slot, quotes=command.quotes, reference=reference, launch_slot=command.launch_slot
    )
    answers = Answers(
        terms=terms,
        limit=state.limit,
        slot=command.slot,
        quotes=command.quotes,
        selection=selection,
        reference=command.reference,
    )
    trip = first_trip(answers)
    if trip is not None:
        return (collected, *_trip(state, command, trip))
    if selection is None:
        return (collected, *_end_attempt(state.terms, state.attempt, _no_price(command.quotes), command.retry))
    return (collected, _selected(state, selection, command.steps))


def _no_price(quotes: tuple[Quote, ...]) -> Failure:
    codes = {quote.code for quote in quotes}
    if codes == {"no_liquidity"}:
        return failure_of("no_liquidity")
    return failure_of("not_launched" if codes == {"not_launched"} else "no_quote")


def _trip(state: Routing, command: RouteAttempt, trip: Trip) -> tuple[Event, ...]:
    tripped = PriceProtectionTripped(
        guard=trip.guard,
        unit=trip.unit,
        limit=trip.limit,
        observed=trip.observed,
        guards=POLICY,
        passed=trip.passed,
    )
    if trip.guard in WAITS and state.terms.rests and command.rearmed is not None:
        return (tripped, OrderRested(trigger=command.rearmed, slot=command.slot))
    return (tripped, *_end_attempt(state.terms, state.attempt, failure_of(FAILURES_OF[trip.guard]), command.retry))


def _selected(state: Routing, selection: Selection, steps: tuple[str, ...]) -> RouteSelected:
    terms = state.terms
    text = format_units(route_limit(terms, state.limit, selection.amount), terms.quote_decimals)
    return RouteSelected(
        policy=selection.policy,
        guards=POLICY,
        steps=steps,
        chosen=Chosen(venue=selection.venue, amount=format_units(selection.amount, terms.quote_decimals)),
        decision=selection.decision,
        runner_up=selection.runner_up,
        edge_bps=selection.edge_bps,
        min_out=text if terms.side == "sell" else None,
        max_in=text if terms.side == "buy" else None,
    )


def route_limit(terms: Terms, anchored: int | None, amount: int) -> int:
    """Return the worst acceptable amount of a route: the anchor, else slippage and limit price, the stricter one."""
    if anchored is not None:
        return anchored
    slippage = (min_out if terms.side == "sell" else max_in)(amount, terms.slippage_bps)
    return slippage if terms.floor is None or terms.is_worse(terms.floor, slippage) else terms.floor


def _intent(command: RecordIntent) -> tuple[Event, ...]:
    return (
        SubmitIntentRecorded(tx_id=command.tx_id, message=command.message, last_valid_height=command.last_valid_height),
    )


def _confirm(state: State, command: ConfirmOrder) -> tuple[Event, ...]:
    confirmed = OrderConfirmed(tx_id=command.tx_id, receipt=command.receipt)
    match state:
        case Submitted(tx_id=tx_id) if tx_id == command.tx_id:
            return (confirmed,)
        case CancelPending(submitted=submitted) if submitted.tx_id == command.tx_id:
            return (CancelRejected(reason="the swap was executed before it could be cancelled"), confirmed)
        case _:
            return ()


def _end_submission(state: Live, command: EndSubmission) -> tuple[Event, ...]:
    submitted = state.submitted if isinstance(state, CancelPending) else state
    if submitted.tx_id != command.proof.tx_id:
        return ()
    failure = _proof_failure(command.proof)
    if isinstance(state, CancelPending):
        return (
            AttemptFailed(attempt=submitted.attempt, error=failure, proof=command.proof),
            _cancelled(state.by, "requested"),
        )
    return _end_attempt(submitted.terms, submitted.attempt, failure, command.retry, command.proof)


def _postpone(state: Live, command: PostponeResolve) -> tuple[Event, ...]:
    cancel_pending = isinstance(state, CancelPending)
    submitted = state.submitted if isinstance(state, CancelPending) else state
    delay_ms = min(CHECK_DELAY_MS_MAX, CHECK_DELAY_MS << min(submitted.checks, 8))
    due_us = command.now_us + _scaled_us(delay_ms, command.speed_ppm)
    return (
        SubmissionUnknown(
            checks=submitted.checks + 1, next_check_at=format_time(due_us), cancel_pending=cancel_pending
        ),
    )


def _cancel(state: State, by: str) -> tuple[Event, ...]:
    if isinstance(state, Submitted):
        return (CancelRequested(by=by),)
    return (_cancelled(by, "requested"),) if isinstance(state, Unsent) else ()


def _cancelled(by: str, code: CancelCode) -> OrderCancelled:
    return OrderCancelled(by=by, code=code, message=CANCELLATIONS[code].message)


def _expired(terms: Terms) -> OrderExpired:
    assert terms.expire_at is not None
    return OrderExpired(expire_at=terms.expire_at)


def _proof_failure(proof: Proof) -> Failure:
    if proof.kind == "expired":
        return failure_of("blockhash_expired")
    if proof.error == "ExceededSlippage":
        return failure_of("slippage_exceeded")
    return failure_of("swap_rejected", proof.error or "")


def _end_attempt(
    terms: Terms, attempt: int, failure: Failure, draw: RetryDraw, proof: Proof | None = None
) -> tuple[Event, ...]:
    last = AttemptFailed(attempt=attempt, error=failure, proof=proof)
    if is_over(terms, draw.now_us):
        return (last, _expired(terms))
    if terms.time_in_force in _IMMEDIATE:
        return (last, _cancelled(ENGINE, _IMMEDIATE[terms.time_in_force]))
    if attempt >= MAX_ATTEMPTS or not FAILURES[failure.code].passing:
        return (last, OrderFailed(error=failure, attempts=attempt))
    delay_ms = _retry_delay_ms(attempt, draw)
    due_us = draw.now_us + _scaled_us(delay_ms, draw.speed_ppm)
    retry = Retry(attempt=attempt + 1, delay_ms=delay_ms, due_at=format_time(due_us))
    return (AttemptFailed(attempt=attempt, error=failure, proof=proof, retry=retry),)


def _retry_delay_ms(attempt: int, draw: RetryDraw) -> int:
    """Full jitter: a drawn part of min(8,000, 500 · 2^(attempt − 1)) ms."""
    full_ms = min(RETRY_DELAY_MS_MAX, RETRY_DELAY_MS << (attempt - 1))
    return full_ms * draw.jitter_ppm // _MILLION


def _scaled_us(delay_ms: int, speed_ppm: int) -> int:
    return delay_ms * 1_000 * _MILLION // speed_ppm if speed_ppm else 0
