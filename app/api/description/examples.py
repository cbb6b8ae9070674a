"""The one table of examples: orders, and what either side of a WebSocket says; documents and pages show it."""

from typing import Any, Final

from app.api.description.documents.members import CURSOR, ORDER_ID

_HASHES: Final = {"prev": None, "hash": "60303ae2" + "5b" * 28}
_ALL: Final = "0.1-9-9f86d081~3.1-12-60303ae2"

ORDERS: Final[dict[str, dict[str, Any]]] = {
    "market": {
        "clientId": "user01",
        "side": "buy",
        "baseAsset": "SOL",
        "quoteAsset": "USDC",
        "amount": "2.5",
        "slippageBps": 50,
    },
    "limit": {
        "clientId": "user01",
        "side": "sell",
        "baseAsset": "SOL",
        "quoteAsset": "USDC",
        "amount": "2.5",
        "orderType": "limit",
        "limitPrice": "250",
        "timeInForce": "GTC",
    },
    "sniper": {
        "clientId": "user01",
        "tokenIn": "SOL",
        "tokenOut": "NEW7",
        "amount": "0.5",
        "orderType": "sniper",
        "maxFeeBps": 1000,
    },
}
"""Bodies of a request to place an order, by type."""

PLACED: Final = {
    "orderId": ORDER_ID,
    "status": "pending",
    "phase": "PENDING",
    "seq": 1,
    "duplicate": False,
    "wsUrl": f"/api/orders/ws?orderId={ORDER_ID}",
    "cursor": CURSOR,
}

EVENT: Final[dict[str, Any]] = {
    "amount": "12.5",
    "at": "2026-11-21T22:27:37.001000Z",
    "baseAsset": "SOL",
    "decimals": [9, 6],
    "event": "pending",
    "meta": {"actor": "api", "client": "user01", "command": "c1", "type": "OrderAccepted", **_HASHES},
    "orderId": ORDER_ID,
    "orderType": "market",
    "quoteAsset": "USDC",
    "seq": 1,
    "side": "buy",
    "slippageBps": 50,
    "status": "pending",
    "phase": "PENDING",
    "cursor": CURSOR,
}

CLIENT_EXAMPLES: Final[tuple[dict[str, Any], ...]] = (
    {"type": "hello", "id": "1", "v": 1, "token": "otk_0123456789ab_…", "client": {"name": "bot", "version": "0.3.0"}},
    {
        **{"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "12.5", "clientId": "user01"},
        **{"idempotencyKey": "bot7-000123", "follow": "o1", "id": "2"},
    },
    {"type": "cancel", "orderId": ORDER_ID, "id": "3"},
    {"type": "subscribe", "orderId": ORDER_ID, "after": "1-7-9f86d081"},
    {"type": "subscribe", "sub": "s1", "clientId": "user01", "from": "start", "until": "caught_up", "id": "4"},
    {
        **{"type": "subscribe", "sub": "s2", "scope": "all", "after": "0.1-7-9f86d081~3.1-12-60303ae2"},
        **{"events": ["confirmed", "failed"], "assets": ["SOL"]},
    },
    {"type": "subscribe", "sub": "s3", "scope": "all", "since": "2026-11-21T22:00:00Z", "window": 512, "batch": 100},
    {"type": "subscribe", "sub": "s4", "clientId": "user01", "snapshot": True},
    {"type": "subscribe", "sub": "s5", "orderId": ORDER_ID, "last": 50, "until": "terminal"},
    {"type": "ack", "sub": "s3", "cursor": _ALL},
    {"type": "unsubscribe", "sub": "s1", "id": "5"},
    {"type": "ping", "id": "6", "t": 1795300457000},
)

SERVER_EXAMPLES: Final[tuple[dict[str, Any], ...]] = (
    {
        **{
            "type": "welcome",
            "id": "1",
            "v": 1,
            "connection": "c_7f3a",
            "log": {"epochs": {"0": 1, "3": 1}, "head": _ALL},
        },
        "heartbeatMs": 15000,
        "limits": {"frameBytes": 65536, "subs": 200, "inflight": 64, "windowMax": 4096, "batchMax": 500},
        "server": {"version": "0.1.0", "time": "2026-11-21T22:27:37.001000Z"},
    },
    {"type": "accepted", "id": "2", "orderId": ORDER_ID, "duplicate": False, "cursor": "1-7-9f86d081", "sub": "o1"},
    {"type": "cancelled", "id": "3", "orderId": ORDER_ID, "seq": 2, "cursor": "1-8-71ab20c3"},
    {"type": "cancel_pending", "id": "3", "orderId": ORDER_ID, "seq": 6, "cursor": "1-8-71ab20c3"},
    {"type": "subscribed", "id": "4", "sub": "s1", "clientId": "user01", "after": "start", "head": CURSOR},
    {"sub": "s1", "replay": True, **EVENT},
    {"type": "events", "sub": "s3", "items": []},
    {"type": "caught_up", "sub": "s1", "cursor": CURSOR},
    {"type": "bookmark", "sub": "s2", "cursor": _ALL},
    {"type": "lagging", "sub": "s3", "cursor": "0.1-9-9f86d081", "behind": 12000, "closeInMs": 30000},
    {"type": "unsubscribed", "sub": "s1", "reason": "completed", "cursor": CURSOR},
    {"type": "heartbeat", "t": 1795300472001, "head": _ALL},
    {"type": "pong", "id": "6", "t": 1795300457000},
    {
        **{"type": "error", "id": "4", "code": "cursor_unavailable", "sub": "s1"},
        "message": "the log of partition 3 now begins at position 7 and the archive has nothing before it: "
        "take the snapshot, and subscribe with it",
        **{"cursor": "1-3-aaaaaaaa", "earliest": "1-7-9f86d081", "head": CURSOR},
        "snapshot": "/api/orders?clientId=user01",
        "problem": {
            **{"type": "/problems/cursor_unavailable", "title": "Nothing can follow this cursor", "status": 410},
            "detail": "the log of partition 3 now begins at position 7 and the archive has nothing before it: "
            "take the snapshot, and subscribe with it",
        },
    },
    {
        **{"type": "goaway", "code": 4503, "reason": "the server is stopping: reconnect and resume"},
        **{"reconnectAfterMs": 1000, "cursors": {"s2": _ALL}},
    },
)
