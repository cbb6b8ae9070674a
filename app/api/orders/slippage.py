"""The slippage that an order allows, in every spelling whose unit is certain; others are refused with the reason."""

import re
from typing import Any, Final

from app.api.requests import Form
from app.orders.money import BPS

SLIPPAGE_BPS: Final = 50
"""The slippage of an order that names none."""

BPS_NAMES: Final = ("slippageBps", "slippage_bps", "maxSlippageBps", "max_slippage_bps")
PERCENT_NAMES: Final = ("slippagePercent", "slippage_percent", "slippagePct", "slippage_pct")
BARE_NAMES: Final = ("slippage", "slippageTolerance", "maxSlippage", "max_slippage")

_PERCENT: Final = re.compile(r"(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,2})0*)?", re.ASCII)
_WITH_UNIT: Final = re.compile(r"([0-9.]+) ?(%|bps)", re.ASCII)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_RANGE: Final = f"must be from 0 to {BPS // 100} percent, with at most two digits after the decimal point"
_AMBIGUOUS: Final = (
    "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
    'or write the unit, as in "0.5%" or "50 bps"'
)


def read_slippage_bps(form: Form) -> int:
    """Take the slippage, 0 to 10,000, from whichever field has it; two of them are refused, as are bare numbers.

    ``slippagePercent: 0.5``, ``slippage: "0.5%"`` and ``slippage: "50 bps"`` are 50; ``slippage: 0.5`` may mean 50 %.
    """
    found = [(name, form.whole(name, 0, BPS)) for name in BPS_NAMES]
    found += [(name, _percent(form, name)) for name in PERCENT_NAMES]
    found += [(name, _with_unit(form, name)) for name in BARE_NAMES]
    given = [(name, bps) for name, bps in found if bps is not None]
    for name, _ in given[1:]:
        form.refuse(name, f"must not be given beside {given[0][0]}: both mean the same")
    return given[0][1] if given else SLIPPAGE_BPS


def _percent(form: Form, name: str) -> int | None:
    value = form.take((name,))
    if value is None:
        return None
    bps = _bps_of_percent(value)
    if bps is None:
        form.refuse(name, _RANGE)
    return bps


def _with_unit(form: Form, name: str) -> int | None:
    value = form.take((name,))
    if value is None:
        return None
    match = _WITH_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        form.refuse(name, _AMBIGUOUS)
        return None
    number, unit = match.groups()
    if unit == "%":
        bps, accepted = _bps_of_percent(number), _RANGE
    else:
        bps, accepted = int(number) if _WHOLE.fullmatch(number) else BPS + 1, f"must be from 0 to {BPS} bps"
    if bps is None or bps > BPS:
        form.refuse(name, accepted)
        return None
    return bps


def _bps_of_percent(value: Any) -> int | None:
    """Return a percentage, as text or as a JSON number's text, in 1/100 of a percent; None for what is none."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    bps = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    return bps if bps <= BPS else None
