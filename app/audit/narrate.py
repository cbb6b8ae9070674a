"""What an event says, in one line for people."""

from typing import Final, assert_never

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
    Proof,
    Quote,
    QuotesCollected,
    Receipt,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
    Trigger,
    TriggerFired,
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
            return _order_text(event)
        case OrderRested(trigger=trigger, slot=slot):
            return f"waits from slot {slot} on for {_trigger_text(trigger)}"
        case TriggerFired():
            return _evidence_text(event)
        case AttemptStarted(attempt=attempt):
            return f"attempt {attempt} of {MAX_ATTEMPTS}"
        case QuotesCollected(slot=slot, quotes=quotes):
            return f"slot {slot}: " + "; ".join(_quote_text(quote, quote_asset) for quote in quotes)
        case RouteSelected():
            return _route_text(event, quote_asset)
        case PriceProtectionTripped(guard=guard, unit=unit, limit=limit, observed=observed):
            return f"{guard} guard: {observed} {unit} is past the limit {limit} {unit}"
        case SubmitIntentRecorded(tx_id=tx_id, last_valid_height=height):
            return f"tx {tx_id}, valid up to height {height}"
        case SubmissionUnknown(checks=checks, next_check_at=due):
            return f"no outcome after check {checks}; next check at {due}"
        case AttemptFailed():
            return _failure_text(event)
        case OrderConfirmed(tx_id=tx_id, receipt=receipt):
            return _receipt_text(tx_id, receipt, order)
        case _:
            return _end_text(event)


def _end_text(
    event: CancelRequested | CancelRejected | OrderCancelled | OrderExpired | OrderRejected | OrderFailed,
) -> str:
    match event:
        case CancelRequested(by=by):
            return f"{by} asks to cancel; it depends on the swap that is on its way"
        case CancelRejected(reason=reason):
            return reason
        case OrderCancelled(by=by, code=code, message=message):
            return f"by {by}, {code}: {message}"
        case OrderExpired(expire_at=expire_at):
            return f"its time ended at {expire_at}"
        case OrderRejected(error=error):
            return f"{error.code}: {error.message}"
        case OrderFailed(error=error, attempts=attempts):
            return f"{error.code} after {attempts} attempts: {error.message}"
        case _:
            assert_never(event)


def _order_text(order: OrderAccepted) -> str:
    verb = "for" if order.side == "sell" else "with"
    terms = [f"{order.side} {order.amount} {order.base_asset} {verb} {order.quote_asset}", order.order_type]
    if order.limit_price is not None:
        bound = "at least" if order.side == "sell" else "at most"
        terms.append(f"{bound} {order.limit_price} {order.quote_asset} each, {order.time_in_force}")
    if order.max_fee_bps is not None:
        terms.append(f"pool fee at most {order.max_fee_bps} bps")
    terms.append(f"slippage {order.slippage_bps} bps")
    if order.expire_at is not None:
        terms.append(f"until {order.expire_at}")
    return ", ".join(terms)


def _trigger_text(trigger: Trigger) -> str:
    match trigger.when:
        case "launched":
            return f"the launch of {trigger.pair} and {trigger.level} slots more"
        case "rises_to":
            return f"{trigger.pair} to rise to 1.0001^{trigger.level}"
        case "falls_to":
            return f"{trigger.pair} to fall to 1.0001^{trigger.level}"
        case _:
            assert_never(trigger.when)


def _evidence_text(event: TriggerFired) -> str:
    trigger = event.trigger
    if trigger.when == "launched":
        seen = f"launched at slot {event.launch_slot}, {event.observed} slots ago"
    else:
        seen = f"{trigger.pair} at 1.0001^{event.observed}" + (f" on {event.venue}" if event.venue else "")
    return f"slot {event.slot}: {seen}; awaited was {_trigger_text(trigger)}"


def _quote_text(quote: Quote, asset: str) -> str:
    match quote.status:
        case "ok":
            return f"{quote.venue} {quote.amount}{asset}"
        case "stale":
            return f"{quote.venue} {quote.amount}{asset} of slot {quote.slot}, too old"
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
