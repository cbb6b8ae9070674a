"""Every store that the contract suite runs on."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from app.main import OBLIGATIONS
from eventstore.hot import HotStore
from eventstore.levels import FSYNC, MEMORY, Level
from eventstore.memory import MemoryEventStore
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import EventStore
from projections.archive.opening import open_archived, open_closed
from tests.clocks import StepClock
from tests.conftest import database

Scenario = Callable[[EventStore], Awaitable[None]]
RunOnStore = Callable[[Scenario], None]
HotScenario = Callable[[HotStore], Awaitable[None]]
RunOnHotStore = Callable[[HotScenario], None]

SERVERS = {
    "redis_url": FSYNC,
    "system_redis_url": FSYNC,
    "unflushed_redis_url": MEMORY,
    "cluster_url": FSYNC,
}
"""The servers of the suite, and the level that each gives."""


@asynccontextmanager
async def redis_store(url: str, level: Level) -> AsyncIterator[RedisEventStore]:
    """A fresh store in its own namespace; its server goes with the test session."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    settings = StoreSettings(namespace=namespace, level=level)
    store = await RedisEventStore.open(url, settings, new_store_id=namespace)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def memory_store() -> AsyncIterator[MemoryEventStore]:
    yield MemoryEventStore(partitions=4, store_id="memory", now_us=StepClock().now_us)


@asynccontextmanager
async def archived_store(url: str, database_url: str) -> AsyncIterator[EventStore]:
    """Valkey with PostgreSQL behind it."""
    settings = StoreSettings(namespace=f"t{uuid.uuid4().hex[:12]}")
    hot = await RedisEventStore.open(url, settings, new_store_id=None)
    async with database(database_url) as engine:
        store = await open_archived(hot, engine, OBLIGATIONS, FSYNC, new_store_id=settings.namespace)
        await open_closed(store, engine)
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["memory", *SERVERS, "archived"])
def run_on_store(request: pytest.FixtureRequest) -> RunOnStore:
    """Run a scenario on a fresh store of each kind."""
    if request.param == "archived":
        urls = [request.getfixturevalue(name) for name in ("redis_url", "database_url")]
        return partial(_run, lambda: archived_store(*urls))
    return partial(_run, _hot(request))


@pytest.fixture(params=["memory", *SERVERS])
def run_on_hot_store(request: pytest.FixtureRequest) -> RunOnHotStore:
    """Run a scenario on a fresh store of each kind that holds hot data."""
    return partial(_run, _hot(request))


def _hot(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[HotStore]]:
    if request.param == "memory":
        return memory_store
    url, level = request.getfixturevalue(request.param), SERVERS[request.param]
    return lambda: redis_store(url, level)


def _run(opened: Callable[[], AbstractAsyncContextManager], scenario: Callable[..., Awaitable[None]]) -> None:  # type: ignore[type-arg]  # of whatever store the scenario takes
    async def in_store() -> None:
        async with opened() as store:
            await scenario(store)

    asyncio.run(in_store())
