"""An order as a client writes it, from JSON members to a validated command."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, cast

from msgspec import Struct

from app.api.orders.slippage import read_slippage_bps
from app.api.orders.terms import OWN_FIELDS, Trade, TypeTerms, explained_terms, fingerprint_of_terms, read_terms
from app.api.requests import CLIENT_CHARACTERS_MAX, KEY_CHARACTERS_MAX, Form
from app.dex.errors import UnknownPairError, UnknownTokenError
from app.dex.tokens import Token, pair_of, token
from app.orders.commands import PlaceOrder
from app.orders.errors import AmountError
from app.orders.events import Side
from app.orders.money import format_units, parse_positive_units
from eventstore.canonical import canonical

_FINGERPRINT_DIGITS: Final = 32
BASE_NAMES: Final = ("baseAsset", "baseToken")
QUOTE_NAMES: Final = ("quoteAsset", "quoteToken")
IN_NAMES: Final = ("tokenIn", "token_in", "tokenMintIn", "inputMint", "fromToken")
OUT_NAMES: Final = ("tokenOut", "token_out", "tokenMintOut", "outputMint", "toToken")
AMOUNT_NAMES: Final = ("amount",)
AMOUNT_IN_NAMES: Final = ("amountIn", "amount_in")
CLIENT_NAMES: Final = ("clientId", "userId", "userWallet")
SIDE_FIELDS: Final = ("side", *BASE_NAMES, *QUOTE_NAMES)
SWAP_FIELDS: Final = (*IN_NAMES, *OUT_NAMES, *AMOUNT_IN_NAMES)
ORDER_FIELDS: Final = (
    *("side", BASE_NAMES[0], QUOTE_NAMES[0], IN_NAMES[0], OUT_NAMES[0], *AMOUNT_NAMES, AMOUNT_IN_NAMES[0]),
    *("slippageBps", *CLIENT_NAMES, "idempotencyKey", "clientOrderId"),
    *OWN_FIELDS,
)
_SHAPES: Final = (
    "does not belong here: give either side, baseAsset, quoteAsset and amount, or tokenIn, tokenOut and amount"
)
_ONE_TOKEN: Final = "is refused because it does not say what is paid for what: give side, baseAsset and quoteAsset"
_EXPLAINED: Final = dict.fromkeys(("symbol", "token", "tokenAddress", "pair"), _ONE_TOKEN)


class OrderRequest(Struct, frozen=True, kw_only=True):
    """A validated order of ``client``; None for an anonymous one."""

    client: str | None
    command: PlaceOrder


def read_order(members: Mapping[str, Any], header_key: str | None = None, *, now_us: int) -> OrderRequest:
    """Return the order that ``members`` describe: by side, base and quote asset, or by the tokens in and out.

    Args:
        header_key: the idempotency key of the request's header, if it has one.
        now_us: the server's time, which an order's own end must be after.

    Raises:
        ProblemError: ``invalid_order``, with one error for each field.
    """
    form = Form(members)
    trade, foreign = read_trade(form, members)
    terms = read_terms(form, trade, now_us)
    slippage_bps = read_slippage_bps(form)
    client = form.text(CLIENT_NAMES, CLIENT_CHARACTERS_MAX)
    key = _key(form, header_key)
    form.refuse_unknown(ORDER_FIELDS, {**explained_terms(trade.side), **foreign})
    form.finish("invalid_order")
    assert terms is not None
    command = _command(trade, terms, slippage_bps, client, key)
    return OrderRequest(client=client, command=command)


def _command(trade: Trade, terms: TypeTerms, slippage_bps: int, client: str | None, key: str | None) -> PlaceOrder:
    side, base, quote, amount = trade.side, trade.base, trade.quote, trade.amount
    assert side is not None and base is not None and quote is not None and amount is not None
    order = {
        "side": side,
        "base": base.symbol,
        "quote": quote.symbol,
        "amount": format_units(amount, base.decimals),
        "slippageBps": slippage_bps,
        "client": client,
        **fingerprint_of_terms(terms),
    }
    return PlaceOrder(
        side=side,
        base_asset=base.symbol,
        quote_asset=quote.symbol,
        base_decimals=base.decimals,
        quote_decimals=quote.decimals,
        amount=amount,
        slippage_bps=slippage_bps,
        order_type=terms.order_type,
        limit_price=terms.limit_price,
        time_in_force=terms.time_in_force,
        expire_at_us=terms.expire_at_us,
        max_fee_bps=terms.max_fee_bps,
        max_impact_bps=terms.max_impact_bps,
        min_venues=terms.min_venues,
        idempotency_key=key,
        fingerprint=None if key is None else hashlib.sha256(canonical(order)).hexdigest()[:_FINGERPRINT_DIGITS],
    )


def read_trade(form: Form, members: Mapping[str, Any]) -> tuple[Trade, dict[str, str]]:
    """Take what is to be swapped, in either shape; also return what to say of the other shape's fields."""
    swap = any(name in members for name in SWAP_FIELDS) and not any(name in members for name in SIDE_FIELDS)
    foreign = dict.fromkeys(SIDE_FIELDS if swap else SWAP_FIELDS, _SHAPES)
    return _trade(form, swap=swap), {**_EXPLAINED, **foreign}


