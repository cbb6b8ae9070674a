"""Meteora DLMM pools: bin prices, fees and swaps in integers, and the simulated pool of a pair at a price."""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

from app.dex.errors import DustError, NoLiquidityError
from app.dex.market import SLOT_MS, Fill, grid_price, pool_reserve, price_q64
from app.dex.tokens import Pair
from app.orders.money import ceil_div

FEE_UNIT: Final = 1_000_000_000
_FEE_RATE_MAX: Final = 100_000_000
_REDUCTION_UNIT: Final = 10_000
VOLATILITY_UNIT: Final = 10_000
"""One bin of price change, in volatility units."""

BINS_PER_SIDE: Final = 70
# ln 1.0001 ÷ ln 1.001, times 2^64: bins of 10 bp per tick of 1 bp.
_BINS_PER_TICK_Q64: Final = 1_845_504_317_250_566_992


class Bin(Struct, frozen=True):
    """What a bin holds, in base units of the pool's base and quote token."""

    base: int
    quote: int


class Terms(Struct, frozen=True, kw_only=True):
    """A pool's fixed parameters."""

    bin_step_bps: int
    base_factor: int
    variable_fee_control: int
    filter_ms: int
    decay_ms: int
    reduction: int
    """Share of the volatility that a pause leaves, in ten-thousandths."""
    volatility_max: int


class Volatility(Struct, frozen=True):
    """What a pool remembers of earlier swaps."""

    reference: int
    """In :data:`VOLATILITY_UNIT`, 0 to the pool's maximum."""
    index: int
    """The bin that further price changes are counted from."""


TERMS: Final = Terms(
    bin_step_bps=10,
    base_factor=20_000,
    variable_fee_control=40_000,
    filter_ms=30_000,
    decay_ms=600_000,
    reduction=5_000,
    volatility_max=350_000,
)
FILTER_SLOTS: Final = TERMS.filter_ms // SLOT_MS
DECAY_SLOTS: Final = TERMS.decay_ms // SLOT_MS


def accumulated(volatility: Volatility, index: int, terms: Terms) -> int:
    """Return the volatility when a swap has reached bin ``index``."""
    moved = abs(volatility.index - index) * VOLATILITY_UNIT
    return min(volatility.reference + moved, terms.volatility_max)


