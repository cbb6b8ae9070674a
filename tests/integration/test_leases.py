"""Who owns which partition: fair shares, leaving, falling silent, and that whoever lost one writes nothing of it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded.processes import within
from eventstore.errors import PositionMissingError
from eventstore.ids import Cursor, partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, EventStore, StoredCommit
from projections.checkpoints import adopt_checkpoints
from projections.projector.leases import Leases, share_of
from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import (
    EMPTY,
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
    total,
)
from tests.integration.test_projector import Watch, WatchedStore, watched

PARTITIONS = [0, 1, 2, 3]
COMMITS = interleaved(seed=51, orders=20)


def owners(url: str) -> list[int]:
    """How many partitions each owner has whose lease has not ended; the fewest first."""
    rows = execute(url, "SELECT owner FROM leases WHERE owner IS NOT NULL AND until > now()")
    return sorted(Counter(row[0] for row in rows).values())


def tokens(url: str) -> list[object]:
    return [row[0] for row in execute(url, "SELECT token FROM leases ORDER BY partition")]


def problems(url: str) -> dict[object, str]:
    """Why each partition that stands still does."""
    rows = execute(url, "SELECT partition, problem FROM leases WHERE problem IS NOT NULL")
    return {partition: str(problem) for partition, problem in rows}


def positions(url: str) -> dict[object, object]:
    """The position of each partition's checkpoint."""
    return dict(execute(url, "SELECT partition, position FROM checkpoints WHERE projection = 'orders'"))  # type: ignore[arg-type]


def require_projected_once(url: str, store: MemoryEventStore) -> None:
    """Require that everything in the database is what one projector makes of the log."""
    found = contents(url)
    assert len(found["order_events"]) == total(store)
    assert differences(url, store) == []
    execute(url, EMPTY)
    project(url, store)
    assert contents(url) == found


async def until(condition: Callable[[], bool]) -> None:
    assert await within(WAIT_SECONDS, condition)


def at_read(number: int, event: Callable[[], Awaitable[None]]) -> Watch:
    """Let ``event`` happen after the read of this number, counted from 1, and before its commits are handed out."""
    reads = 0

    async def watch(commits: list[StoredCommit]) -> list[StoredCommit]:
        nonlocal reads
        reads += 1
        if reads == number:
            await event()
        return commits

    return watch


def with_leases(url: str, act: Callable[[Leases, Leases], Awaitable[None]]) -> None:
    """Let two that own nothing yet do something on a database with the leases of four partitions."""

    async def scenario() -> None:
        async with database(url) as engine:
            await adopt_checkpoints(engine, memory_store())
            await act(Leases(engine, "one"), Leases(engine, "two"))

    asyncio.run(scenario())


async def shared(one: Leases, two: Leases) -> None:
    """Both have their share, the first had all."""
    await one.renew()
    assert sorted(one.held) == PARTITIONS
    await two.renew()
    assert two.held == {}
    await one.renew()
    await two.renew()
    assert sorted([*one.held, *two.held]) == PARTITIONS
    assert len(one.held) == len(two.held) == 2


