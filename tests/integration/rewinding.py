"""A store with both copies whose Redis loses data on purpose: set back to a snapshot, emptied, or robbed of keys."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from redis.asyncio import Redis
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.findings import Finding
from app.audit.verify import verify
from app.clock import SystemClock
from app.execution.streams import CLOSED, TIMERS, duties
from app.main import OBLIGATIONS
from eventstore.ids import LOG_START, partition_in
from eventstore.levels import MEMORY, Level
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import WAITING, Append, EventStore, StoredCommit, StoredEvent
from projections.archive.epochs import Epochs
from projections.archive.opening import open_archived, open_closed, restore
from projections.archive.store import ArchivedEventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from tests.conftest import WAIT_SECONDS, execute

HotT = TypeVar("HotT", bound=RedisEventStore)
TRADING: Final = ("routing", "protection", "attempts", "proof", "receipt", "lifecycle")
TABLES: Final = "orders, order_events, checkpoints, store, epochs"
_PAGE: Final = 7
"""Small, so that reading a history crosses many pages."""

Snapshot = Mapping[bytes, bytes]


class Rewindable:
    """A namespace on Valkey and a database; every store that :meth:`open` returns has connections of its own."""

    def __init__(self, redis_url: str, engine: AsyncEngine, redis: Any, partitions: int) -> None:
        self.redis_url = redis_url
        self.engine = engine
        self.redis = redis
        self.partitions = partitions
        self.namespace = f"h{secrets.token_hex(6)}"
        self._opened: list[EventStore] = []

    async def hot(self, incarnation: str | None = "a") -> RedisEventStore:
        """Redis alone, whose data has this identity from now on."""
        return await self.hot_of(RedisEventStore, incarnation)

    async def hot_of(self, kind: type[HotT], incarnation: str | None) -> HotT:
        """The same, of another class."""
        settings = StoreSettings(
            partitions=self.partitions, namespace=self.namespace, incarnation=incarnation, level=MEMORY
        )
        store = await kind.open(self.redis_url, settings, new_store_id=None)
        self._opened.append(store)
        return store

    def archived(self, hot: RedisEventStore, level: Level = MEMORY) -> ArchivedEventStore:
        """A store on both copies, as they are."""
        return ArchivedEventStore(hot, self.engine, Epochs(hot, self.engine, OBLIGATIONS), level)

    async def open(self, incarnation: str | None = "a", level: Level = MEMORY) -> ArchivedEventStore:
        """The store as the projector opens it: created, or healed, and registered."""
        store = await self.start(incarnation, level)
        await open_closed(store, self.engine)
        return store

    async def open_after_loss(self, incarnation: str | None = "b") -> ArchivedEventStore:
        """The store opened by somebody who may find it empty: healed as `ordertape restore` does it."""
        store = self.archived(await self.hot(incarnation))
        await restore(store, self.engine)
        return store

    async def start_closed(self, incarnation: str | None = "b") -> ArchivedEventStore:
        """The store as a process has it whose server was replaced under it: nothing is opened yet."""
        return self.archived(await self.hot(incarnation))

    async def start(self, incarnation: str | None = "a", level: Level = MEMORY) -> ArchivedEventStore:
        """The store as a worker opens it."""
        hot = await self.hot(incarnation)
        return await open_archived(hot, self.engine, OBLIGATIONS, level, new_store_id=self.namespace)

    async def start_as(self, store_id: str, hot: RedisEventStore | None = None) -> ArchivedEventStore:
        """The store as a worker opens it that would name a new one ``store_id``."""
        hot = hot or await self.hot()
        return await open_archived(hot, self.engine, OBLIGATIONS, MEMORY, new_store_id=store_id)

    def key(self, partition: int, name: str) -> str:
        return f"{{{self.namespace}:{partition:02d}}}:{name}"

    async def snapshot(self) -> Snapshot:
        return {key: await self.redis.dump(key) for key in await self._keys()}

    async def set_back(self, snapshot: Snapshot) -> None:
        """Lose everything since ``snapshot``."""
        await self.flush()
        for key, dumped in snapshot.items():
            await self.redis.restore(key, 0, dumped)

    async def flush(self) -> None:
        """Lose everything."""
        for key in await self._keys():
            await self.redis.delete(key)

    async def rob(self, *names: str) -> None:
        """Lose these keys of every partition."""
        for partition in range(self.partitions):
            await self.redis.delete(*(self.key(partition, name) for name in names))

    async def _keys(self) -> list[bytes]:
        return [key async for key in self.redis.scan_iter(f"{{{self.namespace}:*", count=1000)]

    async def project(self, store: EventStore) -> int:
        return await Projector(store, self.engine).project_available()

    async def findings(self, store: EventStore) -> tuple[Finding, ...]:
        """What is wrong with the stored data; whether the orders were traded well is another matter."""
        found = (await verify(store, self.engine, SystemClock().now_us)).findings
        return tuple(finding for finding in found if finding.rule not in TRADING)

    async def epochs(self, partition: int) -> list[tuple[Any, ...]]:
        """The registered epochs: number, last position before, incarnation, events healed."""
        query = "SELECT epoch, position, incarnation, healed FROM epochs WHERE partition = :partition ORDER BY epoch"
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(query), {"partition": partition})]

    async def require_duties(self, store: EventStore, order_ids: Collection[str]) -> None:
        """Require beside each order exactly what it obliges to; tasks may be more, as they are harmless."""
        for partition in range(self.partitions):
            timers = {entry.member: entry.score for entry in await store.read_index(partition, TIMERS)}
            closed = {entry.member: entry.score for entry in await store.read_index(partition, CLOSED)}
            waiting = [entry.member.split(" ") for entry in await store.read_index(partition, WAITING)]
            tasks = {(task.stream, task.kind) for task in await store.list_tasks(partition)}
            tasks |= {(stream, kind) for kind, stream in waiting}
            keys = await self.redis.hgetall(self.key(partition, "idempotency"))
            for order_id in (order_id for order_id in order_ids if partition_in(order_id) == partition):
                owed = duties(order_id, await store.read_stream(order_id))
                assert owed.add_task is None or (order_id, owed.add_task) in tasks
                assert {member: score for member, score in timers.items() if member.endswith(order_id)} == {
                    entry.member: entry.score for entry in owed.set_entries if entry.index == TIMERS
                }
                assert closed.get(order_id) == next(
                    (entry.score for entry in owed.set_entries if entry.index == CLOSED), None
                )
                if owed.idempotency is not None:
                    field = f"{owed.idempotency.scope}\0{owed.idempotency.key}".encode()
                    assert keys.get(field) == f"{order_id} {owed.idempotency.fingerprint}".encode()

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


Scenario = Callable[[Rewindable], Awaitable[None]]


@asynccontextmanager
async def rewindable(redis_url: str, database_url: str, partitions: int = 4) -> AsyncIterator[Rewindable]:
    """Both servers for one test; the namespace is emptied at the end."""
    engine = create_database_engine(database_url, application_name="tests", connections_max=6)
    client = Redis.from_url(redis_url, protocol=2)
    on = Rewindable(redis_url, engine, client, partitions)
    try:
        yield on
    finally:
        await on.close()
        await on.flush()
        await client.aclose()
        await engine.dispose()


def run(redis_url: str, database_url: str, scenario: Scenario, partitions: int = 4) -> None:
    """Run ``scenario`` on both servers."""

    async def scene() -> None:
        async with rewindable(redis_url, database_url, partitions) as on, asyncio.timeout(3 * WAIT_SECONDS):
            await scenario(on)

    asyncio.run(scene())


def obliged(commits: Iterable[Append]) -> list[Append]:
    """``commits`` with the tasks, timers and idempotency records that belong to them."""
    streams: dict[str, list[StoredEvent]] = {}
    found: list[Append] = []
    for commit in commits:
        events = streams.setdefault(commit.stream, [])
        for event in commit.events:
            events.append(StoredEvent(len(events) + 1, 1, 1, commit.commit_id, event.hash, event.data))
        owed = duties(commit.stream, events)
        found.append(
            replace(
                commit,
                add_task=owed.add_task,
                set_entries=owed.set_entries,
                clear_entries=owed.clear_entries,
                idempotency=owed.idempotency if commit.expected_version == 0 else None,
            )
        )
    return found


@contextmanager
def outage(postgres_url: str, database_url: str) -> Iterator[None]:
    """Let nobody use the database while the context is open."""
    name = make_url(database_url).database
    execute(postgres_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    execute(postgres_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    try:
        yield
    finally:
        execute(postgres_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once ``condition`` holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the servers tell nobody
            await asyncio.sleep(0.005)


async def history(store: EventStore, partition: int) -> list[StoredCommit]:
    """Every commit of a partition, wherever it is kept."""
    commits: list[StoredCommit] = []
    cursor = LOG_START
    while page := await store.read_log({partition: cursor}, _PAGE):
        commits += page
        cursor = page[-1].end
    return commits


async def histories(store: EventStore) -> list[list[StoredCommit]]:
    return [await history(store, partition) for partition in range(store.partitions)]


async def streams_of(store: EventStore, order_ids: Iterable[str]) -> dict[str, list[StoredEvent]]:
    return {order_id: list(await store.read_stream(order_id)) for order_id in order_ids}


async def append_all(store: EventStore, commits: Iterable[Append]) -> None:
    for commit in commits:
        await store.append(commit)
