"""A projector that stands still, wherever it does, is replaced within 10 s, and writes nothing when it goes on."""

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded.processes import within
from app.main import open_hot_store
from eventstore.redis.store import RedisEventStore
from projections.checkpoints import adopt_checkpoints
from projections.diff import diff
from projections.projector.runner import Projector
from tests.conftest import EMPTY, append_all, caught_up, contents, database, execute, interleaved
from tests.crash.matrix.process import STORE_ID, Plan
from tests.crash.matrix.recovery import END_SECONDS, process, quick, stopped

pytestmark = pytest.mark.slow

TAKEOVER_SECONDS: Final = 10
ORDERS: Final = 40
"""Enough for every partition to have some."""

Process = subprocess.Popen[bytes]


class World(Struct, frozen=True):
    """A log, and the database that it is projected into."""

    store: RedisEventStore
    engine: AsyncEngine
    url: str


@pytest.mark.parametrize("point", ["idle", "locked", "written"])
def test_an_owner_that_stands_still_is_replaced_and_commits_nothing_late(
    point: str, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    settings = quick()
    first, second = (
        Plan(
            settings=settings,
            redis_url=redis_url,
            database_url=database_url,
            marker=str(tmp_path / name),
            role="project",
            point=at,
            orders=1,
            end="stop",
        )
        for name, at in (("first", "" if point == "idle" else point), ("second", ""))
    )

    async def scenario() -> None:
        store = await open_hot_store(settings, redis_url, STORE_ID)
        try:
            async with database(database_url) as engine:
                world = World(store, engine, database_url)
                await adopt_checkpoints(engine, store)
                with process(first) as stands, process(second) as other:
                    await outlived(world, stands, other, idle=point == "idle")
                await require_projected_once(world)
        finally:
            await store.close()

    asyncio.run(scenario())


def owners(url: str) -> list[int]:
    """How many partitions each owner has whose lease has not ended; the fewest first."""
    rows = execute(url, "SELECT owner FROM leases WHERE owner IS NOT NULL AND until > now()")
    return sorted(Counter(row[0] for row in rows).values())


async def until(condition: Callable[[], bool]) -> None:
    assert await within(END_SECONDS, condition)


async def outlived(world: World, stands: Process, other: Process, *, idle: bool) -> None:
    """One of two projectors stands still with its half of the partitions, is replaced, and goes on."""
    store, engine, url = world.store, world.engine, world.url
    half = store.partitions // 2
    await until(lambda: owners(url) == [half, store.partitions - half])
    if idle:
        os.kill(stands.pid, signal.SIGSTOP)
    await append_all(store, interleaved(seed=61, orders=ORDERS))
    await asyncio.to_thread(stopped, stands)
    await asyncio.wait_for(caught_up(engine, store), TAKEOVER_SECONDS)
    assert owners(url) == [store.partitions]
    before = contents(url)
    os.kill(stands.pid, signal.SIGCONT)
    await until(lambda: owners(url) == [half, store.partitions - half])
    assert contents(url) == before
    await append_all(store, interleaved(seed=62, orders=ORDERS))
    await caught_up(engine, store)
    for each in (stands, other):
        each.terminate()
        assert await asyncio.to_thread(each.wait, END_SECONDS) == 0
    assert owners(url) == []


async def require_projected_once(world: World) -> None:
    """Everything that is projected is what one projector makes of the log."""
    store, engine, url = world.store, world.engine, world.url
    assert await diff(store, engine) == []
    found = contents(url)
    assert len(found["volumes"]) > 0
    execute(url, EMPTY)
    await Projector(store, engine).project_available()
    assert contents(url) == found
