"""Hostile WebSocket frames: messages that are mutated, broken or not messages at all, drawn from a seed."""

import json
import random
from collections.abc import Iterator
from typing import Any, Final

from tests.benchmarks.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

ORDER_ID: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"
CURSOR: Final = "1-7-9f86d081"
FRAMES_MAX: Final = 20
"""On one socket."""
MASK: Final = b"\x37\xfa\x21\x3d"
VALID: Final[tuple[dict[str, Any], ...]] = (
    {"type": "hello", "id": "1", "v": 1, "client": {"name": "bot", "version": "0.3.0"}},
    {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "12.5", "clientId": "fuzz", "follow": "o1"},
    {"type": "limit", "side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1", "limitPrice": "400"},
    {"action": "execute", "order": {"tokenIn": "ETH", "tokenOut": "USDC", "amount": "0.75"}},
    {"type": "cancel", "orderId": ORDER_ID, "id": "3"},
    {"type": "subscribe", "orderId": ORDER_ID, "after": CURSOR},
    {"type": "subscribe", "payload": {"orderId": ORDER_ID}},
    {"type": "subscribe", "sub": "s1", "clientId": "fuzz", "from": "start", "until": "caught_up", "id": "4"},
    {"type": "subscribe", "sub": "s2", "scope": "all", "after": f"0.{CURSOR}~3.{CURSOR}", "events": ["confirmed"]},
    {"type": "subscribe", "sub": "s3", "scope": "all", "since": "2026-11-21T22:00:00Z", "window": 512, "batch": 100},
    {"type": "subscribe", "sub": "s4", "clientId": "fuzz", "snapshot": True},
    {"type": "subscribe", "sub": "s5", "scope": "all", "last": 50, "assets": ["SOL"], "statuses": ["pending"]},
    {"type": "ack", "sub": "s3", "cursor": f"0.{CURSOR}"},
    {"type": "unsubscribe", "sub": "s1", "id": "5"},
    {"type": "ping", "id": "6", "t": 1795300457000},
)
VALUES: Final[tuple[str, ...]] = (
    *("null", "true", "false", "0", "-1", "-0", "9007199254740993", "1e400", "1E-400", "0.1", "01", "+1", "1.", ".5"),
    *("NaN", "Infinity", "-Infinity", '""', '" "', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e"', '"\x01"'),
    *("[]", "{}", "[[[[]]]]", '{"a":{"a":{}}}', '[null,1,"x"]', '"\U0001f4a5"', '"\\uD83D\\uDCA5"', "'x'", "undefined"),
    *("1" * 400, "-" + "9" * 40, '"' + "x" * 300 + '"', '"' + "é" * 5000 + '"', "[" * 40 + "]" * 40),
    *(f'"{ORDER_ID}"', f'"{ORDER_ID}/3"', '"start"', '"now"', '"0.1-1-00000000~0.1-1-00000000"', '"99.1-1-00000000"'),
    *('"9999-12-31T23:59:59.999999Z"', '"0001-01-01T00:00:00+23:59"', '"2026-02-30T00:00:00Z"', '"1-1-zzzzzzzz"'),
    *('"9999999999999999-9999999999999999-00000000"', '"../../etc/passwd"', '"\'; DROP TABLE orders; --"', '"%00%ff"'),
)
NAMES: Final = (
    *("type", "id", "sub", "scope", "orderId", "clientId", "after", "lastEventId", "from", "since", "last", "snapshot"),
    *("until", "window", "batch", "events", "statuses", "assets", "cursor", "amount", "side", "baseAsset", "v", "t"),
    *("follow", "idempotencyKey", "slippageBps", "limitPrice", "__proto__", "constructor", "", "x" * 100, "\\u0000"),
)


def members(message: dict[str, Any]) -> list[tuple[str, str]]:
    """A message's members, each value as JSON."""
    return [(name, json.dumps(value)) for name, value in message.items()]


def spelled(found: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in found) + "}"


def untouched(chance: random.Random) -> str:
    return json.dumps(chance.choice(VALID))


def wrong_values(chance: random.Random) -> str:
    found = members(chance.choice(VALID))
    for _ in range(chance.randint(1, 3)):
        index = chance.randrange(len(found))
        found[index] = (found[index][0], chance.choice(VALUES))
    return spelled(found)


def other_members(chance: random.Random) -> str:
    found = members(chance.choice(VALID))
    for _ in range(chance.randint(1, 4)):
        match chance.randrange(3):
            case 0:
                found.insert(chance.randrange(len(found) + 1), (chance.choice(NAMES), chance.choice(VALUES)))
            case 1:
                found.append(chance.choice(found) if found else ("type", '"ping"'))
            case _ if found:
                del found[chance.randrange(len(found))]
    return spelled(found)


def broken_text(chance: random.Random) -> bytes:
    data = bytearray(json.dumps(chance.choice(VALID)).encode())
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            case 2:
                del data[at : at + chance.randint(1, 8)]
            case _:
                data[at:at] = json.dumps(chance.choice(VALID)).encode()
    return bytes(data)


def not_objects(chance: random.Random) -> str:
    depth = chance.choice([15, 16, 17, 200, 20_000])
    return chance.choice(
        [
            *VALUES,
            "",
            " ",
            ORDER_ID,
            "[" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            "[" + "0," * 20_000 + "0]",
            "{" + ",".join(f'"k{number}":0' for number in range(4_000)) + "}",
            '{"type":"' + "x" * 60_000 + '"}',
        ]
    )


def texts(chance: random.Random) -> bytes:
    """The payload of a text frame; not always text."""
    kinds = [
        untouched,
        wrong_values,
        wrong_values,
        wrong_values,
        other_members,
        other_members,
        broken_text,
        not_objects,
    ]
    kind = chance.choice(kinds)
    made: Any = kind(chance)
    return made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")


def whole(chance: random.Random) -> bytes:
    """One text frame, of text."""
    text = texts(chance).decode("utf-8", "replace")
    return frame(text.encode(), mask=chance.choice([MASK, b"\0\0\0\0"]))


def not_text(chance: random.Random) -> bytes:
    """One text frame, of bytes that need not be text."""
    payload = b"" if chance.random() < 0.1 else chance.choice([texts(chance), chance.randbytes(30)])
    return frame(payload + b"\xed\xa0\x80")


def binary(chance: random.Random) -> bytes:
    return frame(chance.randbytes(chance.choice([0, 1, 100, 5_000])), BINARY)


def fragmented(chance: random.Random) -> bytes:
    """One message in parts, with a ping between them; or parts that never end, or begin in the middle."""
    payload = texts(chance)
    cut = chance.randrange(len(payload) + 1)
    first, rest = frame(payload[:cut], final=False), frame(payload[cut:], CONTINUATION)
    return chance.choice([first + rest, first + frame(b"between", PING) + rest, first, rest, first + first])


def against_the_protocol(chance: random.Random) -> bytes:
    """Bits, opcodes, lengths and masks that RFC 6455 forbids, and closes with codes of all kinds."""
    payload = texts(chance)[:100]
    plain = frame(payload)
    code = chance.choice([0, 999, 1000, 1005, 1006, 1015, 3000, 4999, 5000, 65_535]).to_bytes(2, "big")
    return chance.choice(
        [
            bytes((plain[0] | chance.choice([0x10, 0x20, 0x40]),)) + plain[1:],
            bytes((0x80 | chance.choice([3, 4, 5, 6, 7, 11, 12, 15]),)) + plain[1:],
            plain[:1] + bytes((plain[1] & 0x7F,)) + plain[2:],
            frame(b"x" * 126, PING),
            frame(b"", PING, final=False),
            frame(b"unasked", PONG),
            frame(code + payload[:50], CLOSE),
            frame(b"\x03", CLOSE),
            b"\x81\xff" + b"\xff" * 8 + MASK,
            chance.randbytes(chance.randint(1, 200)),
        ]
    )


def oversized(chance: random.Random) -> bytes:
    return frame(b'{"type":"ping","id":"' + b"x" * chance.choice([65_536, 70_000, 1_000_000]) + b'"}', TEXT)


ENDING: Final = ((not_text, 10), (fragmented, 40), (against_the_protocol, 40), (oversized, 10))
"""What may well end a socket: it is the last thing that one sends."""


def sockets_of(chance: random.Random, count: int) -> Iterator[list[bytes]]:
    """Yield what each socket sends, ``count`` frames in all."""
    while count > 0:
        size = min(count, chance.randint(1, FRAMES_MAX))
        made = [(binary if chance.random() < 0.04 else whole)(chance) for _ in range(size - 1)]
        [kind] = chance.choices([kind for kind, _ in ENDING], [weight for _, weight in ENDING])
        yield [*made, (kind if chance.random() < 0.5 else whole)(chance)]
        count -= size
