"""What a batch holds to while it is written, and what of it PostgreSQL refuses."""

import asyncio
import logging
from collections.abc import Callable

import psycopg
import pytest

from app.embedded.processes import within
from eventstore.ids import partition_in
from projections.checkpoints import adopt_checkpoints
from projections.errors import ArchiveConflictError
from projections.projector.batches import Batch
from projections.projector.leases import Leases
from projections.projector.runner import ASIDE_SECONDS, Projector
from projections.projector.writing import STATEMENT_SECONDS, lock_all
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    appends,
    contents,
    database,
    driver_url,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    project,
    running,
    total,
)

COMMITS = interleaved(seed=91, orders=10)
BOUNDS = """
CREATE TABLE bounds (statement text, idle text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO bounds SELECT current_setting('statement_timeout'),
        current_setting('idle_in_transaction_session_timeout');
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON order_events EXECUTE FUNCTION note()
"""


async def until(condition: Callable[[], bool]) -> None:
    assert await within(WAIT_SECONDS, condition)


def is_waiting(url: str) -> bool:
    """Whether somebody waits for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return execute(url, query) != []


def test_a_batch_that_stands_still_would_be_ended_by_the_server(database_url: str) -> None:
    execute(database_url, BOUNDS)
    project(database_url, filled(COMMITS))
    bound = f"{STATEMENT_SECONDS}s"
    assert execute(database_url, "SELECT DISTINCT statement, idle FROM bounds") == [(bound, bound)]


def test_a_lease_is_looked_at_once_the_checkpoint_is_locked_and_can_be_taken_until_then(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(COMMITS)
    events = total(store)

    async def scenario() -> None:
        async with database(database_url) as engine, database(database_url) as other:
            await adopt_checkpoints(engine, store)
            thief = Leases(engine, "thief")
            holder = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await holder.execute("SELECT FROM checkpoints FOR UPDATE")
            projecting = asyncio.create_task(Projector(store, other).project_available())
            await until(lambda: is_waiting(database_url))
            await thief.take_all()
            await holder.close()
            assert await projecting == events

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        asyncio.run(scenario())
    assert caplog.messages == ["projector_fenced"]


def test_checkpoints_are_locked_in_the_order_of_their_partitions(database_url: str) -> None:
    project(database_url, filled(COMMITS))
    # The first partition's rows are the last ones of the table now.
    execute(database_url, "UPDATE checkpoints SET updated_at = now() WHERE partition = 0")
    free = "SELECT DISTINCT partition FROM (SELECT partition FROM checkpoints FOR UPDATE SKIP LOCKED) AS unlocked"

    async def scenario() -> None:
        async with database(database_url) as engine:
            holder = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await holder.execute("SELECT FROM checkpoints WHERE partition = 1 FOR UPDATE")

            async def lock() -> None:
                async with engine.begin() as connection:
                    await lock_all(connection, [3, 2, 1, 0])

            locking = asyncio.create_task(lock())
            await until(lambda: is_waiting(database_url))
            assert sorted(execute(database_url, free)) == [(2,), (3,)]
            await holder.close()
            await locking

    asyncio.run(scenario())


CONFLICTS = pytest.mark.parametrize(
    "taken", ["order_id = 'another', version = 1", "partition = 9, position = 1"], ids=["position", "version"]
)


@CONFLICTS
def test_an_event_whose_place_in_the_archive_is_taken_is_a_conflict_and_no_fault_of_its_order(
    database_url: str, taken: str
) -> None:
    order = stream_id()
    life = appends(order, market_life())
    project(database_url, filled(life[:1]))
    execute(database_url, f"UPDATE order_events SET {taken}")
    execute(database_url, "DELETE FROM orders")
    execute(database_url, "UPDATE checkpoints SET epoch = 0, position = 0, anchor = ''")
    before = contents(database_url)
    with pytest.raises(ArchiveConflictError, match="another event there") as refusal:
        project(database_url, filled(life))
    assert (refusal.value.partition, refusal.value.position) == (partition_in(order), 1)
    assert contents(database_url) == before


def test_a_partition_whose_place_in_the_archive_is_taken_stands_still_and_the_others_go_on(database_url: str) -> None:
    order = stream_id("owner-3")
    life = appends(order, market_life())
    number = partition_in(order)
    project(database_url, filled(life[:1]))
    execute(database_url, "UPDATE order_events SET order_id = 'another'")
    execute(database_url, "DELETE FROM orders")
    execute(database_url, "UPDATE checkpoints SET epoch = 0, position = 0, anchor = ''")
    store = fill(filled(life), [commit for commit in COMMITS if partition_in(commit.stream) != number])
    elsewhere = total(store) - 6
    others = "SELECT count(*) FROM order_events WHERE partition <> %s"

    async def scenario() -> None:
        async with running(database_url, store):
            await until(lambda: execute(database_url, others, number) == [(elsewhere,)])
            problem = "SELECT partition, split_part(problem, ':', 1) FROM leases WHERE problem IS NOT NULL"
            await until(lambda: execute(database_url, problem) == [(number, "ArchiveConflictError")])

    asyncio.run(scenario())
    execute(database_url, "DELETE FROM order_events WHERE order_id = 'another'")
    assert project(database_url, store) == 6
    assert execute(database_url, "SELECT count(*) FROM parked_events") == [(0,)]
    assert execute(database_url, "SELECT version, quality FROM orders WHERE id = %s", order) == [(6, "ok")]


@pytest.mark.slow
def test_the_problem_of_a_partition_stands_until_its_next_batch_is_projected(database_url: str) -> None:
    life = appends(stream_id("owner-3"), market_life())
    number = partition_in(life[0].stream)
    project(database_url, filled(life[:1]))
    execute(database_url, "UPDATE order_events SET order_id = 'another'")
    execute(database_url, "DELETE FROM orders")
    execute(database_url, "UPDATE checkpoints SET epoch = 0, position = 0, anchor = ''")
    execute(database_url, "CREATE TABLE told (problem text)")
    execute(
        database_url,
        "CREATE FUNCTION tell() RETURNS trigger AS 'BEGIN INSERT INTO told VALUES (NEW.problem); RETURN NEW; END' "
        "LANGUAGE plpgsql",
    )
    execute(
        database_url,
        "CREATE TRIGGER told AFTER UPDATE ON leases FOR EACH ROW "
        "WHEN (NEW.problem IS DISTINCT FROM OLD.problem) EXECUTE FUNCTION tell()",
    )
    store = filled(life)
    tries: list[float] = []

    def reach(point: str, batch: Batch) -> None:
        if point == "locked" and number in batch.ends:
            tries.append(asyncio.get_running_loop().time())

    async def scenario() -> None:
        stopping = asyncio.Event()
        async with database(database_url) as engine, asyncio.TaskGroup() as tasks:
            tasks.create_task(Projector(store, engine, reach=reach).run(stopping))
            await until(lambda: tries != [] and tries[-1] - tries[0] >= ASIDE_SECONDS)
            execute(database_url, "DELETE FROM order_events WHERE order_id = 'another'")
            await until(lambda: execute(database_url, "SELECT version FROM orders") == [(6,)])
            await until(lambda: execute(database_url, "SELECT problem FROM told")[-1] == (None,))
            stopping.set()

    asyncio.run(scenario())
    told = execute(database_url, "SELECT split_part(problem, ':', 1) FROM told")
    assert told == [("ArchiveConflictError",), (None,)]