def _trade(form: Form, *, swap: bool) -> Trade:
    side: Side | None = "sell" if swap else _side(form)
    names = (IN_NAMES, OUT_NAMES) if swap else (BASE_NAMES, QUOTE_NAMES)
    base, quote = _token(form, names[0]), _token(form, names[1])
    _check_pair(form, base, quote, (names[0][0], names[1][0]))
    amount = _amount(form, base, (*AMOUNT_NAMES, *AMOUNT_IN_NAMES) if swap else AMOUNT_NAMES)
    return Trade(side=side, base=base, quote=quote, amount=amount)


def _side(form: Form) -> Side | None:
    value = form.take(("side",))
    match value.lower() if isinstance(value, str) else value:
        case "buy" | "sell" as side:
            return cast(Side, side)
        case None:
            form.refuse("side", 'is missing: give "buy" or "sell", or name tokenIn and tokenOut instead')
        case _:
            form.refuse("side", 'must be "buy" or "sell"')
    return None


def _token(form: Form, names: tuple[str, ...]) -> Token | None:
    text = form.text(names, CLIENT_CHARACTERS_MAX, needed=True)
    if text is None:
        return None
    try:
        return token(text)
    except UnknownTokenError as error:
        known = ", ".join(error.known)
        form.refuse(names[0], f"is not a known token: give one of {known}, a launched one such as NEW1, or its mint")
        return None


def _check_pair(form: Form, base: Token | None, quote: Token | None, names: tuple[str, str]) -> None:
    if base is None or quote is None:
        return
    if base == quote:
        form.refuse(names[1], f"must be another token than {names[0]}")
        return
    try:
        pair_of(base, quote)
    except UnknownPairError as error:
        form.refuse(names[1], str(error))


def _amount(form: Form, base: Token | None, names: tuple[str, ...]) -> int | None:
    value = form.take(names)
    if value is None:
        form.refuse("amount", 'is missing: give a decimal such as "1.5"')
    elif not isinstance(value, str):
        form.refuse("amount", 'must be a decimal such as "1.5", as text or as a number')
    elif value.startswith("-"):
        form.refuse("amount", "must be greater than zero")
    elif base is not None:
        try:
            return parse_positive_units(value, base.decimals)
        except AmountError as error:
            form.refuse("amount", error.message)
    return None


def _key(form: Form, header_key: str | None) -> str | None:
    key = form.text(("idempotencyKey", "clientOrderId"), KEY_CHARACTERS_MAX)
    if key is not None and header_key is not None and key != header_key:
        form.refuse("idempotencyKey", "must be the same as in the header Idempotency-Key, or left out")
    return key or header_key
