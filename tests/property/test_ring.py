"""Whatever the interleaving of appends, reads, eviction and cuts: a subscriber gets the stream, once, in order.

The sockets' real sessions run here on the memory store, over sockets without a network.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message
from starlette.websockets import WebSocket

from app.api.orders.intake import Intake, OrderLimits
from app.api.streaming.ring import Ring
from app.api.streaming.sessions import Sessions
from app.api.streaming.tailer import Tailer
from app.api.streaming.websocket import serve_socket
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredEvent
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import appends, market_life
from tests.integration.api import sessions_on
from tests.property.subscribers import unguarded

EVENTS = 6
WAIT_SECONDS = 10


class SlowStore(MemoryEventStore):
    """Lets other tasks run before and after each read of a stream, for as many turns as ``turns`` says."""

    def __init__(self, turns: Sequence[int]) -> None:
        super().__init__(partitions=4, store_id="slow", now_us=StepClock().now_us)
        self._turns = list(turns)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        await self._pass_turns()
        events = await super().read_stream(stream, after, limit)
        await self._pass_turns()
        return events

    async def _pass_turns(self) -> None:
        for _ in range(self._turns.pop() if self._turns else 0):
            await asyncio.sleep(0)


class Client:
    """Follows some orders over one socket after another, each resumed after the last event it has."""

    def __init__(self, sessions: Sessions, order_ids: Sequence[str]) -> None:
        self.sessions = sessions
        self.received: dict[str, list[int]] = {order_id: [] for order_id in order_ids}
        self.cursors: dict[str, str] = {}
        self.errors: list[Message] = []
        self.progress = asyncio.Event()

    async def connect(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.open = True
        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
        socket = WebSocket(scope, self.inbox.get, self.take)
        self.serving = asyncio.create_task(serve_socket(socket, self.sessions, {}, unguarded()))

    def follow(self, order_id: str, by: str) -> None:
        last = self.received[order_id][-1] if self.received[order_id] else 0
        after = {"seq": last, "event id": f"{order_id}/{last}", "cursor": self.cursors.get(order_id)}[by]
        subscribe = {"orderId": order_id, "after": after if last else 0}
        self.inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(subscribe)})

    async def cut(self) -> None:
        self.open = False
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self.serving

    async def take(self, message: Message) -> None:
        if not self.open:
            raise OSError("the socket is gone")
        if message["type"] != "websocket.send":
            return
        frame = json.loads(message["text"])
        if frame.get("type") == "error":
            self.errors.append(frame)
        elif "event" in frame:
            self.received[frame["orderId"]].append(frame["seq"])
            self.cursors[frame["orderId"]] = frame["cursor"]
        self.progress.set()

    async def completed(self) -> None:
        while not all(seqs and seqs[-1] >= EVENTS for seqs in self.received.values()):
            self.progress.clear()
            await self.progress.wait()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2)),
        st.tuples(st.just("turns"), st.integers(1, 12)),
        st.tuples(st.just("cut"), st.sampled_from(["seq", "event id", "cursor"])),
    ),
    max_size=40,
)


async def run(steps: Sequence[tuple[str, int | str]], turns: Sequence[int], frames_max: int) -> Client:
    store = SlowStore(turns)
    clock = SystemClock()
    ring = Ring(frames_max=frames_max, characters_max=1_000_000)
    tailer = Tailer(store, ring, clock)
    intake = Intake(OrderStreams(store, StepClock(), bytes, "test"), store, OrderLimits())
    sessions = sessions_on(store, ring, intake)
    order_ids = [stream_id(f"owner-{number}", number=number + 1) for number in range(3)]
    waiting = [list(reversed(appends(order_id, market_life()))) for order_id in order_ids]
    for commits in waiting:
        await store.append(commits.pop())
    await tailer.start()
    following = asyncio.create_task(tailer.run())
    client = Client(sessions, order_ids)
    await client.connect()
    for order_id in order_ids:
        client.follow(order_id, "seq")
    for step, detail in steps:
        if step == "append" and waiting[int(detail)]:
            await store.append(waiting[int(detail)].pop())
        elif step == "turns":
            for _ in range(int(detail)):
                await asyncio.sleep(0)
        elif step == "cut":
            await client.cut()
            await client.connect()
            for order_id in order_ids:
                if client.received[order_id][-1:] != [EVENTS]:
                    client.follow(order_id, str(detail))
    for commits in waiting:
        while commits:
            await store.append(commits.pop())
    async with asyncio.timeout(WAIT_SECONDS):
        await client.completed()
    await client.cut()
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    assert len(sessions) == 0
    return client


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, turns=st.lists(st.integers(0, 6), max_size=60), frames_max=st.sampled_from([1, 2, 5, 1000]))
def test_the_union_over_all_connections_is_the_stream_in_order(
    steps: Sequence[tuple[str, int | str]], turns: Sequence[int], frames_max: int
) -> None:
    client = asyncio.run(run(steps, turns, frames_max))
    assert client.errors == []
    for seqs in client.received.values():
        assert seqs == list(range(1, EVENTS + 1))
