"""What a request may say beside its body, by name: handlers read the names, the description tells what they mean."""

from typing import Any, Final, get_args

from msgspec import Struct

from app.api.description.documents.members import (
    CURSOR,
    DECIMAL_PATTERN,
    EVENT_CURSOR_PATTERN,
    ORDER_ID,
    ORDER_ID_PATTERN,
)
from app.api.description.documents.schemas import Schema
from app.api.orders.freshness import WAIT_MS, WAIT_MS_MAX
from app.api.orders.slippage import SLIPPAGE_BPS
from app.api.orders.terms import VENUES
from app.api.problems import Code
from app.api.requests import CLIENT_CHARACTERS_MAX, KEY_CHARACTERS_MAX
from app.api.streaming.eventstream import WAIT_SECONDS_MAX
from app.api.streaming.scopes import LAST_MAX, EventName
from app.orders.events import IMPACT_BPS_MAX, OrderType, Side
from app.orders.lifecycle import Phase, Status
from app.orders.money import BPS
from projections.queries.orders import OFFSET_MAX

_EVENT_CURSOR: Final = EVENT_CURSOR_PATTERN.removeprefix("^").removesuffix("$")
_BY_PARTITION: Final = "([0-9]{2}:)?"


class Parameter(Struct, frozen=True, kw_only=True):
    """One parameter of a path, a query or a header."""

    name: str
    meaning: str
    schema: Schema
    place: str = "query"
    example: Any = None


def whole(least: int, most: int, default: int | None = None) -> Schema:
    """Return the schema of a whole number."""
    return {"type": "integer", "minimum": least, "maximum": most, **({} if default is None else {"default": default})}


def limit(default: int, most: int) -> Parameter:
    """Return the parameter that bounds an answer."""
    return Parameter(name="limit", meaning="How much is wanted at most.", schema=whole(1, most, default))


def _listed(name: str, meaning: str, values: Schema, example: str) -> Parameter:
    schema: Schema = {"type": "array", "items": values, "minItems": 1, "maxItems": 32}
    return Parameter(name=name, meaning=meaning, schema=schema, example=[example])


def _text(name: str, meaning: str, example: str, **more: Any) -> Parameter:
    return Parameter(name=name, meaning=meaning, schema={"type": "string", **more}, example=example)


def _cursors(name: str, meaning: str, value: str, example: str) -> Parameter:
    one = f"{_BY_PARTITION}{value}"
    return _text(name, meaning, example, pattern=f"^{one}(,{one})*$")


ORDER_ID_IN_PATH: Final = Parameter(
    name="orderId",
    meaning="The order.",
    schema={"type": "string", "pattern": ORDER_ID_PATTERN},
    place="path",
    example=ORDER_ID,
)
CLIENT_IN_PATH: Final = Parameter(
    name="clientId",
    meaning="The client, as its orders have it.",
    schema={"type": "string", "minLength": 1, "maxLength": CLIENT_CHARACTERS_MAX},
    place="path",
    example="user01",
)
CODE_IN_PATH: Final = Parameter(
    name="code",
    meaning="The `code` of a problem.",
    schema={"enum": list(get_args(Code))},
    place="path",
    example="rate_limited",
)
PATH: Final = {"order_id": ORDER_ID_IN_PATH, "client": CLIENT_IN_PATH, "code": CODE_IN_PATH}
"""By the name in a route."""

