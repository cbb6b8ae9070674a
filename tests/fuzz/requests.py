"""Hostile HTTP requests, as bytes: mutated methods, paths, queries, headers, lengths and bodies, drawn from a seed."""

import json
import random
from typing import Final
from urllib.parse import quote

from tests.fuzz.frames import CURSOR, ORDER_ID, VALUES, texts

METHODS: Final = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "FOO",
    "P ST",
    "",
)
PATHS: Final = (
    "/api/orders",
    f"/api/orders/{ORDER_ID}",
    f"/api/orders/{ORDER_ID}/events",
    f"/api/orders/{ORDER_ID}/cancel",
    f"/api/orders/{ORDER_ID}/stream",
    "/api/orders/execute",
    "/api/orders/ws",
    "/api/clients/fuzz/stream",
    "/api/stream",
    "/api/volumes",
    "/livez",
    "/readyz",
)
ORDERS: Final = (
    {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "12.5", "clientId": "fuzz"},
    {"tokenIn": "ETH", "tokenOut": "USDC", "amount": "0.75"},
)
PARAMETERS: Final = (
    *("after", "lastEventId", "from", "since", "last", "limit", "before", "status", "clientId", "events", "statuses"),
    *("assets", "snapshot", "until", "minVersion", "wait", "day", "venue", "x"),
)
ENDS: Final = ("/", "//", "/..%2f", "%00", "%ff", "%", ";a=b", "/" + "x" * 5_000, "%u0041", "\xe9", "?", "#a", "\\")
HEADERS: Final = (
    "Idempotency-Key: fuzz\r\nX-Injected: yes",
    "Idempotency-Key: a%0d%0aX-Injected:%20yes",
    'Idempotency-Key: "' + "k" * 300 + '"',
    "Idempotency-Key: \xff\xfe",
    "Idempotency-Key: a\r\nIdempotency-Key: b",
    f"Last-Event-ID: {CURSOR}",
    "Last-Event-ID: \x01\x02",
    "Last-Event-ID: 0." + CURSOR + "~" * 3_000,
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-16",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Accept: text/event-stream",
    'If-Match: W/"\'"',
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 99",
    "X-Forwarded-For: ::1, '",
    "Origin: null",
    "Cookie: " + "c" * 4_000,
    "Bad Header: x",
    "NoColon",
    ": empty",
    "X: " + "y" * 70_000,
    "\r\n".join(f"X-{number}: y" for number in range(300)),
)


def query(chance: random.Random) -> str:
    """Some parameters; their values are those of messages, a few as they are to be."""
    found: list[str] = []
    for _ in range(chance.choice([0, 0, 1, 1, 2, 4])):
        name, value = chance.choice(PARAMETERS), chance.choice(VALUES).strip('"')
        found.append(f"{name}={chance.choice([quote(value), value.replace(' ', '+'), '%zz', '', '1', 'start'])}")
    if chance.random() < 0.02:
        found.append("&".join(f"a{number}=1" for number in range(2_000)))
    return "?" + "&".join(found) if found else ""


def body_of(chance: random.Random) -> tuple[str, bytes]:
    """The header lines of a body, and the body: lengths and chunks that are right, or not."""
    body = json.dumps(chance.choice(ORDERS)).encode() if chance.random() < 0.2 else texts(chance)
    size = len(body)
    match chance.randrange(8):
        case 0 | 1 | 2 | 3:
            return f"Content-Length: {size}\r\n", body
        case 4:
            return "Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
        case 5:
            sizes = [b"zz", b"-1", b"ffffffffffffffff", b"1;ext=\x00", b"0x5", b""]
            return "Transfer-Encoding: chunked\r\n", b"%s\r\n%s\r\n0\r\n\r\n" % (chance.choice(sizes), body)
        case 6:
            lengths = [
                str(size + 5),
                "-1",
                "abc",
                f"{size}, {size}",
                "99999999999999999999",
                f"{size}\r\nContent-Length: 1",
            ]
            return f"Content-Length: {chance.choice(lengths)}\r\n", body
        case _:
            return f"Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n", body


def hostile(chance: random.Random) -> bytes:
    """The bytes of one request, whole or not."""
    method = chance.choice(METHODS[:2] if chance.random() < 0.7 else METHODS)
    path = chance.choice(PATHS[:1] if chance.random() < 0.2 else PATHS)
    if chance.random() < 0.3:
        cut = chance.randrange(len(path) + 1)
        path = path[:cut] + chance.choice([*ENDS, quote(chance.choice(VALUES)[:2_000])]) + path[cut:]
    version = (
        "HTTP/1.1" if chance.random() < 0.95 else chance.choice(["HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "http/1.1"])
    )
    head = f"{method} {path}{query(chance)} {version}\r\n"
    head += chance.choices(["Host: 127.0.0.1\r\n", "Host: fuzz\r\n", ""], [90, 5, 5])[0]
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        head += chance.choice(HEADERS) + "\r\n"
    lines, body = body_of(chance) if method != "GET" or chance.random() < 0.1 else ("", b"")
    request = (head + lines + "Connection: close\r\n\r\n").encode("utf-8", "surrogatepass") + body
    return request[: chance.randrange(len(request))] if chance.random() < 0.03 else request
