"""What must hold between an order's state and its next event, beyond the lifecycle: each decision made once more."""

from collections.abc import Iterator, Sequence
from typing import Final

from app.audit.findings import Fault, Rule
from app.dex.router import choose
from app.orders.commands import Selection
from app.orders.errors import AmountError
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    OrderConfirmed,
    OrderFailed,
    PriceProtectionTripped,
    Proof,
    Quote,
    Receipt,
    RouteSelected,
)
from app.orders.money import format_units, max_in, min_out, parse_positive_units, parse_units
from app.orders.state import (
    MAX_ATTEMPTS,
    Accepted,
    Building,
    Exhausted,
    Quoted,
    Routing,
    State,
    Submitted,
    Terms,
    Waiting,
)

_NOTHING: Final = "none"


def rule_faults(state: State, event: Event) -> Iterator[Fault]:
    """Yield what ``event`` says that does not follow from ``state``; nothing for a pair that the lifecycle refuses.

    The routing decision is made again from the recorded quotes; limits, retries, proofs and receipts are compared with
    what the order, its route and its intent say.
    """
    try:
        yield from _faults(state, event)
    except AmountError as error:
        yield Fault("readable", "amounts with no more digits than their assets have", error.message)


def _faults(state: State, event: Event) -> Iterator[Fault]:
    match state, event:
        case Accepted(), AttemptStarted(attempt=attempt):
            yield from _same("attempts", "attempt", 1, attempt)
        case Waiting(attempt=due), AttemptStarted(attempt=attempt):
            yield from _same("attempts", "attempt", due, attempt)
        case Quoted(), RouteSelected():
            yield from _route_faults(state, event)
        case Quoted(), PriceProtectionTripped():
            yield from _guard_faults(state, event)
        case ((Routing() | Quoted() | Building() | Submitted()), AttemptFailed()):
            yield from _failure_faults(state, event)
        case Submitted(), OrderConfirmed():
            yield from _same("receipt", "txId", state.tx_id, event.tx_id)
            yield from _receipt_faults(state, event.receipt)
        case Exhausted(), OrderFailed():
            yield from _same("attempts", "attempts", state.attempt, event.attempts)
            yield from _same("lifecycle", "error", state.error.code, event.error.code)


def _same(rule: Rule, field: str, expected: object, found: object) -> Iterator[Fault]:
    if expected != found:
        yield Fault(rule, f"{field} {_shown(expected)}", f"{field} {_shown(found)}")


def _shown(value: object) -> str:
    return _NOTHING if value is None else str(value)


def _selection(terms: Terms, quotes: Sequence[Quote]) -> Selection | None:
    """Decide again, from the recorded quotes alone."""
    usable = {quote.venue: quote.amount for quote in quotes if quote.status == "ok" and quote.amount is not None}
    amounts = {venue: parse_positive_units(amount, terms.quote_decimals) for venue, amount in usable.items()}
    return choose(terms.side, amounts)


def _route_faults(state: Quoted, route: RouteSelected) -> Iterator[Fault]:
    terms = state.terms
    selection = _selection(terms, state.quotes)
    if selection is None:
        yield Fault("routing", "no route, as no venue gave a usable quote", f"chosen {route.chosen.venue}")
        return
    recorded = {
        "policy": route.policy,
        "chosen.venue": route.chosen.venue,
        "chosen.amount": route.chosen.amount,
        "decision": route.decision,
        "runnerUp": route.runner_up,
        "edgeBps": route.edge_bps,
    }
    decided = {
        "policy": selection.policy,
        "chosen.venue": selection.venue,
        "chosen.amount": format_units(selection.amount, terms.quote_decimals),
        "decision": selection.decision,
        "runnerUp": selection.runner_up,
        "edgeBps": selection.edge_bps,
    }
    for field, expected in decided.items():
        yield from _same("routing", field, expected, recorded[field])
    yield from _limit_faults(state, selection, route)


