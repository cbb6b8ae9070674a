"""Limit and sniper orders as clients write them: what each type accepts, and what each refusal says to do."""

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.orders.request import OrderRequest, read_order
from app.api.problems import ProblemError
from app.api.requests import parse_object
from app.dex.tokens import PAIRS, Token
from app.dex.triggers import watch_of
from app.orders.commands import PlaceOrder
from app.orders.events import Side
from app.orders.money import MAX_UNITS, format_units, parse_price, price_floor
from app.orders.times import format_time
from tests.clocks import START_US

DAY_US = 86_400 * 1_000_000
MARKET = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "10"}
LIMIT = {**MARKET, "orderType": "limit", "limitPrice": "150.5"}
SNIPER = {"side": "buy", "baseAsset": "NEW7", "quoteAsset": "SOL", "amount": "1000", "orderType": "sniper"}
TOMORROW = format_time(START_US + DAY_US)


def read(order: dict[str, Any], **fields: Any) -> OrderRequest:
    return read_order(parse_object(json.dumps({**order, **fields})), now_us=START_US)


def command(order: dict[str, Any], **fields: Any) -> PlaceOrder:
    return read(order, **fields).command


def refusals(order: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    with pytest.raises(ProblemError) as caught:
        read(order, **fields)
    assert caught.value.code == "invalid_order"
    return [(error.pointer, error.message) for error in caught.value.errors]


def test_a_limit_order_has_its_price_and_lasts_until_it_is_cancelled() -> None:
    placed = command(LIMIT)
    assert (placed.order_type, placed.limit_price, placed.time_in_force) == ("limit", "150.5", "GTC")
    assert (placed.expire_at_us, placed.max_fee_bps, placed.max_impact_bps, placed.min_venues) == (None, None, 1000, 1)


@pytest.mark.parametrize("name", ["limitPrice", "price", "targetPrice", "limit_price", "maxPrice"])
@pytest.mark.parametrize("price", ['"150.50"', "150.50", '"150.5"'])
def test_the_price_may_be_spelled_and_written_in_several_ways(name: str, price: str) -> None:
    text = json.dumps({**MARKET, "type": "LIMIT"})[:-1] + f', "{name}": {price}}}'
    assert read_order(parse_object(text), now_us=START_US).command.limit_price == "150.5"


def test_a_price_keeps_every_digit_it_is_written_with() -> None:
    text = json.dumps({**MARKET, "type": "limit"})[:-1] + ', "limitPrice": 150.123456789012345678}'
    assert read_order(parse_object(text), now_us=START_US).command.limit_price == "150.123456789012345678"


@pytest.mark.parametrize("text", ["ioc", "IOC", "fok", "FOK", "gtc", "GTC"])
@pytest.mark.parametrize("name", ["timeInForce", "tif"])
def test_the_time_in_force_may_be_written_in_any_case(name: str, text: str) -> None:
    assert command(LIMIT, **{name: text}).time_in_force == text.upper()


TIMES = [
    ("2027-01-16T08:00:00Z", "2027-01-16T08:00:00.000000Z"),
    ("2027-01-16t08:00:00z", "2027-01-16T08:00:00.000000Z"),
    ("2027-01-16 08:00:00.5Z", "2027-01-16T08:00:00.500000Z"),
    ("2027-01-16T08:00:00.123456789Z", "2027-01-16T08:00:00.123456Z"),
    ("2027-01-16T09:30:00+01:30", "2027-01-16T08:00:00.000000Z"),
    ("2027-01-15T20:00:00-12:00", "2027-01-16T08:00:00.000000Z"),
]


@pytest.mark.parametrize(("text", "expected"), TIMES)
@pytest.mark.parametrize("order", [LIMIT, SNIPER])
def test_an_end_is_a_time_of_any_offset(order: dict[str, Any], text: str, expected: str) -> None:
    expire_at_us = command(order, expireAt=text).expire_at_us
    assert expire_at_us is not None and format_time(expire_at_us) == expected


def test_an_end_lies_after_now_and_within_366_days() -> None:
    for ahead_us in (1, 366 * DAY_US):
        assert command(LIMIT, expireAt=format_time(START_US + ahead_us)).expire_at_us == START_US + ahead_us
    now = format_time(START_US)
    past = [("/expireAt", f"must be in the future; the server's time is {now}")]
    assert refusals(LIMIT, expireAt=now) == past
    late = [("/expireAt", "must be at most 366 days ahead")]
    assert refusals(LIMIT, expireAt=format_time(START_US + 366 * DAY_US + 1)) == late


def test_a_sniper_buys_a_launched_token_with_its_greatest_fee() -> None:
    placed = command(SNIPER)
    assert (placed.order_type, placed.side, placed.base_asset, placed.max_fee_bps) == ("sniper", "buy", "NEW7", 1000)
    assert command(SNIPER, maxFeeBps=100).max_fee_bps == 100
    assert command(MARKET, maxFeeBps=0).max_fee_bps == 0
    assert command(MARKET).max_fee_bps is None
    swap = {"tokenIn": "SOL", "tokenOut": "NEW7", "amount": "1.5", "type": "Sniper", "maxFeeBps": 250}
    placed = command(swap)
    assert (placed.side, placed.base_asset, placed.quote_asset, placed.max_fee_bps) == ("sell", "SOL", "NEW7", 250)


@pytest.mark.parametrize("order", [MARKET, LIMIT, SNIPER])
def test_every_order_may_bound_its_impact_and_its_venues(order: dict[str, Any]) -> None:
    placed = command(order, maxImpactBps=0, minVenues=2)
    assert (placed.max_impact_bps, placed.min_venues) == (0, 2)


def test_a_launched_token_may_be_bought_at_market() -> None:
    assert command({**SNIPER, "orderType": "market"}).order_type == "market"


_LIMIT_ONLY = 'belongs to limit orders: give orderType "limit", or leave it out of a {} order'
_TIME = (
    'must be a time as RFC 3339 writes it, with "Z" or an offset, such as "2027-01-31T12:00:00Z"; '
    "numbers are refused because clients mean seconds or milliseconds by them"
)
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (MARKET, {"limitPrice": "9"}, "/limitPrice", _LIMIT_ONLY.format("market")),
    (SNIPER, {"price": "9"}, "/limitPrice", _LIMIT_ONLY.format("sniper")),
    (MARKET, {"tif": "IOC"}, "/timeInForce", _LIMIT_ONLY.format("market")),
    (SNIPER, {"timeInForce": "GTC"}, "/timeInForce", _LIMIT_ONLY.format("sniper")),
    (MARKET, {"expireAt": TOMORROW}, "/expireAt",
     "belongs to limit and sniper orders: a market order does not wait; leave it out"),
    (LIMIT, {"tif": "IOC", "expireAt": TOMORROW}, "/expireAt",
     "does not go with IOC, which ends at once: leave one of them out"),
    (LIMIT, {"tif": "FOK", "expireAt": TOMORROW}, "/expireAt",
     "does not go with FOK, which ends at once: leave one of them out"),
    (MARKET, {"maxFeeBps": 10_001}, "/maxFeeBps", "must be a whole number from 0 to 10000"),
    (LIMIT, {"maxFeeBps": 1}, "/maxFeeBps",
     "belongs to market and sniper orders: the price of a limit order includes the fees"),
    (LIMIT, {"limitPrice": None}, "/limitPrice",
     'is missing: give the worst acceptable price in USDC per SOL, such as "163.5"'),
    (LIMIT, {"limitPrice": "0.00"}, "/limitPrice", "must be greater than zero"),
    (LIMIT, {"limitPrice": "-1"}, "/limitPrice", "must be greater than zero"),
    (LIMIT, {"limitPrice": -1}, "/limitPrice", "must be greater than zero"),
    (LIMIT, {"limitPrice": True}, "/limitPrice", 'must be a decimal such as "163.5", as text or as a number'),
    (LIMIT, {"limitPrice": "1,5"}, "/limitPrice",
     'must be a plain decimal such as "163.5", without sign, exponent or spaces'),
    (LIMIT, {"limitPrice": 1e30}, "/limitPrice",
     'must be a plain decimal such as "163.5", without sign, exponent or spaces'),
    (LIMIT, {"limitPrice": "0." + "0" * 18 + "1"}, "/limitPrice",
     "must have at most 18 digits after the decimal point"),
    (LIMIT, {"limitPrice": "1" + "0" * 20, "amount": "0.000000001"}, "/limitPrice",
     "must have at most 20 digits before the decimal point"),
    (LIMIT, {"limitPrice": "9" * 19}, "/limitPrice",
     "makes the order worth more than 18446744073709.551615 USDC, which no account can hold"),
    (LIMIT, {"amount": "0.000000001", "limitPrice": "150"}, "/limitPrice",
     "makes the whole order cost less than the least amount of USDC: give more"),
    (LIMIT, {"price": "1"}, "/price", "must not be given beside limitPrice: both mean the same"),
    (LIMIT, {"side": "sell", "maxPrice": "1"}, "/maxPrice",
     "is for buys: give the least price of a sell as limitPrice"),
    (LIMIT, {"timeInForce": "DAY"}, "/timeInForce", 'must be "GTC", "IOC" or "FOK"'),
    (LIMIT, {"timeInForce": 5}, "/timeInForce", 'must be "GTC", "IOC" or "FOK"'),
    (LIMIT, {"expireAt": START_US // 1000 + 60_000}, "/expireAt", _TIME),
    (LIMIT, {"expireAt": "2027-02-30T00:00:00Z"}, "/expireAt", _TIME),
    (LIMIT, {"expireAt": "2027-01-16T08:00:00"}, "/expireAt", _TIME),
    (LIMIT, {"expireAt": "2027-01-16"}, "/expireAt", _TIME),
    (LIMIT, {"expireAt": "0001-01-01T00:00:00+23:59"}, "/expireAt",
     f"must be in the future; the server's time is {format_time(START_US)}"),
    (SNIPER, {"maxFeeBps": 10_001}, "/maxFeeBps", "must be a whole number from 0 to 10000"),
    (SNIPER, {"maxFeeBps": "5"}, "/maxFeeBps", "must be a whole number from 0 to 10000"),
    (SNIPER, {"maxFeeBps": 99}, "/maxFeeBps",
     "is less than a pool of a launched token ever charges: give 1000, say"),
    (MARKET, {"maxImpactBps": 10_001}, "/maxImpactBps", "must be a whole number from 0 to 10000"),
    (MARKET, {"minVenues": 0}, "/minVenues", "must be a whole number from 1 to 2"),
    (MARKET, {"minVenues": 3}, "/minVenues", "must be a whole number from 1 to 2"),
    (MARKET, {"maxImpact": 0.01}, "/maxImpact",
     "is refused because clients mean fractions or percents by it: use maxImpactBps, 1/100 of a percent"),
    (SNIPER, {"maxFee": 0.01}, "/maxFee",
     "is refused because clients mean fractions or percents by it: use maxFeeBps, 1/100 of a percent"),
    (LIMIT, {"slippage": 0.01}, "/slippage",
     "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
     'or write the unit, as in "0.5%" or "50 bps"'),
    (LIMIT, {"baseAsset": "NEW7", "quoteAsset": "SOL", "limitPrice": "0.00001"}, "/orderType",
     'must be "market" or "sniper" for NEW7, a launched token'),
    (SNIPER, {"baseAsset": "SOL", "quoteAsset": "USDC"}, "/orderType",
     '"sniper" buys a launched token, NEW1 to NEW60000: name one against SOL'),
    (SNIPER, {"side": "sell"}, "/side", 'must be such that NEW7 is bought: a "sniper" waits for a launch to buy'),
    (SNIPER, {"baseAsset": "SOL", "quoteAsset": "NEW7"}, "/side",
     'must be such that NEW7 is bought: a "sniper" waits for a launch to buy'),
]  # fmt: skip


@pytest.mark.parametrize(("order", "fields", "pointer", "message"), REFUSED)
def test_what_does_not_belong_to_an_order_is_refused_with_what_to_do(
    order: dict[str, Any], fields: dict[str, Any], pointer: str, message: str
) -> None:
    assert refusals(order, **fields) == [(pointer, message)]


def test_a_launched_token_is_swapped_for_sol_alone() -> None:
    ((pointer, message),) = refusals(SNIPER, quoteAsset="USDC")
    assert pointer == "/quoteAsset" and "no pool trades NEW7 against USDC" in message


def test_every_wrong_field_of_a_limit_order_is_told_at_once() -> None:
    found = refusals(LIMIT, limitPrice="x", timeInForce="x", maxFeeBps=1, minVenues=9, side="hold")
    assert {pointer for pointer, _ in found} == {"/limitPrice", "/timeInForce", "/maxFeeBps", "/minVenues", "/side"}


EXTREMES = [1, 2, 10**9, MAX_UNITS // 2, MAX_UNITS - 1, MAX_UNITS]


@given(
    pair=st.sampled_from([pair for one in PAIRS for pair in ((one.base, one.quote), (one.quote, one.base))]),
    side=st.sampled_from(["buy", "sell"]),
    amount=st.integers(1, MAX_UNITS) | st.sampled_from(EXTREMES),
    numerator=st.integers(1, 10**24) | st.sampled_from(EXTREMES),
    digits=st.integers(0, 18),
)
def test_a_price_is_accepted_only_if_an_account_can_hold_its_worst_amount_and_then_a_trigger_exists(
    pair: tuple[Token, Token], side: Side, amount: int, numerator: int, digits: int
) -> None:
    base, quote = pair
    order = {**LIMIT, "side": side, "baseAsset": base.symbol, "quoteAsset": quote.symbol}
    price = numerator, 10**digits
    floor = price_floor(amount, price, (base.decimals, quote.decimals), sell=side == "sell")
    try:
        placed = command(order, amount=format_units(amount, base.decimals), limitPrice=format_units(numerator, digits))
    except ProblemError as problem:
        assert [error.pointer for error in problem.errors] == ["/limitPrice"]
        assert not 1 <= floor <= MAX_UNITS or numerator // 10**digits >= 10**20
        return
    assert placed.limit_price is not None
    assert Fraction(*parse_price(placed.limit_price)) == Fraction(*price)
    assert 1 <= floor <= MAX_UNITS
    watch_of(side, base, quote, price)


def fingerprint(order: dict[str, Any], **fields: Any) -> str:
    found = command(order, idempotencyKey="k", **fields).fingerprint
    assert found is not None
    return found


def test_fingerprints_of_market_orders_are_what_they_always_were() -> None:
    assert fingerprint(MARKET) == "97f8ddf4f2b1c8759c5f02790c6e20ae"
    swap = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": "1.5", "clientId": "c", "slippageBps": 7}
    assert fingerprint(swap) == "f207c36c675e3f6dec27b0cb4c679b95"


def test_a_field_that_says_what_holds_anyway_does_not_change_the_fingerprint() -> None:
    assert fingerprint(MARKET, maxImpactBps=1000, minVenues=1) == fingerprint(MARKET)
    assert fingerprint(LIMIT, limitPrice=150.50, tif="gtc") == fingerprint(LIMIT)
    assert fingerprint(SNIPER, maxFeeBps=1000) == fingerprint(SNIPER)
    noon = {"expireAt": "2027-01-16T12:00:00Z"}
    assert fingerprint(LIMIT, expireAt="2027-01-16T13:00:00.000+01:00") == fingerprint(LIMIT, **noon)


def test_every_field_changes_the_fingerprint() -> None:
    orders = [
        fingerprint(MARKET),
        fingerprint(MARKET, maxImpactBps=999),
        fingerprint(MARKET, minVenues=2),
        fingerprint(LIMIT),
        fingerprint(LIMIT, limitPrice="150.6"),
        fingerprint(LIMIT, tif="IOC"),
        fingerprint(LIMIT, tif="FOK"),
        fingerprint(LIMIT, expireAt=TOMORROW),
        fingerprint(LIMIT, expireAt=format_time(START_US + DAY_US + 1)),
        fingerprint({**SNIPER, "orderType": "market"}),
        fingerprint(SNIPER),
        fingerprint(SNIPER, maxFeeBps=999),
    ]
    assert len(set(orders)) == len(orders)
