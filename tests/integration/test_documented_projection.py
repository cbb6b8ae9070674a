"""The projection that docs/projections.md adds as an example is one: its file and its migration work as they stand."""

import asyncio
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection

from projections.models.projection import Projection
from projections.rebuild.rebuilding import Wanted
from projections.rebuild.rebuilding import rebuild as rebuild_projection
from projections.schema.tables import metadata
from tests.conftest import database, execute, filled, interleaved, project

PAGE = (Path(__file__).parents[2] / "docs" / "projections.md").read_text(encoding="utf-8")
MODEL, MIGRATION = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NAME = "projections.models.failures"
COLUMNS = (
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'failures' "
    "ORDER BY ordinal_position"
)


@pytest.fixture
def failures(tmp_path: Path) -> Iterator[Projection]:
    module = loaded(NAME, MODEL, tmp_path)
    projection: Projection = vars(module)["PROJECTION"]
    yield projection
    metadata.remove(metadata.tables["failures"])
    del sys.modules[NAME]


def loaded(name: str, source: str, directory: Path) -> ModuleType:
    """Import source text as the module ``name``."""
    path = directory / f"{name.rpartition('.')[2]}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def migrate(url: str, step: str, directory: Path) -> None:
    def run(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            vars(loaded("documented_migration", MIGRATION, directory))[step]()

    async def scenario() -> None:
        async with database(url) as engine, engine.begin() as connection:
            await connection.run_sync(run)

    asyncio.run(scenario())
    del sys.modules["documented_migration"]


def test_the_documented_projection_is_built_beside_the_others_and_compared(
    database_url: str, failures: Projection, tmp_path: Path
) -> None:
    project(database_url, filled(interleaved(seed=61, orders=40)))
    migrate(database_url, "upgrade", tmp_path)
    migrated = execute(database_url, COLUMNS)

    async def scenario() -> list[Any]:
        async with database(database_url) as engine:
            first = await rebuild_projection(engine, failures)
            return [first, await rebuild_projection(engine, failures, Wanted(verify_only=True))]

    built, again = asyncio.run(scenario())
    assert (built.swapped, built.compared) == (True, None)
    assert (again.swapped, again.compared.rows) == (False, 0)
    counted = "SELECT failure_code, count(*) FROM orders WHERE status = 'failed' GROUP BY 1 ORDER BY 1"
    expected = execute(database_url, counted)
    assert expected
    assert execute(database_url, "SELECT code, sum(orders)::bigint FROM failures GROUP BY 1 ORDER BY 1") == expected
    assert execute(database_url, COLUMNS) == migrated
    migrate(database_url, "downgrade", tmp_path)
    assert execute(database_url, "SELECT to_regclass('failures')") == [(None,)]
