"""A served store with both copies, and what was written to it, while servers are restarted and archives swept."""

import asyncio
import json
import secrets
from contextlib import AsyncExitStack
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.streaming.sessions import SocketLimits
from app.main import OBLIGATIONS
from eventstore.errors import OutcomeUnknownError, StoreUnavailableError
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.levels import MEMORY
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, Appended, Duplicate
from projections.archive.opening import open_archived, open_closed
from projections.archive.store import ArchivedEventStore
from projections.database import create_database_engine
from tests.builders import stream_id
from tests.conftest import Life, accepted, appends, confirmed, market_life, submitted
from tests.integration.api import WAIT_SECONDS, Api, running
from tests.integration.copies import Copies
from tests.integration.rewinding import obliged
from tests.property.subscribers import Frame
from tests.servers.single import RedisServer

PARTITIONS: Final = 3
OWNERS: Final = ("ann", "bob", "cid", "dee")
MINTED: Final = {"ann": ("BONK", 5), "bob": ("SOL", 9), "cid": ("SOL", 9), "dee": ("JUP", 6)}
FAT: Final = "AQID" * 4_000
"""A transaction of 16 KB: a few of these fill what the kernel holds for a client that does not read."""
LIMITS: Final = SocketLimits(
    bookmark_events=2,
    bookmark_seconds=0.05,
    send_seconds_max=0.4,
    lag_seconds_max=0.2,
    lag_close_seconds=0.1,
)


class Written(Struct, frozen=True):
    """One event as it was acknowledged."""

    event: Frame
    cursor: Cursor
    assets: tuple[str, str]

    @property
    def key(self) -> tuple[str, int]:
        return self.event["orderId"], self.event["seq"]


class Order:
    """The commits of one order that are still to be written."""

    def __init__(self, number: int, fat: bool) -> None:
        owner = OWNERS[number % len(OWNERS)]
        base, decimals = MINTED[owner]
        first = replace(accepted(), base_asset=base, decimals=(decimals, 6))
        life: Life = [[first], *market_life()[1:]]
        if fat:
            life = [[first], *market_life()[1:3], [replace(submitted(), message=FAT)], [confirmed()]]
        self.order_id = stream_id(owner, partitions=PARTITIONS)
        self.assets = (base, "USDC")
        self.owner = owner
        self.waiting = list(reversed(obliged(appends(self.order_id, life, client=owner))))
        self.lock = asyncio.Lock()


class World:
    """A store of its own on both servers, everything that was written to it, and an API that is restarted at will."""

    def __init__(self, server: RedisServer, database_url: str) -> None:
        self.server = server
        self.database_url = database_url
        self.namespace = f"s{secrets.token_hex(6)}"
        self.orders: list[Order] = []
        self.logs: dict[int, dict[int, Written]] = {number: {} for number in range(PARTITIONS)}
        self.writing: set[asyncio.Task[None]] = set()
        self.api: Api | None = None
        self._serving = AsyncExitStack()
        self._own = AsyncExitStack()

    async def begin(self) -> None:
        self.store, engine = await self._open(self._own, "writer", new_store_id=self.namespace)
        redis = Redis.from_url(self.server.url, protocol=2)
        self._own.push_async_callback(redis.aclose)
        self.copies = Copies(self.store, engine, redis, self.namespace)

    async def _open(
        self, stack: AsyncExitStack, role: str, new_store_id: str
    ) -> tuple[ArchivedEventStore, AsyncEngine]:
        engine = create_database_engine(self.database_url, application_name=role)
        stack.push_async_callback(engine.dispose)
        settings = StoreSettings(partitions=PARTITIONS, namespace=self.namespace, level=MEMORY)
        hot = await RedisEventStore.open(self.server.url, settings, new_store_id=None)
        stack.push_async_callback(hot.close)
        store = await open_archived(hot, engine, OBLIGATIONS, MEMORY, new_store_id=new_store_id)
        await open_closed(store, engine)
        stack.push_async_callback(store.close)
        return store, engine

    async def serve(self, ring_frames_max: int) -> None:
        """Start an application of its own connections, with an empty ring."""
        store, _ = await self._open(self._serving, "api", new_store_id="")
        serving = running(store, self.database_url, sockets=LIMITS, ring_frames_max=ring_frames_max)
        self.api = await self._serving.enter_async_context(serving)

    async def stop_serving(self) -> None:
        self.api = None
        await self._serving.aclose()
        self._serving = AsyncExitStack()

    async def restart_redis(self) -> None:
        await asyncio.to_thread(self.server.restart)

    def write(self, order: Order, commits: int) -> None:
        """Let so many of an order's commits be written, beside whatever else happens."""
        task = asyncio.create_task(self._write(order, commits))
        self.writing.add(task)
        task.add_done_callback(self.writing.discard)

    async def _write(self, order: Order, commits: int) -> None:
        async with order.lock:
            for _ in range(min(commits, len(order.waiting))):
                commit = order.waiting[-1]
                answer = await self._append(commit)
                order.waiting.pop()
                older = len(commit.events) - 1
                for index, sealed in enumerate(commit.events):
                    position = answer.position - older + index
                    cursor = Cursor(answer.epoch, position, sealed.hash[:8])
                    written = Written(json.loads(sealed.data), cursor, order.assets)
                    self.logs[partition_in(order.order_id)][position] = written

    async def _append(self, commit: Append) -> Appended | Duplicate:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    answer = await self.store.append(commit)
                    assert isinstance(answer, Appended | Duplicate)
                    return answer
                except (StoreUnavailableError, OutcomeUnknownError):
                    await asyncio.sleep(0.005)

    async def written(self) -> None:
        """Return when nothing is being written."""
        while self.writing:
            await asyncio.gather(*self.writing)

    def log(self, number: int) -> list[Written]:
        """A partition's events in the order of their positions, which are dense when nothing is being written."""
        return [self.logs[number][position] for position in sorted(self.logs[number])]

    def ends(self) -> dict[int, int]:
        return {number: max(found, default=0) for number, found in self.logs.items()}

    async def recorded_us(self, written: Written) -> int:
        """When an event's commit was recorded, by the server's clock. Nothing may be being written."""
        number, position = partition_in(written.event["orderId"]), written.cursor.position
        before = self.logs[number][position - 1].cursor if position > 1 else LOG_START
        [commit] = await self.store.read_log({number: before}, 1)
        return commit.recorded_us

    async def close(self) -> None:
        for task in tuple(self.writing):
            task.cancel()
        await self.stop_serving()
        await self._own.aclose()
        await asyncio.to_thread(self.server.command, "FLUSHALL")
