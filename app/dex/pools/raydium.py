"""Raydium constant product pools: the program's integer formulas, and the simulated pool of a pair at a price."""

from typing import Final

from msgspec import Struct

from app.dex.errors import DustError, NoLiquidityError
from app.dex.market import Fill, price_q64
from app.orders.money import ceil_div

FEE_UNIT: Final = 1_000_000
TRADE_FEE: Final = 2_500
"""0.25 %, in millionths of the amount paid in: the most common tier."""

_PROTOCOL_SHARE: Final = 120_000
_FUND_SHARE: Final = 40_000


class FeeSplit(Struct, frozen=True):
    """Who gets the fees of an amount paid in; ``trade`` = ``lp`` + ``protocol`` + ``fund``."""

    trade: int
    creator: int
    lp: int
    protocol: int
    fund: int


def split_fees(amount_in: int, trade_fee: int, creator_fee: int = 0) -> FeeSplit:
    """Return the fees on ``amount_in``; rates in millionths.

    The total is rounded up, each share down; the LPs get the rest.
    What remains for the curve is ``amount_in`` − ``trade`` − ``creator``.
    """
    rate = trade_fee + creator_fee
    total = ceil_div(amount_in * rate, FEE_UNIT)
    creator = total * creator_fee // rate
    trade = total - creator
    protocol, fund = _shares(trade)
    return FeeSplit(trade=trade, creator=creator, lp=trade - protocol - fund, protocol=protocol, fund=fund)


def _shares(trade: int) -> tuple[int, int]:
    return trade * _PROTOCOL_SHARE // FEE_UNIT, trade * _FUND_SHARE // FEE_UNIT


def curve_out(net_in: int, reserve_in: int, reserve_out: int) -> int:
    """Return what the curve pays for ``net_in``, rounded down."""
    return net_in * reserve_out // (reserve_in + net_in)


def curve_in(amount_out: int, reserve_in: int, reserve_out: int) -> int:
    """Return what the curve asks for ``amount_out``, rounded up.

    Raises:
        NoLiquidityError: the pool holds no more than ``amount_out``.
    """
    if amount_out >= reserve_out:
        raise NoLiquidityError(f"the pool holds {reserve_out} base units, fewer than the {amount_out} asked for")
    return ceil_div(reserve_in * amount_out, reserve_out - amount_out)


class RaydiumPool(Struct, frozen=True):
    """A constant product pool; reserves in base units, accrued fees excluded."""

    base_reserve: int
    quote_reserve: int
    trade_fee: int = TRADE_FEE

    def exact_in(self, amount_in: int, *, base_in: bool) -> Fill:
        """Return the swap that pays in exactly ``amount_in``, at least 1, of base or quote.

        Raises:
            DustError: the pool would pay out nothing.
        """
        reserve_in, reserve_out = self._reserves(base_in)
        fee = ceil_div(amount_in * self.trade_fee, FEE_UNIT)
        net = amount_in - fee
        out = curve_out(net, reserve_in, reserve_out)
        if out == 0:
            raise DustError(f"{amount_in} base units buy nothing")
        return Fill(amount_in, out, fee, _impact_ppm(net, out, reserve_in, reserve_out), *_shares(fee))

    def exact_out(self, amount_out: int, *, base_in: bool) -> Fill:
        """Return the swap that takes out exactly ``amount_out``, at least 1.

        Raises:
            NoLiquidityError: the pool does not hold that much.
        """
        reserve_in, reserve_out = self._reserves(base_in)
        net = curve_in(amount_out, reserve_in, reserve_out)
        amount_in = ceil_div(net * FEE_UNIT, FEE_UNIT - self.trade_fee)
        fee = amount_in - net
        return Fill(amount_in, amount_out, fee, _impact_ppm(net, amount_out, reserve_in, reserve_out), *_shares(fee))

    def _reserves(self, base_in: bool) -> tuple[int, int]:
        if base_in:
            return self.base_reserve, self.quote_reserve
        return self.quote_reserve, self.base_reserve


def _impact_ppm(net_in: int, out: int, reserve_in: int, reserve_out: int) -> int:
    at_price = net_in * reserve_out
    return (at_price - out * reserve_in) * 1_000_000 // at_price


def pool_at(reserve: int, tick_q16: int, trade_fee: int = TRADE_FEE) -> RaydiumPool:
    """Return the simulated pool that holds ``reserve`` base units of its base token, at a price.

    Args:
        reserve: at least 1; the quote reserve follows from it and the price.
        tick_q16: the price as a power of 1.0001, times 2^16.
        trade_fee: in millionths of the amount paid in.
    """
    return RaydiumPool(reserve, reserve * price_q64(tick_q16) >> 64, trade_fee)
