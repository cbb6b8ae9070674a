"""Money: the published vectors and the laws of parsing, printing and protection."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.orders.errors import AmountError
from app.orders.money import (
    BPS,
    MAX_UNITS,
    ceil_div,
    format_units,
    max_in,
    min_out,
    parse_positive_units,
    parse_units,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())


@pytest.mark.parametrize(("given_text", "expected"), VECTORS["parse"].items())
def test_json_parsing_of_amounts_follows_the_vectors(given_text: str, expected: int | str) -> None:
    text, _, decimals = given_text.rpartition("|")
    if isinstance(expected, int):
        assert parse_positive_units(text, int(decimals)) == expected
    else:
        with pytest.raises(AmountError) as refused:
            parse_positive_units(text, int(decimals))
        assert refused.value.code == expected.removeprefix("REJECT ")


@given(st.integers(0, MAX_UNITS), st.integers(0, 18))
def test_an_amount_survives_its_text(units: int, decimals: int) -> None:
    text = format_units(units, decimals)
    assert parse_units(text, decimals) == units
    assert text == "0" or not ("." in text and text.endswith("0"))


@given(st.text(max_size=30), st.integers(0, 18))
def test_a_text_is_an_amount_or_a_named_error(text: str, decimals: int) -> None:
    try:
        assert 0 <= parse_units(text, decimals) <= MAX_UNITS
    except AmountError as error:
        assert error.code in {"syntax", "precision", "overflow"}


@given(st.integers(1, MAX_UNITS), st.integers(0, BPS))
def test_protections_are_never_weaker_than_asked(amount: int, bps: int) -> None:
    assert min_out(amount, bps) * BPS >= amount * (BPS - bps)
    assert max_in(amount, bps) * BPS <= amount * (BPS + bps)
    assert 1 <= min_out(amount, bps) <= amount <= max_in(amount, bps) <= MAX_UNITS


def test_protections_follow_the_vectors() -> None:
    for row in VECTORS["cpmm_sell_sol_0.25pct"]:
        if row["out"]:
            assert min_out(row["out"], 50) == row["min_out_50bps"]


@given(st.integers(0, 2**128), st.integers(1, 2**64))
def test_ceil_div_is_the_ceiling(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator
