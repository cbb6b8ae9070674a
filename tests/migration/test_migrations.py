"""The schema: made, unmade and made again by migrations, and the same as the tables that the code knows."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import create_database_engine
from projections.errors import DatabaseUrlError, SchemaError
from projections.models.registry import METADATA, PROJECTIONS
from projections.rebuild.completing import complete_archive
from projections.rebuild.mending import repair
from projections.rebuild.rebuilding import Wanted, build_missing, rebuild
from projections.schema.migrations import known_versions, require_schema, upgrade_schema
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    appends,
    contents,
    database,
    differences,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    project,
)
from tests.migration.releases import columns_of, copy_rows, rows_of
from tests.poison import poisoned

ROOT = Path(__file__).parents[2]

SCHEMA_QUERIES = (
    "SELECT table_name, column_name, ordinal_position, data_type, numeric_precision, numeric_scale, is_nullable, "
    "column_default, generation_expression FROM information_schema.columns "
    "WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 3",
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass ORDER BY 1, 2",
    "SELECT tablename, indexname, indexdef FROM pg_indexes "
    "WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1, 2",
)


def schema(url: str) -> list[list[tuple[object, ...]]]:
    """Every column, constraint and index of our tables."""
    return [execute(url, query) for query in SCHEMA_QUERIES]


def with_engine(url: str, act: Callable[[AsyncEngine], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> None:
        async with database(url) as engine:
            await act(engine)

    asyncio.run(scenario())


def with_connection(url: str, act: Callable[[Connection], object]) -> None:
    async def act_in_transaction(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(act)

    with_engine(url, act_in_transaction)


def migrate(url: str, step: Callable[[Config, str], object], target: str) -> None:
    def run(connection: Connection) -> None:
        config = Config(ROOT / "alembic.ini")
        config.attributes["connection"] = connection
        step(config, target)

    with_connection(url, run)


def test_the_migrated_schema_has_no_difference_to_the_tables_that_the_code_knows(database_url: str) -> None:
    found: list[Any] = []

    def compare(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        found.extend(compare_metadata(context, METADATA))

    with_connection(database_url, compare)
    assert found == []


def test_the_migrated_schema_is_the_one_that_the_tables_would_create(
    database_url: str, empty_database_url: str
) -> None:
    with_connection(empty_database_url, METADATA.create_all)
    execute(empty_database_url, "CREATE TABLE alembic_version ()")
    created, migrated = schema(empty_database_url), schema(database_url)
    assert created == migrated
    assert {row[0] for row in migrated[0]} == set(METADATA.tables)


def test_migrations_go_up_down_and_up_again(database_url: str) -> None:
    before = schema(database_url)
    migrate(database_url, command.downgrade, "base")
    assert schema(database_url) == [[], [], []]
    migrate(database_url, command.upgrade, "head")
    assert schema(database_url) == before


def test_two_starters_at_once_migrate_once(empty_database_url: str) -> None:
    async def start(engine: AsyncEngine) -> None:
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as starters:
            for _ in range(3):
                starters.create_task(upgrade_schema(engine))
        await require_schema(engine)

    with_engine(empty_database_url, start)


def test_a_database_without_schema_is_refused_with_the_remedy(empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match="schema is empty, this code needs 0005: start `ordertape up`") as refusal:
        with_engine(empty_database_url, require_schema)
    assert (refusal.value.current, refusal.value.head) == (None, "0005")


@pytest.mark.parametrize("act", [require_schema, upgrade_schema])
def test_a_newer_schema_is_refused_and_left_alone(
    database_url: str, act: Callable[[AsyncEngine], Coroutine[Any, Any, None]]
) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    execute(database_url, "UPDATE compatibility SET oldest = '9998'")
    before = schema(database_url)
    with pytest.raises(SchemaError, match="schema is 9999, this code needs"):
        with_engine(database_url, act)
    assert schema(database_url) == before


def test_a_schema_of_somebody_else_is_refused(empty_database_url: str) -> None:
    execute(empty_database_url, "CREATE TABLE alembic_version (version_num text)")
    execute(empty_database_url, "INSERT INTO alembic_version VALUES ('cafe')")
    for act in (require_schema, upgrade_schema):
        with pytest.raises(SchemaError, match="schema is cafe, this code needs"):
            with_engine(empty_database_url, act)
    assert schema(empty_database_url) == [[], [], []]


def test_alembic_on_the_command_line_migrates_the_named_database(empty_database_url: str) -> None:
    alembic = [sys.executable, "-m", "alembic"]
    unnamed = subprocess.run([*alembic, "upgrade", "head"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert unnamed.returncode == 1
    assert "name the database: alembic -x url=" in unnamed.stderr
    named = [*alembic, "-x", f"url={empty_database_url}", "upgrade", "head"]
    subprocess.run(named, cwd=ROOT, capture_output=True, timeout=60, check=True)
    with_engine(empty_database_url, require_schema)


@pytest.mark.parametrize("url", ["", "orders", "mysql://host/db", "sqlite://", "postgresql+asyncpg://host/db"])
def test_a_url_that_is_not_of_postgresql_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match="expected postgresql://"):
        create_database_engine(url, application_name="tests")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_a_postgresql_url_connects_in_utc(database_url: str, scheme: str) -> None:
    async def check(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            settings = [await connection.exec_driver_sql(f"SHOW {name}") for name in ("timezone", "application_name")]
            assert [setting.scalar_one() for setting in settings] == ["UTC", "tests"]

    with_engine(database_url.replace("postgresql+psycopg", scheme, 1), check)


def test_an_error_message_does_not_hold_the_parameters_of_its_statement(database_url: str) -> None:
    async def check(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            with pytest.raises(DataError, match="division by zero") as failure:
                await connection.execute(text("SELECT :name, 1 / 0"), {"name": "a client's secret"})
        assert "secret" not in str(failure.value)

    with_engine(database_url, check)


def test_rows_of_the_schema_before_are_kept_when_it_is_upgraded_and_when_it_goes_back(
    database_url: str, empty_database_url: str
) -> None:
    store = filled(interleaved(seed=91, orders=12))
    project(database_url, store)
    old = empty_database_url
    migrate(old, command.upgrade, "0003")
    shape = schema(old)
    tables = {table: columns_of(old, table) for table in ("store", "orders", "order_events")}
    for table in tables:
        copy_rows(database_url, old, table)
    copy_rows(database_url, old, "checkpoints")
    execute(old, "DELETE FROM checkpoints WHERE projection <> 'orders'")
    rows = {table: rows_of(old, table, columns) for table, columns in tables.items()}
    assert len(rows["orders"]) == 12

    for number in range(2):
        migrate(old, command.upgrade, "head")
        assert {table: rows_of(old, table, columns) for table, columns in tables.items()} == rows
        defaults = execute(old, "SELECT DISTINCT quality, quality_reason, quality_since FROM orders")
        assert defaults == [("ok", None, None)]
        assert execute(old, "SELECT count(*) FROM order_events WHERE data IS NOT NULL") == [(0,)]
        assert differences(old, store) == []
        assert execute(old, "SELECT count(*) FROM volumes") == [(0,)]
        project(old, store)
        built(old)
        assert contents(old) == contents(database_url)
        more = interleaved(seed=92 + number, orders=3)
        fill(store, more)
        project(old, store)
        project(database_url, store)
        assert contents(old) == contents(database_url)
        rows = {table: rows_of(old, table, columns) for table, columns in tables.items()}

        keep_an_old_table(old)
        migrate(old, command.downgrade, "0003")
        assert schema(old) == shape
        assert {table: rows_of(old, table, columns) for table, columns in tables.items()} == rows
        assert execute(old, "SELECT DISTINCT projection FROM checkpoints") == [("orders",)]


def test_what_the_schema_before_has_no_place_for_comes_back_from_redis(database_url: str) -> None:
    order = stream_id()
    store = filled(poisoned(appends(order, market_life()), 3, {"at": "yesterday"}))
    project(database_url, store)
    before = contents(database_url)
    assert before["order_events"][2][-1] is not None
    migrate(database_url, command.downgrade, "0003")
    migrate(database_url, command.upgrade, "head")
    assert contents(database_url) != before

    async def bring_back(engine: AsyncEngine) -> None:
        assert (await complete_archive(engine, store)).damaged == 1
        assert (await repair(engine, order)).outcome == "quarantined"

    with_engine(database_url, bring_back)
    assert contents(database_url) == before


def test_every_migration_says_which_is_the_oldest_code_that_works_on_its_schema(empty_database_url: str) -> None:
    versions = known_versions()[::-1]
    first = versions.index("0004")
    migrate(empty_database_url, command.upgrade, versions[first])
    named = execute(empty_database_url, "SELECT oldest FROM compatibility")
    for version in versions[first + 1 :]:
        execute(empty_database_url, "UPDATE compatibility SET oldest = 'unsaid'")
        migrate(empty_database_url, command.upgrade, version)
        named += execute(empty_database_url, "SELECT oldest FROM compatibility")
    assert [versions.index(str(oldest)) <= first + step for step, (oldest,) in enumerate(named)] == [True] * len(named)


def built(url: str) -> None:
    with_engine(url, lambda engine: build_missing(engine, asyncio.Event()))


def keep_an_old_table(url: str) -> None:
    async def act(engine: AsyncEngine) -> None:
        for projection in PROJECTIONS.values():
            await rebuild(engine, projection, Wanted(keep_old=True))

    with_engine(url, act)
