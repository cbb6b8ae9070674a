"""The simulated market: swaps, what they come to, and a reference price computable for any slot without its past."""

from functools import lru_cache
from typing import Final

from msgspec import Struct

from app.dex.draws import draw_below
from app.dex.errors import PriceOutOfRangeError
from app.dex.tokens import Pair, Token
from app.orders.events import Side

SLOT_MS: Final = 400
ONE: Final = 1 << 64
"""The price 1 as Q64.64: quote base units per base unit of the base token, times 2^64."""

_U128_MAX: Final = (1 << 128) - 1

# 0.9 ticks (1 tick = 1 bp) as Q16. With octaves that grow as the square root of their length, a slot's change has a
# standard deviation of 0.85 ticks, that of 2^22 slots 0.95 · 2^11: 75 to 84 % a year.
_AMPLITUDE_Q16: Final = 59_046
_OCTAVES: Final = tuple(range(0, 24, 2))
_STABLE_SHIFT: Final = 7
_BASIS_OCTAVES: Final = (4, 6, 8)
_AS_IS_PPM: Final = 1_000_000
_DOLLARS: Final = frozenset({"USDC", "USDT"})


class Swap(Struct, frozen=True, kw_only=True):
    """What an attempt of an order wants exchanged."""

    order_id: str
    attempt: int
    side: Side
    base: Token
    quote: Token
    amount: int
    """Base units of ``base``: exact in for a sell, exact out for a buy."""
    launch_slot: int | None = None
    """Slot at which the pool of a launched token opened; None for the tokens that always trade."""


class Fill(Struct, frozen=True):
    """What a swap at a pool comes to, in base units."""

    amount_in: int
    """Paid in, fee included."""
    amount_out: int
    fee: int
    """Pool fee, in the token that is paid in."""
    impact_ppm: int
    """How much worse than the pool's price the exchange is, fee excluded; millionths, rounded down."""
    protocol: int
    """The venue's own part of ``fee``."""
    fund: int
    """The part of ``fee`` for the venue's fund; what ``protocol`` and ``fund`` leave belongs to the LPs."""


class _Anchor(Struct, frozen=True):
    tick: int
    """Price in USDC base units per base unit, as a power of 1.0001."""
    reserve: int
    """Base units in a pool that has this token as its base."""


# SOL as in the recorded pool that the formulas are tested with; the others are round figures of like value, about
# 6.5 million dollars a side, and no market data: JUP 0.50, RAY 2.40, BONK 0.00002 and ETH 3,000 dollars.
_ANCHORS: Final = {
    "SOL": _Anchor(-18_110, 40_078_234_338_467),
    "USDC": _Anchor(0, 6_553_287_145_113),
    "USDT": _Anchor(0, 6_553_287_145_113),
    "JUP": _Anchor(-6_932, 13_106_574_290_226),
    "RAY": _Anchor(8_755, 2_730_536_310_464),
    "BONK": _Anchor(-85_176, 32_766_435_725_565_000),
    "ETH": _Anchor(34_014, 218_442_904_837),
}


@lru_cache(maxsize=1 << 14)
def grid_price(step_bps: int, index: int) -> int:
    """Return (1 + ``step_bps`` ÷ 10,000)^``index`` as Q64.64, by squaring, each product truncated.

    Raises:
        PriceOutOfRangeError: the index is so far from 0 that the price, or its inverse, is less than 2^−64.
    """
    if index == 0:
        return ONE
    factor = _U128_MAX // (ONE + (step_bps << 64) // 10_000)
    price, power = ONE, abs(index)
    while power:
        if power & 1:
            price = price * factor >> 64
        factor = factor * factor >> 64
        power >>= 1
    if price == 0:
        raise PriceOutOfRangeError(f"price index {index} with steps of {step_bps} bp is out of range")
    return price if index < 0 else _U128_MAX // price


def price_q64(tick_q16: int) -> int:
    """Return 1.0001^(``tick_q16`` ÷ 2^16) as Q64.64, linear between whole ticks.

    Raises:
        PriceOutOfRangeError: see :func:`grid_price`.
    """
    tick, part = tick_q16 >> 16, tick_q16 & 0xFFFF
    price = grid_price(1, tick)
    return price + ((grid_price(1, tick + 1) - price) * part >> 16) if part else price


@lru_cache(maxsize=1 << 13)
def reference_tick_q16(seed: str, pair: Pair, slot: int, volatility_ppm: int = _AS_IS_PPM) -> int:
    """Return the reference price of ``pair`` at ``slot`` as a power of 1.0001, times 2^16; at most 24 draws.

    The price stays within 45 % of its anchor; ``volatility_ppm`` multiplies that distance, as a logarithm, and with it
    every change, in millionths. A token has one walk against both dollars; pairs against SOL have walks of their own,
    so a round trip over three pairs may gain or lose.
    """
    base, quote = pair.base.symbol, pair.quote.symbol
    noise = walk_q16(seed, base if quote in _DOLLARS else pair.name, slot)
    if base in _DOLLARS:
        noise >>= _STABLE_SHIFT
    return (_ANCHORS[base].tick - _ANCHORS[quote].tick << 16) + noise * volatility_ppm // _AS_IS_PPM


def walk_q16(seed: str, walk: str, slot: int) -> int:
    """Return how far the walk called ``walk`` is from its anchor at ``slot``, as a power of 1.0001, times 2^16."""
    return sum(_noise(seed, "walk", walk, slot, octave, _AMPLITUDE_Q16) for octave in _OCTAVES)


@lru_cache(maxsize=1 << 13)
def basis_q16(seed: str, venue: str, pair: Pair, slot: int, amplitude_ticks: int) -> int:
    """Return by what power of 1.0001, times 2^16, the venue's price of ``pair`` is off the reference; at most 6 draws.

    Between −``amplitude_ticks`` and ``amplitude_ticks``, which is at least 1; it swings within some hundred slots.
    """
    unit = (amplitude_ticks << 16) // sum(1 << octave // 2 for octave in _BASIS_OCTAVES)
    return sum(_noise(seed, "basis", f"{venue} {pair.name}", slot, octave, unit) for octave in _BASIS_OCTAVES)


def _noise(seed: str, kind: str, name: str, slot: int, octave: int, unit: int) -> int:
    cell, part = slot >> octave, slot & ((1 << octave) - 1)
    left = _knot(seed, kind, name, octave, cell, unit)
    return left + ((_knot(seed, kind, name, octave, cell + 1, unit) - left) * part >> octave if part else 0)


@lru_cache(maxsize=1 << 16)
def _knot(seed: str, kind: str, name: str, octave: int, cell: int, unit: int) -> int:
    amplitude = unit << octave // 2
    return draw_below(2 * amplitude + 1, seed, kind, name, octave, cell) - amplitude


def pool_reserve(pair: Pair) -> int:
    """Return how many base units of its base token a simulated pool of ``pair`` holds."""
    return _ANCHORS[pair.base.symbol].reserve
