"""Any interleaving of appends, crashes, rebuilds, kills, swaps and repairs ends with the tables of the fold."""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.ids import LOG_START, partition_in
from eventstore.store import StoredCommit
from projections.database import create_database_engine
from projections.fold.frames import read_event
from projections.fold.histories import Entry, Followed, follow
from projections.fold.orders import OrderRow
from projections.models.orders import PROJECTION as ORDERS
from projections.models.orders import read_orders
from projections.models.projection import Projection, Step
from projections.models.registry import NEXT, OLD, OTHERS, PROJECTIONS, table_of
from projections.models.volumes import PROJECTION as VOLUMES
from projections.projector.batches import Batch
from projections.projector.refusals import UNARCHIVABLE
from projections.projector.runner import Projector
from projections.projector.writing import WANTED
from projections.rebuild.mending import repair
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop, roll_back
from tests.builders import stream_id
from tests.conftest import EMPTY, appends, execute, interleaved, market_life, memory_store
from tests.poison import POISON, poisoned

POINTS: Final = ("locked", "written", "committed")
REBUILD_POINTS: Final = ("begun", "filled", "indexed", "caught_up", "compared", "locked", "exchanged", "swapped")
BACK_POINTS: Final = ("caught_up", "locked", "exchanged")
REFUSED: Final = "PostgreSQL refuses it"
UNITS_MAX: Final = 12
_ARCHIVED: Final = "SELECT partition, count(*), max(position) FROM order_events GROUP BY 1"
_PARKED: Final = "SELECT order_id, version, reason FROM parked_events WHERE projection = 'orders'"
_PROJECTIONS: Final = "SELECT DISTINCT projection FROM checkpoints ORDER BY 1"


class Killed(BaseException):
    """A process ended here."""


