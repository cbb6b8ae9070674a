"""Subscribers whose place keeps up, or does not, at times that the test says; sockets without a network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from msgspec import Struct
from starlette.types import Message

from app.api.orders.intake import Intake, OrderLimits
from app.api.streaming.eventstream import Reader
from app.api.streaming.scopes import ClientScope, FromStart
from app.api.streaming.sessions import Sessions
from app.api.streaming.subscriptions import Wanted
from app.api.streaming.tailer import Tailer
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.ids import partition_of
from eventstore.store import Append
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import appends, market_life
from tests.integration.api import WAIT_SECONDS, sessions_on
from tests.property.subscribers import Wish
from tests.property.test_subscriptions import SlowStore, Subscriber, WaitedRing

ANN = "ann"
BOB = next(name for name in map(str, range(99)) if partition_of(name, 2) == partition_of(ANN, 2))
"""Another client in the same partition."""


class Scene(Struct):
    """Sessions on a followed log, with lives to append to it."""

    store: SlowStore
    ring: WaitedRing
    sessions: Sessions
    ann: list[Append]
    bob: list[Append]

    async def append(self, life: list[Append]) -> None:
        """Append the next commit, and return when the ring has it."""
        await self.store.append(life.pop())
        await self.ring.reached(await self.store.log_ends())

    @property
    def head(self) -> str:
        return str(self.ring.heads[partition_of(ANN, 2)])


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    store, ring = SlowStore(()), WaitedRing(frames_max=1_000, characters_max=1_000_000)
    intake = Intake(OrderStreams(store, StepClock(), bytes, "test"), store, OrderLimits())
    lives = [
        list(reversed(appends(stream_id(client, partitions=2, number=number), market_life(), client=client)))
        for number, client in enumerate((ANN, BOB), 1)
    ]
    tailer = Tailer(store, ring, SystemClock())
    await tailer.start()
    following = asyncio.create_task(tailer.run())
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            yield Scene(store, ring, sessions_on(store, ring, intake), *lives)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


class Interrupted(Subscriber):
    """While it hears an event, another client's comes."""

    def __init__(self, on: Scene) -> None:
        super().__init__(on.sessions, Wish({"clientId": ANN}, {}, None, None))
        self.on = on

    async def take(self, message: Message) -> None:
        await super().take(message)
        if self.frames and self.on.bob:
            await self.on.append(self.on.bob)


def test_a_place_keeps_up_with_others_events_that_come_while_it_is_served() -> None:
    async def main() -> None:
        async with scene() as on:
            await on.append(on.ann)
            client = Interrupted(on)
            client.connect()
            await client.has(1)
            for _ in range(100):
                for one in tuple(on.sessions._open):
                    one.tick(asyncio.get_running_loop().time() + 100)
                await asyncio.sleep(0)
            assert client.cursor == on.head
            await client.cut()

    asyncio.run(main())


def test_a_reader_comes_back_for_others_events_that_came_meanwhile() -> None:
    async def main() -> None:
        async with scene() as on:
            await on.append(on.ann)
            reader = Reader(on.sessions, Wanted(scope=ClientScope(ANN), start=FromStart()))
            with reader.watching():
                await reader.begin()
                async for _ in reader.available():
                    await on.append(on.bob)
                assert reader.place != on.head
                assert await reader.wait(0)
                assert [frame async for frame in reader.available()] == []
                assert reader.place == on.head

    asyncio.run(main())


def test_whoever_catches_up_after_a_warning_is_not_closed_later() -> None:
    async def main() -> None:
        async with scene() as on:
            client = Subscriber(on.sessions, Wish({"clientId": ANN}, {}, None, None))
            client.connect()
            await client.heard("caught_up")
            client.taking.clear()
            await on.append(on.ann)
            [session] = on.sessions._open
            session.tick(asyncio.get_running_loop().time() + 100)
            client.taking.set()
            await client.heard("lagging")
            await client.has(1)
            await on.append(on.ann)
            await client.has(2)
            session.tick(asyncio.get_running_loop().time() + 1_000)
            await on.append(on.ann)
            await client.has(3)
            assert client.errors == []
            await client.cut()

    asyncio.run(main())
