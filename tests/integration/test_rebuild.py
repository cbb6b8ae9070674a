"""Rebuilding beside the live table, comparing both copies, and reading, on real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.ids import partition_in
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.diff import Finding, diff
from projections.errors import (
    ArchiveIncompleteError,
    EncodingError,
    OldShapeError,
    RebuildBlockedError,
    RebuildRefusedError,
    RebuildRunningError,
)
from projections.models.orders import PROJECTION as ORDERS
from projections.models.registry import METADATA
from projections.projector.runner import Projector
from projections.queries import orders as queries
from projections.rebuild import state
from projections.rebuild.mending import repair, skip
from projections.rebuild.rebuilding import Rebuilt, Wanted
from projections.rebuild.rebuilding import rebuild as rebuild_projection
from projections.rebuild.state import REBUILD_LOCK
from projections.rebuild.swapping import SWAP_ATTEMPTS_MAX, drop, roll_back
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    append_all,
    appends,
    caught_up,
    contents,
    database,
    database_at,
    differences,
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
from tests.poison import poisoned


def rebuild(
    url: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, changed: Collection[str] = ()
) -> Rebuilt:
    async def scenario() -> Rebuilt:
        async with database(url) as engine:
            return await rebuild_projection(engine, ORDERS, Wanted(changed=changed), sleep=sleep)

    return asyncio.run(scenario())


def schema_differences(url: str) -> list[object]:
    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, METADATA))

    async def scenario() -> list[object]:
        async with database(url) as engine, engine.connect() as connection:
            return await connection.run_sync(compare)

    return asyncio.run(scenario())


def parts_of_orders(url: str) -> list[tuple[object, ...]]:
    """The definition of every constraint and index of the table ``orders``."""
    constraints = execute(
        url,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY 1",
    )
    return constraints + execute(
        url, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'orders' ORDER BY 1"
    )


def test_a_rebuilt_table_equals_the_live_one_in_rows_and_in_shape(database_url: str) -> None:
    store = filled(interleaved(seed=21, orders=60))
    project(database_url, store)
    rows, parts = contents(database_url), parts_of_orders(database_url)
    for _ in range(2):
        summary = rebuild(database_url)
        assert (summary.orders, summary.events) == (60, total(store))
        assert contents(database_url) == rows
        assert parts_of_orders(database_url) == parts
        assert schema_differences(database_url) == []


def test_tables_that_are_swapped_there_and_back_keep_the_names_of_their_parts(database_url: str) -> None:
    store = filled(interleaved(seed=32, orders=5))
    project(database_url, store)
    rows, parts = contents(database_url), parts_of_orders(database_url)

    async def scenario() -> None:
        async with database(database_url) as engine:
            await rebuild_projection(engine, ORDERS, Wanted(keep_old=True))
            for _ in range(2):
                await roll_back(engine, ORDERS)
                assert parts_of_orders(database_url) == parts
            await drop(engine, ORDERS)

    asyncio.run(scenario())
    assert contents(database_url) == rows
    assert schema_differences(database_url) == []


def test_an_old_table_with_the_columns_of_an_earlier_schema_is_not_brought_back(database_url: str) -> None:
    project(database_url, filled(interleaved(seed=33, orders=3)))
    rows = contents(database_url)

    async def scenario() -> None:
        async with database(database_url) as engine:
            await rebuild_projection(engine, ORDERS, Wanted(keep_old=True))
            execute(database_url, "ALTER TABLE orders_old DROP COLUMN venue")
            with pytest.raises(OldShapeError, match="rebuild drop orders"):
                await roll_back(engine, ORDERS)

    asyncio.run(scenario())
    assert contents(database_url) == rows


def test_a_row_that_is_changed_after_the_comparison_is_compared_once_more(database_url: str) -> None:
    commits = appends(stream_id(), market_life())
    store = filled(commits[:3])
    project(database_url, store)

    async def scenario() -> None:
        async with database(database_url) as engine, database(database_url) as other:

            def reach(point: str) -> None:
                if point == "compared":
                    fill_now()

            def fill_now() -> None:
                execute(database_url, "UPDATE orders SET slippage_bps = 7")
                moved.append(asyncio.get_running_loop().create_task(move(other)))

            reader = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await reader.execute("SELECT count(*) FROM orders")

            async def sleep(_seconds: float) -> None:
                await asyncio.gather(*moved)
                await reader.close()

            with pytest.raises(RebuildRefusedError, match="slippage_bps"):
                await rebuild_projection(engine, ORDERS, reach=reach, sleep=sleep)

    async def move(other: AsyncEngine) -> None:
        await append_all(store, commits[3:])
        await Projector(store, other).project_available()

    moved: list[asyncio.Task[None]] = []
    asyncio.run(scenario())


def test_no_row_is_mended_while_a_rebuild_runs(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, market_life())))

    async def scenario() -> None:
        async with database(database_url) as engine, state.only_one(engine):
            with pytest.raises(RebuildRunningError):
                await repair(engine, order)

    asyncio.run(scenario())


def test_an_interrupted_rebuild_begins_anew_once_an_event_was_skipped_and_else_goes_on(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(poisoned(appends(order, market_life()), 4, {"chosen": None})))

    class InterruptionError(Exception):
        pass

    def reach(point: str) -> None:
        if point == "caught_up":
            raise InterruptionError

    async def scenario() -> None:
        async with database(database_url) as engine:
            for mend, resumed in ((repair, True), (partial(skip, reason="known"), False)):
                with pytest.raises(InterruptionError):
                    await rebuild_projection(engine, ORDERS, reach=reach)
                await mend(engine, order)
                assert (await rebuild_projection(engine, ORDERS)).resumed == resumed

    asyncio.run(scenario())
    assert execute(database_url, "SELECT quality, version FROM orders") == [("incomplete", 6)]


def test_a_rebuild_repairs_rows_and_the_projector_goes_on(database_url: str) -> None:
    commits = interleaved(seed=22, orders=20)
    store = filled(commits[:60])
    project(database_url, store)
    rows = contents(database_url)
    execute(database_url, "UPDATE orders SET status = 'lost', version = 1, amount_in = 7")
    execute(database_url, "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)")
    rebuild(database_url, changed=("status", "version", "amount_in", "row"))
    assert contents(database_url) == rows
    project(database_url, fill(store, commits[60:]))
    assert differences(database_url, store) == []


def test_an_empty_read_model_is_rebuilt_empty(database_url: str) -> None:
    assert rebuild(database_url).orders == 0
    assert contents(database_url)["orders"] == []


def test_a_rebuild_tells_its_progress(database_url: str) -> None:
    store = filled(interleaved(seed=23, orders=30))
    project(database_url, store)
    told: list[tuple[int, int]] = []

    async def scenario() -> None:
        async with database(database_url) as engine:
            await rebuild_projection(engine, ORDERS, report=lambda at: told.append((at.events, at.total)))

    asyncio.run(scenario())
    assert told[-1] == (total(store), total(store))


def test_readers_and_the_projector_go_on_during_rebuilds(database_url: str) -> None:
    commits = interleaved(seed=24, orders=150)
    store = filled(commits[:300])

    async def rebuild_repeatedly(engine: AsyncEngine, rebuilt: asyncio.Event) -> None:
        for _ in range(3):
            await rebuild_projection(engine, ORDERS)
        rebuilt.set()

    async def append_slowly() -> None:
        for commit in commits[300:]:
            await store.append(commit)
            await asyncio.sleep(0)

    async def read(engine: AsyncEngine, rebuilt: asyncio.Event) -> None:
        seen = 0
        while not rebuilt.is_set():
            count = sum((await queries.count_by_status(engine)).values())
            assert count >= seen
            assert len((await queries.list_orders(engine, limit=10)).orders) == min(10, count)
            assert await diff(store, engine) == []
            seen = count

    async def scenario() -> None:
        rebuilt = asyncio.Event()
        async with running(database_url, store) as projecting, database(database_url) as engine:
            await caught_up(projecting, store)
            async with database(database_url) as readers, asyncio.TaskGroup() as group:
                group.create_task(rebuild_repeatedly(engine, rebuilt))
                group.create_task(append_slowly())
                group.create_task(read(readers, rebuilt))
            await caught_up(projecting, store)

    asyncio.run(scenario())
    assert differences(database_url, store) == []
    assert len(contents(database_url)["orders"]) == 150


def test_events_projected_while_the_swap_waits_are_in_the_new_table(database_url: str) -> None:
    commits = interleaved(seed=25, orders=30)
    store = filled(commits[:50])
    project(database_url, store)

    async def scenario() -> None:
        async with database(database_url) as engine, database(database_url) as other:
            reader = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await reader.execute("SELECT count(*) FROM orders")

            async def sleep(_seconds: float) -> None:
                await append_all(store, commits[50:])
                await Projector(store, other).project_available()
                await reader.close()

            await rebuild_projection(engine, ORDERS, sleep=sleep)

    asyncio.run(scenario())
    assert len(contents(database_url)["orders"]) == 30
    assert differences(database_url, store) == []


def test_a_swap_that_stays_blocked_is_given_up_and_leaves_the_live_table(database_url: str) -> None:
    store = filled(interleaved(seed=26, orders=10))
    project(database_url, store)
    rows = contents(database_url)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with psycopg.connect(driver_url(database_url)) as reader:
        reader.execute("SELECT count(*) FROM orders")
        with pytest.raises(RebuildBlockedError, match="the table orders was in use at each of 30 attempts"):
            rebuild(database_url, sleep)
    assert len(pauses) == SWAP_ATTEMPTS_MAX
    assert contents(database_url) == rows
    rebuild(database_url)
    assert contents(database_url) == rows


def test_the_swap_waits_for_the_batch_that_is_being_projected(database_url: str) -> None:
    project(database_url, filled(interleaved(seed=29, orders=5)))
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def scenario() -> None:
        async with database(database_url) as engine, asyncio.timeout(WAIT_SECONDS):
            batch = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await batch.execute("SELECT FROM checkpoints FOR UPDATE")
            swap = asyncio.create_task(rebuild_projection(engine, ORDERS))
            while not execute(database_url, waiting):
                assert not swap.done()
                await asyncio.sleep(0.01)
            await batch.close()
            await swap

    asyncio.run(scenario())


def test_two_rebuilds_at_once_are_refused(database_url: str) -> None:
    with psycopg.connect(driver_url(database_url)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [REBUILD_LOCK])
        with pytest.raises(RebuildRunningError):
            rebuild(database_url)
    rebuild(database_url)


def test_leftovers_of_a_crashed_rebuild_are_dropped(database_url: str) -> None:
    project(database_url, filled(interleaved(seed=27, orders=5)))
    rows = contents(database_url)
    execute(database_url, "CREATE TABLE orders_next (LIKE orders INCLUDING ALL)")
    execute(database_url, "INSERT INTO orders_next SELECT * FROM orders")
    rebuild(database_url)
    assert contents(database_url) == rows


def test_an_archive_with_a_hole_is_not_rebuilt_from(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, market_life())))
    rows = contents(database_url)["orders"]
    execute(database_url, "DELETE FROM order_events WHERE version = 3")
    with pytest.raises(ArchiveIncompleteError, match="rebuild order_events") as refusal:
        rebuild(database_url)
    assert (refusal.value.partition, refusal.value.missing, refusal.value.position) == (partition_in(order), 1, 6)
    assert contents(database_url)["orders"] == rows


def test_rows_that_differ_from_the_live_ones_are_not_swapped_in_unless_that_is_declared(database_url: str) -> None:
    store = filled(interleaved(seed=30, orders=9))
    project(database_url, store)
    right = contents(database_url)
    execute(database_url, "UPDATE orders SET venue = 'orca', slippage_bps = 7 WHERE status = 'confirmed'")
    wrong = contents(database_url)
    with pytest.raises(RebuildRefusedError, match="--changed slippage_bps --changed venue") as refusal:
        rebuild(database_url)
    confirmed = sum(row[8] == "confirmed" for row in wrong["orders"])
    assert refusal.value.columns == {"slippage_bps": confirmed, "venue": confirmed}
    with pytest.raises(RebuildRefusedError, match="with --changed slippage_bps;"):
        rebuild(database_url, changed=["venue"])
    assert contents(database_url) == wrong
    summary = rebuild(database_url, changed=["venue", "slippage_bps"])
    assert (summary.resumed, summary.swapped) == (True, True)
    assert contents(database_url) == right


def test_the_log_of_a_real_server_is_projected_rebuilt_and_compared(database_url: str, redis_url: str) -> None:
    commits = interleaved(seed=28, orders=10)

    async def scenario() -> tuple[int, list[Finding]]:
        store = await RedisEventStore.open(redis_url, StoreSettings(namespace=stream_id()), new_store_id="real")
        try:
            async with database(database_url) as engine:
                projected = 0
                for part in (commits[:20], commits[20:]):
                    await append_all(store, part)
                    projected += await Projector(store, engine, batch_commits_max=8).project_available()
                await rebuild_projection(engine, ORDERS)
                return projected, await diff(store, engine)
        finally:
            await store.close()

    assert asyncio.run(scenario()) == (sum(len(commit.events) for commit in commits), [])


def test_a_database_that_is_not_utf8_is_refused(postgres_url: str) -> None:
    name = f"ascii_{stream_id().replace('-', '_').lower()}"
    options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    execute(postgres_url, f"CREATE DATABASE {name} {options}")

    async def scenario() -> None:
        async with database(database_at(postgres_url, name)) as engine, engine.connect():
            pass

    with pytest.raises(EncodingError, match="encoding is SQL_ASCII"):
        asyncio.run(scenario())
    execute(postgres_url, f"DROP DATABASE {name}")
