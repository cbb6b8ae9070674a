"""The guards: each at its boundary, one unit either side, alone and as the first of several."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.dex.router import choose
from app.orders.events import Guard, Quote
from app.orders.guards import FAILURES_OF, ORDER, Answers, Trip, first_trip
from app.orders.money import format_units
from app.orders.state import Terms

SELL: Final = Terms(
    side="sell",
    base_asset="SOL",
    quote_asset="USDC",
    base_decimals=9,
    quote_decimals=6,
    amount=1_000_000_000,
    slippage_bps=50,
)
BUY: Final = replace(SELL, side="buy")
MILLION: Final = 1_000_000


def answered(amounts: dict[str, int], terms: Terms = SELL, **facts: Any) -> Answers:
    """Answers of venues that quote these amounts, without fee and impact, at the reference price of the best."""
    selection = choose(terms.side, amounts)
    quotes = [
        Quote(venue=name, amount=format_units(amount, 6), fee="0", impact_ppm=0) for name, amount in amounts.items()
    ]
    known = {"limit": None, "slot": 100, "quotes": quotes, "reference": selection and selection.amount}
    return Answers(terms=terms, selection=selection, **{**known, **facts})


def refused(*quotes: Quote) -> Answers:
    """Answers without any usable quote."""
    return answered({}, quotes=quotes)


def changed(answers: Answers, **facts: Any) -> Answers:
    """The same with other facts of the chosen quote."""
    return replace(answers, quotes=[replace(answers.quotes[0], **facts), *answers.quotes[1:]])


def stale(slot: int) -> Quote:
    return Quote(venue="raydium", status="stale", amount="1", fee="0", impact_ppm=0, slot=slot)


def error(code: Any) -> Quote:
    return Quote(venue="meteora", status="error", reason="no", code=code)


ONE: Final = {"raydium": 300 * MILLION}

BOUNDARIES: Final[list[tuple[str, Answers, Trip | None]]] = [
    (
        "a usable quote beside a stale one",
        answered(ONE, quotes=[Quote(venue="raydium", amount="300"), stale(91)]),
        None,
    ),
    ("stale quotes only", refused(stale(90), stale(91)), Trip("stale", "slots", "8", "9")),
    ("no quotes", refused(), None),
    ("dust everywhere", refused(error("dust"), error("dust")), Trip("dust", "USDC", "0.000001", "0")),
    ("dust at one venue", refused(error("dust"), error("no_liquidity")), None),
    ("as many venues as asked", answered(ONE, replace(SELL, min_venues=1)), None),
    ("a venue too few", answered(ONE, replace(SELL, min_venues=2)), Trip("venues", "venues", "2", "1")),
    ("an edge of 1000 bps", answered({"raydium": 10_000, "meteora": 9_000}), None),
    (
        "an edge of 1001 bps",
        answered({"raydium": 10_000, "meteora": 8_999}),
        Trip("outlier", "bps", "1000", "1001"),
    ),
    ("an edge without a reference", answered({"raydium": 10_000, "meteora": 1}, reference=None), None),
    ("an impact of 10 bps", changed(answered(ONE, replace(SELL, max_impact_bps=10)), impact_ppm=1_000), None),
    (
        "an impact of a millionth more",
        changed(answered(ONE, replace(SELL, max_impact_bps=10)), impact_ppm=1_001),
        Trip("impact", "bps", "10", "11"),
    ),
    ("15 % and two units below the reference", answered({"raydium": 849_998}, reference=MILLION), None),
    (
        "15 % and three units below the reference",
        answered({"raydium": 849_997}, reference=MILLION),
        Trip("collar", "bps", "1500", "1500"),
    ),
    ("15 % and two units above the reference", answered({"raydium": 1_150_002}, BUY, reference=MILLION), None),
    (
        "15 % and more above the reference",
        answered({"raydium": 1_150_102}, BUY, reference=MILLION),
        Trip("collar", "bps", "1500", "1501"),
    ),
    ("no reference", answered({"raydium": 1}, reference=None), None),
    ("a fee of 1 %", changed(answered(ONE, replace(SELL, max_fee_bps=100)), fee="0.01"), None),
    (
        "a fee of a unit more, sold",
        changed(answered(ONE, replace(SELL, max_fee_bps=100)), fee="0.010000001"),
        Trip("fee", "bps", "100", "101"),
    ),
    ("a fee of 1 %, bought", changed(answered(ONE, replace(BUY, max_fee_bps=100)), fee="3"), None),
    (
        "a fee of a unit more, bought",
        changed(answered(ONE, replace(BUY, max_fee_bps=100)), fee="3.000001"),
        Trip("fee", "bps", "100", "101"),
    ),
    ("a fee that nobody bounded", changed(answered(ONE), fee="1"), None),
    ("the limit price, sold", answered(ONE, replace(SELL, floor=300 * MILLION)), None),
    (
        "a unit less, sold",
        answered(ONE, replace(SELL, floor=300 * MILLION + 1)),
        Trip("limit", "USDC", "300.000001", "300"),
    ),
    ("the limit price, bought", answered(ONE, replace(BUY, floor=300 * MILLION)), None),
    (
        "a unit more, bought",
        answered(ONE, replace(BUY, floor=300 * MILLION - 1)),
        Trip("limit", "USDC", "299.999999", "300"),
    ),
    ("the anchor, sold", answered(ONE, limit=300 * MILLION), None),
    ("a unit below the anchor", answered(ONE, limit=300 * MILLION + 1), Trip("anchor", "USDC", "300.000001", "300")),
    ("the anchor, bought", answered(ONE, BUY, limit=300 * MILLION), None),
    ("a unit above it", answered(ONE, BUY, limit=300 * MILLION - 1), Trip("anchor", "USDC", "299.999999", "300")),
]


@pytest.mark.parametrize("answers,trip", [case[1:] for case in BOUNDARIES], ids=[case[0] for case in BOUNDARIES])
def test_each_guard_trips_one_unit_past_its_limit_and_not_before(answers: Answers, trip: Trip | None) -> None:
    assert first_trip(answers) == trip


def test_every_guard_has_a_boundary_and_a_failure_code() -> None:
    assert {trip.guard for _, _, trip in BOUNDARIES if trip is not None} == set(ORDER) == set(FAILURES_OF)


def _with_terms(answers: Answers, **terms: Any) -> Answers:
    return replace(answers, terms=replace(answers.terms, **terms))


TRIPPED: Final[dict[Guard, Callable[[Answers], Answers]]] = {
    "venues": lambda answers: _with_terms(answers, min_venues=3),
    "outlier": lambda answers: answers,
    "impact": lambda answers: changed(answers, impact_ppm=MILLION),
    "collar": lambda answers: replace(answers, reference=3 * 10_000),
    "fee": lambda answers: changed(_with_terms(answers, max_fee_bps=0), fee="0.1"),
    "limit": lambda answers: _with_terms(answers, floor=10_001),
    "anchor": lambda answers: replace(answers, limit=10_001),
}
"""How to trip each guard that looks at a usable quote, whatever else trips."""


@given(st.sets(st.sampled_from(sorted(TRIPPED)), min_size=1))
def test_of_several_guards_the_first_in_order_trips_and_names_those_before_it(guards: set[Guard]) -> None:
    amounts = {"raydium": 10_000, "meteora": 1 if "outlier" in guards else 10_000}
    answers = answered(amounts)
    for guard in guards:
        answers = TRIPPED[guard](answers)
    trip = first_trip(answers)
    first = min(guards, key=ORDER.index)
    assert trip is not None
    assert (trip.guard, trip.passed) == (first, ORDER[: ORDER.index(first)])


def test_without_a_usable_quote_staleness_is_told_before_dust() -> None:
    trip = first_trip(refused(stale(1), error("dust")))
    assert trip is not None
    assert (trip.guard, trip.passed) == ("stale", ())
