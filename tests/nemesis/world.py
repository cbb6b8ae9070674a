"""The world of one run: Redis, PostgreSQL behind a proxy, a chain of its own, and the engine as real processes."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx
import redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.roles import Launch
from app.embedded import EmbeddedError, Servers, embedded_servers
from app.main import OBLIGATIONS, open_hot_store
from app.settings import Settings
from eventstore.errors import EventStoreError
from eventstore.levels import MEMORY
from projections.archive.epochs import Epochs
from projections.archive.opening import is_empty, restore
from projections.archive.store import ArchivedEventStore
from projections.database import DATABASE_OUTAGES, create_database_engine
from projections.errors import ProjectionError
from tests.conftest import database_at, execute
from tests.nemesis.plans import Plan
from tests.nemesis.roles import Role
from tests.servers.proxy import Proxy
from tests.servers.replicas import Replicated, master_with_replicas
from tests.servers.single import RedisServer, redis_server, unused_port

T = TypeVar("T")

START_SECONDS_MAX = 60
ENGINE = ("project", "worker", "worker", "serve")


class Postgres:
    """An embedded PostgreSQL that may be restarted and killed; its data stay."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._stack = AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        context = embedded_servers(self._data_dir, start_timeout_seconds=START_SECONDS_MAX)
        servers = await self._stack.enter_async_context(context)
        assert servers.database_url is not None
        self.url = servers.database_url

    async def stop(self) -> None:
        """End the server as an operator would, with its connections. Idempotent."""
        with suppress(EmbeddedError):
            await self._stack.aclose()

    async def kill(self) -> None:
        """End the server by SIGKILL."""
        record = json.loads((self._data_dir / "postgres.pid").read_bytes())
        os.kill(int(record["pid"]), signal.SIGKILL)
        await self.stop()


class World:
    """See :func:`world`."""

    def __init__(self, plan: Plan, redis_server: RedisServer | Replicated, postgres: Postgres, logs: Path) -> None:
        self.plan = plan
        self.postgres = postgres
        self.logs = logs
        self.proxy: Proxy
        self.database_proxy: Proxy
        self.settings: Settings
        self.roles: list[Role] = []
        self.restored = 0
        """How often the operator had to restore an empty Redis."""
        self._redis = redis_server

    @property
    def redis(self) -> RedisServer:
        """The server that takes writes."""
        return self._redis.master if isinstance(self._redis, Replicated) else self._redis

    @property
    def group(self) -> Replicated:
        """The master with its replicas; for plans with replicas only."""
        assert isinstance(self._redis, Replicated)
        return self._redis

    @property
    def servers(self) -> Servers:
        """Where the engine finds its servers: behind the proxies."""
        return Servers(self.proxy.url, self.database_proxy.url)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def database_url(self) -> str:
        """The run's database, behind its proxy."""
        return self.database_proxy.url

    def named(self, name: str) -> list[Role]:
        """The processes of one role."""
        return [role for role in self.roles if role.name == name]

    def start_engine(self, names: Sequence[str] = ENGINE) -> None:
        """Start these roles, several of one name where it is given several times."""
        launch = Launch(self.settings, self.servers)
        self.roles = [Role(name, number, launch, self.logs) for number, name in enumerate(names)]
        for role in self.roles:
            role.start()

    async def ready(self) -> bool:
        """Whether the API can serve now."""
        async with httpx.AsyncClient(base_url=self.url, timeout=3) as http:
            with suppress(httpx.HTTPError):
                return (await http.get("/readyz")).status_code == 200
        return False

    async def restore_if_empty(self) -> None:
        """Do what an operator does when processes end and Redis holds nothing: restore it."""
        if not self.redis.responsive:
            return
        with suppress(EventStoreError, ProjectionError, redis.RedisError, *DATABASE_OUTAGES):
            async with asyncio.timeout(20), self.opened(direct=False) as (store, database):
                records = [await store.hot.partition_record(number) for number in range(store.partitions)]
                events = await asyncio.to_thread(
                    execute, self.database_proxy.url, "SELECT coalesce(sum(position), 0)::int FROM checkpoints"
                )
                if is_empty(records) and events[0][0]:
                    await restore(store, database)
                    self.restored += 1

    @asynccontextmanager
    async def opened(self, *, direct: bool = True) -> AsyncIterator[tuple[ArchivedEventStore, AsyncEngine]]:
        """The store and the database as they are: nothing is healed by opening."""
        url = self.servers.database_url
        assert url is not None
        database = create_database_engine(url, application_name="nemesis")
        try:
            hot = await open_hot_store(self.settings, self.redis.url if direct else self.proxy.url)
            store = ArchivedEventStore(hot, database, Epochs(hot, database, OBLIGATIONS), MEMORY)
            try:
                yield store, database
            finally:
                await store.close()
        finally:
            await database.dispose()

    def stop(self) -> None:
        """End every role."""
        for role in self.roles:
            role.stop()


@asynccontextmanager
async def world(plan: Plan, postgres: Postgres, logs: Path) -> AsyncIterator[World]:
    """The servers of a run, with a new database; no role runs yet, all are stopped at the end."""
    async with AsyncExitStack() as stack:
        sync = "everysec" if plan.ack_level == MEMORY else "always"
        if plan.replicas:
            group = await stack.enter_async_context(_in_thread(master_with_replicas(plan.replicas, appendfsync=sync)))
            made = World(plan, group, postgres, logs)
            made.proxy = group.proxy
        else:
            server = await stack.enter_async_context(_in_thread(redis_server(appendfsync=sync)))
            made = World(plan, server, postgres, logs)
            made.proxy = await stack.enter_async_context(Proxy(server.url, seed=plan.seed))
        chain_server = await stack.enter_async_context(_in_thread(redis_server()))
        name = f"nemesis_{os.getpid()}_{plan.seed}"
        await asyncio.to_thread(execute, postgres.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await asyncio.to_thread(execute, postgres.url, f"CREATE DATABASE {name}")
        made.database_proxy = await stack.enter_async_context(Proxy(database_at(postgres.url, name), seed=plan.seed))
        made.settings = settings_of(plan, made, chain_server.url)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.stop)


def settings_of(plan: Plan, made: World, chain_url: str) -> Settings:
    """The engine's settings: quick, and with all data of the chain elsewhere."""
    return Settings(
        redis_url=made.proxy.url,
        database_url=made.database_proxy.url,
        chain_redis_url=chain_url,
        ack_level=plan.ack_level,
        intent_level=plan.intent_level,
        port=unused_port(),
        namespace="nemesis",
        seed=f"nemesis {plan.seed}",
        speed_ppm=0,
        concurrency=64,
        quote_timeout_ms=300,
        task_ms=1_000,
        claim_idle_ms=1_500,
    )


@asynccontextmanager
async def _in_thread(context: AbstractContextManager[T]) -> AsyncIterator[T]:
    value = await asyncio.to_thread(context.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
