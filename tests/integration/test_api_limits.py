"""What sockets may hold, and what becomes of those that hold too much or are gone."""

import asyncio
import json
import socket as sockets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.api.orders.intake import Intake, OrderLimits
from app.api.problems import DRAINING
from app.api.streaming.ring import Frame, Ring, Watcher
from app.api.streaming.scopes import AllScope, Filter
from app.api.streaming.sessions import SocketLimits, Subscriber
from app.api.streaming.subscriptions import ASSETS_MAX, Wanted
from app.api.streaming.websocket import serve_socket
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult, StoredEvent
from tests.integration.api import (
    ORDER,
    WAIT_SECONDS,
    Api,
    connected,
    finished_order,
    hear,
    hear_close,
    hear_many,
    hear_nothing_more,
    live,
    memory_store,
    on_memory,
    running,
    say,
    sessions_on,
)
from tests.property.subscribers import unguarded


class HeldStore(MemoryEventStore):
    """Appends wait until ``open`` is set."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.open = asyncio.Event()
        self.waiting = 0
        self.arrived = asyncio.Event()

    async def append(self, commit: Append) -> AppendResult:
        self.waiting += 1
        self.arrived.set()
        await self.open.wait()
        return await super().append(commit)


def test_orders_beyond_64_under_way_are_refused_and_nothing_of_them_is_created() -> None:
    async def main() -> None:
        store = HeldStore()
        async with running(store) as api, connected(api) as socket:
            for number in range(66):
                await say(socket, **ORDER, id=number)
            refused = await hear_many(socket, 2)
            assert [(error["code"], error["id"]) for error in refused] == [("rate_limited", 64), ("rate_limited", 65)]
            assert store.waiting == 64
            store.open.set()
            await hear_many(socket, 128)
        assert sum(status.position for status in await store.status()) == 64

    asyncio.run(main())


def on_limited(limits: SocketLimits, scenario: Callable[[Api], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(memory_store(), sockets=limits) as api:
            await scenario(api)

    asyncio.run(main())


def test_subscriptions_per_socket_are_bounded_and_finished_orders_do_not_count() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            order_ids = []
            for _ in range(2):
                await say(socket, **ORDER)
                order_ids.append((await hear(socket))["orderId"])
            await say(socket, **ORDER)
            assert (await hear(socket))["code"] == "too_many_subscriptions"
            assert sum(status.position for status in await api.store.status()) == 2
            await live(api.streams, order_ids[0])
            await hear_many(socket, 5)
            await say(socket, **ORDER)
            assert (await hear(socket))["event"] == "pending"

    on_limited(SocketLimits(subscriptions_max=2), scenario)


def test_sockets_per_process_are_bounded() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as first:
            async with connected(api) as second:
                code, frames = await hear_close(second)
                assert (code, frames[0]["type"]) == (4429, "goaway")
                assert "reconnectAfterMs" not in frames[0]
            await hear_nothing_more(first)

    on_limited(SocketLimits(sockets_max=1), scenario)


def test_a_client_that_takes_nothing_is_let_go_and_holds_nobody_up() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        host, _, port = api.url.removeprefix("http://").partition(":")
        raw = sockets.socket()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.connect((host, int(port)))
        raw.setblocking(False)
        async with connected(api) as quick, connect(api.socket_url, sock=raw, compression=None) as slow:
            slow.transport.pause_reading()
            await say(quick, orderId=order_id)
            await hear(quick)
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(WAIT_SECONDS):
                    while True:
                        await say(slow)
                        await asyncio.sleep(0)
            assert len(api.sessions) == 1
            await live(api.streams, order_id)
            assert [frame["seq"] for frame in await hear_many(quick, 5)] == [2, 3, 4, 5, 6]

    on_limited(SocketLimits(send_seconds_max=0.2), scenario)


class CountingRing(Ring):
    """Knows how many watchers it has."""

    def __init__(self) -> None:
        super().__init__(frames_max=1, characters_max=10_000)
        self.watchers: set[tuple[str, Watcher]] = set()

    def watch(self, order_id: str, watcher: Watcher) -> None:
        super().watch(order_id, watcher)
        self.watchers.add((order_id, watcher))

    def unwatch(self, order_id: str, watcher: Watcher) -> None:
        super().unwatch(order_id, watcher)
        self.watchers.discard((order_id, watcher))


class Wires:
    """Sessions over sockets without a network, which show exactly what was taken when."""

    def __init__(self, store: MemoryEventStore, limits: SocketLimits | None = None) -> None:
        self.ring = CountingRing()
        intake = Intake(OrderStreams(store, SystemClock(), bytes, "test"), store, OrderLimits())
        self.sessions = sessions_on(store, self.ring, intake, limits)

    @property
    def open(self) -> set[Subscriber]:
        return set(self.sessions._open)


class Wire:
    """One such socket. ``taking`` unset: the client takes nothing but the close."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.closed: int | None = None
        self.taking = asyncio.Event()
        self.taking.set()
        self._idle = asyncio.Event()
        self._took = asyncio.Event()

    def say(self, **members: object) -> None:
        self._idle.clear()
        self.inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(members)})

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def heard(self) -> None:
        """Return when the server has read everything that was said."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self._idle.wait()

    async def takes(self, count: int) -> None:
        """Return when ``count`` frames have been taken."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.sent) < count:
                self._took.clear()
                await self._took.wait()

    async def serve(self) -> None:
        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
        async with asyncio.timeout(WAIT_SECONDS):
            await serve_socket(WebSocket(scope, self._receive, self._send), self._wires.sessions, {}, unguarded())

    async def _receive(self) -> Message:
        if self.inbox.empty():
            self._idle.set()
        return await self.inbox.get()

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.close":
            self.closed = message["code"]
        elif message["type"] == "websocket.send" and "goaway" not in message["text"]:
            await self.taking.wait()
            self.sent.append(json.loads(message["text"]))
            self._took.set()


