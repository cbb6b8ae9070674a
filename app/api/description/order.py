"""An order as a client writes it: its canonical fields by type, and the other spellings that are taken for them."""

from typing import Any, Final

from app.api.description.documents.members import DECIMAL_PATTERN
from app.api.description.documents.schemas import Schema, ref
from app.api.orders.request import (
    AMOUNT_IN_NAMES,
    AMOUNT_NAMES,
    BASE_NAMES,
    CLIENT_NAMES,
    IN_NAMES,
    OUT_NAMES,
    QUOTE_NAMES,
)
from app.api.orders.slippage import BARE_NAMES, BPS_NAMES, PERCENT_NAMES, SLIPPAGE_BPS
from app.api.orders.terms import EXPIRE_DAYS_MAX, FEE_BPS_MAX, PRICE_NAMES, TIME_IN_FORCE_NAMES, TYPE_NAMES, VENUES
from app.api.requests import CLIENT_CHARACTERS_MAX, KEY_CHARACTERS_MAX
from app.dex.tokens import LAUNCHED_MAX, TOKENS
from app.orders.events import IMPACT_BPS_MAX
from app.orders.money import BPS

ORDER: Final = "Order"
"""The component that is any type of order."""

ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "baseAsset": BASE_NAMES[1:],
    "quoteAsset": QUOTE_NAMES[1:],
    "tokenIn": IN_NAMES[1:],
    "tokenOut": OUT_NAMES[1:],
    "amount": (*AMOUNT_NAMES[1:], *AMOUNT_IN_NAMES),
    "slippageBps": BPS_NAMES[1:],
    "clientId": CLIENT_NAMES[1:],
    "idempotencyKey": ("clientOrderId",),
    "orderType": TYPE_NAMES[1:],
    "limitPrice": (*PRICE_NAMES[1:], "maxPrice"),
    "timeInForce": TIME_IN_FORCE_NAMES[1:],
}
"""Other names that are taken, with the same values; ``amountIn`` beside ``tokenIn`` only, ``maxPrice`` for buys."""
OTHER_UNITS: Final = {"slippageBps": (*PERCENT_NAMES, *BARE_NAMES)}
"""Names that are taken with values in other units: percent, or text that says its unit."""

_SYMBOLS: Final = "|".join(token.symbol for token in TOKENS)
_ASSET: Final[Schema] = {
    "type": "string",
    "pattern": f"^({_SYMBOLS}|NEW[1-9][0-9]{{0,4}}|[1-9A-HJ-NP-Za-km-z]{{32,44}})$",
    "examples": ["SOL"],
}
_DECIMAL: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 64},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    "examples": ["1.5"],
}
_TRADE: Final[dict[str, Schema]] = {
    "side": {"enum": ["buy", "sell"], "description": "`sell` is exact in, `buy` is exact out and pays the least."},
    "baseAsset": {**_ASSET, "description": f"Symbol or mint; launched tokens are NEW1 to NEW{LAUNCHED_MAX}."},
    "quoteAsset": {**_ASSET, "description": "Symbol or mint of the other asset of a pool."},
    "tokenIn": {**_ASSET, "description": "Instead of `side` and the assets: sell this, exact in."},
    "tokenOut": {**_ASSET, "description": "Beside `tokenIn`."},
    "amount": {**_DECIMAL, "description": "In the base asset, or of `tokenIn`; a number is taken from its digits."},
}
_ANY_TYPE: Final[dict[str, Schema]] = {
    "clientId": {
        "type": "string",
        "minLength": 1,
        "maxLength": CLIENT_CHARACTERS_MAX,
        "description": "Who the order belongs to; printable characters.",
        "examples": ["user01"],
    },
    "idempotencyKey": {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_CHARACTERS_MAX,
        "description": "Repeated with the same content it returns the first order; with another it is refused.",
        "examples": ["bot7-000123"],
    },
    "slippageBps": {
        **{"type": "integer", "minimum": 0, "maximum": BPS, "default": SLIPPAGE_BPS},
        "description": "Worst accepted price against the first quote, in 1/100 %.",
    },
    "maxImpactBps": {
        **{"type": "integer", "minimum": 0, "maximum": BPS, "default": IMPACT_BPS_MAX},
        "description": "Greatest price impact, in 1/100 %.",
    },
    "minVenues": {
        **{"type": "integer", "minimum": 1, "maximum": VENUES, "default": 1},
        "description": "So many venues must give a usable price.",
    },
}
_EXPIRE_AT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "description": f"RFC 3339, in the future, at most {EXPIRE_DAYS_MAX} days ahead: the order ends then as `expired`.",
}
_MAX_FEE: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": BPS, "description": "Greatest pool fee."}
_OWN: Final[dict[str, dict[str, Schema]]] = {
    "market": {"maxFeeBps": _MAX_FEE},
    "limit": {
        "limitPrice": {
            **_DECIMAL,
            "description": "The worst acceptable price, quote asset per base asset, pool fees included.",
        },
        "timeInForce": {
            "enum": ["GTC", "IOC", "FOK"],
            "default": "GTC",
            "description": "`GTC` waits for the price; `IOC` and `FOK` have one attempt at once.",
        },
        "expireAt": {**_EXPIRE_AT, "description": f"With `GTC`. {_EXPIRE_AT['description']}"},
    },
    "sniper": {"maxFeeBps": {**_MAX_FEE, "default": FEE_BPS_MAX}, "expireAt": _EXPIRE_AT},
}
_MEANING: Final = {
    "market": "Swapped at once, on the venue that pays more.",
    "limit": "Waits for its price, or tries once.",
    "sniper": "Waits for the launch of a token, and buys it against SOL once the pool's fee is low enough.",
}
_SHAPES: Final = [
    {"title": "by side", "required": ["side", "baseAsset", "quoteAsset", "amount"]},
    {"title": "by tokens", "required": ["tokenIn", "tokenOut", "amount"]},
]


def order_schemas() -> dict[str, Schema]:
    """Return the schemas of orders: one for each type, and :data:`ORDER`."""
    by_type = {f"{kind.capitalize()}Order": _of_type(kind) for kind in _OWN}
    taken = "; ".join(f"`{name}` also as {', '.join(f'`{other}`' for other in ALIASES[name])}" for name in ALIASES)
    percent, bare = PERCENT_NAMES[0], BARE_NAMES[0]
    either = {
        "description": (
            "A field that is not known, or not of this type, is refused with what to do instead; null is the same as "
            f'absent. Other spellings are taken: {taken}; the slippage also as `{percent}: 0.5`, `{bare}: "0.5%"` or '
            f'`{bare}: "50 bps"`; `orderType` and `timeInForce` in any case.'
        ),
        "oneOf": [ref(name) for name in by_type],
        "x-aliases": {name: [*names, *OTHER_UNITS.get(name, ())] for name, names in ALIASES.items()},
    }
    return {**by_type, ORDER: either}


def canonical_fields() -> set[str]:
    """Return the names that orders are described with."""
    return {name for schema in order_schemas().values() for name in schema.get("properties", ())}


def _of_type(kind: str) -> Schema:
    needed = {"market": [], "limit": ["orderType", "limitPrice"], "sniper": ["orderType"]}[kind]
    order_type: dict[str, Any] = {"enum": [kind], **({"default": kind} if not needed else {})}
    return {
        "description": _MEANING[kind],
        "type": "object",
        "properties": {**_TRADE, "orderType": order_type, **_OWN[kind], **_ANY_TYPE},
        "required": needed,
        "oneOf": _SHAPES,
    }
