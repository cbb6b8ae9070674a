"""(command, state) -> events: every decision about an order. A command that the state has outgrown yields no event."""

from typing import Final, assert_never

from app.orders.commands import (
    Command,
    ConfirmOrder,
    EndSubmission,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RetryDraw,
    RouteAttempt,
    Selection,
    StartAttempt,
)
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Chosen,
    Event,
    Failure,
    OrderAccepted,
    OrderConfirmed,
    OrderFailed,
    PriceProtectionTripped,
    Proof,
    QuotesCollected,
    Retry,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
)
from app.orders.money import format_units, max_in, min_out
from app.orders.state import (
    MAX_ATTEMPTS,
    Absent,
    Accepted,
    Building,
    Routing,
    State,
    Submitted,
    Terms,
    Waiting,
)
from app.orders.times import format_time

RETRY_DELAY_MS: Final = 500
RETRY_DELAY_MS_MAX: Final = 8_000
CHECK_DELAY_MS: Final = 1_000
CHECK_DELAY_MS_MAX: Final = 8_000
_MILLION: Final = 1_000_000


def decide(state: State, command: Command) -> tuple[Event, ...]:
    """Return the events that ``command`` causes in ``state``, oldest first; empty where the state has moved past it.

    The events of one call belong into one commit. :func:`app.orders.evolve.evolve` accepts them in this order.
    """
    match command:
        case PlaceOrder():
            return (_accepted(command),) if isinstance(state, Absent) else ()
        case StartAttempt():
            return _start(state)
        case RouteAttempt():
            return _route(state, command) if isinstance(state, Routing) else ()
        case RecordIntent():
            return _intent(state, command)
        case ConfirmOrder():
            if isinstance(state, Submitted) and state.tx_id == command.tx_id:
                return (OrderConfirmed(tx_id=command.tx_id, receipt=command.receipt),)
            return ()
        case EndSubmission():
            if isinstance(state, Submitted) and state.tx_id == command.proof.tx_id:
                return _end_attempt(state.attempt, _proof_failure(command.proof), command.retry, command.proof)
            return ()
        case PostponeResolve():
            return _postpone(state, command)
        case _:
            assert_never(command)


def _accepted(command: PlaceOrder) -> OrderAccepted:
    return OrderAccepted(
        side=command.side,
        base_asset=command.base_asset,
        quote_asset=command.quote_asset,
        amount=format_units(command.amount, command.base_decimals),
        decimals=(command.base_decimals, command.quote_decimals),
        order_type="market",
        slippage_bps=command.slippage_bps,
        idempotency_key=command.idempotency_key,
        fingerprint=command.fingerprint,
    )


def _start(state: State) -> tuple[Event, ...]:
    match state:
        case Accepted():
            return (AttemptStarted(attempt=1),)
        case Waiting(attempt=attempt):
            return (AttemptStarted(attempt=attempt),)
        case _:
            return ()


def _route(state: Routing, command: RouteAttempt) -> tuple[Event, ...]:
    collected = QuotesCollected(slot=command.slot, quotes=command.quotes)
    selection = command.selection
    if selection is None:
        failure = Failure(code="no_quote", message="no venue gave a usable quote; see the quotes of each attempt")
        return (collected, *_end_attempt(state.attempt, failure, command.retry))
    terms = state.terms
    if state.limit is not None and _worse(terms, selection.amount, state.limit):
        tripped = PriceProtectionTripped(
            guard="anchor",
            limit=format_units(state.limit, terms.quote_decimals),
            observed=format_units(selection.amount, terms.quote_decimals),
        )
        failure = Failure(
            code="price_protected",
            message="the price moved past the order's slippage limit, which is anchored to its first quote",
        )
        return (collected, tripped, *_end_attempt(state.attempt, failure, command.retry))
    return (collected, _selected(terms, selection, state.limit))


def _worse(terms: Terms, amount: int, limit: int) -> bool:
    return amount < limit if terms.side == "sell" else amount > limit


def _selected(terms: Terms, selection: Selection, anchored: int | None) -> RouteSelected:
    protect = min_out if terms.side == "sell" else max_in
    limit = protect(selection.amount, terms.slippage_bps) if anchored is None else anchored
    text = format_units(limit, terms.quote_decimals)
    return RouteSelected(
        policy=selection.policy,
        chosen=Chosen(venue=selection.venue, amount=format_units(selection.amount, terms.quote_decimals)),
        decision=selection.decision,
        runner_up=selection.runner_up,
        edge_bps=selection.edge_bps,
        min_out=text if terms.side == "sell" else None,
        max_in=text if terms.side == "buy" else None,
    )


def _intent(state: State, command: RecordIntent) -> tuple[Event, ...]:
    if not isinstance(state, Building):
        return ()
    return (
        SubmitIntentRecorded(tx_id=command.tx_id, message=command.message, last_valid_height=command.last_valid_height),
    )


def _postpone(state: State, command: PostponeResolve) -> tuple[Event, ...]:
    if not isinstance(state, Submitted):
        return ()
    delay_ms = min(CHECK_DELAY_MS_MAX, CHECK_DELAY_MS << min(state.checks, 8))
    due_us = command.now_us + _scaled_us(delay_ms, command.speed_ppm)
    return (SubmissionUnknown(checks=state.checks + 1, next_check_at=format_time(due_us)),)


def _proof_failure(proof: Proof) -> Failure:
    if proof.kind == "expired":
        return Failure(
            code="blockhash_expired",
            message="the swap never landed and its blockhash has expired, so it never will",
        )
    if proof.error == "ExceededSlippage":
        return Failure(code="slippage_exceeded", message="the swap failed on chain: the price moved past the limit")
    return Failure(code="swap_rejected", message=f"the swap failed on chain: {proof.error}")


def _end_attempt(attempt: int, failure: Failure, draw: RetryDraw, proof: Proof | None = None) -> tuple[Event, ...]:
    if attempt >= MAX_ATTEMPTS:
        return (
            AttemptFailed(attempt=attempt, error=failure, proof=proof),
            OrderFailed(error=failure, attempts=attempt),
        )
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
