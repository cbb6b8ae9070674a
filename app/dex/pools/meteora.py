"""Meteora DLMM pools: bin prices, fees and swaps in integers, and the simulated pool of a pair at a price."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from msgspec import Struct

from app.dex.errors import DustError, NoLiquidityError
from app.dex.market import SLOT_MS, Fill, grid_price, price_q64
from app.orders.money import ceil_div

FEE_UNIT: Final = 1_000_000_000
_FEE_RATE_MAX: Final = 100_000_000
_REDUCTION_UNIT: Final = 10_000
_SHARE_UNIT: Final = 10_000
VOLATILITY_UNIT: Final = 10_000
"""One bin of price change, in volatility units."""

BINS_PER_SIDE: Final = 70


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
    protocol_share_bps: int = 1_000
    """The venue's own part of every fee; 10 % is that of its standard pools."""

    @property
    def filter_slots(self) -> int:
        return self.filter_ms // SLOT_MS

    @property
    def decay_slots(self) -> int:
        return self.decay_ms // SLOT_MS

    @property
    def base_fee(self) -> int:
        """The fee without its volatility part, in billionths of the amount paid in."""
        return self.base_factor * self.bin_step_bps * 10


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
    variable = variable_fee_rate(accumulator, terms.bin_step_bps, terms.variable_fee_control)
    return min(terms.base_fee + variable, _FEE_RATE_MAX)


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
        index, left, out, fees, protocol = self.active, amount_in, 0, 0, 0
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
                protocol += self._protocol_part(fee)
            index += -1 if base_in else 1
        if out == 0:
            raise DustError(f"{amount_in} base units buy nothing")
        return Fill(amount_in, out, fees, self._impact_ppm(amount_in - fees, out, base_in), protocol, 0)

    def exact_out(self, amount_out: int, *, base_in: bool) -> Fill:
        """Return the swap that takes out exactly ``amount_out``, at least 1.

        Raises:
            NoLiquidityError: the bins hold less than that.
        """
        index, left, paid, fees, protocol = self.active, amount_out, 0, 0, 0
        while left:
            got = min(self._side(index, base_in), left)
            if got:
                rate = fee_rate(accumulated(self.volatility, index, self.terms), self.terms)
                net = _cost(got, grid_price(self.terms.bin_step_bps, index), base_in)
                fee = fee_on_net(net, rate)
                left, paid, fees = left - got, paid + net + fee, fees + fee
                protocol += self._protocol_part(fee)
            index += -1 if base_in else 1
        return Fill(paid, amount_out, fees, self._impact_ppm(paid - fees, amount_out, base_in), protocol, 0)

    def _protocol_part(self, fee: int) -> int:
        return fee * self.terms.protocol_share_bps // _SHARE_UNIT

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


def active_bin(tick_q16: int, bin_step_bps: int) -> tuple[int, int]:
    """Return the bin that holds the price 1.0001^(``tick_q16`` ÷ 2^16), and how far through it, in 64ths.

    A bin reaches half a step below and above its own price.
    """
    through_q16 = (tick_q16 * _log_ratio_q64(1, bin_step_bps) >> 64) + 0x8000
    return through_q16 >> 16, (through_q16 & 0xFFFF) >> 10


def bin_tick(index: int, bin_step_bps: int) -> int:
    """Return the price of bin ``index`` as a power of 1.0001, rounded down."""
    return index * _log_ratio_q64(bin_step_bps, 1) >> 64


@lru_cache
def _log_ratio_q64(step_bps: int, per_step_bps: int) -> int:
    """ln(1 + step ÷ 10,000) ÷ ln(1 + per step ÷ 10,000), times 2^64, rounded down: steps of one size per other step."""
    return (_log_q128(step_bps) << 64) // _log_q128(per_step_bps)


def _log_q128(step_bps: int) -> int:
    # ln(1 + s) = 2 artanh(s ÷ (2 + s)), whose series is z + z³/3 + z⁵/5 + …
    numerator, denominator = step_bps, 20_000 + step_bps
    power, odd, total = (numerator << 129) // denominator, 1, 0
    while power:
        total += power // odd
        power, odd = power * numerator**2 // denominator**2, odd + 2
    return total


def pool_at(
    reserve: int, tick_q16: int, filter_tick_q16: int, decay_tick_q16: int, terms: Terms = TERMS
) -> MeteoraPool:
    """Return the simulated pool at a price, with the volatility that earlier prices left.

    Each bin holds the same value, 70 bins a side. No swap is stored: the volatility is that of a swap which,
    ``terms.filter_slots`` ago, took the price from where it was ``terms.decay_slots`` ago to where it was then.

    Args:
        reserve: base units that a Raydium pool of like depth holds: a bin has what that exchanges over one step.
        tick_q16: the price now, as a power of 1.0001, times 2^16.
        filter_tick_q16: the same, ``terms.filter_slots`` earlier.
        decay_tick_q16: the same, ``terms.decay_slots`` earlier.
        terms: the pool's parameters.
    """
    step = terms.bin_step_bps
    (active, through), (earlier, _), (before, _) = (
        active_bin(tick, step) for tick in (tick_q16, filter_tick_q16, decay_tick_q16)
    )
    at_start = Volatility(0, before)
    volatility = after_pause(at_start, accumulated(at_start, earlier, terms), terms.filter_ms, earlier, terms)
    value = (reserve * price_q64(tick_q16) >> 64) * step // 20_000
    return MeteoraPool(terms, active, volatility, partial(_even_bin, step, active, through, value))


def _even_bin(step_bps: int, active: int, through: int, value: int, index: int) -> Bin | None:
    """Quote below the active bin, base above it, both in it: rising through a bin turns its base into quote."""
    if abs(index - active) > BINS_PER_SIDE:
        return None
    if index < active:
        return Bin(0, value)
    base = (value << 64) // grid_price(step_bps, index)
    if index > active:
        return Bin(base, 0)
    return Bin(base * (64 - through) // 64, value * through // 64)