def test_a_send_that_takes_too_long_ends_the_socket() -> None:
    async def main() -> None:
        wire = Wire(Wires(memory_store(), SocketLimits(send_seconds_max=0.01)))
        wire.taking.clear()
        wire.say(type="ping")
        await wire.serve()
        assert wire.closed == 4508

    asyncio.run(main())


def test_answers_that_nobody_takes_are_bounded() -> None:
    async def main() -> None:
        wires = Wires(memory_store())
        wire = Wire(wires)
        wire.taking.clear()
        for _ in range(258):
            wire.say(type="ping")
        await wire.serve()
        assert wire.closed == 4513
        assert len(wires.sessions) == 0

    asyncio.run(main())


def test_a_client_that_takes_nothing_gets_no_heartbeats_on_top() -> None:
    async def main() -> None:
        wires = Wires(memory_store(), SocketLimits(heartbeat_seconds=0))
        wire = Wire(wires)
        wire.say(type="hello")
        serving = asyncio.create_task(wire.serve())
        await wire.takes(1)
        wire.taking.clear()
        [session] = wires.open
        for _ in range(300):
            session.tick(asyncio.get_running_loop().time())
        wire.taking.set()
        await wire.takes(2)
        wire.leave()
        await serving
        assert [frame["type"] for frame in wire.sent] == ["welcome", "heartbeat"]

    asyncio.run(main())


class StallingWire(Wire):
    """Takes so many events, then nothing but the end."""

    def __init__(self, wires: Wires, events_max: int) -> None:
        super().__init__(wires)
        self.events_max = events_max
        self.stalled = asyncio.Event()
        self.goaway: dict[str, Any] = {}

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            frame = json.loads(message["text"])
            if frame.get("type") == "goaway":
                self.goaway = frame
            elif "event" in frame and len([one for one in self.sent if "event" in one]) == self.events_max:
                self.stalled.set()
                await asyncio.Event().wait()
        await super()._send(message)


@pytest.mark.parametrize("events_max", [0, 1, 4])
def test_a_goaway_names_no_cursor_of_an_event_that_was_not_sent(events_max: int) -> None:
    async def main() -> None:
        store = memory_store()
        order_id = await finished_order(store)
        wires = Wires(store)
        wire = StallingWire(wires, events_max)
        wire.say(type="subscribe", sub="s", orderId=order_id)
        serving = asyncio.create_task(wire.serve())
        async with asyncio.timeout(WAIT_SECONDS):
            await wire.stalled.wait()
        wires.sessions.refuse(DRAINING)
        await serving
        sent = [frame["cursor"] for frame in wire.sent if "event" in frame]
        assert len(sent) == events_max
        assert wire.goaway["cursors"] == {"s": sent[-1] if sent else "0"}

    asyncio.run(main())