@given(st.integers(1, 120), st.integers(1, 100))
def test_shares_cover_all_partitions_and_differ_by_one_at_most(projectors: int, partitions: int) -> None:
    shares = [share_of(rank, projectors, partitions) for rank in range(projectors)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


def test_a_projector_that_leaves_gives_its_partitions_up_at_once(database_url: str) -> None:
    async def scenario(one: Leases, two: Leases) -> None:
        await shared(one, two)
        await one.leave()
        assert one.held == {}
        await two.renew()
        assert sorted(two.held) == PARTITIONS

    with_leases(database_url, scenario)


def test_a_projector_that_falls_silent_is_replaced_and_gets_its_share_when_it_speaks(database_url: str) -> None:
    async def scenario(one: Leases, two: Leases) -> None:
        await shared(one, two)
        before = tokens(database_url)
        execute(database_url, "UPDATE leases SET until = now() - interval '1 second' WHERE owner = 'one'")
        execute(database_url, "UPDATE projectors SET until = now() - interval '1 second' WHERE name = 'one'")
        silent = set(one.held)
        await two.renew()
        assert sorted(two.held) == PARTITIONS
        grown = [number for number in PARTITIONS if tokens(database_url)[number] != before[number]]
        assert set(grown) == silent
        await one.renew()
        assert one.held == {}
        await two.renew()
        await one.renew()
        assert len(one.held) == len(two.held) == 2

    with_leases(database_url, scenario)


def test_projectors_on_one_database_share_the_partitions_and_project_everything_once(database_url: str) -> None:
    store = filled(COMMITS[: len(COMMITS) // 2])

    async def scenario() -> None:
        async with running(database_url, store) as engine, running(database_url, store):
            await until(lambda: owners(database_url) == [2, 2])
            await append_all(store, COMMITS[len(COMMITS) // 2 :])
            await caught_up(engine, store)
            async with running(database_url, store):
                await until(lambda: owners(database_url) == [1, 1, 2])
                await append_all(store, interleaved(seed=52, orders=8))
                await caught_up(engine, store)
        assert owners(database_url) == []

    asyncio.run(scenario())
    require_projected_once(database_url, store)


def test_a_lease_that_was_taken_fences_a_batch_whose_checkpoint_nobody_moved(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = watched(COMMITS)

    async def scenario() -> None:
        async with database(database_url) as engine, running(database_url, store) as other_engine:
            thief = Leases(engine, "thief")
            store.watch = at_read(1, thief.take_all)
            await until(lambda: "projector_fenced" in caplog.messages)
            assert set(positions(database_url).values()) == {0}
            assert contents(database_url)["order_events"] == []
            assert tokens(database_url) == [2, 2, 2, 2]
            await thief.leave()
            await caught_up(other_engine, store)
            assert tokens(database_url) == [3, 3, 3, 3]

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        asyncio.run(scenario())
    require_projected_once(database_url, store)


def overtake(engine: AsyncEngine, url: str, store: EventStore) -> Callable[[], Awaitable[None]]:
    """Return how another projector projects ``store``, after which the leases are as they were before."""

    async def overtaken() -> None:
        execute(url, "CREATE TABLE kept AS TABLE leases")
        await Projector(store, engine).project_available()
        execute(
            url,
            "UPDATE leases SET owner = kept.owner, token = kept.token, until = kept.until FROM kept "
            "WHERE kept.partition = leases.partition",
        )

    return overtaken


@pytest.mark.parametrize("part", [len(COMMITS), len(COMMITS) // 2], ids=["already", "ahead"])
def test_what_another_has_projected_meanwhile_is_not_projected_again_by_an_owner(
    database_url: str, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    store, seen = watched(COMMITS), filled(COMMITS[:part])

    async def scenario() -> int:
        async with database(database_url) as engine:
            store.watch = at_read(2, overtake(engine, database_url, seen))
            return await Projector(store, engine).project_available()

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        assert asyncio.run(scenario()) == total(store) - total(seen)
    assert caplog.messages == ["projector_overtaken"]
    require_projected_once(database_url, store)


def test_an_owner_whose_tables_were_set_back_projects_them_again_from_where_they_are(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = watched(COMMITS[: len(COMMITS) // 2])
    project(database_url, store)
    fill(store, COMMITS[len(COMMITS) // 2 :])

    async def set_back() -> None:
        execute(database_url, "TRUNCATE orders, order_events, volumes")
        execute(database_url, "UPDATE checkpoints SET epoch = 0, position = 0, anchor = ''")

    async def scenario() -> int:
        async with database(database_url) as engine:
            store.watch = at_read(2, set_back)
            return await Projector(store, engine).project_available()

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        assert asyncio.run(scenario()) == total(store)
    assert caplog.messages == ["projector_overtaken"]
    require_projected_once(database_url, store)


class HoledStore(WatchedStore):
    """A store whose readers find a hole at a position of one partition, until ``hole`` is None."""

    hole: tuple[int, int] | None = None

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        commits = await super().read_log(after, limit, wait_seconds)
        for commit in commits:
            if (commit.partition, commit.position) == self.hole:
                raise PositionMissingError(commit.partition, commit.position, commit.position + 1)
        return commits


def lives(partitions: Sequence[int]) -> list[list[Append]]:
    """The appends of an order in each of these partitions."""
    ids = {partition_in(order): order for order in (stream_id(f"owner-{number}") for number in range(100))}
    return [appends(ids[number], market_life()) for number in partitions]


def test_a_partition_with_a_hole_and_a_forked_one_stand_still_until_the_cause_is_gone(database_url: str) -> None:
    holed, forked, well = 0, 1, 2
    store = HoledStore(partitions=4, store_id="memory", now_us=StepClock().now_us)
    parts = lives([holed, forked, well])
    fill(store, [commit for life in parts for commit in life[:2]])
    project(database_url, store)
    fill(store, [commit for life in parts for commit in life[2:]])
    store.hole = (holed, 6)
    kept = execute(database_url, "SELECT anchor FROM checkpoints WHERE partition = %s", forked)[0][0]
    execute(database_url, "UPDATE checkpoints SET anchor = 'ffffffff' WHERE partition = %s", forked)

    async def scenario() -> None:
        async with running(database_url, store) as engine:
            await until(lambda: positions(database_url)[well] == 6)
            await until(lambda: problems(database_url).keys() == {holed, forked})
            found = problems(database_url)
            assert found[holed].startswith("PositionMissingError: ")
            assert found[forked].startswith("ForkError: ")
            assert positions(database_url) == {holed: 2, forked: 2, well: 6, 3: 0}
            store.hole = None
            execute(database_url, "UPDATE checkpoints SET anchor = %s WHERE partition = %s", kept, forked)
            await caught_up(engine, store)
            await until(lambda: problems(database_url) == {})

    asyncio.run(scenario())
    require_projected_once(database_url, store)
