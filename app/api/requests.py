"""What clients send, from JSON text to validated values; everything wrong with a body is reported together."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn, cast

from msgspec import Struct

from app.api.problems import FieldError, ProblemError
from app.dex.errors import UnknownPairError, UnknownTokenError
from app.dex.tokens import Token, pair_of, token
from app.orders.commands import PlaceOrder
from app.orders.errors import AmountError
from app.orders.events import Side
from app.orders.money import BPS, format_units, parse_positive_units
from eventstore.canonical import canonical

BODY_BYTES_MAX: Final = 65_536
DEPTH_MAX: Final = 16
CLIENT_CHARACTERS_MAX: Final = 64
KEY_CHARACTERS_MAX: Final = 255
SLIPPAGE_BPS: Final = 50
ERRORS_MAX: Final = 16

_FINGERPRINT_DIGITS: Final = 32
INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)
_TOKENS_OF_DEPTH: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_SIDE_FIELDS: Final = ("side", "baseAsset", "quoteAsset")
_SWAP_FIELDS: Final = ("tokenIn", "tokenOut", "amountIn")
_OPTIONAL_FIELDS: Final = (
    "orderType",
    "type",
    "slippageBps",
    "clientId",
    "userId",
    "idempotencyKey",
    "clientOrderId",
)
_ORDER_FIELDS: Final = (*_SIDE_FIELDS, "tokenIn", "tokenOut", "amount", "amountIn", *_OPTIONAL_FIELDS)
_UNIT_AMBIGUOUS: Final = (
    "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent"
)
_PRICE_REFUSED: Final = "is refused: limit and sniper orders are not yet available"
_EXPLAINED: Final = {
    **dict.fromkeys(("slippage", "slippageTolerance", "max_slippage", "maxSlippage"), _UNIT_AMBIGUOUS),
    **dict.fromkeys(("limitPrice", "maxPrice", "targetPrice", "price"), _PRICE_REFUSED),
}


class OrderRequest(Struct, frozen=True, kw_only=True):
    """A validated order of ``client``; None for an anonymous one."""

    client: str | None
    command: PlaceOrder


class Number(str):
    """A JSON number as it was written: an amount must never pass through a float."""


class _RepeatedNameError(ValueError):
    pass


class _ForeignLiteralError(ValueError):
    pass


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Return the members of the JSON object that ``data`` spells; numbers as their text, of a type of its own.

    Raises:
        ProblemError: ``json_malformed`` with the position, or ``json_too_deep``.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"is not UTF-8 at byte {error.start + 1}") from None
    _check_depth(text)
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except _RepeatedNameError as error:
        raise _malformed(f"the name {error} occurs twice in one object") from None
    except _ForeignLiteralError as error:
        raise _malformed(f"{error} is not a JSON value") from None
    if not isinstance(value, dict):
        raise _malformed("must be an object such as {…}")
    if "\\u" in text:
        _check_texts(value, "")
    return cast("dict[str, Any]", value)


def read_order(members: Mapping[str, Any], header_key: str | None = None) -> OrderRequest:
    """Return the order that ``members`` describe: by side, base and quote asset, or by the tokens in and out.

    Args:
        header_key: the idempotency key of the request's header, if it has one.

    Raises:
        ProblemError: ``invalid_order``, with one error for each field.
    """
    form = Form(members)
    swap = any(name in members for name in _SWAP_FIELDS) and not any(name in members for name in _SIDE_FIELDS)
    side: Side | None = "sell" if swap else _side(form)
    names = ("tokenIn", "tokenOut") if swap else ("baseAsset", "quoteAsset")
    base, quote = _token(form, names[0]), _token(form, names[1])
    _check_pair(form, base, quote, names)
    amount = _amount(form, base, ("amount", "amountIn") if swap else ("amount",))
    _check_type(form)
    slippage_bps = _slippage_bps(form)
    client = form.text(("clientId", "userId"), CLIENT_CHARACTERS_MAX)
    key = _key(form, header_key)
    form.refuse_unknown(_ORDER_FIELDS, _SIDE_FIELDS if swap else _SWAP_FIELDS)
    form.finish("invalid_order")
    assert side is not None and base is not None and quote is not None and amount is not None
    command = PlaceOrder(
        side=side,
        base_asset=base.symbol,
        quote_asset=quote.symbol,
        base_decimals=base.decimals,
        quote_decimals=quote.decimals,
        amount=amount,
        slippage_bps=slippage_bps,
        idempotency_key=key,
        fingerprint=None if key is None else _fingerprint(side, base, quote, amount, slippage_bps, client),
    )
    return OrderRequest(client=client, command=command)


def read_header_key(values: list[str]) -> str | None:
    """Return the idempotency key in the values of the header ``Idempotency-Key``, quoted or bare.

    Raises:
        ProblemError: ``invalid_order``.
    """
    if not values:
        return None
    text = values[0].strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if len(set(values)) > 1 or not is_printable(text, KEY_CHARACTERS_MAX) or not text.isascii():
        message = f"the header Idempotency-Key must be given once, with 1 to {KEY_CHARACTERS_MAX} printable characters"
        raise ProblemError("invalid_order", message, [FieldError("", message)])
    return text


class Form:
    """Takes the fields of an object one by one and collects what is wrong with them."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._left = dict(members)
        self._errors: list[FieldError] = []

    def refuse(self, name: str, message: str) -> None:
        self._errors.append(FieldError(pointer_to(name), message))

    def take(self, names: tuple[str, ...]) -> Any:
        """Remove and return a field's value, however the field is spelled; None when it is absent, or null."""
        given = [name for name in names if name in self._left]
        values = [self._left.pop(name) for name in given]
        for name in given[1:]:
            self.refuse(name, f"must not be given beside {given[0]}: both mean the same")
        return values[0] if given else None

    def text(self, names: tuple[str, ...], characters_max: int, *, needed: bool = False) -> str | None:
        value = self.take(names)
        if value is None:
            if needed:
                self.refuse(names[0], "is missing")
            return None
        if isinstance(value, Number) or not isinstance(value, str) or not is_printable(value, characters_max):
            self.refuse(names[0], f"must be text of 1 to {characters_max} printable characters")
            return None
        return value

    def refuse_unknown(self, accepted: tuple[str, ...], excluded: tuple[str, ...] = ()) -> None:
        for name in self._left:
            if name in excluded:
                shapes = f"either {', '.join(_SIDE_FIELDS)} and amount, or tokenIn, tokenOut and amount"
                self.refuse(name, f"does not belong here: give {shapes}")
            elif name in accepted:
                continue
            else:
                self.refuse(name, _EXPLAINED.get(name) or f"is not a field here; {_suggestion(name, accepted)}")

    def finish(self, code: Literal["invalid_order", "invalid_message"]) -> None:
        """Raise if anything was refused."""
        if self._errors:
            detail = "; ".join(f"{error.pointer[1:]} {error.message}" for error in self._errors[:ERRORS_MAX])
            raise ProblemError(code, detail, self._errors[:ERRORS_MAX])


