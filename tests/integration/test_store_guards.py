"""What the Redis store refuses: foreign keys, lost records, other settings, weaker servers, holes."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventstore.errors import (
    EpochStaleError,
    LevelUnavailableError,
    PositionMissingError,
    StoreMismatchError,
)
from eventstore.ids import LOG_START, partition_in
from eventstore.levels import MEMORY
from eventstore.redis.connection import Pipeline
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, IdempotencyKey, IndexEntry
from tests.builders import events, first_append, stream_id, with_timer


class Guarded:
    """A store on Valkey, and a second connection that meddles with its keys."""

    def __init__(self, url: str, settings: StoreSettings, store: RedisEventStore) -> None:
        self.url = url
        self.settings = settings
        self.store = store
        self.meddler = Pipeline(url)
        self.stream = stream_id()
        self.number = partition_in(self.stream)
        self.prefix = settings.key_prefix(self.number)

    async def redis(self, *command: Any) -> Any:
        return await self.meddler.execute(*command)

    async def untouched(self) -> None:
        """The stream has no event and the log has not moved."""
        assert await self.redis("EXISTS", f"{self.prefix}:stream:{self.stream}") == 0
        assert await self.redis("HGET", f"{self.prefix}:meta", "position") in (b"0", None)

    async def reopen(self, **changes: Any) -> RedisEventStore:
        settings = StoreSettings(namespace=self.settings.namespace, **changes)
        return await RedisEventStore.open(self.url, settings, new_store_id="other")


def guarded(redis_url: str, scenario: Callable[[Guarded], Awaitable[None]]) -> None:
    """Run ``scenario`` on a fresh store."""

    async def run() -> None:
        settings = StoreSettings(namespace=f"g{secrets.token_hex(5)}")
        store = await RedisEventStore.open(redis_url, settings, new_store_id="first")
        on = Guarded(redis_url, settings, store)
        try:
            await scenario(on)
        finally:
            await on.meddler.close()
            await store.close()

    asyncio.run(run())


def whole_append(stream: str) -> Append:
    """An append that touches every kind of key."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(2),
        add_task="attempt",
        set_entries=(IndexEntry("due", "m", 1),),
        idempotency=IdempotencyKey("c", "k", "f"),
    )


@pytest.mark.parametrize("key", ["stream", "log", "tasks", "due", "idempotency"])
def test_a_key_of_another_type_refuses_the_append_whole(redis_url: str, key: str) -> None:
    async def scenario(on: Guarded) -> None:
        name = f"{on.prefix}:stream:{on.stream}" if key == "stream" else f"{on.prefix}:{key}"
        await on.redis("DEL", name)
        await on.redis("SET", name, "foreign")
        with pytest.raises(StoreMismatchError):
            await on.store.append(whole_append(on.stream))
        await on.redis("DEL", name)
        await on.untouched()
        for other in ("log", "due", "idempotency"):
            assert await on.redis("EXISTS", f"{on.prefix}:{other}") == 0

    guarded(redis_url, scenario)


def test_a_log_that_somebody_else_wrote_to_refuses_the_append(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.redis("XADD", f"{on.prefix}:log", "1-7", "foreign", "entry")
        with pytest.raises(StoreMismatchError):
            await on.store.append(whole_append(on.stream))
        await on.untouched()

    guarded(redis_url, scenario)


def test_another_epoch_or_lost_records_refuse_the_append(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.redis("HSET", f"{on.prefix}:meta", "epoch", 2)
        with pytest.raises(EpochStaleError) as stale:
            await on.store.append(whole_append(on.stream))
        assert (stale.value.expected, stale.value.epoch) == (1, 2)
        await on.untouched()
        await on.redis("DEL", f"{on.prefix}:meta")
        with pytest.raises(EpochStaleError) as stale:
            await on.store.append(whole_append(on.stream))
        assert stale.value.epoch == 0
        await on.untouched()

    guarded(redis_url, scenario)


def test_a_repeated_answer_is_a_write_so_that_waiting_for_durability_means_something(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        commit = whole_append(on.stream)
        await on.store.append(commit)
        for touches, repeated in enumerate((commit, whole_append(stream_id())), start=1):
            await on.store.append(repeated)
            assert await on.redis("HGET", f"{on.prefix}:meta", "touches") == str(touches).encode()

    guarded(redis_url, scenario)


def test_a_hole_in_the_log_stops_its_reader(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        streams = [stream_id() for _ in range(3)]
        for stream in streams:
            await on.store.append(first_append(stream))
        await on.redis("XDEL", f"{on.prefix}:log", "1-2")
        with pytest.raises(PositionMissingError) as missing:
            await on.store.read_log({on.number: LOG_START}, 10)
        assert (missing.value.expected, missing.value.found) == (2, 3)

    guarded(redis_url, scenario)


@pytest.mark.parametrize("partitions", [1, 3, 5, 100])
def test_another_number_of_partitions_is_refused_and_leaves_no_trace(redis_url: str, partitions: int) -> None:
    async def scenario(on: Guarded) -> None:
        with pytest.raises(StoreMismatchError, match="created with 4 partitions"):
            await on.reopen(partitions=partitions)
        assert await on.redis("EXISTS", f"{on.settings.key_prefix(4)}:meta") == 0

    guarded(redis_url, scenario)


def test_a_partition_that_has_lost_its_record_stays_closed_and_the_others_open(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.redis("DEL", f"{on.settings.key_prefix(2)}:meta")
        store = await on.reopen()
        records = [await store.partition_record(number) for number in range(store.partitions)]
        assert [record.is_open for record in records] == [number != 2 for number in range(store.partitions)]
        await store.close()

    guarded(redis_url, scenario)


def test_a_store_is_opened_again_under_its_first_id_whoever_opens_it(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        stores = await asyncio.gather(*(on.reopen() for _ in range(5)))
        assert {store.store_id for store in stores} == {"first"}
        for store in stores:
            await store.close()

    guarded(redis_url, scenario)


def test_a_server_that_gives_less_than_the_level_is_refused_with_the_remedy(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.redis("CONFIG", "SET", "appendfsync", "everysec")
        try:
            with pytest.raises(LevelUnavailableError, match="set ACK_LEVEL=memory"):
                await on.reopen()
            store = await on.reopen(level=MEMORY)
            assert store.level == MEMORY
            await store.close()
        finally:
            await on.redis("CONFIG", "SET", "appendfsync", "always")

    guarded(redis_url, scenario)


def test_a_member_that_is_no_timer_holds_up_no_timer(redis_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.redis("ZADD", f"{on.prefix}:due", 1, "nonsense")
        await on.store.append(with_timer(on.stream, 2))
        await on.store.fire_timers(10)
        assert [task.stream for task in await on.store.list_tasks(on.number)] == [on.stream]
        assert await on.store.read_index(on.number, "due") == []

    guarded(redis_url, scenario)
