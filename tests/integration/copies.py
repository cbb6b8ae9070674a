"""A store with both copies on servers of the test's, orders that end in it, and time that passes when it is told to."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import SystemClock
from app.execution.streams import CLOSED
from app.main import OBLIGATIONS
from app.orders.commands import PlaceOrder
from app.orders.lifecycle import TERMINAL
from eventstore.ids import partition_in
from eventstore.levels import FSYNC
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.archive.archiver import Archiver, Retention, Swept
from projections.archive.opening import open_archived, open_closed
from projections.archive.store import ArchivedEventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from tests.desk import Desk

OWNER = "owner"
HOUR_MS = 3_600_000


def retention(archive_seconds: int = 120, log_window: int = 0) -> Retention:
    return Retention(index=CLOSED, terminal=TERMINAL, archive_seconds=archive_seconds, log_window=log_window)


class Copies:
    """A store on Redis and PostgreSQL, raw access to its keys, and a desk that leads orders through lives."""

    def __init__(self, store: ArchivedEventStore, engine: AsyncEngine, redis: Any, namespace: str) -> None:
        self.store = store
        self.hot = store.hot
        self.engine = engine
        self.redis = redis
        self.namespace = namespace
        self.desk = Desk(store, SystemClock(), owner=OWNER)
        self.archiver = Archiver(store, engine, retention())

    def key(self, order_id: str, name: str = "") -> str:
        return f"{{{self.namespace}:{partition_in(order_id):02d}}}:{name or f'stream:{order_id}'}"

    async def project(self) -> None:
        await Projector(self.store, self.engine).project_available()

    async def age(self) -> None:
        """Let an hour pass for every order that has ended."""
        for number in range(self.hot.partitions):
            index = f"{{{self.namespace}:{number:02d}}}:{CLOSED}"
            for member in await self.redis.zrange(index, 0, -1):
                await self.redis.zincrby(index, -HOUR_MS, member)

    async def sweep(self, **changes: int) -> Swept:
        """Project, let the grace period pass, and sweep."""
        await self.project()
        await self.age()
        return await Archiver(self.store, self.engine, retention(**changes)).sweep()

    async def confirmed(self, count: int) -> list[str]:
        """New orders of one owner, which have ended."""
        return [await self.desk.live(["confirmed"]) for _ in range(count)]

    async def is_hot(self, order_id: str) -> bool:
        return bool(await self.hot.read_stream(order_id, 0, 1))


def on_copies(
    redis_url: str, database_url: str, scenario: Callable[[Copies], Awaitable[None]], namespace: str = ""
) -> None:
    """Run a scenario on a store of its own."""
    name = namespace or f"r{secrets.token_hex(5)}"

    async def run() -> None:
        engine = create_database_engine(database_url, application_name="tests")
        hot = await RedisEventStore.open(redis_url, StoreSettings(namespace=name), new_store_id=None)
        client = Redis.from_url(redis_url, protocol=2)
        try:
            store = await open_archived(hot, engine, OBLIGATIONS, FSYNC, new_store_id=name)
            await open_closed(store, engine)
            await scenario(Copies(store, engine, client, name))
            await store.close()
        finally:
            await hot.close()
            await client.aclose()
            await engine.dispose()

    asyncio.run(run())


def placing(key: str | None = None, *, amount: int = 1_500_000_000, fingerprint: str = "f" * 32) -> PlaceOrder:
    """A market order, keyed where ``key`` is given."""
    return PlaceOrder(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=amount,
        slippage_bps=50,
        idempotency_key=key,
        fingerprint=fingerprint if key else None,
    )


async def finish(copies: Copies, order_ids: Sequence[str]) -> None:
    """Lead orders that were placed to their end."""
    for order_id in order_ids:
        await copies.desk.attempt(order_id, "confirmed")
