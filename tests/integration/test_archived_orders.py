"""What an archived order still is: found by its key, never begun again, unavailable without PostgreSQL, small."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from app.embedded import Servers
from app.execution.streams import CLOSED, OrderStreams
from app.main import OBLIGATIONS, run_projector
from app.settings import Settings
from eventstore.errors import IdempotencyConflictError, StoreUnavailableError, StreamExpiredError
from eventstore.ids import new_stream_id, new_ulid
from eventstore.levels import MEMORY
from eventstore.memory import MemoryEventStore
from eventstore.store import NEW_STREAM_SECONDS_MAX, Append, Duplicate
from projections.archive.archiver import Archiver
from projections.archive.epochs import Epochs
from projections.archive.store import ArchivedEventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from tests.clocks import START_US
from tests.integration.copies import Copies, finish, on_copies, placing, retention
from tests.integration.rewinding import until

WAIT_SECONDS = 20
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
GRACE_SECONDS = 120

Tamper = Callable[[Copies, str], Awaitable[None]]


def test_a_key_leads_to_its_order_and_only_with_its_content_after_the_order_left(
    redis_url: str, database_url: str
) -> None:
    async def scenario(copies: Copies) -> None:
        streams = copies.desk.streams
        first = streams.new_order_id("owner", "key")
        await streams.place(first, "client", placing("key"))
        anonymous = streams.new_order_id("owner", "nameless")
        await streams.place(anonymous, None, placing("nameless"))
        await finish(copies, [first, anonymous])
        assert (await copies.sweep()).removed == 2

        for order, client, key in ((first, "client", "key"), (anonymous, None, "nameless")):
            again = await streams.place(streams.new_order_id("owner", key), client, placing(key))
            assert (again.order_id, again.repeated) == (order, True)
            with pytest.raises(IdempotencyConflictError, match=order):
                other = placing(key, fingerprint="e" * 32)
                await streams.place(streams.new_order_id("owner", key), client, other)
        fresh = await streams.place(streams.new_order_id("owner", "key"), "another client", placing("key"))
        assert not fresh.repeated

    on_copies(redis_url, database_url, scenario)


class _Ahead:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        self.us += 1
        return self.us

    async def sleep(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)


class _Recorder(MemoryEventStore):
    """Remembers what was appended, to send it again."""

    def __init__(self, clock: _Ahead) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=clock.now_us)
        self.sent: list[Append] = []

    async def append(self, commit: Append):  # type: ignore[no-untyped-def]  # as the overridden one
        self.sent.append(commit)
        return await super().append(commit)


def test_the_first_append_of_an_order_never_creates_it_again(database_url: str) -> None:
    async def scenario() -> None:
        clock = _Ahead()
        hot = _Recorder(clock)
        engine = create_database_engine(database_url, application_name="tests")
        store = ArchivedEventStore(hot, engine, Epochs(hot, engine, OBLIGATIONS), MEMORY)
        archiver = Archiver(store, engine, retention(GRACE_SECONDS))
        streams = OrderStreams(store, clock, random.Random(7).randbytes, "test")
        ulid = new_ulid(clock.us // 1000 + 30_000, bytes(10))
        order = new_stream_id(ulid, "owner", 4)
        await streams.place(order, "client", placing())
        first = hot.sent[0]
        desk_copies = Copies(store, engine, None, "")
        desk_copies.desk.streams, desk_copies.desk.clock = streams, clock
        await finish(desk_copies, [order])
        await Projector(store, engine).project_available()

        # The host that made the id is ahead by the greatest skew: the id is young for that much longer.
        for _ in range(GRACE_SECONDS):
            clock.us += 1_000_000
            if (await archiver.sweep()).removed:
                break
            assert isinstance(await store.append(first), Duplicate)
        else:
            clock.us += 1_000_000
            assert (await archiver.sweep()).removed == 1
        assert clock.us - START_US > (30 + NEW_STREAM_SECONDS_MAX) * 1_000_000
        with pytest.raises(StreamExpiredError):
            await store.append(first)
        assert len(await store.read_stream(order)) == 6
        await engine.dispose()
        await store.close()

    asyncio.run(scenario())


def test_the_archiver_outlasts_an_outage_and_stops_when_asked(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(copies: Copies) -> None:
        nowhere = create_database_engine(NOWHERE, application_name="tests")
        await copies.confirmed(1)
        await copies.age()
        stopping, pauses = asyncio.Event(), []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                stopping.set()

        await Archiver(copies.store, nowhere, retention(), sleep=sleep).run(stopping)

        assert pauses[0] < pauses[1] < pauses[2]
        assert [record.message for record in caplog.records] == ["archiver_outage"] * 3
        await nowhere.dispose()

    on_copies(redis_url, database_url, scenario)


def test_the_projectors_process_archives_and_stops_when_asked(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        settings = replace(Settings(), namespace=copies.namespace, archive_seconds=0)
        stopping = asyncio.Event()
        role = asyncio.create_task(run_projector(settings, Servers(redis_url, database_url), stopping))

        async def gone() -> bool:
            assert not role.done(), role
            return not await copies.is_hot(order)

        try:
            await until(gone)
        finally:
            stopping.set()
            async with asyncio.timeout(WAIT_SECONDS):
                await role
        assert len(await copies.store.read_stream(order)) == 6

    on_copies(redis_url, database_url, scenario)


def test_an_archived_order_is_unavailable_not_unknown_without_postgresql(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.sweep()
        nowhere = create_database_engine(NOWHERE, application_name="tests")
        alone = ArchivedEventStore(copies.hot, nowhere, Epochs(copies.hot, nowhere, OBLIGATIONS), MEMORY)
        with pytest.raises(StoreUnavailableError, match=order):
            await alone.read_stream(order)
        await nowhere.dispose()

    on_copies(redis_url, database_url, scenario)


def test_a_hot_order_of_six_events_takes_at_most_six_kilobytes(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        assert await copies.redis.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "1024"}
        orders = await copies.confirmed(20)
        assert {(await copies.desk.streams.load(order)).version for order in orders} == {6}
        streams = [await copies.redis.memory_usage(copies.key(order), samples=0) for order in orders]
        index = await copies.redis.memory_usage(copies.key(orders[0], CLOSED), samples=0)

        assert max(streams) + index / len(orders) <= 6 * 1024

    on_copies(redis_url, database_url, scenario)
