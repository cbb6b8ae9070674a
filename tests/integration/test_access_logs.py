"""No key, secret or ticket is logged, at any level, whatever a client sends and wherever it puts it."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.telemetry import set_up_logging
from tests.integration.api import hear_close, say
from tests.integration.guarded import ANN, Guarded, on_guarded
from tests.integration.test_access_orders import NAMELESS

QUIET = ("httpx", "httpcore", "websockets", "hpack", "asyncio")
"""Loggers of the clients in this process; those of the server are uvicorn's and ours."""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server logs at its most talkative."""
    stream = io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    levels = {name: logging.getLogger(name).level for name in QUIET}
    set_up_logging("debug", stream)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield stream
    logging.root.handlers[:], logging.root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


async def raw(on: Guarded, text: str) -> None:
    """Send something that may be no request, and read what comes back until the server closes."""
    host, port = on.api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    await reader.read()
    writer.close()


async def everywhere(on: Guarded, secret: str) -> None:
    """Put a secret wherever a client can."""
    http = on.api.http
    bearer = {"Authorization": f"Bearer {secret}"}
    for headers in (bearer, {"Authorization": secret}, {"X-Api-Key": secret}, {**bearer, "Last-Event-ID": secret}):
        await http.get("/api/orders", headers=headers)
        await http.post("/api/orders", headers=headers, json={**NAMELESS, "clientId": secret})
        await http.post("/api/orders", headers=headers, content=secret)
    for path in (f"orders/{secret}", f"clients/{secret}/stream", f"orders?before={secret}", secret):
        await http.get(f"/api/{path}", headers=bearer)
        await http.get(f"/api/{path}")
    for name in ("token", "key", "ticket", "after"):
        await http.get(f"/api/clients/{ANN}/stream", params={name: secret, "wait": "0"})
        await http.get(f"/api/clients/{ANN}/stream", params={name: secret, "wait": "0"}, headers=bearer)
    await raw(on, f"GET /api/orders HTTP/1.1\r\nAuthorization Bearer {secret}\r\n\r\n")
    await raw(on, f"{secret}\r\n\r\n")
    await raw(on, f"GET / HTTP/1.1\r\nX: {secret * 600}\r\n\r\n")
    for query in (f"?ticket={secret}", f"?token={secret}", f"?after={secret}", ""):
        # Without a query it is shown on the handshake, with one by the query or by hello.
        shown = {} if query else bearer
        try:
            async with connect(on.api.socket_url + query, compression=None, additional_headers=shown) as socket:
                await say(socket, type="hello", token=secret)
                await socket.send(secret)
                await say(socket, type="hello", token=secret + "\ud800")
                # Said twice, it closes whoever was not closed before.
                await say(socket, type="hello")
                await say(socket, type="hello")
                await hear_close(socket)
        except (InvalidStatus, ConnectionClosed):
            continue


def test_nothing_that_opens_anything_is_logged(
    keys_url: str, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Refused attempts must not hide what others would log.
    monkeypatch.setattr("app.api.access.doors.FAILURES_BURST", 10_000)
    secrets: list[str] = []

    async def scenario(on: Guarded) -> None:
        ticket = (await on.ann.http.post("/api/tickets")).json()["ticket"]
        other = (await on.ann.http.post("/api/tickets")).json()["ticket"]
        await on.api.http.get(f"/api/clients/{ANN}/stream", params={"ticket": other, "wait": "0"})
        secrets.extend([on.ann.key, ticket, other])
        order_id = await on.ann.place()
        async with on.socket(on.ann, f"?orderId={order_id}") as socket:
            await say(socket, type="hello", token=on.ann.key)
            await say(socket, type="nonsense", token=on.ann.key)
            await say(socket, type="hello", token=on.admin.key)
            await hear_close(socket)
        for secret in (on.ann.key, ticket):
            await everywhere(on, secret)
        # A mistake of the server, whose traceback and path are logged.
        monkeypatch.setattr(on.api.streams, "place", _fails)
        failed = await on.ann.http.post("/api/orders", json=NAMELESS)
        assert failed.status_code == 500
        await on.revoke(on.ann)
        async with asyncio.timeout(20):
            while (await on.ann.http.get("/api/orders")).status_code != 401:
                pass

    on_guarded(keys_url, scenario)
    told = log.getvalue()
    events = {json.loads(line)["event"] for line in told.splitlines()}
    assert {"request_failed", "keys_ended"} <= events, events
    assert "Invalid HTTP request received." in events
    assert "ASGI callable returned without completing handshake." not in events
    for secret in secrets:
        assert secret not in told
        assert secret.rpartition("_")[2] not in told


async def _fails(*_: object) -> None:
    raise RuntimeError("a mistake")
