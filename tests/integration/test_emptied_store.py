"""Redis is emptied before anything was archived: what was read of it before cannot be taken for what it holds now."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from app.embedded import Servers
from app.main import open_store
from app.settings import Settings
from eventstore.ids import Cursor
from eventstore.store import EventStore, StoredCommit
from projections.archive.opening import open_closed
from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.conftest import appends, caught_up, database, execute, market_life
from tests.servers.single import redis_server


class _Held:
    """A store whose first read with commits is held back, as a frozen process holds it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.read = asyncio.Event()
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        commits = await self._store.read_log(after, limit, wait_seconds)
        if commits:
            self.read.set()
            await self.go_on.wait()
        return commits


def test_events_read_before_redis_was_emptied_are_not_projected_beside_those_after(database_url: str) -> None:
    lost, kept = stream_id(), stream_id()

    async def scenario(servers: Servers) -> None:
        settings, stopping = Settings(), asyncio.Event()
        async with database(database_url) as engine:
            before = await open_store(settings, servers, engine)
            await open_closed(before, engine)
            held: Any = _Held(before)
            async with asyncio.TaskGroup() as group:
                group.create_task(Projector(held, engine).run(stopping))
                await before.append(appends(lost, market_life())[0])
                await held.read.wait()
                await asyncio.to_thread(server.command, "FLUSHALL")
                after = await open_store(settings, servers, engine)
                await after.append(appends(kept, market_life())[0])
                held.go_on.set()
                await caught_up(engine, after)
                stopping.set()
            await before.close()
            await after.close()

    with redis_server() as server:
        asyncio.run(asyncio.wait_for(scenario(Servers(server.url, database_url)), 60))
    assert execute(database_url, "SELECT order_id FROM order_events") == [(kept,)]
