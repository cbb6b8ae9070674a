"""Every store that the contract suite runs on."""

import asyncio
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import redis

from eventstore.memory import MemoryEventStore
from eventstore.opening import StoreSettings
from eventstore.redis import RedisEventStore
from eventstore.store import EventStore
from tests.clocks import StepClock

Scenario = Callable[[EventStore], Awaitable[None]]
RunOnStore = Callable[[Scenario], None]

START_SECONDS = 10


@pytest.fixture(scope="session")
def system_redis_url() -> Iterator[str]:
    """A server of the machine's own ``redis-server``, as durable as the embedded one; skipped where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine")
    directory = Path(tempfile.mkdtemp(prefix="ot-"))
    socket = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", ""]
    process = subprocess.Popen([binary, *options, "--appendonly", "yes", "--appendfsync", "always"], stdout=-3)
    try:
        deadline = time.monotonic() + START_SECONDS
        client = redis.Redis(unix_socket_path=str(socket))
        while not _answers(client):
            assert process.poll() is None
            assert time.monotonic() < deadline
        client.close()
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        shutil.rmtree(directory)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


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
