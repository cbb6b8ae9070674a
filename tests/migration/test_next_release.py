"""This code on the schema of the next release: beside it everything works but what would lose what is new."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.doctor.checkup import require_fit
from app.audit.doctor.errors import UnfitError
from app.embedded import Servers
from app.main import run_projector
from app.settings import Settings
from projections.diff import diff
from projections.errors import SchemaError
from projections.models.orders import PROJECTION as ORDERS
from projections.models.registry import PROJECTIONS
from projections.queries import orders as queries
from projections.queries.orders import OrderFilter
from projections.rebuild import mending
from projections.rebuild.completing import complete_archive
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop, roll_back
from projections.schema.migrations import known_versions, require_schema, upgrade_schema
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    append_all,
    appends,
    caught_up,
    contents,
    database,
    differences,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    memory_store,
    project,
    running,
)
from tests.integration import api
from tests.integration.copies import Copies, on_copies
from tests.integration.projected import engine_here
from tests.migration.releases import release_next
from tests.migration.test_migrations import schema
from tests.poison import POISON, poisoned

COMMITS = interleaved(seed=81, orders=12)


def test_this_code_works_on_the_next_schema(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        # What a connection has prepared by then, it goes on using.
        orders = [order for _ in range(8) for order in await copies.confirmed(1)]
        await copies.project()
        release_next(database_url)
        await upgrade_schema(copies.engine)
        await require_schema(copies.engine)
        orders += await copies.confirmed(2)
        await copies.project()
        confirmed, of_client = OrderFilter(statuses=("confirmed",)), OrderFilter(client_id="client")
        assert len((await queries.list_orders(copies.engine, confirmed, limit=100)).orders) == 10
        assert (await queries.list_orders(copies.engine, of_client, limit=1)).orders[0].id == orders[-1]
        assert await queries.count_by_status(copies.engine) == {"confirmed": 10}
        assert await diff(copies.store, copies.engine) == []
        before = {order: await copies.store.read_stream(order) for order in orders}
        assert (await copies.sweep()).removed == 10
        assert {order: await copies.store.read_stream(order) for order in orders} == before
        assert await diff(copies.store, copies.engine) == []

    on_copies(redis_url, database_url, scenario)


def test_a_start_of_this_code_serves_and_projects_on_the_next_schema(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        settings = replace(Settings(), namespace=copies.namespace)
        servers = Servers(redis_url, database_url)
        await copies.project()
        release_next(database_url)
        await require_fit(settings, servers)
        stopping = asyncio.Event()
        role = asyncio.create_task(run_projector(settings, servers, stopping))
        try:
            async with api.running(copies.store, database_url) as served, asyncio.timeout(WAIT_SECONDS):
                order = await served.place()
                await caught_up(copies.engine, copies.store)
                listed = (await served.http.get("/api/orders")).json()["orders"]
                assert [each["orderId"] for each in listed] == [order]
                assert (await served.http.get("/readyz")).status_code == 200
        finally:
            stopping.set()
            async with asyncio.timeout(WAIT_SECONDS):
                await role

    on_copies(redis_url, database_url, scenario)


def test_a_projector_that_runs_goes_on_when_the_schema_becomes_the_next_one(database_url: str) -> None:
    store = memory_store()

    async def scenario() -> None:
        async with running(database_url, store) as engine:
            for number, commit in enumerate(COMMITS):
                if number == len(COMMITS) // 2:
                    release_next(database_url)
                await append_all(store, [commit])
                if number % 4 == 0:
                    await caught_up(engine, store)
            await caught_up(engine, store)

    asyncio.run(scenario())
    assert differences(database_url, store) == []
    assert len(execute(database_url, "SELECT id FROM orders")) == 12


def test_what_the_next_release_writes_stays_where_this_code_writes_beside_it(database_url: str) -> None:
    order = stream_id()
    commits = appends(order, market_life())
    store = filled(commits[:2])
    project(database_url, store)
    release_next(database_url)
    tables = ("orders", "order_events", "checkpoints")
    for table in tables:
        execute(database_url, f"UPDATE {table} SET referrer = 'friend', tier = 'gold'")
    project(database_url, fill(store, commits[2:]))

    async def mend() -> None:
        async with database(database_url) as engine:
            execute(database_url, "UPDATE orders SET venue = 'orca'")
            assert (await mending.repair(engine, order)).columns == ["venue"]

    asyncio.run(mend())
    added = {
        table: execute(database_url, f"SELECT referrer, tier, count(*) FROM {table} GROUP BY 1, 2 ORDER BY tier")
        for table in (*tables, "volumes")
    }
    assert added == {
        "orders": [("friend", "gold", 1)],
        "order_events": [(None, "basic", 4), ("friend", "gold", 2)],
        "checkpoints": [("friend", "gold", 12)],
        "volumes": [(None, "basic", 1)],
    }
    assert execute(database_url, "SELECT version, status FROM orders") == [(6, "confirmed")]
    assert differences(database_url, store) == []


@pytest.mark.parametrize(("version", "change", "_"), POISON)
def test_orders_are_quarantined_and_mended_on_the_next_schema(
    database_url: str, version: int, change: dict[str, Any], _: str
) -> None:
    order, other = stream_id("owner-3"), stream_id("owner-3")
    store = filled(COMMITS)
    project(database_url, store)
    release_next(database_url)
    poison = [*poisoned(appends(order, market_life()), version, change), *appends(other, market_life())]
    project(database_url, fill(store, poison))
    assert [(each.kind, each.order_id) for each in differences(database_url, store)] == [("quarantined", order)]

    async def mend() -> None:
        async with database(database_url) as engine:
            assert (await mending.retry(engine, order)).outcome == "quarantined"
            assert (await mending.skip(engine, order, "known")).version == 6

    asyncio.run(mend())
    assert execute(database_url, "SELECT quality FROM orders WHERE id = %s", order) == [("incomplete",)]
    assert execute(database_url, "SELECT count(*) FROM parked_events") == [(0,)]
    assert execute(database_url, "SELECT count(*) FROM orders WHERE quality = 'ok'") == [(13,)]


REFUSED: dict[str, Callable[[AsyncEngine], Awaitable[object]]] = {
    "rebuild": lambda engine: rebuild(engine, ORDERS),
    "rebuild volumes": lambda engine: rebuild(engine, PROJECTIONS["volumes"]),
    "rebuild --verify-only": lambda engine: rebuild(engine, ORDERS, Wanted(verify_only=True)),
    "rebuild order_events": lambda engine: complete_archive(engine, memory_store()),
    "rebuild rollback": lambda engine: roll_back(engine, ORDERS),
}


def test_whatever_would_put_a_table_of_this_code_in_the_place_of_a_later_one_is_refused(database_url: str) -> None:
    project(database_url, filled(COMMITS))

    async def scenario() -> None:
        async with database(database_url) as engine:
            await rebuild(engine, ORDERS, Wanted(keep_old=True))
            release_next(database_url)
            before = (schema(database_url), contents(database_url))
            for name, act in REFUSED.items():
                with pytest.raises(SchemaError, match="schema is 9999, this code needs"):
                    await act(engine)
                assert (schema(database_url), contents(database_url)) == before, name
            assert await drop(engine, ORDERS)

    asyncio.run(scenario())


def test_commands_of_this_code_work_on_the_next_schema_and_say_why_a_rebuild_does_not(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = engine_here(redis_url, database_url, monkeypatch, tmp_path, capsys)
    engine.project(COMMITS)
    release_next(database_url)
    assert engine.run("projections", "diff") == "clean: every row and archived event is what its stream says\n"
    assert "failures" not in engine.run("projections", "status")
    assert "the database's schema is 9999, this code needs" in engine.run("rebuild", status=2)
    execute(database_url, "UPDATE compatibility SET oldest = '9998'")
    for command in (["projections", "status"], ["projections", "diff"], ["rebuild"]):
        assert "the database's schema is 9999, this code needs" in engine.run(*command, status=2)


def test_nothing_of_this_code_starts_where_the_next_schema_does_not_name_it(redis_url: str, database_url: str) -> None:
    release_next(database_url, oldest="9998")
    before = schema(database_url)

    async def scenario() -> None:
        settings = replace(Settings(), namespace="nobody", redis_url=redis_url)
        with pytest.raises(UnfitError, match="schema 9999, this code knows"):
            await require_fit(settings, Servers(redis_url, database_url))
        async with database(database_url) as engine:
            for act in (require_schema, upgrade_schema):
                with pytest.raises(SchemaError) as refusal:
                    await act(engine)
                assert (refusal.value.current, refusal.value.head) == ("9999", known_versions()[0])

    asyncio.run(scenario())
    assert schema(database_url) == before
