"""A rebuild whose connections PostgreSQL ends, all or the one that keeps others out: it fails, and can be repeated."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.memory import MemoryEventStore
from projections.models.registry import PROJECTIONS
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.state import REBUILD_LOCK
from projections.rebuild.swapping import drop, roll_back
from tests.conftest import contents, database, execute, fill, filled, interleaved, project

ALL: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)
LOCK: Final = (
    f"{ALL} AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' "
    f"AND (CAST(classid AS bigint) << 32) + CAST(objid AS bigint) = {REBUILD_LOCK})"
)
ENDS: Final = pytest.mark.parametrize(("name", "ended"), [("orders", ALL), ("volumes", LOCK)], ids=["all", "lock"])
POINTS: Final = ("begun", "filled", "indexed", "caught_up", "compared", "locked", "exchanged", "swapped")


class Ending:
    """Ends connections when a point is passed for the first time, and records what is passed."""

    def __init__(self, url: str, point: str, ended: str) -> None:
        self.passed: list[str] = []
        self._url, self._point, self._ended = url, point, ended

    def reach(self, point: str) -> None:
        if point == self._point and point not in self.passed:
            assert execute(self._url, self._ended) != []
        self.passed.append(point)


def projected(url: str, orders: int) -> MemoryEventStore:
    """A store with orders, which are projected."""
    store = filled(interleaved(seed=81, orders=orders))
    project(url, store)
    return store


def on_database(url: str, act: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with database(url) as engine:
            await act(engine)

    asyncio.run(scenario())


def require_nothing_left(url: str) -> None:
    assert execute(url, "SELECT projection FROM rebuilds") == []
    assert execute(url, "SELECT DISTINCT projection FROM checkpoints ORDER BY 1") == [("orders",), ("volumes",)]
    assert execute(url, "SELECT relname FROM pg_class WHERE relname ~ '_(next|old)$'") == []


@pytest.mark.slow
@ENDS
@pytest.mark.parametrize("point", POINTS)
def test_a_rebuild_that_loses_its_connections_fails_and_is_repeated(
    database_url: str, name: str, point: str, ended: str
) -> None:
    store = projected(database_url, 12)
    before = contents(database_url)
    ending = Ending(database_url, point, ended)

    async def act(engine: AsyncEngine) -> None:
        if point == "swapped":
            assert (await rebuild(engine, PROJECTIONS[name], reach=ending.reach)).swapped
            return
        with pytest.raises(OperationalError):
            await rebuild(engine, PROJECTIONS[name], reach=ending.reach)
        assert "swapped" not in ending.passed

    on_database(database_url, act)
    assert contents(database_url) == before

    async def again(engine: AsyncEngine) -> None:
        found = await rebuild(engine, PROJECTIONS[name])
        assert (found.resumed, found.swapped) == (point not in ("begun", "swapped"), True)

    on_database(database_url, again)
    assert contents(database_url) == before
    require_nothing_left(database_url)
    fill(store, interleaved(seed=82, orders=3))
    project(database_url, store)


def test_no_page_is_filled_by_a_rebuild_that_does_not_keep_others_out_any_more(database_url: str) -> None:
    projected(database_url, 3)
    ending = Ending(database_url, "begun", LOCK)

    async def act(engine: AsyncEngine) -> None:
        with pytest.raises(OperationalError):
            await rebuild(engine, PROJECTIONS["orders"], reach=ending.reach)

    on_database(database_url, act)
    assert set(ending.passed) == {"begun"}
    assert execute(database_url, "SELECT done, events FROM rebuilds") == [("", 0)]
    assert execute(database_url, "SELECT id FROM orders_next") == []


def test_no_table_is_swapped_by_a_rebuild_that_does_not_keep_others_out_any_more(database_url: str) -> None:
    projected(database_url, 3)
    live = execute(database_url, "SELECT CAST('orders' AS regclass)::oid")
    ending = Ending(database_url, "locked", LOCK)

    async def act(engine: AsyncEngine) -> None:
        with pytest.raises(OperationalError):
            await rebuild(engine, PROJECTIONS["orders"], reach=ending.reach)

    on_database(database_url, act)
    assert execute(database_url, "SELECT CAST('orders' AS regclass)::oid") == live


@pytest.mark.slow
@ENDS
@pytest.mark.parametrize("point", ["caught_up", "locked", "exchanged", "swapped"])
def test_a_roll_back_that_loses_its_connections_fails_and_is_repeated(
    database_url: str, name: str, point: str, ended: str
) -> None:
    store = projected(database_url, 6)
    on_database(database_url, lambda engine: keep(engine, name))
    fill(store, interleaved(seed=83, orders=3))
    project(database_url, store)
    before = contents(database_url)
    ending = Ending(database_url, point, ended)

    async def act(engine: AsyncEngine) -> None:
        live = execute(database_url, f"SELECT CAST('{name}' AS regclass)::oid")
        if point == "swapped":
            await roll_back(engine, PROJECTIONS[name], reach=ending.reach)
        else:
            with pytest.raises(OperationalError):
                await roll_back(engine, PROJECTIONS[name], reach=ending.reach)
            assert execute(database_url, f"SELECT CAST('{name}' AS regclass)::oid") == live

    on_database(database_url, act)
    assert contents(database_url) == before

    async def again(engine: AsyncEngine) -> None:
        await roll_back(engine, PROJECTIONS[name])
        assert contents(database_url) == before
        assert await drop(engine, PROJECTIONS[name])

    on_database(database_url, again)
    assert contents(database_url) == before
    require_nothing_left(database_url)


async def keep(engine: AsyncEngine, name: str) -> None:
    """Rebuild, and keep the old table."""
    await rebuild(engine, PROJECTIONS[name], Wanted(keep_old=True))