class Life(RuleBasedStateMachine):
    """A store, a database, and whatever happens between them."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        execute(self.url, EMPTY)
        execute(self.url, "TRUNCATE projectors, rebuilds, skipped_events")
        for name in PROJECTIONS:
            execute(self.url, f"DROP TABLE IF EXISTS {name}{NEXT}, {name}{OLD}")
        self.runner = asyncio.Runner()
        self.store = memory_store()
        self.engine = create_database_engine(self.url, application_name="machine")
        self.kept: set[str] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        """Bind the database to the store."""
        self.project(500)

    @rule(seed=st.integers(0, 10**6), orders=st.integers(1, 4))
    def append(self, seed: int, orders: int) -> None:
        """Append some lives, in a random order."""
        for commit in interleaved(seed, orders):
            self.run(self.store.append(commit))

    @rule(seed=st.integers(0, 10**6), poison=st.sampled_from(POISON))
    def append_poison(self, seed: int, poison: Any) -> None:
        """Append a life with an event that cannot be applied; perhaps not all of it."""
        chance = random.Random(seed)
        life = poisoned(
            appends(stream_id(f"owner-{seed % 5}"), market_life(), client=f"client-{seed % 3}"), *poison[:2]
        )
        for commit in life[: chance.randint(1, len(life))]:
            self.run(self.store.append(commit))

    @rule(batch=st.sampled_from([1, 7, 500]))
    def project(self, batch: int) -> None:
        """Project everything, in batches of that size."""
        self.run(Projector(self.store, self.engine, batch_commits_max=batch).project_available())

    @rule(batch=st.sampled_from([1, 7, 500]), point=st.sampled_from(POINTS), after=st.integers(0, 5))
    def crash(self, batch: int, point: str, after: int) -> None:
        """Project until a projector passes a point for the nth time, and dies there."""
        passed = [0]

        def reach(at: str, _: Batch) -> None:
            passed[0] += at == point
            if passed[0] > after:
                raise Killed

        with suppress(Killed):
            self.run(Projector(self.store, self.engine, batch_commits_max=batch, reach=reach).project_available())

    @precondition(lambda self: not self.kept)
    @rule(projection=st.sampled_from([ORDERS, VOLUMES]), point=st.sampled_from(REBUILD_POINTS))
    def begin_rebuild(self, projection: Projection, point: str) -> None:
        """Rebuild until a point, and die there; the next rebuild goes on."""

        def reach(at: str) -> None:
            if at == point:
                raise Killed

        with suppress(Killed):
            self.run(rebuild(self.engine, projection, reach=reach))

    @precondition(lambda self: not self.kept)
    @rule(projection=st.sampled_from([ORDERS, VOLUMES]), keep=st.booleans())
    def rebuild(self, projection: Projection, keep: bool) -> None:
        """Rebuild to the end; the gate must find nothing."""
        result = self.run(rebuild(self.engine, projection, Wanted(keep_old=keep)))
        assert result.compared is not None and result.compared.columns == {}
        if keep:
            self.kept.add(projection.name)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), back=st.booleans())
    def go_back_or_drop(self, data: st.DataObject, back: bool) -> None:
        """Bring an old table back, or remove it."""
        projection = PROJECTIONS[data.draw(st.sampled_from(sorted(self.kept)))]
        if back:
            self.run(roll_back(self.engine, projection))
        else:
            assert self.run(drop(self.engine, projection))
            self.kept.remove(projection.name)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), point=st.sampled_from(BACK_POINTS))
    def begin_to_go_back(self, data: st.DataObject, point: str) -> None:
        """Bring an old table back until a point before that is committed, and die there: it is still the old one."""

        def reach(at: str) -> None:
            if at == point:
                raise Killed

        projection = PROJECTIONS[data.draw(st.sampled_from(sorted(self.kept)))]
        with suppress(Killed):
            self.run(roll_back(self.engine, projection, reach=reach))

    @rule(data=st.data())
    def repair_any(self, data: st.DataObject) -> None:
        """Fold one order anew; a row that was right stays as it is."""
        known = [row[0] for row in execute(self.url, "SELECT id FROM orders ORDER BY id")]
        if known:
            mended = self.run(repair(self.engine, str(data.draw(st.sampled_from(known)))))
            assert mended.columns == []

    @invariant()
    def tables_are_the_fold_of_what_is_projected(self) -> None:
        """The rows, parked events and volumes are those of the events up to the checkpoints, whatever happened."""
        self.run(self._check())

    def teardown(self) -> None:
        """Project and rebuild to the end: nothing is left over."""
        try:
            self._end()
        finally:
            self.run(self.engine.dispose())
            self.runner.close()

    def _end(self) -> None:
        self.project(7)
        for projection in (ORDERS, VOLUMES):
            self.run(drop(self.engine, projection))
            self.run(rebuild(self.engine, projection))
        self.run(self._check())
        ends = self.run(self.store.log_ends())
        found = execute(self.url, "SELECT partition, position FROM checkpoints WHERE projection = 'orders' ORDER BY 1")
        assert found == [(number, end.position) for number, end in sorted(ends.items())]
        assert execute(self.url, "SELECT 1 FROM rebuilds") == []
        assert execute(self.url, "SELECT DISTINCT projection FROM checkpoints ORDER BY 1") == [
            ("orders",),
            ("volumes",),
        ]

    async def _check(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            places = await connection.execute(text("SELECT projection, partition, position FROM checkpoints"))
            reached: dict[str, dict[int, int]] = {}
            for name, partition, position in places:
                reached.setdefault(name, {})[partition] = position
            lives = [followed async for followed in self._lives(reached["orders"])]
            await self._check_orders(connection, lives)
            archived = await connection.execute(text(_ARCHIVED))
            ends = {number: (end, end) for number, end in reached["orders"].items() if end}
            assert {row[0]: (row[1], row[2]) for row in archived} == ends
            for name, projection in OTHERS.items():
                assert reached[name] == reached["orders"]
                changes = [change for life in lives for change in life.changes]
                assert await contents_of(connection, projection) == projection.fold([Step([], changes)])

    async def _check_orders(self, connection: AsyncConnection, lives: list[Followed]) -> None:
        rows = {life.order_id: life.row for life in lives if life.row is not None}
        found = await read_orders(connection, [life.order_id for life in lives])
        assert {each: comparable(row) for each, row in found.items()} == {k: comparable(r) for k, r in rows.items()}
        parked = await connection.execute(text(_PARKED))
        expected = {(each.order_id, each.version, stated(each.reason)) for life in lives for each in life.parked}
        assert {(row[0], row[1], stated(row[2])) for row in parked} == expected

    async def _lives(self, reached: dict[int, int]) -> Any:
        """Yield the fold of every order, as far as its partition is projected."""
        after = dict.fromkeys(range(self.store.partitions), LOG_START)
        orders: dict[str, list[Entry]] = {}
        for commit in await self.store.read_log(after, 10**6):
            orders.setdefault(commit.stream, []).extend(entries_of_commit(commit, reached))
        for order_id, entries in orders.items():
            if entries:
                yield follow(order_id, None, entries, wanted=WANTED)


async def contents_of(connection: AsyncConnection, projection: Projection) -> dict[Any, dict[str, Any]]:
    """Return the live rows of a projection: by primary key, the other columns."""
    table = table_of(projection)
    key = [column.name for column in table.primary_key]
    found = [dict(row._mapping) for row in await connection.execute(table.select())]
    return {tuple(row.pop(part) for part in key): row for row in found}


def stated(reason: str | None) -> str | None:
    """What both sides say alike: the server's own words are left out."""
    return None if reason is None else reason.partition(REFUSED)[0]


def comparable(row: OrderRow) -> OrderRow:
    """``row`` with the reason of its quality as both sides say it."""
    return replace(row, quality_reason=stated(row.quality_reason))


def entries_of_commit(commit: StoredCommit, reached: dict[int, int]) -> list[Entry]:
    """Return the events of a commit that are projected."""
    found = []
    for index, data in enumerate(commit.events):
        version = commit.version - len(commit.events) + 1 + index
        position = commit.position - len(commit.events) + 1 + index
        frame = read_event(commit.stream, version, commit.anchors[index], data)
        readable, fault = (None, frame) if isinstance(frame, str) else (frame, None)
        if readable is not None and readable.at.startswith("2027-13"):
            readable, fault = None, UNARCHIVABLE
        if readable is not None and readable.receipt is not None and len(readable.receipt.amount_in) > UNITS_MAX:
            fault = REFUSED
        entry = Entry(commit.stream, version, commit.partition, position, commit.recorded_us, "", readable, fault)
        if position <= reached[partition_in(commit.stream)]:
            found.append(entry)
    return found


def test_any_history_ends_with_the_tables_of_the_fold(database_url: str) -> None:
    machine = type("LifeHere", (Life,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )
