"""The one table of examples: each request, what its answer must be, and what later ones take from it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

VARIABLES: Final = {"baseUrl": "http://127.0.0.1:3000", "wsUrl": "ws://127.0.0.1:3000"}
"""Where the engine is; the only ones that a person sets."""
KEY: Final = "idempotencyKey"
"""Drawn anew by the first example that has ``draws_key``."""
SIMULTANEOUS: Final = 5
PRESENT: Final = object()
"""Of an expected member: it is there."""


class Example(Struct, frozen=True, kw_only=True):
    """One request; ``{{name}}`` stands for a variable anywhere in its texts."""

    name: str
    says: str
    """What it shows, for whoever reads the collection."""
    method: Literal["GET", "POST", "DELETE"] = "GET"
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = {}
    status: int
    members: Mapping[str, Any] = {}
    """What members of the answer must be, by path; a number in a path is an index."""
    saves: Mapping[str, str] = {}
    """Variables, and the members that they are taken from."""
    draws_key: bool = False
    proves_routing: bool = False
    """The answer's events must show that both venues quoted, and that the better one was chosen."""


class Conversation(Struct, frozen=True, kw_only=True):
    """Messages to be sent on one WebSocket, one after the other."""

    name: str
    says: str
    path: str
    messages: Sequence[tuple[str, Mapping[str, Any]]]


SWAP: Final = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": "1.5", "slippageBps": 100, "clientId": "collections"}
_PLACED: Final = {"orderId": PRESENT, "status": "pending", "phase": "PENDING", "duplicate": False}


def _order(name: str, says: str, body: Mapping[str, Any], saves: Mapping[str, str] | None = None) -> Example:
    return Example(
        name=name,
        says=says,
        method="POST",
        path="/api/orders/execute",
        body=body,
        status=202,
        members=_PLACED,
        saves=saves or {},
    )


def _invalid(name: str, says: str, change: Mapping[str, Any], pointer: str, message: str) -> Example:
    body = {name: value for name, value in {**SWAP, **change}.items() if value is not None}
    return Example(
        name=name,
        says=says,
        method="POST",
        path="/api/orders/execute",
        body=body,
        status=400,
        members={"code": "invalid_order", "errors.0.pointer": pointer, "errors.0.message": message},
    )


def _keyed(name: str, says: str, amount: str, status: int, members: Mapping[str, Any], **more: Any) -> Example:
    return Example(
        name=name,
        says=says,
        method="POST",
        path="/api/orders",
        body={**SWAP, "amount": amount},
        headers={"Idempotency-Key": "{{" + KEY + "}}"},
        status=status,
        members=members,
        **more,
    )


_PLACING: Final = [
    _order("SOL to USDC", "Sells 1.5 SOL.", SWAP, {"orderId": "orderId", "cursor": "cursor"}),
    _order("USDC to SOL", "The other way.", {**SWAP, "tokenIn": "USDC", "tokenOut": "SOL", "amount": "200"}),
    _order(
        "Buy SOL",
        "By side: an exact amount of SOL for as little USDC as possible.",
        {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 2, "clientId": "collections"},
    ),
    _order("Large order", "Accepted like any other; price impact is a matter of its route.", {**SWAP, "amount": "250"}),
]
_AT_ONCE: Final = [
    _order(
        f"Order {number} of {SIMULTANEOUS}",
        "Sent without waiting for the others' outcome: all are under way at once.",
        {**SWAP, "amount": str(number)},
        {f"order{number}": "orderId"},
    )
    for number in range(1, SIMULTANEOUS + 1)
]
_ROUTING: Final = [
    Example(
        name=f"Routing of order {number}",
        says="Waits for quotes and choice: both venues have quoted, and the one that pays more is chosen.",
        path="/api/orders/{{order" + str(number) + "}}/stream?events=routing:quotes,building&wait=20",
        status=200,
        members={"events.0.event": "routing:quotes", "events.1.event": "building"},
        proves_routing=True,
    )
    for number in range(1, SIMULTANEOUS + 1)
]
_AMBIGUOUS: Final = (
    "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
    'or write the unit, as in "0.5%" or "50 bps"'
)
_INVALID: Final = [
    Example(
        name="Missing fields",
        says="Everything that is missing is reported together.",
        method="POST",
        path="/api/orders/execute",
        body={},
        status=400,
        members={"code": "invalid_order", "errors.0.pointer": "/side", "errors.3.pointer": "/amount"},
    ),
    _invalid("Negative amount", "Amounts are positive.", {"amount": "-1"}, "/amount", "must be greater than zero"),
    _invalid(
        "Excessive slippage",
        "At most 10,000 hundredths of a percent.",
        {"slippageBps": 10_001},
        "/slippageBps",
        "must be a whole number from 0 to 10000",
    ),
    _invalid(
        "Ambiguous slippage",
        "0.5 may be half a percent or fifty: say which.",
        {"slippageBps": None, "slippage": 0.5},
        "/slippage",
        _AMBIGUOUS,
    ),
    _invalid(
        "Bad type",
        "What is not implemented is not accepted.",
        {"orderType": "stop"},
        "/orderType",
        'must be "market", "limit" or "sniper"',
    ),
    _invalid(
        "Same token twice",
        "A swap needs two.",
        {"tokenOut": "SOL"},
        "/tokenOut",
        "must be another token than tokenIn",
    ),
    Example(
        name="Unknown order",
        says="Errors are problems (RFC 9457) with a code.",
        path="/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-03",
        status=404,
        members={"code": "not_found", "statusCode": 404},
    ),
]
_IDEMPOTENCY: Final = [
    _keyed("First", "A key of its own.", "3", 202, _PLACED, saves={"first": "orderId"}, draws_key=True),
    _keyed(
        "Again", "The same key and content: the first order.", "3", 200, {"orderId": "{{first}}", "duplicate": True}
    ),
    _keyed("Conflict", "The same key for another order is refused.", "4", 422, {"code": "idempotency_conflict"}),
]
_READING: Final = [
    Example(
        name="Order",
        says="As its stream has it, so never older than your last write.",
        path="/api/orders/{{orderId}}",
        status=200,
        members={"orderId": "{{orderId}}", "side": "sell", "amount": "1.5"},
    ),
    Example(
        name="Events",
        says="The order's events so far.",
        path="/api/orders/{{orderId}}/events",
        status=200,
        members={"orderId": "{{orderId}}", "events.0.event": "pending", "events.0.seq": 1},
    ),
    Example(
        name="List",
        says="From the read model; afterCursor waits for the first order of this collection.",
        path="/api/orders?clientId=collections&limit=5&afterCursor={{cursor}}&waitMs=5000",
        status=200,
        members={"orders.0.clientId": "collections", "asOf.lagMs": PRESENT},
    ),
    Example(
        name="Volumes",
        says="By day, pair and venue.",
        path="/api/volumes?pair=SOL/USDC&limit=5",
        status=200,
        members={"asOf.lagMs": PRESENT},
    ),
    Example(
        name="Quotes",
        says="What both venues would give now, which one an order would take, and why.",
        path="/api/quotes?tokenIn=SOL&tokenOut=USDC&amount=1.5",
        status=200,
        members={"simulated": True, "quotes.1.venue": PRESENT, "chosen.venue": PRESENT, "why": PRESENT},
    ),
    Example(
        name="Tokens",
        says="What the venues trade.",
        path="/api/tokens",
        status=200,
        members={"tokens.0.symbol": "SOL", "pairs.0.pair": "SOL/USDC"},
    ),
    Example(
        name="Order statistics",
        says="Orders by status and phase, from the read model.",
        path="/api/orders/stats",
        status=200,
        members={"total": PRESENT, "statuses.failed": PRESENT},
    ),
    Example(
        name="Queue statistics",
        says="Unfinished work; failed counts what broke and waits for an operator.",
        path="/api/queue/stats",
        status=200,
        members={"waiting": PRESENT, "failed": 0},
    ),
]
_CANCELLING: Final = [
    _order(
        "A limit order that waits",
        "Its price is never met.",
        {
            **{"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1", "orderType": "limit"},
            **{"limitPrice": "1.25", "clientId": "collections"},
        },
        {"resting": "orderId"},
    ),
    Example(
        name="Cancel",
        says="Ends at once: no swap was or will be executed.",
        method="DELETE",
        path="/api/orders/{{resting}}",
        status=200,
        members={"orderId": "{{resting}}", "status": "cancelled", "cursor": PRESENT},
    ),
    Example(
        name="Cancel again",
        says="It has ended before.",
        method="POST",
        path="/api/orders/{{resting}}/cancel",
        status=409,
        members={"code": "order_ended", "orderStatus": "cancelled"},
    ),
]

