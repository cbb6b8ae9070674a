"""What an event says, in one line for people."""

from typing import Final, assert_never

from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    OrderAccepted,
    OrderConfirmed,
    OrderFailed,
    PriceProtectionTripped,
    Proof,
    Quote,
    QuotesCollected,
    Receipt,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
)
from app.orders.state import MAX_ATTEMPTS

NETWORK_ASSET: Final = "SOL"


def narrate(event: Event, order: OrderAccepted | None) -> str:
    """Return what ``event`` says; ``order`` names the assets, None where it is unknown.

    Messages and reasons are quoted as recorded: whoever prints them to a terminal removes control characters.
    """
    quote_asset = f" {order.quote_asset}" if order is not None else ""
    match event:
        case OrderAccepted():
            verb = "for" if event.side == "sell" else "with"
            pair = f"{event.side} {event.amount} {event.base_asset} {verb} {event.quote_asset}"
            return f"{pair}, {event.order_type}, slippage {event.slippage_bps} bps"
        case AttemptStarted(attempt=attempt):
            return f"attempt {attempt} of {MAX_ATTEMPTS}"
        case QuotesCollected(slot=slot, quotes=quotes):
            return f"slot {slot}: " + "; ".join(_quote_text(quote, quote_asset) for quote in quotes)
        case RouteSelected():
            return _route_text(event, quote_asset)
        case PriceProtectionTripped(guard=guard, limit=limit, observed=observed):
            return f"{guard} guard: {observed}{quote_asset} is past the limit {limit}{quote_asset}"
        case SubmitIntentRecorded(tx_id=tx_id, last_valid_height=height):
            return f"tx {tx_id}, valid up to height {height}"
        case SubmissionUnknown(checks=checks, next_check_at=due):
            return f"no outcome after check {checks}; next check at {due}"
        case AttemptFailed():
            return _failure_text(event)
        case OrderConfirmed(tx_id=tx_id, receipt=receipt):
            return _receipt_text(tx_id, receipt, order)
        case OrderFailed(error=error, attempts=attempts):
            return f"{error.code} after {attempts} attempts: {error.message}"
        case _:
            assert_never(event)


def _quote_text(quote: Quote, asset: str) -> str:
    match quote.status:
        case "ok":
            return f"{quote.venue} {quote.amount}{asset}"
        case "timeout":
            return f"{quote.venue} no answer in time"
        case "error":
            return f"{quote.venue} no price: {quote.reason}"
        case _:
            assert_never(quote.status)


def _route_text(route: RouteSelected, asset: str) -> str:
    rival = (
        "the only usable quote" if route.runner_up is None else f"{route.edge_bps} bps better than {route.runner_up}"
    )
    limit = f"min out {route.min_out}" if route.min_out is not None else f"max in {route.max_in}"
    choice = f"{route.chosen.venue} {route.chosen.amount}{asset}, {rival}"
    return f"{choice}; {limit}{asset}; {route.policy}, decision {route.decision}"


def _failure_text(event: AttemptFailed) -> str:
    text = f"attempt {event.attempt}: {event.error.code}, {event.error.message}"
    if event.proof is not None:
        text += f"; proof: {_proof_text(event.proof)}"
    if event.retry is not None:
        text += f"; attempt {event.retry.attempt} after {event.retry.delay_ms} ms, due {event.retry.due_at}"
    return text


def _proof_text(proof: Proof) -> str:
    if proof.kind == "failed_on_chain":
        return f"tx {proof.tx_id} failed on chain with {proof.error} in slot {proof.slot}"
    return f"tx {proof.tx_id} absent at height {proof.height}, past its last valid height {proof.last_valid_height}"


def _receipt_text(tx_id: str, receipt: Receipt, order: OrderAccepted | None) -> str:
    paid, received = "", ""
    if order is not None:
        paid, received = f" {order.base_asset}", f" {order.quote_asset}"
        if order.side == "buy":
            paid, received = received, paid
    swap = f"{receipt.venue}: paid {receipt.amount_in}{paid}, received {receipt.amount_out}{received}"
    fees = f"pool fee {receipt.fee}{paid}, network fee {receipt.network_fee} {NETWORK_ASSET}"
    return f"{swap}; {fees}; slot {receipt.slot}; tx {tx_id}"
