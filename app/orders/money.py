"""Exact money: decimal text at the edges, integers in base units inside, never a float."""

import re
from typing import Final

from app.orders.errors import AmountError

MAX_UNITS: Final = 2**64 - 1
"""Largest amount of any token, in base units: SPL token amounts are unsigned 64-bit integers."""

BPS: Final = 10_000
PRICE_DECIMALS: Final = 18
_MAX_TEXT: Final = 64
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)


def parse_units(text: str, decimals: int) -> int:
    """Return the base units that ``text`` names, 0 included.

    Args:
        text: an ASCII decimal such as ``"1.5"``: no sign, exponent, leading zeros, spaces or separators.
        decimals: fraction digits of the token, 0 to 18.

    Raises:
        AmountError: not such a decimal (``syntax``), more fraction digits than the token has (``precision``; nothing
            is ever rounded), or above :data:`MAX_UNITS` (``overflow``). Show it to whoever typed the amount.
    """
    match = _AMOUNT.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise AmountError("syntax", 'must be a plain decimal such as "1.5", without sign, exponent or spaces')
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > decimals:
        raise AmountError("precision", f"must have at most {decimals} digits after the decimal point")
    units: int = int(whole + fraction.ljust(decimals, "0"))
    if units > MAX_UNITS:
        raise AmountError("overflow", f"must be at most {format_units(MAX_UNITS, decimals)}")
    return units


def parse_positive_units(text: str, decimals: int) -> int:
    """As :func:`parse_units`, but refuse zero.

    Raises:
        AmountError: additionally ``zero``.
    """
    units = parse_units(text, decimals)
    if units == 0:
        raise AmountError("zero", "must be greater than zero")
    return units


def format_units(units: int, decimals: int) -> str:
    """Return ``units`` as the shortest exact decimal: no exponent, no trailing zeros."""
    if decimals == 0:
        return str(units)
    whole, fraction = divmod(units, 10**decimals)
    digits = str(fraction).rjust(decimals, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def parse_price(text: str) -> tuple[int, int]:
    """Return the price that ``text`` names as numerator and denominator, the latter a power of ten.

    Args:
        text: an ASCII decimal as :func:`parse_units` takes it, with at most 18 fraction digits.

    Raises:
        AmountError: ``syntax``, ``precision`` or ``zero``.
    """
    match = _AMOUNT.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise AmountError("syntax", 'must be a plain decimal such as "163.5", without sign, exponent or spaces')
    fraction = match[2] or ""
    if len(fraction) > PRICE_DECIMALS:
        raise AmountError("precision", f"must have at most {PRICE_DECIMALS} digits after the decimal point")
    numerator = int(match[1] + fraction)
    if numerator == 0:
        raise AmountError("zero", "must be greater than zero")
    return numerator, 10 ** len(fraction)


def price_floor(amount: int, price: tuple[int, int], decimals: tuple[int, int], *, sell: bool) -> int:
    """Return the worst acceptable amount of the quote token at a limit price, in base units, for the trader rounded.

    Args:
        amount: base units of the base token.
        price: quote per base in whole units, as numerator and denominator.
        decimals: fraction digits of base and quote token.
        sell: the least to receive, rounded up; else the most to pay, rounded down: 0 where that is less than a unit.
    """
    numerator = amount * price[0] * 10 ** decimals[1]
    denominator = price[1] * 10 ** decimals[0]
    return ceil_div(numerator, denominator) if sell else numerator // denominator


def ceil_div(numerator: int, denominator: int) -> int:
    """Return ⌈numerator ÷ denominator⌉ for a numerator ≥ 0 and a denominator > 0."""
    return -(-numerator // denominator)


def min_out(amount_out: int, slippage_bps: int) -> int:
    """Return the least output a seller accepts, rounded up: never weaker than what was asked; never nothing."""
    return max(1, ceil_div(amount_out * (BPS - slippage_bps), BPS))


def max_in(amount_in: int, slippage_bps: int) -> int:
    """Return the most input a buyer pays, rounded down: never weaker than what was asked; at most a token's maximum."""
    return min(MAX_UNITS, amount_in * (BPS + slippage_bps) // BPS)
