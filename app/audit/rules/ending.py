"""How attempts and orders end: retries, proofs, receipts, and the one event after which nothing follows."""

from collections.abc import Iterator

from app.audit.findings import Fault
from app.audit.rules.comparing import NOTHING, Moment, same, shown
from app.orders.commands import EndSubmission, RetryDraw
from app.orders.decide import ENGINE, RETRY_DELAY_MS, RETRY_DELAY_MS_MAX, decide, is_over
from app.orders.events import (
    AttemptFailed,
    CancelCode,
    Failure,
    OrderCancelled,
    OrderExpired,
    OrderFailed,
    Proof,
    Receipt,
)
from app.orders.lifecycle import CANCELLATIONS, FAILURES, failure_of
from app.orders.money import format_units, parse_units
from app.orders.state import MAX_ATTEMPTS, CancelPending, Exhausted, Live, Quoted, Submitted, Terms, Unsent
from app.orders.times import format_time


def submission(state: Live) -> Submitted:
    """Return the swap that may be on its way."""
    return state.submitted if isinstance(state, CancelPending) else state


def failure_faults(state: Quoted | Live, event: AttemptFailed, moment: Moment) -> Iterator[Fault]:
    """Yield what an attempt's end says that the attempt, the order's terms or its proof do not."""
    attempt = state.attempt if isinstance(state, Quoted) else submission(state).attempt
    yield from same("attempts", "attempt", attempt, event.attempt)
    if not isinstance(state, CancelPending):
        yield from _retry_faults(state.terms, attempt, event, moment)
    if not isinstance(state, Quoted):
        yield from _proof_faults(state, event)
    elif event.proof is not None:
        yield Fault("proof", "no proof, as nothing was submitted", f"a proof for {event.proof.tx_id}")


def _retry_faults(terms: Terms, attempt: int, event: AttemptFailed, moment: Moment) -> Iterator[Fault]:
    last = _is_last(terms, attempt, event.error)
    if event.retry is None:
        if not last and not _may_be_over(terms, moment):
            yield Fault("attempts", f"attempt {attempt + 1} after a passing {event.error.code}", NOTHING)
        return
    yield from same("attempts", "retry.attempt", attempt + 1, event.retry.attempt)
    if last:
        yield Fault("attempts", f"no further attempt after {event.error.code}", f"retry.attempt {event.retry.attempt}")
    full_ms = min(RETRY_DELAY_MS_MAX, RETRY_DELAY_MS << (attempt - 1))
    if not 0 <= event.retry.delay_ms <= full_ms:
        yield Fault("attempts", f"a delay of at most {full_ms} ms", f"retry.delayMs {event.retry.delay_ms}")


def _is_last(terms: Terms, attempt: int, error: Failure) -> bool:
    """Return whether no attempt may follow, whatever the time is."""
    return attempt >= MAX_ATTEMPTS or terms.time_in_force != "GTC" or not FAILURES[error.code].passing


def _may_be_over(terms: Terms, moment: Moment) -> bool:
    return moment.at_us is None or is_over(terms, moment.at_us)


def _proof_faults(state: Live, event: AttemptFailed) -> Iterator[Fault]:
    submitted, proof = submission(state), event.proof
    if proof is None:
        yield Fault("proof", f"proof that {submitted.tx_id} did not and will not happen", NOTHING)
        return
    yield from same("proof", "proof.txId", submitted.tx_id, proof.tx_id)
    again = EndSubmission(proof=proof, retry=RetryDraw(now_us=0, jitter_ppm=0, speed_ppm=0))
    for decided in decide(state, again)[:1]:
        yield from same("proof", "error", getattr(decided, "error", None), event.error)
    if proof.kind == "failed_on_chain":
        if not proof.error:
            yield Fault("proof", "the error that the swap failed with on chain", NOTHING)
        return
    yield from _expiry_faults(submitted, proof)


def _expiry_faults(submitted: Submitted, proof: Proof) -> Iterator[Fault]:
    height = submitted.last_valid_height
    yield from same("proof", "proof.lastValidHeight", height, proof.last_valid_height)
    if proof.height is None or proof.height <= height:
        yield Fault("proof", f"a height above {height}", f"proof.height {shown(proof.height)}")


def receipt_faults(state: Submitted, receipt: Receipt) -> Iterator[Fault]:
    """Yield what a receipt says that was not ordered, or costs more than the limit allows, or does not add up."""
    terms = state.terms
    yield from same("receipt", "receipt.venue", state.venue, receipt.venue)
    ordered = format_units(terms.amount, terms.base_decimals)
    if terms.side == "sell":
        yield from same("receipt", "receipt.amountIn", ordered, receipt.amount_in)
        field, amount, paid_in = "receipt.amountOut", receipt.amount_out, terms.base_decimals
    else:
        yield from same("receipt", "receipt.amountOut", ordered, receipt.amount_out)
        field, amount, paid_in = "receipt.amountIn", receipt.amount_in, terms.quote_decimals
    if terms.is_worse(parse_units(amount, terms.quote_decimals), state.limit):
        yield Fault("protection", f"{field} {_limit_text(terms, state.limit)}", f"{field} {amount}")
    fees = receipt.fees
    parts = sum(parse_units(part or "0", paid_in) for part in (fees.lp, fees.protocol, fees.fund))
    yield from same("receipt", "receipt.fees that add up to", receipt.fee, format_units(parts, paid_in))


def _limit_text(terms: Terms, limit: int) -> str:
    bound = "at least" if terms.side == "sell" else "at most"
    return f"{bound} {format_units(limit, terms.quote_decimals)}"


def failed_faults(state: Exhausted, event: OrderFailed, moment: Moment) -> Iterator[Fault]:
    """Yield why an order did not fail: it may only when no attempt may follow, with the last one's reason."""
    yield from same("attempts", "attempts", state.attempt, event.attempts)
    yield from same("lifecycle", "error", state.error, event.error)
    code = _cancellation(state, moment)
    if code is not None:
        yield Fault("lifecycle", f"cancelled, {code}", "failed")
    elif not _is_last(state.terms, state.attempt, state.error):
        yield Fault("lifecycle", "expired, as attempts were left", "failed")


def cancelled_faults(state: Unsent | Exhausted, event: OrderCancelled, moment: Moment) -> Iterator[Fault]:
    """Yield why an order was not cancelled, or not by whom and for the reason given."""
    code: CancelCode | None = "requested"
    by = None
    if isinstance(state, Exhausted):
        code = _cancellation(state, moment)
        by = moment.before.by if isinstance(moment.before, CancelPending) else ENGINE
    yield from same("lifecycle", "code", code, event.code)
    if by is not None:
        yield from same("lifecycle", "by", by, event.by)
    yield from same("lifecycle", "message", CANCELLATIONS[event.code].message, event.message)


def _cancellation(state: Exhausted, moment: Moment) -> CancelCode | None:
    """Return the reason for which an order whose attempts are over is cancelled; None for one that is not."""
    if isinstance(moment.before, CancelPending):
        return "requested"
    immediate: dict[str, CancelCode] = {"IOC": "immediate_or_cancel", "FOK": "fill_or_kill"}
    return immediate.get(state.terms.time_in_force)


def expired_faults(state: Unsent | Exhausted, event: OrderExpired, moment: Moment) -> Iterator[Fault]:
    """Yield why an order's time was not over, or was not what ended it."""
    terms = state.terms
    yield from same("lifecycle", "expireAt", terms.expire_at, event.expire_at)
    if terms.expire_at is not None and not _may_be_over(terms, moment):
        at = "" if moment.at_us is None else format_time(moment.at_us)
        yield Fault("lifecycle", f"an end at {terms.expire_at} or later", f"an end at {at}")
    if isinstance(moment.before, CancelPending):
        yield Fault("lifecycle", "cancelled, requested", "expired")


def message_faults(error: Failure) -> Iterator[Fault]:
    """Yield where a failure's message is not the one of its code."""
    yield from same("lifecycle", "error.message", failure_of(error.code).message, error.message)
