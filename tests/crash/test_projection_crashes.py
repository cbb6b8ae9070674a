"""Projector and rebuild, killed at every point that they name: the next run ends with the tables of the fold."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.diff import diff
from projections.models.registry import PROJECTIONS
from projections.projector.runner import Projector
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop, roll_back
from tests.builders import stream_id
from tests.conftest import append_all, appends, contents, database, execute, interleaved, market_life
from tests.crash.doomed import Doom
from tests.crash.test_safeguards import ROOT
from tests.poison import POISON, poisoned

pytestmark = pytest.mark.slow

SECONDS_MAX = 60
LEFTOVERS = (
    "SELECT relname FROM pg_class WHERE relname LIKE '%\\_next' OR relname LIKE '%\\_old'",
    "SELECT projection FROM rebuilds",
    "SELECT DISTINCT projection FROM checkpoints WHERE projection NOT IN ('orders', 'volumes')",
    "SELECT DISTINCT projection FROM parked_events WHERE projection <> 'orders'",
)


class World(Struct, frozen=True):
    """A log with orders of which one stands still, and the database that it is projected into."""

    redis_url: str
    database_url: str
    namespace: str

    def run(self, act: Callable[[RedisEventStore, AsyncEngine], Awaitable[None]]) -> None:
        async def scenario() -> None:
            settings = StoreSettings(namespace=self.namespace)
            store = await RedisEventStore.open(self.redis_url, settings, new_store_id=self.namespace)
            try:
                async with database(self.database_url) as engine:
                    await act(store, engine)
            finally:
                await store.close()

        asyncio.run(scenario())

    def project(self) -> None:
        async def act(store: RedisEventStore, engine: AsyncEngine) -> None:
            await Projector(store, engine).project_available()

        self.run(act)

    def die(self, does: str, point: str, passes: int = 1, *, keep_old: bool = False, back: bool = False) -> None:
        """Let a process do something, and be killed at a point of it."""
        doom = Doom(
            does=does,  # type: ignore[arg-type]
            point=point,
            passes=passes,
            keep_old=keep_old,
            back=back,
            redis_url=self.redis_url,
            database_url=self.database_url,
            namespace=self.namespace,
        )
        command = [sys.executable, "-m", "tests.crash.doomed", msgspec.json.encode(doom).decode()]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    def require_fold(self) -> None:
        """Require that both copies agree, but for the order that stands still, and that volumes are their fold."""

        async def act(store: RedisEventStore, engine: AsyncEngine) -> None:
            assert [(finding.kind, finding.field) for finding in await diff(store, engine)] == [("quarantined", "row")]
            for projection in PROJECTIONS.values():
                result = await rebuild(engine, projection, Wanted(verify_only=True))
                assert result.compared is not None and result.compared.columns == {}

        self.run(act)
        assert [execute(self.database_url, query) for query in LEFTOVERS] == [[], [], [], []]


@pytest.fixture
def world(redis_url: str, database_url: str) -> Iterator[World]:
    made = World(redis_url, database_url, f"d{secrets.token_hex(5)}")
    life = poisoned(appends(stream_id(), market_life()), *POISON[0][:2])

    async def act(store: RedisEventStore, _: AsyncEngine) -> None:
        await append_all(store, [*interleaved(seed=71, orders=30), *life])

    made.run(act)
    yield made


@pytest.mark.parametrize("point", ["locked", "written", "committed"])
@pytest.mark.parametrize("passes", [1, 3])
def test_a_projector_that_is_killed_leaves_whole_batches(world: World, point: str, passes: int) -> None:
    world.die("project", point, passes)
    world.project()
    world.require_fold()


@pytest.mark.parametrize(
    ("name", "point", "passes"),
    [
        ("orders", "begun", 1),
        ("orders", "filled", 1),
        ("orders", "filled", 3),
        ("orders", "indexed", 1),
        ("orders", "caught_up", 1),
        ("orders", "compared", 1),
        ("orders", "exchanged", 1),
        ("orders", "swapped", 1),
        ("volumes", "filled", 1),
        ("volumes", "compared", 1),
        ("volumes", "locked", 1),
        ("volumes", "swapped", 1),
    ],
)
def test_a_rebuild_that_is_killed_is_gone_on_with(world: World, name: str, point: str, passes: int) -> None:
    world.project()
    before = contents(world.database_url)
    world.die(name, point, passes)
    assert contents(world.database_url) == before
    told: list[bool] = []

    async def again(_: RedisEventStore, engine: AsyncEngine) -> None:
        told.append((await rebuild(engine, PROJECTIONS[name])).resumed)

    world.run(again)
    # Before its first page it has done nothing to go on with; after the swap it is over.
    assert told == [point not in ("begun", "swapped")]
    assert contents(world.database_url) == before
    world.require_fold()


@pytest.mark.parametrize("point", ["exchanged", "swapped"])
def test_a_rebuild_that_is_killed_has_kept_the_old_table_once_it_has_swapped(world: World, point: str) -> None:
    world.project()
    before = contents(world.database_url)
    world.die("orders", point, keep_old=True)

    async def act(_: RedisEventStore, engine: AsyncEngine) -> None:
        if point != "swapped":
            assert (await rebuild(engine, PROJECTIONS["orders"], Wanted(keep_old=True))).resumed
        assert states(world.database_url) == [("orders", "kept")]
        assert await drop(engine, PROJECTIONS["orders"])

    world.run(act)
    assert contents(world.database_url) == before
    world.require_fold()


@pytest.mark.parametrize(
    ("name", "point"),
    [("orders", "caught_up"), ("orders", "exchanged"), ("volumes", "exchanged"), ("volumes", "swapped")],
)
def test_a_roll_back_that_is_killed_is_made_again_unless_it_had_swapped(world: World, name: str, point: str) -> None:
    world.project()

    async def keep(store: RedisEventStore, engine: AsyncEngine) -> None:
        await rebuild(engine, PROJECTIONS[name], Wanted(keep_old=True))
        await append_all(store, interleaved(seed=72, orders=10))

    world.run(keep)
    world.project()
    before = contents(world.database_url)
    live, old = tables(world.database_url, name)
    world.die(name, point, back=True)
    assert contents(world.database_url) == before
    assert states(world.database_url) == [(name, "kept")]
    assert tables(world.database_url, name) == ((old, live) if point == "swapped" else (live, old))

    async def again(_: RedisEventStore, engine: AsyncEngine) -> None:
        await roll_back(engine, PROJECTIONS[name])
        assert contents(world.database_url) == before
        assert await drop(engine, PROJECTIONS[name])

    world.run(again)
    assert contents(world.database_url) == before
    world.require_fold()


def tables(url: str, name: str) -> tuple[object, object]:
    """Which table is the live one, and which the old one."""
    live, old = execute(url, f"SELECT CAST('{name}' AS regclass)::oid, CAST('{name}_old' AS regclass)::oid")[0]
    return live, old


def states(url: str) -> list[tuple[object, ...]]:
    """The state of each rebuild."""
    return execute(url, "SELECT projection, state FROM rebuilds")
