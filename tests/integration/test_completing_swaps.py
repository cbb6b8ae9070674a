"""Swapping the completed archive in: interrupted, blocked, refused, while the projector goes on."""

import asyncio
from collections.abc import Awaitable

import psycopg
import pytest

from eventstore.ids import event_id
from eventstore.memory import MemoryEventStore
from projections.errors import ArchiveLossError, RebuildBlockedError, RebuildRunningError, SchemaError
from projections.projector.runner import Projector
from projections.rebuild import completing, state
from projections.rebuild.building import Progress
from projections.rebuild.completing import complete_archive
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    append_all,
    appends,
    database,
    differences,
    driver_url,
    execute,
    filled,
    interleaved,
    market_life,
    project,
    total,
)
from tests.integration.archives import archive, complete, nothing_is_left_of_it

OTHERS = interleaved(seed=51, orders=6)


class Interruption(Exception):
    pass


@pytest.fixture
def order() -> str:
    return stream_id("owner-3")


@pytest.fixture
def store(database_url: str, order: str) -> MemoryEventStore:
    """Some orders, and one of six events, projected."""
    store = filled([*OTHERS, *appends(order, market_life())])
    project(database_url, store)
    return store


def test_events_projected_while_it_runs_are_in_the_new_table(database_url: str, store: MemoryEventStore) -> None:
    more = interleaved(seed=55, orders=6)
    execute(database_url, "DELETE FROM order_events WHERE version = 2")
    late: list[Awaitable[object]] = []

    async def scenario() -> None:
        async with database(database_url) as engine, database(database_url) as other:
            reader = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await reader.execute("SELECT count(*) FROM order_events")

            async def sleep(_seconds: float) -> None:
                await append_all(store, more)
                await Projector(store, other).project_available()
                late.append(reader.close())
                await late[-1]

            await complete_archive(engine, store, sleep=sleep)

    asyncio.run(scenario())
    assert len(late) == 1
    assert len(archive(database_url)) == total(store)
    assert differences(database_url, store) == []


def test_the_swap_waits_for_the_batch_that_is_being_projected(database_url: str, store: MemoryEventStore) -> None:
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def scenario() -> None:
        async with database(database_url) as engine, asyncio.timeout(WAIT_SECONDS):
            batch = await psycopg.AsyncConnection.connect(driver_url(database_url))
            await batch.execute("SELECT FROM checkpoints FOR UPDATE")
            swap = asyncio.create_task(complete_archive(engine, store))
            while not execute(database_url, waiting):
                assert not swap.done()
                await asyncio.sleep(0.01)
            await batch.close()
            await swap

    asyncio.run(scenario())


def test_an_archive_of_a_later_schema_is_left_alone(database_url: str, store: MemoryEventStore) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError):
        complete(database_url, store)


@pytest.mark.parametrize("number", range(6))
def test_interrupted_anywhere_it_ends_right_when_it_is_repeated(
    database_url: str, store: MemoryEventStore, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "COPY_POSITIONS", 15)
    monkeypatch.setattr(completing, "_PAGE_STREAMS", 2)
    whole = archive(database_url)
    execute(database_url, "DELETE FROM order_events WHERE version = 2")
    execute(database_url, "UPDATE order_events SET payload = '{}' WHERE version = 3")
    damaged = archive(database_url)
    told: list[Progress] = []

    def report(at: Progress) -> None:
        told.append(at)
        if len(told) > number:
            raise Interruption

    with pytest.raises(Interruption):
        complete(database_url, store, report=report)
    assert archive(database_url) == damaged
    complete(database_url, store)
    assert archive(database_url) == whole
    assert nothing_is_left_of_it(database_url)


def test_what_was_copied_before_an_interruption_is_not_copied_again(
    database_url: str, store: MemoryEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "COPY_POSITIONS", 10)
    told: list[Progress] = []

    def interrupt(at: Progress) -> None:
        if at.events:
            raise Interruption

    with pytest.raises(Interruption):
        complete(database_url, store, report=interrupt)
    complete(database_url, store, report=told.append)
    assert told[0].events > 0


@pytest.mark.parametrize(
    ("stage", "loss"), [("completing", "DELETE FROM"), ("completing", "UPDATE"), ("swapping", "DELETE FROM")]
)
def test_a_swap_that_would_lose_an_event_is_refused(
    database_url: str, store: MemoryEventStore, order: str, stage: str, loss: str
) -> None:
    before = archive(database_url)

    def lose(at: Progress) -> None:
        if at.stage == stage:
            change = " SET hash = 'x'" if loss == "UPDATE" else ""
            execute(database_url, f"{loss} order_events_next{change} WHERE order_id = %s AND version = 2", order)

    with pytest.raises(ArchiveLossError, match="lacks 1 events") as refusal:
        complete(database_url, store, report=lose)
    assert (refusal.value.lost, refusal.value.sample) == (1, event_id(order, 2))
    assert archive(database_url) == before
    complete(database_url, store)
    assert archive(database_url) == before


def test_events_of_a_partition_without_a_checkpoint_are_not_lost(database_url: str, store: MemoryEventStore) -> None:
    before = archive(database_url)
    execute(database_url, "DELETE FROM checkpoints WHERE partition = (SELECT min(partition) FROM order_events)")
    with pytest.raises(ArchiveLossError):
        complete(database_url, store)
    assert archive(database_url) == before


def test_it_does_not_run_beside_a_rebuild(database_url: str, store: MemoryEventStore) -> None:
    with psycopg.connect(driver_url(database_url)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [state.REBUILD_LOCK])
        with pytest.raises(RebuildRunningError):
            complete(database_url, store)


@pytest.mark.slow
def test_a_swap_that_stays_blocked_is_given_up_and_names_the_archive(
    database_url: str, store: MemoryEventStore
) -> None:
    async def sleep(_: float) -> None:
        return

    async def act() -> None:
        async with database(database_url) as engine:
            with pytest.raises(RebuildBlockedError, match="the table order_events was in use at each of 30 attempts"):
                await complete_archive(engine, store, sleep=sleep)

    before = archive(database_url)
    with psycopg.connect(driver_url(database_url)) as reader:
        reader.execute("SELECT count(*) FROM order_events")
        asyncio.run(act())
    assert archive(database_url) == before
