"""Every store that the contract suite runs on."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventstore.errors import LevelUnavailableError
from eventstore.memory import MemoryEventStore
from eventstore.opening import StoreSettings
from eventstore.redis import RedisEventStore
from eventstore.store import EventStore
from tests.clocks import StepClock

RunOnStore = Callable[[Callable[[EventStore], Coroutine[Any, Any, None]]], None]


@asynccontextmanager
async def _redis_store(url: str) -> AsyncIterator[RedisEventStore]:
    """A fresh store in its own namespace, deleted afterwards; at the level that the server gives."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    try:
        store = await RedisEventStore.open(url, StoreSettings(namespace=namespace), new_store_id=namespace)
    except LevelUnavailableError:
        settings = StoreSettings(namespace=namespace, level="memory")
        store = await RedisEventStore.open(url, settings, new_store_id=namespace)
    try:
        yield store
    finally:
        await store.close()
        await delete_namespace(url, namespace)


async def delete_namespace(url: str, namespace: str) -> None:
    """Delete every key of a store's namespace."""
    from eventstore.connection import connect

    client = connect(url)
    async for key in client.scan_iter(match=f"{{{namespace}:*"):
        await client.delete(key)
    await client.aclose()


@asynccontextmanager
async def _memory_store() -> AsyncIterator[MemoryEventStore]:
    yield MemoryEventStore(partitions=4, store_id="memory", now_us=StepClock().now_us)


@pytest.fixture(params=["memory", "embedded", "system"])
def run_on_store(request: pytest.FixtureRequest) -> RunOnStore:
    """Run a coroutine function on a fresh store of each kind; the system Redis only where one is named or found."""
    if request.param == "memory":
        opened: Callable[[], Any] = _memory_store
    elif request.param == "embedded":
        url = request.getfixturevalue("redis_url")
        opened = lambda: _redis_store(url)  # noqa: E731
    else:
        url = os.environ.get("REDIS_URL") or request.getfixturevalue("system_redis_url")
        opened = lambda: _redis_store(url)  # noqa: E731

    def run(test: Callable[[EventStore], Awaitable[None]]) -> None:
        async def scenario() -> None:
            async with opened() as store:
                await test(store)

        asyncio.run(scenario())

    return run
