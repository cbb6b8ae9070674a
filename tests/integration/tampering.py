"""A store of its own on real servers, and hands that change what is stored in it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.verify import Report, verify
from app.clock import SystemClock
from eventstore.ids import partition_in
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from tests.desk import Desk

OWNER: Final = "owner"

Entry = tuple[bytes, dict[bytes, bytes]]
"""A Redis Stream entry: id and fields."""


class Bench:
    """A store of its own on Valkey, raw access to its keys, and a database where the test has one."""

    def __init__(self, store: RedisEventStore, namespace: str, redis: Any, engine: AsyncEngine | None) -> None:
        self.store = store
        self.namespace = namespace
        self.redis = redis
        self.engine = engine
        self.desk = Desk(store, SystemClock(), owner=OWNER)

    def key(self, order_id: str, name: str) -> str:
        return f"{{{self.namespace}:{partition_in(order_id):02d}}}:{name}"

    async def entries(self, key: str) -> list[Entry]:
        return [(entry_id, dict(fields)) for entry_id, fields in await self.redis.xrange(key)]

    async def rewrite(self, key: str, entries: Sequence[Entry]) -> None:
        """Replace a stream: Redis has no other way to change an entry."""
        await self.redis.delete(key)
        for entry_id, fields in entries:
            await self.redis.xadd(key, fields, id=entry_id)

    async def project(self) -> AsyncEngine:
        assert self.engine is not None
        await Projector(self.store, self.engine).project_available()
        return self.engine

    async def verify(self, *order_ids: str) -> Report:
        return await verify(self.store, self.engine, SystemClock().now_us, order_ids)

    async def rules(self, *order_ids: str) -> set[str]:
        return {finding.rule for finding in (await self.verify(*order_ids)).findings}


def on_bench(
    redis_url: str, scenario: Callable[[Bench], Awaitable[None]], database_url: str | None = None, namespace: str = ""
) -> None:
    """Run a scenario on a namespace of its own."""
    name = namespace or f"a{secrets.token_hex(5)}"

    async def run() -> None:
        store = await RedisEventStore.open(redis_url, StoreSettings(namespace=name), new_store_id=name)
        engine = create_database_engine(database_url, application_name="tests") if database_url else None
        client = Redis.from_url(redis_url, protocol=2)
        try:
            await scenario(Bench(store, name, client, engine))
        finally:
            await client.aclose()
            await store.close()
            if engine is not None:
                await engine.dispose()

    asyncio.run(run())


async def flip_a_byte(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    entries = await bench.entries(key)
    entries[2][1][b"event"] = entries[2][1][b"event"].replace(b"routing", b"rooting", 1)
    await bench.rewrite(key, entries)


async def break_the_text(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    entries = await bench.entries(key)
    entries[2][1][b"event"] = entries[2][1][b"event"].replace(b"raydium", b"\xff\xfeydium", 1)
    await bench.rewrite(key, entries)


async def change_a_position(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    entries = await bench.entries(key)
    entries[1][1][b"position"] = b"0"
    await bench.rewrite(key, entries)


async def drop_the_last_event(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    await bench.redis.xdel(key, (await bench.entries(key))[-1][0])


async def drop_an_event(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    await bench.redis.xdel(key, (await bench.entries(key))[1][0])


async def drop_the_stream(bench: Bench, order_id: str) -> None:
    await bench.redis.delete(bench.key(order_id, f"stream:{order_id}"))


async def swap_two_events(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    entries = await bench.entries(key)
    (one, first), (two, second) = entries[1], entries[2]
    entries[1:3] = [(one, second), (two, first)]
    await bench.rewrite(key, entries)


async def add_an_event(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, f"stream:{order_id}")
    entry_id, fields = (await bench.entries(key))[-1]
    epoch, _, version = entry_id.partition(b"-")
    await bench.redis.xadd(key, fields, id=b"%s-%d" % (epoch, int(version) + 1))


async def change_a_log_entry(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "log")
    entries = await bench.entries(key)
    entries[-2][1][b"events"] = entries[-2][1][b"events"].replace(b"test", b"tset", 1)
    await bench.rewrite(key, entries)


async def change_a_log_entrys_order(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "log")
    entries = await bench.entries(key)
    entries[-2][1][b"stream"] = b"nobody"
    await bench.rewrite(key, entries)


async def drop_a_log_entry(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "log")
    await bench.redis.xdel(key, (await bench.entries(key))[2][0])


async def drop_the_first_log_entry(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "log")
    await bench.redis.xdel(key, (await bench.entries(key))[0][0])


async def drop_the_last_log_entry(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "log")
    await bench.redis.xdel(key, (await bench.entries(key))[-1][0])


async def remove_the_task(bench: Bench, order_id: str) -> None:
    key = bench.key(order_id, "tasks")
    for entry_id, fields in await bench.entries(key):
        if fields[b"stream"] == order_id.encode():
            await bench.redis.xdel(key, entry_id)


async def remove_the_timer(bench: Bench, order_id: str) -> None:
    assert await bench.redis.zrem(bench.key(order_id, "due"), f"attempt {order_id}") == 1


async def remove_the_trigger(bench: Bench, order_id: str) -> None:
    assert await bench.redis.zrem(bench.key(order_id, "resting:SOL/USDC:rises_to"), order_id) == 1


async def move_the_timer(bench: Bench, order_id: str) -> None:
    await bench.redis.zadd(bench.key(order_id, "due"), {f"attempt {order_id}": 2**52})


async def add_a_task_for_nobody(bench: Bench, order_id: str) -> None:
    await bench.redis.xadd(bench.key(order_id, "tasks"), {"stream": f"{order_id[:-9]}ABCDEF-00", "kind": "attempt"})
