"""What a socket costs that says much and waits, or that is told much and does not read."""

import asyncio
import json
import socket as sockets

from msgspec.structs import replace

from app.api.streaming.places import LogPlace
from app.api.streaming.sessions import SocketLimits
from app.api.streaming.websocket import Session
from tests.benchmarks.frames import CLOSE, PING, PONG, FrameReader, frame, open_socket
from tests.builders import stream_id
from tests.conftest import accepted, append_all, appends, confirmed, routed, submitted
from tests.integration.api import ORDER, WAIT_SECONDS, memory_store, running
from tests.integration.test_api_limits import HeldStore

PING_SECONDS = 0.02
PINGS = 30
ORDERS = 40


def pinged(socket: sockets.socket, reader: FrameReader, count: int) -> list[dict[str, object]]:
    """Answer so many pings, and return the messages between them."""
    messages = []
    while count:
        data = socket.recv(65_536)
        assert data, "the server closed the socket"
        for opcode, payload in reader.feed(data):
            assert opcode != CLOSE, payload
            if opcode == PING:
                socket.sendall(frame(payload, PONG))
                count -= 1
            else:
                messages.append(json.loads(payload))
        count = max(count, 0)
    return messages


def test_a_socket_whose_requests_wait_is_read_on_so_that_its_pongs_are_seen() -> None:
    async def main() -> None:
        store = HeldStore()
        async with running(store, ping_seconds=PING_SECONDS) as api:
            port = int(api.url.rpartition(":")[2])
            socket, rest = await asyncio.to_thread(open_socket, "127.0.0.1", port, "/api/orders/ws")
            with socket:
                for number in range(ORDERS):
                    socket.sendall(frame(json.dumps({**ORDER, "id": number}).encode()))
                # Longer than a pong may take: whoever left one frame unread would not see it.
                messages = await asyncio.to_thread(pinged, socket, FrameReader(rest), PINGS)
                assert (messages, store.waiting) == ([], ORDERS)
                store.open.set()

    asyncio.run(main())


def test_a_client_that_does_not_read_is_written_no_more_than_its_buffers_take() -> None:
    async def main() -> None:
        store = memory_store()
        large = replace(submitted(), message="AQID" * 12_000)
        for number in range(200):
            life = [[accepted()], *routed(), [large], [confirmed()]]
            await append_all(store, appends(stream_id(f"owner-{number}"), life))
        async with running(store, sockets=SocketLimits(send_seconds_max=0.3)) as api:
            port = int(api.url.rpartition(":")[2])
            socket, _ = await asyncio.to_thread(open_socket, "127.0.0.1", port, "/api/orders/ws", 4096)
            with socket:
                socket.sendall(frame(b'{"type":"subscribe","sub":"s","scope":"all","from":"start"}'))
                while not (sessions := [one for one in api.sessions._open if isinstance(one, Session)]):
                    await api.http.get("/livez")
                deliveries = sessions[0]._deliveries
                while (feed := deliveries.get("s")) is None:
                    await api.http.get("/livez")
                async with asyncio.timeout(WAIT_SECONDS):
                    while len(api.sessions):
                        await api.http.get("/livez")
                assert isinstance(feed.place, LogPlace)
                passed = sum(cursor.position for cursor in feed.place.cursors.values())
        # Ten megabytes wait for it; uvicorn holds 64 KB, a write is about as large, and the kernel has some more.
        assert 0 < passed < 600

    asyncio.run(main())
