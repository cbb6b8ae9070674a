"""From quotes to a route, or to none: guards and policy evaluated once more on what was recorded."""

from collections.abc import Iterator, Sequence

from app.audit.findings import Fault
from app.audit.rules.comparing import NOTHING, Moment, same
from app.dex.errors import UnknownPairError, UnknownTokenError
from app.dex.router import choose
from app.dex.tokens import token
from app.dex.transaction import instructions
from app.dex.venue import Swap
from app.orders.commands import RetryDraw, RouteAttempt, Selection
from app.orders.decide import decide, route_limit
from app.orders.events import AttemptFailed, PriceProtectionTripped, Quote, RouteSelected
from app.orders.guards import FAILURES_OF, POLICY, Answers, Trip, first_trip
from app.orders.lifecycle import failure_of
from app.orders.money import format_units, parse_positive_units
from app.orders.state import Quoted, Routing, Terms


def route_faults(state: Quoted, route: RouteSelected) -> Iterator[Fault]:
    """Yield where a route is not the one that policy, guards and limit give."""
    terms, selection, trip = state.terms, _selection(state.terms, state.quotes), _trip(state)
    if selection is None:
        yield Fault("routing", "no route, as no venue gave a usable quote", f"chosen {route.chosen.venue}")
        return
    if trip is not None:
        expected = f"no route, as the {trip.guard} guard finds {trip.observed} past {trip.limit} {trip.unit}"
        yield Fault("protection", expected, f"chosen {route.chosen.amount}")
    yield from same("protection", "guards", POLICY, route.guards)
    yield from _selection_faults(terms, selection, route)
    yield from _step_faults(state, route)
    limit = format_units(route_limit(terms, state.limit, selection.amount), terms.quote_decimals)
    required = "minOut" if terms.side == "sell" else "maxIn"
    for field, found in {"minOut": route.min_out, "maxIn": route.max_in}.items():
        yield from same("protection", field, limit if field == required else None, found)


def trip_faults(state: Quoted, event: PriceProtectionTripped) -> Iterator[Fault]:
    """Yield where a guard that tripped is not the first that has to."""
    trip = _trip(state)
    if trip is None:
        yield Fault("protection", "every guard passed", f"{event.guard} tripped")
        return
    decided = {
        "guard": trip.guard,
        "unit": trip.unit,
        "limit": trip.limit,
        "observed": trip.observed,
        "passed": " ".join(trip.passed),
        "guards": POLICY,
    }
    recorded = {
        "guard": event.guard,
        "unit": event.unit,
        "limit": event.limit,
        "observed": event.observed,
        "passed": " ".join(event.passed),
        "guards": event.guards,
    }
    for field, expected in decided.items():
        yield from same("protection", field, expected, recorded[field])


def unrouted_faults(state: Quoted, event: AttemptFailed, moment: Moment) -> Iterator[Fault]:
    """Yield why an attempt did not end without a route, or not for the reason given."""
    selection, trip = _selection(state.terms, state.quotes), _trip(state)
    if trip is not None:
        if not isinstance(moment.last, PriceProtectionTripped):
            yield Fault("protection", f"price_protected by the {trip.guard} guard before", NOTHING)
        yield from same("protection", "error.code", FAILURES_OF[trip.guard], event.error.code)
        yield from same("lifecycle", "error.message", failure_of(event.error.code).message, event.error.message)
    elif selection is not None:
        yield Fault("routing", f"chosen {selection.venue}", f"no route: {event.error.code}")
    else:
        yield from same("routing", "error", _unquoted(state), event.error)


def _trip(state: Quoted) -> Trip | None:
    answers = Answers(
        terms=state.terms,
        limit=state.limit,
        slot=state.slot,
        quotes=state.quotes,
        selection=_selection(state.terms, state.quotes),
        reference=state.reference,
    )
    return first_trip(answers)


def _selection(terms: Terms, quotes: Sequence[Quote]) -> Selection | None:
    """Decide again, from the recorded quotes alone."""
    usable = {quote.venue: quote.amount for quote in quotes if quote.status == "ok" and quote.amount is not None}
    amounts = {venue: parse_positive_units(amount, terms.quote_decimals) for venue, amount in usable.items()}
    return choose(terms.side, amounts)


def _selection_faults(terms: Terms, selection: Selection, route: RouteSelected) -> Iterator[Fault]:
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
        yield from same("routing", field, expected, recorded[field])


def _step_faults(state: Quoted, route: RouteSelected) -> Iterator[Fault]:
    terms = state.terms
    try:
        base, quote = token(terms.base_asset), token(terms.quote_asset)
        swap = Swap(order_id="", attempt=state.attempt, side=terms.side, base=base, quote=quote, amount=terms.amount)
        steps = " ".join(instructions(swap))
    except (UnknownTokenError, UnknownPairError) as error:
        yield Fault("routing", "two assets that are traded", str(error))
        return
    yield from same("routing", "steps", steps, " ".join(route.steps))


def _unquoted(state: Quoted) -> object:
    """Return the failure of an attempt to which no venue gave a price."""
    again = RouteAttempt(
        slot=state.slot,
        quotes=state.quotes,
        selection=None,
        retry=RetryDraw(now_us=0, jitter_ppm=0, speed_ppm=0),
    )
    routing = Routing(terms=state.terms, attempt=state.attempt, limit=state.limit)
    return next(event.error for event in decide(routing, again) if isinstance(event, AttemptFailed))
