"""Whatever is cut, slow or filtered: what a subscriber of any scope gets is its filtered log, once, in order, no gap.

The sockets' real sessions run here on the memory store, over sockets without a network.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message
from starlette.websockets import WebSocket

from app.api.orders.intake import Intake, OrderLimits
from app.api.streaming.ring import Frame as RingFrame
from app.api.streaming.ring import Ring
from app.api.streaming.sessions import Sessions, SocketLimits
from app.api.streaming.tailer import Tailer
from app.api.streaming.websocket import serve_socket
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, StoredCommit
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import appends, market_life
from tests.integration.api import sessions_on
from tests.property.subscribers import Frame, Listener, Wish, unguarded

WAIT_SECONDS = 10
OWNERS = ("ann", "bob", "cid")


class SlowStore(MemoryEventStore):
    """Lets other tasks run before and after each read of the logs, for as many turns as ``turns`` says."""

    def __init__(self, turns: Sequence[int]) -> None:
        super().__init__(partitions=2, store_id="slow", now_us=StepClock().now_us)
        self._turns = list(turns)

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        await self._pass_turns()
        found = await super().read_log(after, limit, wait_seconds)
        await self._pass_turns()
        return found

    async def _pass_turns(self) -> None:
        for _ in range(self._turns.pop() if self._turns else 0):
            await asyncio.sleep(0)


class Subscriber(Listener):
    """Follows what it wishes over one socket after another, each resumed by the last cursor that it was given."""

    def __init__(self, sessions: Sessions, wish: Wish) -> None:
        super().__init__(wish)
        self.sessions = sessions
        self.taking = asyncio.Event()
        self.taking.set()

    def connect(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.open = True
        start: dict[str, object] = {"from": "start"} if self.cursor is None else {"after": self.cursor}
        self.say(type="subscribe", sub="s", **self.wish.options, **start)
        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
        self.serving = asyncio.create_task(
            serve_socket(WebSocket(scope, self.inbox.get, self.take), self.sessions, {}, unguarded())
        )

    def say(self, **members: object) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(members)})

    async def cut(self) -> None:
        self.open = False
        self.taking.set()
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self.serving

    async def take(self, message: Message) -> None:
        await self.taking.wait()
        if not self.open:
            raise OSError("the socket is gone")
        if message["type"] == "websocket.send":
            self.hear(json.loads(message["text"]))


def expected(store: MemoryEventStore, wish: Wish) -> dict[int, list[str]]:
    """The event cursors of the filtered log, by partition."""
    found: dict[int, list[str]] = {}
    for number in range(store.partitions):
        found[number] = []
        for commit in store._parts[number].after(LOG_START):
            older = len(commit.events) - 1
            for index, data in enumerate(commit.events):
                event = json.loads(data)
                if wish.wants(event):
                    cursor = Cursor(commit.epoch, commit.position - older + index, commit.anchors[index])
                    found[number].append(f"{event['orderId']} {event['seq']} {cursor.position}")
    return found


ORDER_IDS = [stream_id(owner, partitions=2, number=number + 1) for number, owner in enumerate((*OWNERS, *OWNERS))]
CLIENTS = [*OWNERS, *OWNERS]
WISHES = st.builds(
    Wish,
    scope=st.sampled_from(
        [
            {"scope": "all"},
            *({"clientId": owner} for owner in OWNERS),
            *({"orderId": order_id} for order_id in ORDER_IDS[:2]),
        ]
    ),
    filter=st.sampled_from([{}, {}, {"events": ["confirmed"]}, {"events": ["pending", "submitted"]}]),
    window=st.sampled_from([None, 1, 3]),
    batch=st.sampled_from([None, 2, 100]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, len(ORDER_IDS) - 1)),
        st.tuples(st.just("turns"), st.integers(1, 15)),
        st.tuples(st.just("cut"), st.integers(0, 2)),
        st.tuples(st.just("stall"), st.integers(0, 2)),
        st.tuples(st.just("tick"), st.just(0)),
    ),
    max_size=50,
)


async def step(
    kind: str, number: int, waiting: list[list[Append]], store: SlowStore, clients: list[Subscriber]
) -> None:
    client = clients[number % len(clients)]
    match kind:
        case "append":
            if waiting[number]:
                await store.append(waiting[number].pop())
        case "turns":
            for _ in range(number):
                await asyncio.sleep(0)
        case "cut":
            await client.cut()
            if not client.ended:
                client.connect()
        case "stall":
            client.taking.set() if not client.taking.is_set() else client.taking.clear()
        case "tick":
            for one in tuple(client.sessions._open):
                one.tick(asyncio.get_running_loop().time())


async def run(
    steps: Sequence[tuple[str, int]], wishes: Sequence[Wish], turns: Sequence[int], frames_max: int
) -> tuple[SlowStore, list[Subscriber]]:
    store = SlowStore(turns)
    ring = Ring(frames_max=frames_max, characters_max=1_000_000)
    tailer = Tailer(store, ring, SystemClock())
    intake = Intake(OrderStreams(store, StepClock(), bytes, "test"), store, OrderLimits())
    limits = SocketLimits(bookmark_events=2, bookmark_seconds=0, send_seconds_max=WAIT_SECONDS)
    sessions = sessions_on(store, ring, intake, limits)
    waiting = [
        list(reversed(appends(order_id, market_life(), client=client)))
        for order_id, client in zip(ORDER_IDS, CLIENTS, strict=True)
    ]
    for commits in waiting[:3]:
        await store.append(commits.pop())
    await tailer.start()
    following = asyncio.create_task(tailer.run())
    clients = [Subscriber(sessions, wish) for wish in wishes]
    for client in clients:
        client.connect()
    for kind, number in steps:
        await step(kind, number, waiting, store, clients)
    for commits in waiting:
        while commits:
            await store.append(commits.pop())
    async with asyncio.timeout(WAIT_SECONDS):
        for client in clients:
            client.taking.set()
            await client.has(sum(map(len, expected(store, client.wish).values())))
    for client in clients:
        await client.cut()
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    assert len(sessions) == 0
    return store, clients


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    wishes=st.lists(WISHES, min_size=1, max_size=3),
    turns=st.lists(st.integers(0, 6), max_size=60),
    frames_max=st.sampled_from([1, 2, 5, 1000]),
)
def test_what_is_delivered_over_all_connections_is_the_filtered_log(
    steps: Sequence[tuple[str, int]], wishes: Sequence[Wish], turns: Sequence[int], frames_max: int
) -> None:
    store, clients = asyncio.run(run(steps, wishes, turns, frames_max))
    for client in clients:
        assert client.errors == []
        got: dict[int, list[str]] = {number: [] for number in range(store.partitions)}
        for frame in client.frames:
            number = partition_in(frame["orderId"])
            # The event's own place; the cursor of all orders has it among those of the other partitions.
            own = next(
                one.split(".")[-1]
                for one in frame["cursor"].split("~")
                if one.startswith(f"{number}.") or "." not in one
            )
            got[number].append(f"{frame['orderId']} {frame['seq']} {own.split('-')[1]}")
        assert got == expected(store, client.wish)


class WaitedRing(Ring):
    """Can be waited for."""

    def __init__(self, *, frames_max: int, characters_max: int) -> None:
        super().__init__(frames_max=frames_max, characters_max=characters_max)
        self._more = asyncio.Event()

    def append(self, frame: RingFrame) -> None:
        super().append(frame)
        self._more.set()

    async def reached(self, ends: Mapping[int, Cursor]) -> None:
        while self.heads != ends:
            self._more.clear()
            await self._more.wait()


@settings(max_examples=25, deadline=None)
@given(
    scope=st.sampled_from([{"scope": "all"}, {"clientId": "ann"}]),
    batch=st.sampled_from([None, 3]),
    frames_max=st.sampled_from([1, 1000]),
)
def test_a_subscriber_catches_up_though_events_never_cease(
    scope: dict[str, object], batch: int | None, frames_max: int
) -> None:
    lives = [
        appends(stream_id("ann", partitions=2, number=number), market_life(), client="ann") for number in range(1, 13)
    ]

    async def main() -> list[Frame]:
        store = SlowStore(())
        ring = WaitedRing(frames_max=frames_max, characters_max=1_000_000)
        tailer = Tailer(store, ring, SystemClock())
        intake = Intake(OrderStreams(store, StepClock(), bytes, "test"), store, OrderLimits())
        sessions = sessions_on(store, ring, intake)
        waiting = [commit for life in reversed(lives) for commit in reversed(life)]
        for _ in range(10):
            await store.append(waiting.pop())
        await tailer.start()
        following = asyncio.create_task(tailer.run())
        heard: list[Frame] = []
        done = asyncio.Event()

        class Client(Subscriber):
            async def take(self, message: Message) -> None:
                if message["type"] != "websocket.send":
                    return
                if waiting:
                    # Whatever it hears takes as long as the next event needs to get here.
                    await store.append(waiting.pop())
                    await ring.reached(await store.log_ends())
                else:
                    done.set()
                heard.append(json.loads(message["text"]))

        client = Client(sessions, Wish(scope, {}, None, batch))
        client.connect()
        async with asyncio.timeout(WAIT_SECONDS):
            await done.wait()
        await client.cut()
        following.cancel()
        return heard

    heard = asyncio.run(main())
    assert [frame["type"] for frame in heard if frame.get("type") not in (None, "events")][:2] == [
        "subscribed",
        "caught_up",
    ]
    assert "caught_up" in [frame.get("type") for frame in heard[:25]]
