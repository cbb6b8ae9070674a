"""Frames that are sent together: how many writes they take, and what is known of those that nobody took."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.types import Message
from starlette.websockets import WebSocket

from app.api.problems import DRAINING
from app.api.streaming.deliveries import TEXTS
from app.api.streaming.websocket import serve_socket
from tests.builders import stream_id
from tests.conftest import Life, accepted, append_all, appends, confirmed, market_life, routed, submitted
from tests.integration.api import WAIT_SECONDS, connected, finished_order, hear_many, memory_store, running, say
from tests.integration.test_api_limits import Wire, Wires
from tests.property.subscribers import unguarded

SCOPE = {"type": "websocket", "path": "/", "query_string": b"", "headers": [], "extensions": {TEXTS: {}}}


class SharingWire(Wire):
    """Takes frames together; of messages with events, so many."""

    def __init__(self, wires: Wires, messages_max: int) -> None:
        super().__init__(wires)
        self.messages: list[list[dict[str, Any]]] = []
        self.messages_max = messages_max
        self.stalled = asyncio.Event()
        self.goaway: dict[str, Any] = {}

    async def serve(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await serve_socket(WebSocket(SCOPE, self._receive, self._send), self._wires.sessions, {}, unguarded())

    async def _send(self, message: Message) -> None:
        texts = message.get(TEXTS, [message["text"]] if "text" in message else [])
        frames = [json.loads(text) for text in texts]
        if any("event" in frame for frame in frames):
            if len(self.messages) == self.messages_max:
                self.stalled.set()
                await asyncio.Event().wait()
            self.messages.append(frames)
        self.goaway = next((frame for frame in frames if frame.get("type") == "goaway"), self.goaway)
        self.sent += frames
        self._took.set()


def test_events_that_are_there_share_a_few_writes() -> None:
    async def main() -> None:
        wire = await replayed([market_life()] * 50)
        assert [frame["type"] for frame in wire.sent if "type" in frame] == ["subscribed", "caught_up"]
        assert sum(map(len, wire.messages)) == 300
        # A page has about 100 events of all partitions, and one that is behind the ring ends where one of these does.
        assert len(wire.messages) <= 12

    asyncio.run(main())


def test_a_write_that_large_events_share_is_bounded() -> None:
    async def main() -> None:
        large = replace(submitted(), message="AQID" * 8_000)
        wire = await replayed([[[accepted()], *routed(), [large], [confirmed()]]] * 30)
        assert sum(map(len, wire.messages)) == 180
        sizes = [sum(len(json.dumps(frame)) for frame in frames) for frames in wire.messages]
        assert 48 * 1024 < max(sizes) < 84 * 1024

    asyncio.run(main())


async def replayed(lives: Sequence[Life]) -> SharingWire:
    """All events of these orders, as one socket takes them."""
    store = memory_store()
    for life in lives:
        await append_all(store, appends(stream_id(), life))
    wire = SharingWire(Wires(store), messages_max=100)
    wire.say(type="subscribe", sub="s", scope="all", **{"from": "start"})
    serving = asyncio.create_task(wire.serve())
    await wire.takes(2 + sum(len(events) for life in lives for events in life))
    wire.leave()
    await serving
    return wire


@pytest.mark.parametrize("messages_max", [0, 1, 2])
def test_a_goaway_names_no_cursor_of_a_write_that_was_not_taken(messages_max: int) -> None:
    async def main() -> None:
        store = memory_store()
        for _ in range(50):
            await finished_order(store)
        wires = Wires(store)
        wire = SharingWire(wires, messages_max)
        wire.say(type="subscribe", sub="s", scope="all", **{"from": "start"})
        serving = asyncio.create_task(wire.serve())
        async with asyncio.timeout(WAIT_SECONDS):
            await wire.stalled.wait()
        wires.sessions.refuse(DRAINING)
        await serving
        taken = wire.messages[-1][-1]["cursor"] if wire.messages else "start"
        assert wire.goaway["cursors"] == {"s": taken}

    asyncio.run(main())


def test_frames_that_shared_a_write_come_as_frames_in_order() -> None:
    async def main() -> None:
        store = memory_store()
        order_ids = [await finished_order(store) for _ in range(20)]
        async with running(store) as api, connected(api) as socket:
            await say(socket, type="subscribe", sub="s", scope="all", **{"from": "start"})
            frames = await hear_many(socket, 122)
            events = [(frame["orderId"], frame["seq"]) for frame in frames if "event" in frame]
            for order_id in order_ids:
                assert [seq for other, seq in events if other == order_id] == [1, 2, 3, 4, 5, 6]

    asyncio.run(main())