def test_the_assets_of_so_many_orders_are_remembered_at_most() -> None:
    async def main() -> None:
        source = Wires(memory_store()).sessions.source
        wanted = Wanted(scope=AllScope(), start=0, filter=Filter(assets=frozenset({"SOL"})))
        for number in range(ASSETS_MAX + 10):
            frame = Frame(f"order {number}", 1, "", False, "", "", assets=("SOL", "USDC"))
            assert await source.admits(wanted, frame)
        assert len(source._assets) == ASSETS_MAX

    asyncio.run(main())


def test_a_burst_of_messages_is_answered_when_its_answers_are_taken() -> None:
    async def main() -> None:
        wire = Wire(Wires(memory_store()))
        for number in range(1_000):
            wire.say(type="ping", id=number)
        serving = asyncio.create_task(wire.serve())
        await wire.takes(1_000)
        wire.leave()
        await serving
        assert wire.closed is None
        assert [answer["id"] for answer in wire.sent] == list(range(1_000))

    asyncio.run(main())


class HeldReads(MemoryEventStore):
    """Each read of a stream waits until ``open`` is set; counts how many do at once."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.reading = 0
        self.reading_max = 0

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        self.reading += 1
        self.reading_max = max(self.reading_max, self.reading)
        self.entered.set()
        await self.open.wait()
        self.reading -= 1
        return await super().read_stream(stream, after, limit)


def test_a_subscription_that_is_replaced_while_it_reads_sends_nothing() -> None:
    async def main() -> None:
        store = HeldReads()
        order_id = await finished_order(store)
        wires = Wires(store)
        wire = Wire(wires)
        wire.say(orderId=order_id)
        serving = asyncio.create_task(wire.serve())
        await store.entered.wait()
        wire.say(type="unsubscribe", orderId=order_id)
        wire.say(orderId=order_id, after=3)
        await wire.heard()
        store.open.set()
        await wire.takes(4)
        wire.leave()
        await serving
        assert [frame.get("seq", frame.get("type")) for frame in wire.sent] == ["unsubscribed", 4, 5, 6]

    asyncio.run(main())


def test_a_socket_that_is_gone_leaves_nothing_behind() -> None:
    async def main() -> None:
        store = HeldReads()
        order_id = await finished_order(store)
        wires = Wires(store)
        wire = Wire(wires)
        wire.say(orderId=order_id)
        serving = asyncio.create_task(wire.serve())
        await wire.heard()
        assert {watched for watched, _ in wires.ring.watchers} == {order_id}
        wire.leave()
        await serving
        assert wires.ring.watchers == set()
        assert len(wires.sessions) == 0

    asyncio.run(main())


def test_reads_behind_the_ring_are_bounded_for_the_whole_process() -> None:
    async def main() -> None:
        store = HeldReads()
        order_id = await finished_order(store)
        wires = Wires(store)
        several = [Wire(wires) for _ in range(20)]
        serving = [asyncio.create_task(wire.serve()) for wire in several]
        for wire in several:
            wire.say(orderId=order_id)
        for wire in several:
            await wire.heard()
        store.open.set()
        for wire in several:
            await wire.takes(6)
        assert store.reading_max == 8
        for wire in several:
            wire.leave()
        await asyncio.gather(*serving)

    asyncio.run(main())


def test_an_append_that_was_started_survives_its_socket() -> None:
    async def main() -> None:
        store = HeldStore()
        async with running(store) as api:
            async with connected(api) as socket:
                await say(socket, **ORDER)
                async with asyncio.timeout(WAIT_SECONDS):
                    await store.arrived.wait()
            store.open.set()
        assert sum(status.position for status in await store.status()) == 1

    asyncio.run(main())


def test_a_frame_above_64_kib_closes_the_socket() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await socket.send("x" * 65_537)
            assert (await hear_close(socket))[0] == 1009

    on_memory(scenario)
