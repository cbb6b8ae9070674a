"""Acknowledgement levels on real servers: reached, not reached in time, measured again for a repetition."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from eventstore.errors import LevelNotReachedError, LevelUnavailableError
from eventstore.ids import partition_in
from eventstore.levels import FSYNC, MEMORY, WITNESSED, Level, replicated
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Appended, Duplicate, Existing, IdempotencyKey
from tests.builders import first_append, keyed, stream_id
from tests.servers.proxy import Proxy
from tests.servers.replicas import master_with_replicas
from tests.servers.single import redis_server

KEY = IdempotencyKey("client", "key", "f")


@asynccontextmanager
async def opened(url: str, level: Level) -> AsyncIterator[RedisEventStore]:
    store = await RedisEventStore.open(url, StoreSettings(level=level), new_store_id="s")
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.slow
def test_a_replica_that_lags_makes_the_outcome_unknown_and_the_repetition_measures_it_again() -> None:
    async def scenario() -> None:
        with master_with_replicas(1, appendonly="yes", appendfsync="always") as servers:
            async with opened(servers.url, replicated(1)) as store:
                first = keyed(stream_id(), KEY, "c1")
                await asyncio.to_thread(servers.pause_replication, servers.replicas[0])
                with pytest.raises(LevelNotReachedError) as late:
                    await store.append(first)
                assert (late.value.wanted, late.value.reached) == (replicated(1), FSYNC)
                with pytest.raises(LevelNotReachedError):
                    await store.append(first)
                with pytest.raises(LevelNotReachedError):
                    await store.append(keyed(stream_id(), KEY, "c2"))
                await asyncio.to_thread(servers.resume_replication, servers.replicas[0])
                await asyncio.to_thread(servers.wait_caught_up, servers.replicas[0])
                assert await store.append(first) == Duplicate(1, 1, 1, replicated(1))
                assert await store.append(keyed(stream_id(), KEY, "c3")) == Existing(first.stream, replicated(1))
                assert await store.confirm(first.stream, 1, first.events[0].hash, replicated(1)) == replicated(1)

    asyncio.run(scenario())


def test_an_append_asks_for_its_own_level_and_is_told_what_it_got() -> None:
    async def scenario() -> None:
        with redis_server(appendonly="yes", appendfsync="always") as server:
            async with opened(server.url, MEMORY) as store:
                appended = await store.append(first_append(stream_id()))
                assert isinstance(appended, Appended)
                assert appended.level == FSYNC

    asyncio.run(scenario())


def test_a_level_that_the_server_cannot_give_is_refused_before_anything_is_written() -> None:
    async def scenario() -> None:
        with redis_server(appendonly="no") as server:
            async with opened(server.url, MEMORY) as store:
                for level in (FSYNC, replicated(1), WITNESSED):
                    append = first_append(stream_id())
                    with pytest.raises(LevelUnavailableError):
                        await store.append(replace(append, level=level))
                    assert await store.read_stream(append.stream) == []

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_server_that_flushes_each_second_is_asked_to_flush_if_its_answer_can_be_trusted() -> None:
    """The embedded Valkey answers WAITAOF early; one whose answers take as long as a flush stands for an honest one."""

    async def scenario() -> None:
        with redis_server(appendonly="yes", appendfsync="everysec") as server, Proxy(server.url) as proxy:
            with pytest.raises(LevelUnavailableError, match="WAITAOF is not to be trusted"):
                async with opened(server.url, FSYNC):
                    pass
            proxy.delay(250, 250)
            async with opened(proxy.url, FSYNC) as store:
                proxy.calm()
                appended = await store.append(first_append(stream_id()))
                assert appended.level == FSYNC
                plain = first_append(stream_id())
                assert (await store.append(replace(plain, level=MEMORY))).level == MEMORY

    asyncio.run(scenario())


def test_a_server_that_comes_back_flushing_less_is_not_believed_to_flush() -> None:
    async def scenario() -> None:
        with redis_server(appendonly="yes", appendfsync="always") as server:
            async with opened(server.url, FSYNC) as store:
                await store.append(first_append(stream_id()))
                server.settings["appendfsync"] = "no"
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                append = first_append(stream_id())
                number = partition_in(append.stream)
                record = await store.partition_record(number)
                await store.open_epoch(number, "s", 2, record.end)
                with pytest.raises(LevelUnavailableError, match="appendfsync no"):
                    await store.append(append)
                assert (await store.append(replace(append, level=MEMORY))).level == MEMORY

    asyncio.run(scenario())
