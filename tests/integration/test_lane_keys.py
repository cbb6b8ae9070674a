"""What lanes need of the server, and what they do where it refuses."""

import asyncio
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from eventstore.errors import StoreUnavailableError
from eventstore.ids import partition_in
from eventstore.levels import MEMORY
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import DIRECT_MAX
from tests.builders import stream_id, with_task
from tests.servers.single import redis_server


def test_tasks_that_were_given_reach_a_worker_who_may_not_admit() -> None:
    async def scenario(url: str, limited_url: str) -> None:
        settings = StoreSettings(level=MEMORY)
        store = await RedisEventStore.open(url, settings, new_store_id="first")
        limited = await RedisEventStore.open(limited_url, settings, new_store_id=None)
        try:
            streams = [stream_id() for _ in range(DIRECT_MAX + 1)]
            await asyncio.gather(*(store.append(replace(with_task(stream), lane="a")) for stream in streams))
            taken = await limited.take_tasks("w", 10)
            assert [task.stream for task in taken] == streams[:10]
            assert (await store.status())[partition_in(streams[0])].waiting == 1
            # Whoever only looks after timers is told.
            with pytest.raises(StoreUnavailableError, match="NOPERM"):
                await limited.fire_timers(10)
            await store.take_tasks("w", 10)
            assert (await store.status())[partition_in(streams[0])].waiting == 0
        finally:
            await limited.close()
            await store.close()

    with redis_server(appendonly="no") as server:
        server.command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "+@all", "-zrem", "~*", "&*")
        place = urlsplit(server.url)
        asyncio.run(scenario(server.url, f"redis://limited:secret@{place.hostname}:{place.port}"))
