"""Whatever a client sends, hostile or not, with a key of its own: no answer has anything of another client's orders."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Final

import pytest

from tests.benchmarks.frames import frame
from tests.fuzz import requests
from tests.fuzz.attack import Found, drawn, send_frames, send_requests
from tests.fuzz.frames import FRAMES_MAX, ORDER_ID, texts
from tests.integration.api import live
from tests.integration.guarded import SAM, Guarded, Holder, guarded, guarded_by

SEED: Final = 20_261_127
REQUESTS: Final = 600
SOCKETS: Final = 60
AMOUNT, KEY = "7.654321", "sam-4711-0815"
"""Of an order of Sam's; nothing else has them."""


def aimed(text: bytes, order_id: str) -> bytes:
    """The same at Sam's order, and at Sam's orders."""
    return text.replace(ORDER_ID.encode(), order_id.encode()).replace(b"fuzz", SAM.encode())


def asked(holder: Holder, order_id: str) -> Iterator[bytes]:
    """Requests, each with the holder's key; every third is as it is to be."""
    plain = [f"/api/orders/{order_id}{rest}" for rest in ("", "/events", "/stream?wait=0", "?asOf=1")]
    plain += [f"/api/orders?clientId={SAM}", "/api/orders", f"/api/clients/{SAM}/stream?wait=0&from=start"]
    for number, made in enumerate(drawn(requests.hostile, REQUESTS, SEED)):
        request = aimed(made, order_id)
        if number % 3 == 0:
            request = f"GET {plain[number // 3 % len(plain)]} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
            request += b"Connection: close\r\n\r\n"
        yield request.replace(b"\r\n", f"\r\nAuthorization: Bearer {holder.key}\r\n".encode(), 1)


def said(holder: Holder, order_id: str) -> Iterator[list[bytes]]:
    """What goes over each of several sockets, after the holder's hello."""
    chance = random.Random(SEED)
    hello = frame(json.dumps({"type": "hello", "token": holder.key}).encode())
    plain = [{"orderId": order_id}, {"type": "subscribe", "clientId": SAM, "from": "start"}]
    for _ in range(SOCKETS):
        made = [aimed(texts(chance), order_id) for _ in range(FRAMES_MAX)]
        yield [hello, *(frame(json.dumps(one).encode()) for one in plain), *map(frame, made)]


def told(on: Guarded, holder: Holder, order_id: str) -> Found:
    """What a server answers to all that."""
    port = int(on.api.url.rpartition(":")[2])
    found = Found(private=(AMOUNT.encode(), KEY.encode()))
    send_requests(port, asked(holder, order_id), found)
    send_frames(port, said(holder, order_id), found)
    return found


@pytest.mark.slow
def test_no_answer_has_anything_of_another_clients_orders(database_url: str) -> None:
    async def main() -> None:
        async with guarded(database_url, policy=guarded_by()) as on:
            order_id = await on.sam.place(amount=AMOUNT, idempotencyKey=KEY)
            await live(on.api.streams, order_id)
            await on.ann.place()
            own = await asyncio.to_thread(told, on, on.sam, order_id)
            foreign = await asyncio.to_thread(told, on, on.ann, order_id)
        assert {fault.partition(":")[0] for fault in own.faults} >= {f"a leak of {AMOUNT}"}
        assert foreign.faults == []
        assert foreign.requests == own.requests == REQUESTS
        assert min(foreign.answers["status 404"], foreign.answers["message not_found"]) > SOCKETS // 2

    asyncio.run(main())
