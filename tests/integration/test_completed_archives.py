"""What completing gives back is the archive: whatever was missing, and for whoever reads it afterwards."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.memory import MemoryEventStore
from projections.diff import diff
from projections.models.registry import PROJECTIONS
from projections.rebuild.building import Progress
from projections.rebuild.completing import complete_archive
from projections.rebuild.rebuilding import rebuild
from tests.builders import stream_id
from tests.conftest import (
    WAIT_SECONDS,
    appends,
    contents,
    database,
    differences,
    execute,
    market_life,
    project,
)
from tests.integration.archives import (
    EPOCH,
    archive,
    complete,
    in_order,
    lives,
    nothing_is_left_of_it,
    without_times,
)
from tests.integration.copies import Copies, on_copies
from tests.integration.rewinding import Rewindable, append_all, histories, obliged, run, streams_of
from tests.integration.test_archiver import everything_read
from tests.poison import POISON

DAMAGES = (
    "DELETE FROM order_events WHERE id = ANY(%s)",
    """UPDATE order_events SET payload = payload || '{"event": "x"}' WHERE id = ANY(%s) AND data IS NULL""",
    "UPDATE order_events SET data = 'x' WHERE id = ANY(%s) AND data IS NOT NULL",
    "UPDATE order_events SET commit_id = 'x', epoch = 7, created_at = now(), status = 'x' WHERE id = ANY(%s)",
)


@pytest.fixture
def store() -> MemoryEventStore:
    return lives()


def test_whatever_is_missing_or_damaged_the_completed_archive_is_the_one_before(
    database_url: str, store: MemoryEventStore
) -> None:
    project(database_url, store)
    whole = contents(database_url)
    ids = [str(row[2]) for row in whole["order_events"]]

    @settings(max_examples=5, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.randoms(use_true_random=False), st.sampled_from([0.02, 0.3, 1.0]))
    def check(chance: random.Random, share: float) -> None:
        for damage in DAMAGES:
            execute(database_url, damage, [each for each in ids if chance.random() < share])
        complete(database_url, store)
        assert contents(database_url) == whole
        assert nothing_is_left_of_it(database_url)

    check()
    assert [each.kind for each in differences(database_url, store)] == ["quarantined"] * len(POISON)


def test_a_completion_that_is_cancelled_lets_another_one_begin(database_url: str, store: MemoryEventStore) -> None:
    project(database_url, store)
    whole = archive(database_url)
    execute(database_url, "DELETE FROM order_events WHERE version = 2")

    async def cancelled_in(stage: str, engine: AsyncEngine) -> None:
        def cancel(at: Progress) -> None:
            if at.stage == stage:
                running.cancel()

        running = asyncio.create_task(complete_archive(engine, store, report=cancel))
        await running

    async def scenario() -> None:
        async with database(database_url) as engine, asyncio.timeout(WAIT_SECONDS):
            for stage in ("filling", "completing", "swapping"):
                with pytest.raises(asyncio.CancelledError):
                    await cancelled_in(stage, engine)
                assert len(archive(database_url)) < len(whole)
            # The connections of the first are still there.
            async with database(database_url) as other:
                await complete_archive(other, store)

    asyncio.run(scenario())
    assert archive(database_url) == whole
    assert nothing_is_left_of_it(database_url)


def test_every_reader_is_told_the_same_by_a_completed_archive_and_orders_leave_for_it(
    redis_url: str, database_url: str
) -> None:
    async def scenario(copies: Copies) -> None:
        left = await copies.confirmed(2)
        await copies.sweep()
        orders = [*left, *await copies.confirmed(3), await copies.desk.live(["submitted"])]
        await copies.project()
        before, whole = await everything_read(copies, orders), archive(database_url)
        hot = orders[2:]
        execute(database_url, "DELETE FROM order_events WHERE order_id = ANY(%s) AND version <> 3", hot)
        execute(database_url, "UPDATE order_events SET payload = '{}' WHERE order_id = ANY(%s)", hot)
        assert (await complete_archive(copies.engine, copies.hot)).damaged == 4
        assert archive(database_url) == whole
        assert await everything_read(copies, orders) == before
        swept = await copies.sweep()
        assert (swept.removed, [await copies.is_hot(order) for order in hot]) == (3, [False] * 3 + [True])
        after = await everything_read(copies, orders)
        assert {name: after[name] for name in before} == before
        for projection in PROJECTIONS.values():
            assert (await rebuild(copies.engine, projection)).orders == 6
        assert await diff(copies.store, copies.engine) == []

    on_copies(redis_url, database_url, scenario)


def test_redis_is_healed_from_a_completed_archive_and_its_events_keep_their_epochs(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        orders = [stream_id("owner") for _ in range(3)]
        lives = [obliged(appends(order, market_life())) for order in orders]
        await append_all(store, [commit for life in lives for commit in life[:3]])
        await on.project(store)
        execute(database_url, "DELETE FROM order_events WHERE version > 1")
        execute(database_url, "UPDATE order_events SET payload = '{}'")
        before, streams = await histories(store.hot), await streams_of(store.hot, orders)
        await complete_archive(on.engine, store.hot)
        await on.flush()
        healed = await on.open_after_loss("b")
        assert (await histories(healed), await streams_of(healed, orders)) == (before, streams)
        # The log begins anew with a healed server: what was appended before, and when, the archive alone knows.
        await append_all(healed, [life[3] for life in lives])
        await on.project(healed)
        whole, streams = archive(database_url), await streams_of(healed, orders)
        execute(database_url, "DELETE FROM order_events WHERE version IN (2, 5)")
        await complete_archive(on.engine, healed.hot)
        assert {row[EPOCH] for row in archive(database_url)} == {1, 2}
        assert without_times(archive(database_url)) == without_times(whole)
        assert in_order(archive(database_url))
        assert await streams_of(healed, orders) == streams
        assert await on.findings(healed) == ()

    run(redis_url, database_url, scenario)