def _side(form: Form) -> Side | None:
    value = form.take(("side",))
    match value:
        case "buy" | "sell":
            return cast(Side, value)
        case None:
            form.refuse("side", 'is missing: give "buy" or "sell", or name tokenIn and tokenOut instead')
        case _:
            form.refuse("side", 'must be "buy" or "sell"')
    return None


def _token(form: Form, name: str) -> Token | None:
    text = form.text((name,), CLIENT_CHARACTERS_MAX, needed=True)
    if text is None:
        return None
    try:
        return token(text)
    except UnknownTokenError as error:
        form.refuse(name, f"is not a known token: give one of {', '.join(error.known)}, or its mint")
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


def _check_type(form: Form) -> None:
    value = form.take(("orderType", "type"))
    name = value.lower() if isinstance(value, str) else value
    if name in ("limit", "sniper"):
        form.refuse("orderType", f'is "{name}", which is not yet available: only "market" is')
    elif name not in (None, "market"):
        form.refuse("orderType", 'must be "market"')


def _slippage_bps(form: Form) -> int:
    value = form.take(("slippageBps",))
    if value is None:
        return SLIPPAGE_BPS
    if isinstance(value, Number) and INTEGER.fullmatch(value) and int(value) <= BPS:
        return int(value)
    form.refuse("slippageBps", f"must be a whole number from 0 to {BPS}")
    return SLIPPAGE_BPS


def _key(form: Form, header_key: str | None) -> str | None:
    key = form.text(("idempotencyKey", "clientOrderId"), KEY_CHARACTERS_MAX)
    if key is not None and header_key is not None and key != header_key:
        form.refuse("idempotencyKey", "must be the same as in the header Idempotency-Key, or left out")
    return key or header_key


def _fingerprint(side: Side, base: Token, quote: Token, amount: int, slippage_bps: int, client: str | None) -> str:
    order = {
        "side": side,
        "base": base.symbol,
        "quote": quote.symbol,
        "amount": format_units(amount, base.decimals),
        "slippageBps": slippage_bps,
        "type": "market",
        "client": client,
    }
    return hashlib.sha256(canonical(order)).hexdigest()[:_FINGERPRINT_DIGITS]


def _suggestion(name: str, accepted: tuple[str, ...]) -> str:
    plain = {spelling.lower(): spelling for spelling in accepted}
    near = difflib.get_close_matches(name[:64].replace("_", "").lower(), plain, n=1)
    return f"did you mean {plain[near[0]]}?" if near else f"accepted are {', '.join(accepted)}"


def is_printable(text: str, characters_max: int) -> bool:
    return 1 <= len(text) <= characters_max and text.isprintable()


def pointer_to(*names: str) -> str:
    parts = (name[:64].replace("~", "~0").replace("/", "~1") for name in names)
    return "".join(f"/{part}" for part in parts).encode("ascii", "backslashreplace").decode()


def _malformed(problem: str) -> ProblemError:
    return ProblemError("json_malformed", f"the body is not acceptable as JSON: {problem}")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return
    depth = 0
    for found in _TOKENS_OF_DEPTH.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ProblemError("json_too_deep", f"arrays and objects may be nested {DEPTH_MAX} deep, not deeper")
        elif found[0] in "]}":
            depth -= 1


def _check_texts(value: Any, pointer: str) -> None:
    match value:
        case str():
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                message = "must not contain U+0000 or unpaired surrogates"
                raise ProblemError("json_malformed", f"{pointer[1:]} {message}", [FieldError(pointer, message)])
        case list():
            for index, item in enumerate(value):
                _check_texts(item, f"{pointer}/{index}")
        case dict():
            for name, item in value.items():
                _check_texts(name, pointer + pointer_to(name))
                _check_texts(item, pointer + pointer_to(name))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedNameError(pointer_to(next(name for name in names if names.count(name) > 1)))
    return members


def _refuse_literal(literal: str) -> NoReturn:
    raise _ForeignLiteralError(literal)


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=Number, parse_int=Number, parse_constant=_refuse_literal
)
