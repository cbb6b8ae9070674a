"""A projection that does not follow the log, since code that does not know it has projected: it is built anew."""

import asyncio

from projections.models.registry import PROJECTIONS
from projections.projector.runner import Projector
from projections.rebuild.rebuilding import build_missing, rebuild
from tests.conftest import (
    WAIT_SECONDS,
    append_all,
    contents,
    database,
    execute,
    fill,
    filled,
    interleaved,
    project,
)

COMMITS = interleaved(seed=81, orders=12)


def test_a_projection_that_code_of_the_release_before_left_behind_is_built_anew(database_url: str) -> None:
    store = filled(COMMITS[:30])
    project(database_url, store)
    execute(database_url, "CREATE TABLE places AS SELECT * FROM checkpoints WHERE projection = 'volumes'")
    execute(database_url, "CREATE TABLE counted AS SELECT * FROM volumes")
    project(database_url, fill(store, COMMITS[30:]))
    right = contents(database_url)
    # As if those that came last had been projected by code that does not know the table.
    for statement in (
        "DELETE FROM checkpoints WHERE projection = 'volumes'",
        "INSERT INTO checkpoints SELECT * FROM places",
        "TRUNCATE volumes",
        "INSERT INTO volumes SELECT * FROM counted",
    ):
        execute(database_url, statement)
    assert contents(database_url) != right

    async def scenario() -> None:
        async with database(database_url) as engine, asyncio.timeout(WAIT_SECONDS):
            await build_missing(engine, asyncio.Event())
            assert contents(database_url) == right
            await append_all(store, interleaved(seed=82, orders=4))
            await Projector(store, engine).project_available()
            found = await rebuild(engine, PROJECTIONS["volumes"])
            assert found.compared is not None and found.compared.rows == 0

    asyncio.run(scenario())