IDEMPOTENCY_KEY: Final = Parameter(
    name="Idempotency-Key",
    meaning="The same as `idempotencyKey` of the body, which must not contradict it; quoted or bare.",
    schema={"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    place="header",
    example="bot7-000123",
)
IF_MATCH: Final = Parameter(
    name="If-Match",
    meaning="The order's `ETag`, its version in quotes: refused with 412 where the order has moved on.",
    schema={"type": "string"},
    place="header",
    example='"3"',
)
LAST_EVENT_ID: Final = Parameter(
    name="Last-Event-ID",
    meaning="Where to go on, in place of every start in the query; what EventSource sends when it comes back.",
    schema={"type": "string"},
    place="header",
    example=CURSOR,
)
IF_NONE_MATCH: Final = Parameter(
    name="If-None-Match",
    meaning="The `ETag` of the document that you have: answered with 304 while it is the same.",
    schema={"type": "string"},
    place="header",
    example='"6b86b273ff34fce1"',
)

_TIME: Final = "RFC 3339, with `Z` or an offset."
_EVENTS_SINCE: Final = "Begin with the first event recorded at that time or later"

QUERY: Final[dict[str, Parameter]] = {
    one.name: one
    for one in (
        _text("cursor", "The `next` of the page before.", "MTc5NTMwMDQ1NzAwMTAwMC4wMUFSWjNO"),
        Parameter(name="offset", meaning="Instead of `cursor`: pass over so many.", schema=whole(0, OFFSET_MAX, 0)),
        _listed("status", "Only orders with one of these, in any case.", {"enum": list(get_args(Status))}, "confirmed"),
        _listed("phase", "Only orders in one of these, in any case.", {"enum": list(get_args(Phase))}, "COMPLETED"),
        _text("clientId", "Only this client's.", "user01", minLength=1, maxLength=CLIENT_CHARACTERS_MAX),
        _text("userId", "The same as `clientId`.", "user01", minLength=1, maxLength=CLIENT_CHARACTERS_MAX),
        Parameter(name="side", meaning="Which one.", schema={"enum": list(get_args(Side))}),
        Parameter(name="type", meaning="Only orders of this type.", schema={"enum": list(get_args(OrderType))}),
        _text("asset", "Only orders of this asset, by symbol or mint.", "SOL"),
        _text("createdFrom", f"Only orders made then or later. {_TIME}", "2026-11-21T22:00:00Z", format="date-time"),
        _text("createdTo", f"Only orders made before then. {_TIME}", "2026-11-22T22:00:00Z", format="date-time"),
        _text("asOf", "The order as it was: a time, a seq, an event id or a cursor.", "2026-11-21T22:00:00Z"),
        _text("tokenIn", "Sell this, exact in; by symbol or mint.", "SOL"),
        _text("tokenOut", "Beside `tokenIn`.", "USDC"),
        _text("amountIn", "Of `tokenIn`; the same as `amount`.", "2.5", pattern=DECIMAL_PATTERN),
        _text("baseAsset", "Beside `side`; by symbol or mint.", "SOL"),
        _text("quoteAsset", "Beside `side`.", "USDC"),
        _text("amount", "In the base asset, or of `tokenIn`.", "2.5", pattern=DECIMAL_PATTERN),
        Parameter(name="slippageBps", meaning="As an order has it.", schema=whole(0, BPS, SLIPPAGE_BPS)),
        Parameter(name="maxFeeBps", meaning="As an order has it.", schema=whole(0, BPS)),
        Parameter(name="maxImpactBps", meaning="As an order has it.", schema=whole(0, BPS, IMPACT_BPS_MAX)),
        Parameter(name="minVenues", meaning="As an order has it.", schema=whole(1, VENUES, 1)),
        _cursors(
            "minPosition",
            "The position that the answer must contain; with its partition where the answer is about several.",
            "(0|[1-9][0-9]{0,14})",
            "03:812",
        ),
        _cursors(
            "afterCursor",
            "The cursor of an event that the answer must contain; with its partition where it is about several.",
            _EVENT_CURSOR,
            "03:1-812-9f86d081",
        ),
        Parameter(
            name="waitMs",
            meaning="How long to wait for that at most.",
            schema=whole(0, WAIT_MS_MAX, WAIT_MS),
        ),
        _text("from", "The first day, UTC.", "2026-11-01", format="date"),
        _text("to", "The last day, UTC.", "2026-11-30", format="date"),
        _text("pair", "Only this pair.", "SOL/USDC", pattern="^[!-.0-~]+/[!-~]+$"),
        _text("after", "Exclusive: a cursor, an event id or, for one order, a seq.", CURSOR),
        _text("lastEventId", "The same as `after`.", CURSOR),
        _text("since", f"{_EVENTS_SINCE}. {_TIME}", "2026-11-21T22:00:00Z", format="date-time"),
        Parameter(name="last", meaning="Begin with the newest so many events.", schema=whole(1, LAST_MAX)),
        _listed("events", "Only events of these names.", {"enum": list(get_args(EventName))}, "confirmed"),
        _listed("statuses", "Only events with these statuses.", {"enum": list(get_args(Status))}, "confirmed"),
        _listed("assets", "Only orders of these assets, by symbol or mint.", {"type": "string"}, "SOL"),
        Parameter(name="snapshot", meaning="Begin with the orders as they are.", schema={"type": "boolean"}),
        Parameter(
            name="until",
            meaning="End where the log ends, or, of one order, with its last event.",
            schema={"enum": ["caught_up", "terminal"]},
        ),
        Parameter(
            name="wait",
            meaning="Answer with JSON instead of a stream, after so many seconds at most.",
            schema=whole(0, WAIT_SECONDS_MAX),
        ),
    )
}
"""By name. One that means something else in one operation is declared there."""
PLACE_IN_LOG: Final = Parameter(
    name="from",
    meaning="Before the first event, or what comes next.",
    schema={"enum": ["start", "now"]},
)
"""What ``from`` is for subscriptions."""
