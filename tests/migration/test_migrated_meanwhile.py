"""A later release migrates while this code rebuilds: nothing of this code takes the place of a later table."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded.processes import within
from projections.errors import SchemaError
from projections.models.orders import PROJECTION as ORDERS
from projections.models.registry import PROJECTIONS
from projections.rebuild.building import Progress
from projections.rebuild.completing import complete_archive, drop_completion
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop, roll_back
from projections.schema.migrations import MIGRATION_LOCK, known_versions
from tests.conftest import WAIT_SECONDS, contents, database, driver_url, execute, filled, interleaved, project
from tests.migration.releases import release_next
from tests.migration.test_migrations import schema

STORE = filled(interleaved(seed=83, orders=6))
KEPT = Wanted(keep_old=True)
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"

At = Callable[[str], None]
"""Is told each point that is passed."""


async def completed(engine: AsyncEngine, at: At) -> None:
    def report(progress: Progress) -> None:
        at(progress.stage)

    await complete_archive(engine, STORE, report=report)


ACTS: dict[str, tuple[str, Callable[[AsyncEngine, At], Awaitable[object]]]] = {
    "orders": ("compared", lambda engine, at: rebuild(engine, ORDERS, reach=at)),
    "volumes": ("compared", lambda engine, at: rebuild(engine, PROJECTIONS["volumes"], reach=at)),
    "rollback": ("caught_up", lambda engine, at: roll_back(engine, ORDERS, reach=at)),
    "order_events": ("swapping", completed),
}


@pytest.mark.parametrize("name", ACTS)
def test_a_table_that_was_built_before_the_schema_became_a_later_one_is_not_swapped_in(
    database_url: str, name: str
) -> None:
    project(database_url, STORE)
    point, act = ACTS[name]
    found: list[object] = []

    def at(passed: str) -> None:
        if passed == point and not found:
            release_next(database_url)
            found.extend((schema(database_url)[0], contents(database_url)))

    async def scenario() -> None:
        async with database(database_url) as engine:
            if name == "rollback":
                await rebuild(engine, ORDERS, KEPT)
            with pytest.raises(SchemaError) as refusal:
                await act(engine, at)
            assert (refusal.value.current, refusal.value.head) == ("9999", known_versions()[0])
            assert [schema(database_url)[0], contents(database_url)] == found
            await (drop_completion(engine) if name == "order_events" else drop(engine, PROJECTIONS.get(name, ORDERS)))

    asyncio.run(scenario())
    assert execute(database_url, "SELECT referrer, tier, count(*) FROM orders GROUP BY 1, 2") == [(None, "basic", 6)]


def test_a_swap_waits_for_a_migration_and_lets_none_begin_meanwhile(database_url: str) -> None:
    project(database_url, STORE)
    passed: list[str] = []
    taken: list[object] = []
    migrating = psycopg.connect(driver_url(database_url))

    def at(point: str) -> None:
        passed.append(point)
        if point == "compared":
            migrating.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        if point == "exchanged":
            taken.extend(execute(database_url, "SELECT pg_try_advisory_xact_lock(%s)", MIGRATION_LOCK))

    async def scenario() -> None:
        async with database(database_url) as engine:
            rebuilding = asyncio.create_task(rebuild(engine, ORDERS, reach=at))
            assert await within(WAIT_SECONDS, lambda: execute(database_url, WAITING) != [])
            assert passed[-1] == "compared"
            migrating.close()
            assert (await rebuilding).swapped

    asyncio.run(scenario())
    assert taken == [(False,)]


def test_a_migration_that_heeds_no_lock_and_ends_during_the_swap_undoes_it(database_url: str) -> None:
    project(database_url, STORE)
    live = execute(database_url, "SELECT CAST('orders' AS regclass)::oid")

    def at(point: str) -> None:
        if point == "exchanged":
            execute(database_url, "UPDATE alembic_version SET version_num = '9999'")

    async def scenario() -> None:
        async with database(database_url) as engine:
            with pytest.raises(SchemaError):
                await rebuild(engine, ORDERS, reach=at)

    asyncio.run(scenario())
    assert execute(database_url, "SELECT CAST('orders' AS regclass)::oid") == live
