"""What an order may wait for, and the evidence that it came."""

from collections.abc import Iterator

from app.audit.findings import Fault
from app.audit.rules.comparing import Moment, same, shown
from app.dex.errors import UnknownPairError, UnknownTokenError
from app.dex.tokens import launch_number, pair_of, token
from app.orders.events import OrderAccepted, OrderRested, PriceProtectionTripped, Trigger, TriggerFired, When
from app.orders.guards import WAITS
from app.orders.state import Accepted, Quoted, Resting, Terms


def term_faults(order: OrderAccepted) -> Iterator[Fault]:
    """Yield where an order's type and its terms do not belong together."""
    limited = order.order_type == "limit"
    if limited != (order.limit_price is not None):
        expected = "a limitPrice" if limited else "no limitPrice"
        yield Fault(
            "protection", f"{expected} for a {order.order_type} order", f"limitPrice {shown(order.limit_price)}"
        )
    if not limited:
        yield from same("protection", "timeInForce", "GTC", order.time_in_force)


def rest_faults(state: Accepted | Quoted, event: OrderRested, moment: Moment) -> Iterator[Fault]:
    """Yield why an order may not wait now, or not for this: once it began, only a guard sends it back."""
    yield from _watch_faults(state.terms, event.trigger)
    if isinstance(state, Accepted):
        return
    yield from same("trigger", "slot", state.slot, event.slot)
    if not (isinstance(moment.last, PriceProtectionTripped) and moment.last.guard in WAITS):
        expected = f"one of the guards {', '.join(sorted(WAITS))} tripped before"
        yield Fault("protection", expected, type(moment.last).__name__)


def trigger_faults(state: Accepted | Resting, event: TriggerFired) -> Iterator[Fault]:
    """Yield what is missing in the evidence: it meets the trigger that the order waits for, after it came to wait."""
    trigger = event.trigger
    if isinstance(state, Resting):
        yield from same("trigger", "trigger", _words(state.trigger), _words(trigger))
        if event.slot <= state.slot:
            yield Fault("trigger", f"a slot after {state.slot}", f"slot {event.slot}")
    else:
        yield from _watch_faults(state.terms, trigger)
    if not _is_met(trigger, event.observed):
        bound = "at most" if trigger.when == "falls_to" else "at least"
        yield Fault("trigger", f"observed {bound} {trigger.level}", f"observed {event.observed}")
    if trigger.when == "launched":
        since = None if event.launch_slot is None else event.slot - event.launch_slot
        yield from same("trigger", "slots since the launch", since, event.observed)


def _is_met(trigger: Trigger, observed: int) -> bool:
    return observed <= trigger.level if trigger.when == "falls_to" else observed >= trigger.level


def _watch_faults(terms: Terms, trigger: Trigger) -> Iterator[Fault]:
    try:
        pair = pair_of(token(terms.base_asset), token(terms.quote_asset))
    except (UnknownTokenError, UnknownPairError) as error:
        yield Fault("trigger", "two assets that are traded", str(error))
        return
    yield from same("trigger", "pair", pair.name, trigger.pair)
    yield from same("trigger", "when", _direction(terms, pair.base.symbol), trigger.when)
    yield from same("trigger", "number", launch_number(pair.base) or 0, trigger.number)


def _direction(terms: Terms, pool_base: str) -> When:
    """Return what a good price is in the pool's orientation, which the order's may be the reverse of."""
    if terms.order_type == "sniper":
        return "launched"
    dear = terms.side == "sell"
    return "rises_to" if dear == (token(terms.base_asset).symbol == pool_base) else "falls_to"


def _words(trigger: Trigger) -> str:
    return f"{trigger.pair} {trigger.when} {trigger.level}"