def after_pause(volatility: Volatility, accumulator: int, pause_ms: int, active: int, terms: Terms) -> Volatility:
    """Return what a swap that comes ``pause_ms`` after the one that ended at ``accumulator`` starts from."""
    if pause_ms < terms.filter_ms:
        return volatility
    if pause_ms < terms.decay_ms:
        return Volatility(accumulator * terms.reduction // _REDUCTION_UNIT, active)
    return Volatility(0, active)


def variable_fee_rate(accumulator: int, bin_step_bps: int, control: int) -> int:
    """Return the volatility part of the fee, in billionths, rounded up."""
    return ceil_div(control * (accumulator * bin_step_bps) ** 2, 100_000_000_000)


def fee_rate(accumulator: int, terms: Terms) -> int:
    """Return the whole fee in billionths: the base fee and the variable one, at most 10 %."""
    base = terms.base_factor * terms.bin_step_bps * 10
    return min(base + variable_fee_rate(accumulator, terms.bin_step_bps, terms.variable_fee_control), _FEE_RATE_MAX)


def fee_on_gross(amount: int, rate: int) -> int:
    """Return the fee contained in ``amount``, rounded up."""
    return ceil_div(amount * rate, FEE_UNIT)


def fee_on_net(amount: int, rate: int) -> int:
    """Return the fee to be added to ``amount``, rounded up."""
    return ceil_div(amount * rate, FEE_UNIT - rate)


class MeteoraPool(Struct, frozen=True):
    """A DLMM pool; ``bin_at`` gives the bin with an index, or None where the pool has none."""

    terms: Terms
    active: int
    volatility: Volatility
    bin_at: Callable[[int], Bin | None]

    def exact_in(self, amount_in: int, *, base_in: bool) -> Fill:
        """Return the swap that pays in exactly ``amount_in``, at least 1, of base or quote.

        Raises:
            NoLiquidityError: the bins run out before the amount is used up.
            DustError: the pool would pay out nothing.
        """
        index, left, out, fees = self.active, amount_in, 0, 0
        while left:
            available, price = self._side(index, base_in), grid_price(self.terms.bin_step_bps, index)
            if available:
                rate = fee_rate(accumulated(self.volatility, index, self.terms), self.terms)
                net_max = _cost(available, price, base_in)
                fee = fee_on_net(net_max, rate)
                gross, got = net_max + fee, available
                if left <= gross:
                    gross, fee = left, fee_on_gross(left, rate)
                    got = min(_proceeds(left - fee, price, base_in), available)
                left, out, fees = left - gross, out + got, fees + fee
            index += -1 if base_in else 1
        if out == 0:
            raise DustError(f"{amount_in} base units buy nothing")
        return Fill(amount_in, out, fees, self._impact_ppm(amount_in - fees, out, base_in))

    def exact_out(self, amount_out: int, *, base_in: bool) -> Fill:
        """Return the swap that takes out exactly ``amount_out``, at least 1.

        Raises:
            NoLiquidityError: the bins hold less than that.
        """
        index, left, paid, fees = self.active, amount_out, 0, 0
        while left:
            got = min(self._side(index, base_in), left)
            if got:
                rate = fee_rate(accumulated(self.volatility, index, self.terms), self.terms)
                net = _cost(got, grid_price(self.terms.bin_step_bps, index), base_in)
                fee = fee_on_net(net, rate)
                left, paid, fees = left - got, paid + net + fee, fees + fee
            index += -1 if base_in else 1
        return Fill(paid, amount_out, fees, self._impact_ppm(paid - fees, amount_out, base_in))

    def _side(self, index: int, base_in: bool) -> int:
        found = self.bin_at(index)
        if found is None:
            raise NoLiquidityError(f"the pool's bins end at {index}, before the whole amount is exchanged")
        return found.quote if base_in else found.base

    def _impact_ppm(self, net_in: int, out: int, base_in: bool) -> int:
        price = grid_price(self.terms.bin_step_bps, self.active)
        at_price, got = (net_in * price, out << 64) if base_in else (net_in << 64, out * price)
        return (at_price - got) * 1_000_000 // at_price


def _proceeds(net_in: int, price: int, base_in: bool) -> int:
    return net_in * price >> 64 if base_in else (net_in << 64) // price


def _cost(out: int, price: int, base_in: bool) -> int:
    return ceil_div(out << 64, price) if base_in else ceil_div(out * price, 1 << 64)


def active_bin(tick_q16: int) -> tuple[int, int]:
    """Return the 10 bp bin that holds the price 1.0001^(``tick_q16`` ÷ 2^16), and how far through it, in 64ths."""
    through_q16 = (tick_q16 * _BINS_PER_TICK_Q64 >> 64) + 0x8000
    return through_q16 >> 16, (through_q16 & 0xFFFF) >> 10


def pool_at(pair: Pair, tick_q16: int, filter_tick_q16: int, decay_tick_q16: int) -> MeteoraPool:
    """Return the simulated pool of ``pair`` at a price, with the volatility that earlier prices left.

    Each bin holds the same value, as much as the simulated Raydium pool exchanges over 10 bp, 70 bins a side. No swap
    is stored: the volatility is that of a swap which, :data:`FILTER_SLOTS` ago, took the price from where it was
    :data:`DECAY_SLOTS` ago to where it was then.

    Args:
        tick_q16: the price now, as a power of 1.0001, times 2^16.
        filter_tick_q16: the same, :data:`FILTER_SLOTS` earlier.
        decay_tick_q16: the same, :data:`DECAY_SLOTS` earlier.
    """
    active, through = active_bin(tick_q16)
    earlier, before = active_bin(filter_tick_q16)[0], active_bin(decay_tick_q16)[0]
    at_start = Volatility(0, before)
    volatility = after_pause(at_start, accumulated(at_start, earlier, TERMS), TERMS.filter_ms, earlier, TERMS)
    value = (pool_reserve(pair) * price_q64(tick_q16) >> 64) * TERMS.bin_step_bps // 20_000
    return MeteoraPool(TERMS, active, volatility, partial(_even_bin, active, through, value))


def _even_bin(active: int, through: int, value: int, index: int) -> Bin | None:
    """Quote below the active bin, base above it, both in it: rising through a bin turns its base into quote."""
    if abs(index - active) > BINS_PER_SIDE:
        return None
    if index < active:
        return Bin(0, value)
    base = (value << 64) // grid_price(TERMS.bin_step_bps, index)
    if index > active:
        return Bin(base, 0)
    return Bin(base * (64 - through) // 64, value * through // 64)
