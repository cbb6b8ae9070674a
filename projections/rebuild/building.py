"""Building a projection beside the live one: filled from whole lives, then following the archive, always resumable."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex, CreateTable

from eventstore.hot import HotStore
from projections.checkpoints import Checkpoint, lock_projections, move_checkpoints, read_checkpoints
from projections.errors import ArchiveIncompleteError, RebuildKeptError
from projections.fold.histories import Entry, Followed
from projections.models.orders import PROJECTION as ORDERS
from projections.models.projection import Key, Projection, Step
from projections.models.registry import NEXT, OLD, table_of
from projections.parking import all_held, drop_parked, park, read_skips, unpark
from projections.projector.refusals import REFUSALS
from projections.rebuild import state
from projections.rebuild.histories import ArchivedLives, Bounds, HotLives, Upto, entries_of, follow_life
from projections.rebuild.narrowing import storable
from projections.rebuild.state import Alone, Rebuild, Source

FOLLOW_EVENTS_MAX: Final = 20_000
"""Positions of each partition that one transaction follows."""
_PAGE_ORDERS: Final = 500
_moved: Final = text(
    "SELECT DISTINCT e.order_id FROM order_events e "
    "JOIN unnest(CAST(:partitions AS smallint[]), CAST(:after AS bigint[]), CAST(:upto AS bigint[])) "
    "AS span (partition, after, upto) ON e.partition = span.partition AND e.position > span.after "
    "AND e.position <= span.upto ORDER BY e.order_id"
)
_times: Final = text(
    "SELECT e.partition, CAST(extract(epoch FROM e.recorded_at) * 1000000 AS bigint) "
    "FROM unnest(CAST(:partitions AS smallint[]), CAST(:positions AS bigint[])) AS wanted (partition, position) "
    "JOIN order_events e USING (partition, position)"
)
_counts: Final = text("SELECT partition, count(*) FROM order_events GROUP BY partition")


class Progress(Struct, frozen=True):
    """How far a rebuild is: events folded of those that the archive had when it began, and in what stage it is."""

    stage: str
    events: int
    total: int
    orders: int


Report = Callable[[Progress], None]
Reach = Callable[[str], None]
"""Called with the name of each point that a rebuild passes, for crash tests."""


class Builder:
    """Builds one projection beside the live one, or brings an old one up to date.

    Args:
        alone: the right to rebuild, on an engine with four connections or more.
        projection: what is built.
        generation: under which name.
        hot: where lives are read from for the source ``redis``.
    """

    def __init__(
        self,
        alone: Alone,
        projection: Projection,
        *,
        generation: str = NEXT,
        hot: HotStore | None = None,
        report: Report = lambda progress: None,
        reach: Reach = lambda point: None,
    ) -> None:
        self.projection: Final = projection
        self.generation: Final = projection.name + generation
        self.alone: Final = alone
        self.reach: Final = reach
        self._engine = alone.engine
        self._hot = hot
        self._report = report

    async def begin(self) -> Rebuild:
        """Return the rebuild to go on with: the one that was interrupted, if the same code and source began it.

        Raises:
            RebuildKeptError: an earlier one's old table is kept. Bring it back, or drop it.
            ArchiveIncompleteError: the archive lacks events; complete it first. Nothing was changed.
        """
        source: Source = "archive" if self._hot is None else "redis"
        code = state.code_of(self.projection)
        async with self._engine.begin() as connection:
            found = await state.read_rebuild(connection, self.projection.name)
            if found is not None and found.state == "kept":
                raise RebuildKeptError(self.projection.name)
            if found is not None and (found.code, found.source) == (code, source):
                return found
            await discard(connection, self.projection)
            await connection.execute(CreateTable(table_of(self.projection, NEXT)))
            await state.stand_where_orders_do(connection, self.generation)
            upto = await self.reached(connection)
            await _require_dense(connection, upto)
            total = sum(upto.values())
            rebuild = Rebuild(self.projection.name, "filling", source, code, "", 0, 0, total)
            await state.begin(connection, rebuild)
        self.reach("begun")
        return rebuild

    async def fill(self, rebuild: Rebuild) -> Rebuild:
        """Fold every life, as far as it had got when the rebuild began, into the new table; then index it."""
        async with self._engine.connect() as source:
            bounds = await self._bounds(source, await self.reached(source))
            async with aclosing(self._lives(source, bounds).pages(rebuild.done)) as pages:
                async for page in pages:
                    rebuild = replace(
                        rebuild,
                        done=page.last,
                        orders=rebuild.orders + len(page.lives),
                        events=rebuild.events + page.events,
                    )
                    async with self._engine.begin() as target:
                        await self._write(target, self.projection.load, page.lives, bounds, {})
                        await state.advance(target, rebuild)
                        await self.alone.require()
                    self.reach("filled")
                    self._report(Progress("filling", rebuild.events, rebuild.total, rebuild.orders))
        rebuild = replace(rebuild, state="following")
        async with self._engine.begin() as target:
            for index in sorted(table_of(self.projection, NEXT).indexes, key=lambda index: str(index.name)):
                await target.execute(CreateIndex(index))
            await target.execute(text(f"ANALYZE {self.generation}"))
            await state.advance(target, rebuild)
        self.reach("indexed")
        return rebuild

    def _lives(self, source: AsyncConnection, bounds: Bounds) -> ArchivedLives | HotLives:
        return ArchivedLives(source, bounds) if self._hot is None else HotLives(source, self._hot, bounds)

    async def ends(self, connection: AsyncConnection) -> dict[int, int]:
        """Return the position of each partition up to which the archive goes."""
        found = await read_checkpoints(connection)
        return {number: at.position for number, at in found.items()}

    async def reached(self, connection: AsyncConnection) -> dict[int, int]:
        """Return the position of each partition at which this generation is, once it is filled."""
        found = await read_checkpoints(connection, self.generation)
        return {number: at.position for number, at in found.items()}

    async def _bounds(self, connection: AsyncConnection, upto: Mapping[int, int]) -> Bounds:
        # What is parked in the live rows has not been told to any other projection; this one is not to know more.
        held = {} if self.projection is ORDERS else await all_held(connection, ORDERS.name)
        skips = await read_skips(connection)
        return Bounds(upto=upto, skips=skips, held=held, wanted=self.projection.event_types)

    async def follow(self, connection: AsyncConnection, ends: Mapping[int, Checkpoint]) -> set[Key]:
        """Bring the new table to ``ends``, in the caller's transaction; return the keys of the rows that it touched.

        Args:
            ends: not behind, and at most :data:`FOLLOW_EVENTS_MAX` positions ahead, so that memory is bounded.
        """
        locked = (await lock_projections(connection, [self.generation]))[self.generation]
        behind = {number: end for number, end in ends.items() if locked[number].position < end.position}
        touched: set[Key] = set()
        if not behind:
            return touched
        after = {number: locked[number].position for number in behind}
        upto = {number: at.position for number, at in {**locked, **behind}.items()}
        bounds = await self._bounds(connection, upto)
        moved = await _moved_orders(connection, after, upto)
        for start in range(0, len(moved), _PAGE_ORDERS):
            page = moved[start : start + _PAGE_ORDERS]
            lives = await entries_of(connection, page, upto)
            followed = [_newer(follow_life(each, life, bounds), life, after) for each, life in lives.items()]
            if self.projection is ORDERS:
                await unpark(connection, self.generation, page)
            await self._write(connection, self.projection.apply, followed, bounds, after)
            touched |= self.projection.fold([step_of(followed)]).keys()
        await move_checkpoints(connection, {self.generation: behind.values()}, await _recorded(connection, behind))
        return touched

    async def _write(
        self,
        connection: AsyncConnection,
        write: Callable[[AsyncConnection, str, Step], Awaitable[None]],
        lives: Collection[Followed],
        bounds: Bounds,
        after: Upto,
    ) -> None:
        """Write what ``lives`` come to; one that the database refuses stands still before the event that made it so."""
        attempt = await connection.begin_nested()
        try:
            await write(connection, self.generation, step_of(lives))
        except REFUSALS:
            await attempt.rollback()
            lives = [await self._write_alone(connection, life, bounds, after) for life in lives]
        else:
            await attempt.commit()
        if self.projection is ORDERS:
            await park(connection, self.generation, [event for life in lives for event in life.parked])

    async def _write_alone(self, connection: AsyncConnection, life: Followed, bounds: Bounds, after: Upto) -> Followed:
        found = (await entries_of(connection, [life.order_id], bounds.upto))[life.order_id]
        entries = await storable(connection, self.projection, self.generation, found, bounds)
        life = _newer(follow_life(life.order_id, entries, bounds), entries, after)
        await self.projection.apply(connection, self.generation, step_of([life]))
        return life


def step_of(lives: Collection[Followed]) -> Step:
    """Return what ``lives`` come to, as a projection takes it."""
    rows = [life.row for life in lives if life.row is not None]
    return Step(rows, [change for life in lives for change in life.changes])


async def discard(connection: AsyncConnection, projection: Projection) -> None:
    """Remove what a rebuild made, finished or not, and its record; the live table stays as it is."""
    for generation in (projection.name + NEXT, projection.name + OLD):
        await connection.execute(text(f"DROP TABLE IF EXISTS {generation}"))
        await state.drop_checkpoints(connection, generation)
        await drop_parked(connection, generation)
    await state.forget(connection, projection.name)


def _newer(life: Followed, entries: Sequence[Entry], after: Upto) -> Followed:
    """Return ``life`` without the changes of events that the table knows already."""
    known = {entry.version for entry in entries if entry.position <= after.get(entry.partition, 0)}
    return Followed(life.order_id, life.row, [c for c in life.changes if c.frame.seq not in known], life.parked)


async def _moved_orders(connection: AsyncConnection, after: Upto, upto: Upto) -> list[str]:
    span = {"partitions": list(after), "after": list(after.values()), "upto": [upto[number] for number in after]}
    return list(await connection.scalars(_moved, span))


async def _recorded(connection: AsyncConnection, ends: Mapping[int, Checkpoint]) -> dict[int, int]:
    """Return when the event at each checkpoint was appended."""
    wanted = {"partitions": list(ends), "positions": [end.position for end in ends.values()]}
    return {row[0]: row[1] for row in await connection.execute(_times, wanted)}


async def _require_dense(connection: AsyncConnection, upto: Upto) -> None:
    """Require that the archive holds every event up to those positions.

    Raises:
        ArchiveIncompleteError: it does not. Nothing can be built from it.
    """
    counted = {row[0]: row[1] for row in await connection.execute(_counts)}
    for number, position in upto.items():
        if counted.get(number, 0) < position:
            raise ArchiveIncompleteError(number, position - counted.get(number, 0), position)
