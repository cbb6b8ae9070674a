"""What holds while two tables are compared and exchanged, and what the other projections are told then."""

import asyncio

import psycopg
import pytest

from app.embedded.processes import within
from projections.errors import PositionsDifferError
from projections.models.orders import PROJECTION as ORDERS
from projections.models.registry import PROJECTIONS
from projections.rebuild.mending import Mended, retry
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    appends,
    contents,
    database,
    differences,
    driver_url,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    project,
)

LIFE_EVENTS = 6
UNLOCKED = "SELECT projection, partition FROM checkpoints WHERE projection IN ('orders', %s) FOR UPDATE SKIP LOCKED"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def rebuilt(url: str, wanted: Wanted | None = None) -> None:
    async def scenario() -> None:
        async with database(url) as engine:
            assert (await rebuild(engine, ORDERS, wanted)).swapped

    asyncio.run(scenario())


def retried(url: str, order: str) -> Mended:
    async def scenario() -> Mended:
        async with database(url) as engine:
            return await retry(engine, order)

    return asyncio.run(scenario())


@pytest.mark.parametrize("name", PROJECTIONS)
def test_tables_at_different_positions_are_not_compared_and_not_swapped(database_url: str, name: str) -> None:
    store = filled(interleaved(seed=95, orders=6))
    project(database_url, store)
    before = contents(database_url)

    def reach(point: str) -> None:
        if point == "caught_up":
            moved = "UPDATE checkpoints SET position = position + 1 WHERE projection = %s AND partition = 1"
            execute(database_url, moved, f"{name}_next")

    async def scenario() -> None:
        async with database(database_url) as engine:
            with pytest.raises(PositionsDifferError):
                await rebuild(engine, PROJECTIONS[name], reach=reach)
            await drop(engine, PROJECTIONS[name])

    asyncio.run(scenario())
    assert contents(database_url) == before
    assert differences(database_url, store) == []


def test_nothing_is_projected_while_the_snapshot_to_compare_in_is_taken(database_url: str) -> None:
    project(database_url, filled(interleaved(seed=96, orders=3)))
    passed: list[str] = []
    batch = psycopg.connect(driver_url(database_url))

    def reach(point: str) -> None:
        passed.append(point)
        if point == "caught_up":
            batch.execute("SELECT FROM checkpoints WHERE projection = 'orders' FOR UPDATE")

    async def scenario() -> None:
        async with database(database_url) as engine:
            rebuilding = asyncio.create_task(rebuild(engine, ORDERS, reach=reach))
            assert await within(WAIT_SECONDS, lambda: execute(database_url, WAITING) != [])
            assert passed[-1] == "caught_up"
            batch.close()
            await rebuilding

    asyncio.run(scenario())
    assert passed[-1] == "swapped"


@pytest.mark.parametrize("name", PROJECTIONS)
def test_nothing_is_projected_while_tables_are_exchanged(database_url: str, name: str) -> None:
    project(database_url, filled(interleaved(seed=97, orders=3)))
    unlocked: list[list[tuple[object, ...]]] = []

    def reach(point: str) -> None:
        if point in ("locked", "exchanged"):
            unlocked.append(execute(database_url, UNLOCKED, name))

    async def scenario() -> None:
        async with database(database_url) as engine:
            await rebuild(engine, PROJECTIONS[name], reach=reach)

    asyncio.run(scenario())
    assert unlocked == [[], []]


def test_what_a_rebuild_mends_is_told_to_the_other_projections(database_url: str) -> None:
    life = appends(stream_id(), market_life())
    store = filled(life[:2])
    project(database_url, store)
    execute(database_url, "UPDATE orders SET version = 7")
    project(database_url, fill(store, life[2:]))
    assert execute(database_url, "SELECT quality FROM orders") == [("quarantined",)]
    assert execute(database_url, "SELECT orders FROM volumes") == []
    for _ in range(2):
        rebuilt(database_url)
        assert execute(database_url, "SELECT version, quality FROM orders") == [(LIFE_EVENTS, "ok")]
        assert execute(database_url, "SELECT orders FROM volumes") == [(1,)]


def test_what_the_other_projections_know_already_is_not_told_again_when_it_is_applied_anew(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, market_life())))
    before = contents(database_url)
    payload = execute(database_url, "SELECT CAST(payload AS text) FROM order_events WHERE version = 6")[0][0]
    damaged = str(payload).replace('"amountIn": "1.5"', '"amountIn": "x"')
    assert damaged != payload
    archive = "UPDATE order_events SET payload = CAST(%s AS jsonb) WHERE version = 6"
    execute(database_url, archive, damaged)
    rebuilt(database_url, Wanted(changed=["*"]))
    assert execute(database_url, "SELECT version, quality FROM orders") == [(5, "quarantined")]
    execute(database_url, archive, payload)
    assert retried(database_url, order).outcome == "mended"
    assert contents(database_url) == before
