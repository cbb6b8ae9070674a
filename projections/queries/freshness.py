"""How far a read model is, and a bounded wait until it is far enough, shared by everybody of the process who waits."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.ids import Cursor
from projections.archive.epochs import fences
from projections.archive.events import cursor_at
from projections.checkpoints import ORDERS, POLL_SECONDS
from projections.database import reading
from projections.errors import NotReachedError
from projections.schema.tables import checkpoints, order_events

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_archived: Final = (
    select(order_events.c.recorded_at)
    .where(order_events.c.partition == checkpoints.c.partition, order_events.c.position == checkpoints.c.position)
    .scalar_subquery()
)
_columns: Final = select(
    checkpoints.c.partition,
    checkpoints.c.position,
    # A checkpoint that an older projector moved last does not say it.
    func.coalesce(checkpoints.c.recorded_at, _archived).label("recorded_at"),
).order_by(checkpoints.c.partition)


class Reach(Struct, frozen=True):
    """How far a read model is in one partition."""

    position: int
    """Of the last projected event; 0: none."""
    recorded_us: int | None
    """When that event was appended, by the event store's server's clock, microseconds since 1970; None: not known."""


Reaches = Mapping[int, Reach]
"""By partition; a partition that no projector has adopted yet is absent."""


async def read_reaches(engine: AsyncEngine, projection: str = ORDERS) -> Reaches:
    """Return how far ``projection`` is. What is read from the same database afterwards is at least as fresh."""
    async with reading(engine) as connection:
        found = await connection.execute(_columns.where(checkpoints.c.projection == projection))
        return {partition: _reach(position, recorded_at) for partition, position, recorded_at in found}


def lag_ms(reaches: Reaches, ends: Mapping[int, Cursor] | None, now_us: int) -> int | None:
    """Return a bound on the lag, in milliseconds: everything that was appended earlier than that is in the answer.

    It is the age of the last projected event, and 0 for a partition that holds all that the log held at ``ends``: an
    event after a pause makes it as long as the pause, until it is projected.

    Args:
        ends: where the log ended before ``reaches`` were read; None: not known. Its partitions must be in ``reaches``.

    Returns:
        None: not known, because nothing was projected yet.
    """
    lags: list[int] = []
    for partition, reach in reaches.items():
        if ends is not None and reach.position >= ends[partition].position:
            lags.append(0)
        elif reach.recorded_us is None:
            return None
        else:
            lags.append(max(0, now_us - reach.recorded_us) // 1_000)
    return max(lags, default=None)


async def is_contradicted(engine: AsyncEngine, partition: int, cursor: Cursor) -> bool:
    """Return whether the event that ``cursor`` names did not last: the projected history has another one, or none.

    False as long as the read model has not got there, unless an epoch that was opened since begins before it.
    """
    reach = (await read_reaches(engine)).get(partition)
    async with reading(engine) as connection:
        found = await cursor_at(connection, partition, cursor.position)
        if found is not None:
            return found != cursor
        if reach is not None and reach.position >= cursor.position:
            return True
        epochs = (await fences(connection, [partition])).get(partition, ())
    return any(cursor.epoch < later and cursor.position > end for later, end in epochs)


class Reaching:
    """Waits for the read model of orders to get to positions; one question at a time, for everybody who waits.

    Args:
        engine: disposed of by the caller.
        sleep: waits between two questions.
    """

    def __init__(self, engine: AsyncEngine, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self._asking: asyncio.Task[Reaches] | None = None
        self._next: asyncio.Task[Reaches] | None = None
        self._asked_at = -POLL_SECONDS

    async def reached(self, wanted: Mapping[int, int], timeout_seconds: float) -> None:
        """Return once the read model has, in each partition, everything up to the ``wanted`` position.

        It is asked at least once, whatever ``timeout_seconds`` is.

        Raises:
            NotReachedError: it had not within ``timeout_seconds``; names the first such partition.
            one of :data:`projections.database.DATABASE_OUTAGES`: the database cannot answer now.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            reaches = await self._look()
            missing = next((number for number in sorted(wanted) if _position(reaches, number) < wanted[number]), None)
            if missing is None:
                return
            if loop.time() >= deadline:
                raise NotReachedError(missing, wanted[missing], _position(reaches, missing))

    async def close(self) -> None:
        """Stop asking; whoever still waits is cancelled. Idempotent."""
        tasks = [task for task in (self._asking, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> Reaches:
        """Return how far the read model is by a question that is asked after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask())
            # Also where everybody who waited for it has gone meanwhile.
            self._next.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return await asyncio.shield(self._next)

    async def _ask(self) -> Reaches:
        if self._asking is not None:
            await asyncio.wait([self._asking])
        loop = asyncio.get_running_loop()
        pause = self._asked_at + POLL_SECONDS - loop.time()
        if pause > 0:
            await self._sleep(pause)
        self._asking, self._next = self._next, None
        reaches = await read_reaches(self._engine)
        self._asked_at = loop.time()
        return reaches


def _position(reaches: Reaches, partition: int) -> int:
    reach = reaches.get(partition)
    return 0 if reach is None else reach.position


def _reach(position: int, recorded_at: datetime | None) -> Reach:
    return Reach(position, None if recorded_at is None else (recorded_at - _EPOCH) // timedelta(microseconds=1))