def _limit_faults(state: Quoted, selection: Selection, route: RouteSelected) -> Iterator[Fault]:
    terms = state.terms
    if state.limit is not None and _is_worse(terms, selection.amount, state.limit):
        yield Fault("protection", f"no route past {_limit_text(terms, state.limit)}", f"chosen {route.chosen.amount}")
    protect = min_out if terms.side == "sell" else max_in
    limit = protect(selection.amount, terms.slippage_bps) if state.limit is None else state.limit
    recorded = {"minOut": route.min_out, "maxIn": route.max_in}
    required = "minOut" if terms.side == "sell" else "maxIn"
    for field, found in recorded.items():
        expected = format_units(limit, terms.quote_decimals) if field == required else None
        yield from _same("protection", field, expected, found)


def _guard_faults(state: Quoted, event: PriceProtectionTripped) -> Iterator[Fault]:
    terms = state.terms
    selection = _selection(terms, state.quotes)
    if state.limit is None or selection is None or not _is_worse(terms, selection.amount, state.limit):
        yield Fault("protection", "a route, as the best quote keeps the limit", f"{event.guard} tripped")
        return
    yield from _same("protection", "limit", format_units(state.limit, terms.quote_decimals), event.limit)
    yield from _same("protection", "observed", format_units(selection.amount, terms.quote_decimals), event.observed)


def _failure_faults(state: Routing | Quoted | Building | Submitted, event: AttemptFailed) -> Iterator[Fault]:
    yield from _same("attempts", "attempt", state.attempt, event.attempt)
    if event.retry is not None:
        yield from _same("attempts", "retry.attempt", state.attempt + 1, event.retry.attempt)
        if event.retry.attempt > MAX_ATTEMPTS:
            yield Fault("attempts", f"at most {MAX_ATTEMPTS} attempts", f"retry.attempt {event.retry.attempt}")
    if isinstance(state, Submitted):
        yield from _proof_faults(state, event.proof)
    elif event.proof is not None:
        yield Fault("proof", "no proof, as nothing was submitted", f"a proof for {event.proof.tx_id}")
    if isinstance(state, Quoted):
        yield from _unrouted_faults(state, event)


def _unrouted_faults(state: Quoted, event: AttemptFailed) -> Iterator[Fault]:
    selection = _selection(state.terms, state.quotes)
    if selection is None:
        yield from _same("routing", "error.code", "no_quote", event.error.code)
    elif state.limit is None or not _is_worse(state.terms, selection.amount, state.limit):
        yield Fault("routing", f"chosen {selection.venue}", f"no route: {event.error.code}")
    else:
        yield from _same("protection", "error.code", "price_protected", event.error.code)


def _proof_faults(state: Submitted, proof: Proof | None) -> Iterator[Fault]:
    if proof is None:
        yield Fault("proof", f"proof that {state.tx_id} did not and will not happen", _NOTHING)
        return
    yield from _same("proof", "proof.txId", state.tx_id, proof.tx_id)
    if proof.kind == "failed_on_chain":
        if not proof.error:
            yield Fault("proof", "the error that the swap failed with on chain", _NOTHING)
        return
    yield from _same("proof", "proof.lastValidHeight", state.last_valid_height, proof.last_valid_height)
    if proof.height is None or proof.height <= state.last_valid_height:
        yield Fault("proof", f"a height above {state.last_valid_height}", f"proof.height {_shown(proof.height)}")


def _receipt_faults(state: Submitted, receipt: Receipt) -> Iterator[Fault]:
    terms = state.terms
    yield from _same("receipt", "receipt.venue", state.venue, receipt.venue)
    ordered = format_units(terms.amount, terms.base_decimals)
    if terms.side == "sell":
        yield from _same("receipt", "receipt.amountIn", ordered, receipt.amount_in)
        field, amount = "receipt.amountOut", receipt.amount_out
    else:
        yield from _same("receipt", "receipt.amountOut", ordered, receipt.amount_out)
        field, amount = "receipt.amountIn", receipt.amount_in
    if _is_worse(terms, parse_units(amount, terms.quote_decimals), state.limit):
        yield Fault("protection", f"{field} {_limit_text(terms, state.limit)}", f"{field} {amount}")


def _is_worse(terms: Terms, amount: int, limit: int) -> bool:
    return amount < limit if terms.side == "sell" else amount > limit


def _limit_text(terms: Terms, limit: int) -> str:
    bound = "at least" if terms.side == "sell" else "at most"
    return f"{bound} {format_units(limit, terms.quote_decimals)}"