FOLDERS: Final[Mapping[str, Sequence[Example]]] = {
    "Health": [
        Example(name="Health", says="The process answers.", path="/health", status=200, members={"status": "ok"}),
        Example(
            name="Ready",
            says="It can do its work: each check is listed.",
            path="/readyz",
            status=200,
            members={"status": "ready", "checks.database.ok": True},
        ),
    ],
    "Place orders": _PLACING,
    "Five orders at once": _AT_ONCE,
    "Proof of routing": _ROUTING,
    "Refused orders": _INVALID,
    "Idempotency": _IDEMPOTENCY,
    "Read": _READING,
    "Cancel": _CANCELLING,
}
"""In the order in which they are run: later ones use what earlier ones saved."""

_FOLLOWED: Final = {**SWAP, "follow": "mine", "id": "1"}
CONVERSATIONS: Final[Sequence[Conversation]] = [
    Conversation(
        name="Place and follow",
        says="The order's events come back on the same socket, from pending to confirmed.",
        path="/api/orders/ws",
        messages=[
            ("hello", {"type": "hello", "v": 1, "client": {"name": "bruno"}}),
            ("order", _FOLLOWED),
            ("cancel", {"type": "cancel", "orderId": "{{orderId}}", "id": "2"}),
        ],
    ),
    Conversation(
        name="Five orders on one socket",
        says="Sent one after the other without waiting; their events are interleaved, each order's in its own order.",
        path="/api/orders/ws",
        messages=[
            (f"order {number}", {**SWAP, "amount": str(number), "follow": f"order{number}"})
            for number in range(1, SIMULTANEOUS + 1)
        ],
    ),
    Conversation(
        name="Proof of routing",
        says="Quotes and choices of all orders: place some beside it and compare the two amounts with the choice.",
        path="/api/orders/ws",
        messages=[
            (
                "routing of all orders",
                {"type": "subscribe", "sub": "routing", "scope": "all", "events": ["routing:quotes", "building"]},
            )
        ],
    ),
    Conversation(
        name="Resume",
        says="Follows a client from its first event; a cursor in the place of from goes on after that event.",
        path="/api/orders/ws",
        messages=[
            (
                "client",
                {"type": "subscribe", "sub": "client", "clientId": "collections", "from": "start", "window": 64},
            ),
            ("acknowledge", {"type": "ack", "sub": "client", "cursor": "{{cursor}}"}),
            ("unsubscribe", {"type": "unsubscribe", "sub": "client"}),
        ],
    ),
    Conversation(
        name="As other engines do",
        says="An order as the first message on the path that it would be posted to.",
        path="/api/orders/execute",
        messages=[("execute", {"action": "execute", "order": {"tokenIn": "SOL", "tokenOut": "USDC", "amount": 1.5}})],
    ),
]
