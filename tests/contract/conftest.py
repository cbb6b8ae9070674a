"""Every store that the contract suite runs on."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from eventstore.memory import MemoryEventStore
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import EventStore
from tests.clocks import StepClock

Scenario = Callable[[EventStore], Awaitable[None]]
RunOnStore = Callable[[Scenario], None]


@asynccontextmanager
async def _redis_store(url: str) -> AsyncIterator[EventStore]:
    """A fresh store in its own namespace; its server goes with the test session."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    store = await RedisEventStore.open(url, StoreSettings(namespace=namespace), new_store_id=namespace)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _memory_store() -> AsyncIterator[EventStore]:
    yield MemoryEventStore(partitions=4, store_id="memory", now_us=StepClock().now_us)


@pytest.fixture(params=["memory", "redis_url", "system_redis_url"])
def run_on_store(request: pytest.FixtureRequest) -> RunOnStore:
    """Run a scenario on a fresh store of each kind: in memory, on the embedded Valkey, on the machine's Redis."""
    if request.param == "memory":
        opened: Callable[[], AbstractAsyncContextManager[EventStore]] = _memory_store
    else:
        url = request.getfixturevalue(request.param)

        def opened() -> AbstractAsyncContextManager[EventStore]:
            return _redis_store(url)

    def run(scenario: Scenario) -> None:
        async def in_store() -> None:
            async with opened() as store:
                await scenario(store)

        asyncio.run(in_store())

    return run
