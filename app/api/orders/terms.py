"""What an order of each type may say beside the trade itself: price, time in force, end, and its own bounds."""

from typing import Final, cast, get_args

from msgspec import Struct

from app.api.requests import TIME_ACCEPTED, Form, time_us
from app.dex.pools.launches import first_slot_under
from app.dex.tokens import LAUNCHED_MAX, SOL, Token, is_launched_token
from app.orders.errors import AmountError
from app.orders.events import IMPACT_BPS_MAX, OrderType, Side, TimeInForce
from app.orders.money import BPS, MAX_UNITS, format_units, parse_price, price_floor
from app.orders.times import format_time

FEE_BPS_MAX: Final = 1_000
"""Greatest pool fee of a sniper order that names none."""
EXPIRE_DAYS_MAX: Final = 366
VENUES: Final = 2
PRICE_DIGITS_MAX: Final = 20
"""Digits of a limit price before the point: as many as the read model keeps."""

TYPE_NAMES: Final = ("orderType", "type", "order_type")
PRICE_NAMES: Final = ("limitPrice", "price", "targetPrice", "limit_price")
TIME_IN_FORCE_NAMES: Final = ("timeInForce", "tif")
OWN_FIELDS: Final = (
    *(*TYPE_NAMES, "limitPrice", "maxPrice", "timeInForce", "tif", "expireAt"),
    *("maxFeeBps", "maxImpactBps", "minVenues"),
    *PRICE_NAMES[1:],
)
_DAY_US: Final = 86_400 * 1_000_000
_IMPACT_AMBIGUOUS: Final = (
    "is refused because clients mean fractions or percents by it: use maxImpactBps, 1/100 of a percent"
)
_FEE_AMBIGUOUS: Final = "is refused because clients mean fractions or percents by it: use maxFeeBps, 1/100 of a percent"


class Trade(Struct, frozen=True, kw_only=True):
    """What is to be swapped; None for what was missing or refused."""

    side: Side | None
    base: Token | None
    quote: Token | None
    amount: int | None
    """Base units of ``base``."""


class TypeTerms(Struct, frozen=True, kw_only=True):
    """Fields as :class:`app.orders.commands.PlaceOrder` has them."""

    order_type: OrderType
    limit_price: str | None
    time_in_force: TimeInForce
    expire_at_us: int | None
    max_fee_bps: int | None
    max_impact_bps: int
    min_venues: int


def read_terms(form: Form, trade: Trade, now_us: int) -> TypeTerms | None:
    """Take the fields that depend on the order's type; what does not belong to that type is refused.

    None: the type itself was refused, and nothing else was looked at.
    """
    kind = _order_type(form)
    if kind is None:
        return None
    _check_tokens(form, kind, trade)
    limit_price = _limit_price(form, kind, trade)
    time_in_force = _time_in_force(form, kind)
    max_impact_bps, min_venues = form.whole("maxImpactBps", 0, BPS), form.whole("minVenues", 1, VENUES)
    return TypeTerms(
        order_type=kind,
        limit_price=limit_price,
        time_in_force=time_in_force,
        expire_at_us=_expire_at_us(form, kind, time_in_force, now_us),
        max_fee_bps=_max_fee_bps(form, kind),
        max_impact_bps=IMPACT_BPS_MAX if max_impact_bps is None else max_impact_bps,
        min_venues=min_venues or 1,
    )


def explained_terms(side: Side | None) -> dict[str, str]:
    """Return what to say of fields that are close to one of these but are not taken."""
    explained = dict.fromkeys(("maxImpact", "priceImpact", "maxPriceImpact"), _IMPACT_AMBIGUOUS)
    explained["maxFee"] = _FEE_AMBIGUOUS
    if side == "sell":
        explained["maxPrice"] = "is for buys: give the least price of a sell as limitPrice"
    return explained


def fingerprint_of_terms(terms: TypeTerms) -> dict[str, str | int]:
    """Return the part of the canonical order that these make; what is as without the field is left out."""
    given: dict[str, str | int] = {"type": terms.order_type}
    if terms.limit_price is not None:
        given["limitPrice"] = terms.limit_price
    if terms.time_in_force != "GTC":
        given["timeInForce"] = terms.time_in_force
    if terms.expire_at_us is not None:
        given["expireAt"] = format_time(terms.expire_at_us)
    if terms.max_fee_bps != (FEE_BPS_MAX if terms.order_type == "sniper" else None):
        assert terms.max_fee_bps is not None
        given["maxFeeBps"] = terms.max_fee_bps
    if terms.max_impact_bps != IMPACT_BPS_MAX:
        given["maxImpactBps"] = terms.max_impact_bps
    if terms.min_venues != 1:
        given["minVenues"] = terms.min_venues
    return given


def _order_type(form: Form) -> OrderType | None:
    value = form.take(TYPE_NAMES)
    name = value.lower() if isinstance(value, str) else value
    if name is None:
        return "market"
    if name in get_args(OrderType):
        return cast(OrderType, name)
    form.refuse("orderType", 'must be "market", "limit" or "sniper"')
    return None


def _check_tokens(form: Form, kind: OrderType, trade: Trade) -> None:
    if trade.base is None or trade.quote is None:
        return
    launched = next((token for token in (trade.base, trade.quote) if is_launched_token(token)), None)
    if kind == "limit" and launched is not None:
        form.refuse("orderType", f'must be "market" or "sniper" for {launched.symbol}, a launched token')
    if kind != "sniper":
        return
    if launched is None:
        tokens = f"NEW1 to NEW{LAUNCHED_MAX}"
        form.refuse("orderType", f'"sniper" buys a launched token, {tokens}: name one against {SOL.symbol}')
    elif trade.side is not None and launched != (trade.base if trade.side == "buy" else trade.quote):
        form.refuse("side", f'must be such that {launched.symbol} is bought: a "sniper" waits for a launch to buy')


def _limit_price(form: Form, kind: OrderType, trade: Trade) -> str | None:
    names = PRICE_NAMES if trade.side == "sell" else (*PRICE_NAMES, "maxPrice")
    value = form.take(names)
    if kind != "limit":
        if value is not None:
            form.refuse(
                "limitPrice", f'belongs to limit orders: give orderType "limit", or leave it out of a {kind} order'
            )
        return None
    if value is None:
        form.refuse("limitPrice", f'is missing: give the worst acceptable price{_unit(trade)}, such as "163.5"')
    elif not isinstance(value, str):
        form.refuse("limitPrice", 'must be a decimal such as "163.5", as text or as a number')
    elif value.startswith("-"):
        form.refuse("limitPrice", "must be greater than zero")
    else:
        try:
            price = parse_price(value)
        except AmountError as error:
            form.refuse("limitPrice", error.message)
            return None
        _check_price(form, trade, price)
        return format_units(price[0], len(str(price[1])) - 1)
    return None


def _unit(trade: Trade) -> str:
    return "" if trade.base is None or trade.quote is None else f" in {trade.quote.symbol} per {trade.base.symbol}"


def _check_price(form: Form, trade: Trade, price: tuple[int, int]) -> None:
    if price[0] // price[1] >= 10**PRICE_DIGITS_MAX:
        form.refuse("limitPrice", f"must have at most {PRICE_DIGITS_MAX} digits before the decimal point")
        return
    side, base, quote = trade.side, trade.base, trade.quote
    if side is None or base is None or quote is None or trade.amount is None:
        return
    # Whatever lies in these bounds also has a tick that it can wait for.
    floor = price_floor(trade.amount, price, (base.decimals, quote.decimals), sell=side == "sell")
    if floor == 0:
        form.refuse("limitPrice", f"makes the whole order cost less than the least amount of {quote.symbol}: give more")
    elif floor > MAX_UNITS:
        most = format_units(MAX_UNITS, quote.decimals)
        form.refuse("limitPrice", f"makes the order worth more than {most} {quote.symbol}, which no account can hold")


def _time_in_force(form: Form, kind: OrderType) -> TimeInForce:
    value = form.take(TIME_IN_FORCE_NAMES)
    name = value.upper() if isinstance(value, str) else value
    if name is None:
        return "GTC"
    if kind != "limit":
        form.refuse(
            "timeInForce", f'belongs to limit orders: give orderType "limit", or leave it out of a {kind} order'
        )
    elif name in get_args(TimeInForce):
        return cast(TimeInForce, name)
    else:
        form.refuse("timeInForce", 'must be "GTC", "IOC" or "FOK"')
    return "GTC"


def _expire_at_us(form: Form, kind: OrderType, time_in_force: TimeInForce, now_us: int) -> int | None:
    value = form.take(("expireAt",))
    if value is None:
        return None
    if kind == "market":
        form.refuse("expireAt", "belongs to limit and sniper orders: a market order does not wait; leave it out")
    elif time_in_force != "GTC":
        form.refuse("expireAt", f"does not go with {time_in_force}, which ends at once: leave one of them out")
    else:
        at_us = time_us(value)
        if at_us is None:
            form.refuse("expireAt", TIME_ACCEPTED)
        elif at_us <= now_us:
            form.refuse("expireAt", f"must be in the future; the server's time is {format_time(now_us)}")
        elif at_us > now_us + EXPIRE_DAYS_MAX * _DAY_US:
            form.refuse("expireAt", f"must be at most {EXPIRE_DAYS_MAX} days ahead")
        else:
            return at_us
    return None


def _max_fee_bps(form: Form, kind: OrderType) -> int | None:
    if kind == "sniper":
        given = form.whole("maxFeeBps", 0, BPS)
        if given is not None and first_slot_under(given) is None:
            form.refuse("maxFeeBps", f"is less than a pool of a launched token ever charges: give {FEE_BPS_MAX}, say")
        return FEE_BPS_MAX if given is None else given
    if kind == "market":
        return form.whole("maxFeeBps", 0, BPS)
    if form.take(("maxFeeBps",)) is not None:
        form.refuse("maxFeeBps", "belongs to market and sniper orders: the price of a limit order includes the fees")
    return None
