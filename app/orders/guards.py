"""The guards between the venues' answers and a route, in their fixed order; pure, so that an auditor repeats them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, get_args

from msgspec import Struct

from app.orders.commands import Selection
from app.orders.events import FailureCode, Guard, Quote
from app.orders.money import BPS, format_units, parse_units
from app.orders.state import Terms

POLICY: Final = "guards/1"
"""Names this order of evaluation and the constants below; a change of either is a new name."""
ORDER: Final[tuple[Guard, ...]] = get_args(Guard)
STALE_SLOTS_MAX: Final = 8
"""A quote of an older slot is not used."""
OUTLIER_BPS_MAX: Final = 1_000
"""A best quote that beats the second by more is taken for a mistake."""
COLLAR_BPS_MAX: Final = 1_500
"""Greatest distance from the reference price, either way."""
_ROUNDING_UNITS: Final = 2
_PPM_PER_BPS: Final = 100

FAILURES_OF: Final[dict[Guard, FailureCode]] = {
    "stale": "stale_quotes",
    "dust": "dust",
    "venues": "too_few_venues",
    "outlier": "outlier_quote",
    "impact": "impact_exceeded",
    "collar": "collar_exceeded",
    "fee": "fee_exceeded",
    "limit": "limit_not_met",
    "anchor": "price_protected",
}
WAITS: Final[frozenset[Guard]] = frozenset({"fee", "limit", "anchor"})
"""Guards after which an order that can rest waits for a better market instead of using an attempt up."""


class Answers(Struct, frozen=True, kw_only=True):
    """What an attempt knows when the venues have answered."""

    terms: Terms
    limit: int | None
    """The anchored limit, in quote base units."""
    slot: int
    quotes: Sequence[Quote]
    selection: Selection | None
    reference: int | None


class Trip(Struct, frozen=True):
    """A guard that says no; texts as :class:`app.orders.events.PriceProtectionTripped` has them."""

    guard: Guard
    unit: str
    limit: str
    observed: str

    @property
    def passed(self) -> tuple[Guard, ...]:
        """The guards that were evaluated before, in order."""
        return ORDER[: ORDER.index(self.guard)]


def first_trip(answers: Answers) -> Trip | None:
    """Return the first guard of :data:`ORDER` that refuses the best quote; None if all let it pass.

    Without any usable quote only ``stale`` and ``dust`` can trip: None then means that the venues gave no price at all.
    """
    return next((trip for guard in ORDER for trip in _GUARDS[guard](answers)), None)


def _stale(answers: Answers) -> Iterator[Trip]:
    ages = [answers.slot - quote.slot for quote in answers.quotes if quote.status == "stale" and quote.slot is not None]
    if answers.selection is None and ages:
        yield Trip("stale", "slots", str(STALE_SLOTS_MAX), str(min(ages)))


def _dust(answers: Answers) -> Iterator[Trip]:
    codes = {quote.code for quote in answers.quotes}
    if answers.selection is None and codes == {"dust"}:
        yield _money_trip("dust", answers.terms, 1, 0)


def _venues(answers: Answers) -> Iterator[Trip]:
    usable = sum(quote.status == "ok" for quote in answers.quotes)
    if answers.selection is not None and usable < answers.terms.min_venues:
        yield Trip("venues", "venues", str(answers.terms.min_venues), str(usable))


def _outlier(answers: Answers) -> Iterator[Trip]:
    edge_bps = None if answers.selection is None else answers.selection.edge_bps
    # Without a reference price, as after a launch, the venues' fees may be worlds apart.
    if answers.reference is not None and edge_bps is not None and edge_bps > OUTLIER_BPS_MAX:
        yield Trip("outlier", "bps", str(OUTLIER_BPS_MAX), str(edge_bps))


def _impact(answers: Answers) -> Iterator[Trip]:
    chosen = _chosen(answers)
    if chosen is None or chosen.impact_ppm is None:
        return
    if chosen.impact_ppm > answers.terms.max_impact_bps * _PPM_PER_BPS:
        observed_bps = -(-chosen.impact_ppm // _PPM_PER_BPS)
        yield Trip("impact", "bps", str(answers.terms.max_impact_bps), str(observed_bps))


def _collar(answers: Answers) -> Iterator[Trip]:
    selection, reference = answers.selection, answers.reference
    if selection is None or reference is None:
        return
    distance = max(0, abs(selection.amount - reference) - _ROUNDING_UNITS)
    if distance * BPS > COLLAR_BPS_MAX * reference:
        yield Trip("collar", "bps", str(COLLAR_BPS_MAX), str(distance * BPS // max(1, reference)))


def _fee(answers: Answers) -> Iterator[Trip]:
    terms, chosen = answers.terms, _chosen(answers)
    if terms.max_fee_bps is None or chosen is None or chosen.fee is None or answers.selection is None:
        return
    sell = terms.side == "sell"
    fee = parse_units(chosen.fee, terms.base_decimals if sell else terms.quote_decimals)
    paid = terms.amount if sell else answers.selection.amount
    if fee * BPS > terms.max_fee_bps * paid:
        yield Trip("fee", "bps", str(terms.max_fee_bps), str(-(-fee * BPS // paid)))


def _limit(answers: Answers) -> Iterator[Trip]:
    yield from _price_trip("limit", answers, answers.terms.floor)


def _anchor(answers: Answers) -> Iterator[Trip]:
    yield from _price_trip("anchor", answers, answers.limit)


def _price_trip(guard: Guard, answers: Answers, bound: int | None) -> Iterator[Trip]:
    selection = answers.selection
    if selection is not None and bound is not None and answers.terms.is_worse(selection.amount, bound):
        yield _money_trip(guard, answers.terms, bound, selection.amount)


def _money_trip(guard: Guard, terms: Terms, bound: int, observed: int) -> Trip:
    decimals = terms.quote_decimals
    return Trip(guard, terms.quote_asset, format_units(bound, decimals), format_units(observed, decimals))


def _chosen(answers: Answers) -> Quote | None:
    selection = answers.selection
    return next((quote for quote in answers.quotes if selection is not None and quote.venue == selection.venue), None)


_GUARDS: Final[dict[Guard, Callable[[Answers], Iterator[Trip]]]] = {
    "stale": _stale,
    "dust": _dust,
    "venues": _venues,
    "outlier": _outlier,
    "impact": _impact,
    "collar": _collar,
    "fee": _fee,
    "limit": _limit,
    "anchor": _anchor,
}
