"""`rebuild`: build beside, catch up, prove equal at one position, swap; readers see the old table, then the new one."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.hot import HotStore
from projections.database import DATABASE_OUTAGES, reading
from projections.errors import ProjectionError, RebuildBlockedError, RebuildRefusedError, RebuildRunningError
from projections.models.orders import PROJECTION as ORDERS
from projections.models.projection import Projection
from projections.models.registry import OTHERS
from projections.rebuild import state
from projections.rebuild.building import Builder, Progress, Reach, Report, discard
from projections.rebuild.gate import Compared, at_one_position, compare_generations
from projections.rebuild.swapping import Terms, catch_up, swap
from projections.schema.migrations import require_own_schema

log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10.0
_behind: Final = text(
    "SELECT EXISTS (SELECT partition, epoch, position, anchor FROM checkpoints WHERE projection = 'orders' EXCEPT "
    "SELECT partition, epoch, position, anchor FROM checkpoints WHERE projection = :projection)"
)
"""One statement: both are moved in one transaction."""


class Wanted(Struct, frozen=True, kw_only=True):
    """What a rebuild is to do."""

    changed: Collection[str] = ()
    """Columns in which the new table may differ, ``row`` for rows that come or go, ``*`` for everything."""
    keep_old: bool = False
    """Keep the old table, so that it can be brought back."""
    verify_only: bool = False
    """Swap nothing: only say how the new table would differ."""


class Rebuilt(Struct, frozen=True):
    """What a rebuild did. ``orders`` and ``events`` count what the new table was filled from."""

    projection: str
    orders: int
    events: int
    seconds: float
    resumed: bool
    """Whether it went on with one that was interrupted."""
    compared: Compared | None
    """How the new table differs from the one that was live, at one identical position; None where there was none."""
    swapped: bool


async def rebuild(  # noqa: PLR0913 - sleep and reach are there for tests alone
    engine: AsyncEngine,
    projection: Projection,
    wanted: Wanted | None = None,
    *,
    hot: HotStore | None = None,
    report: Report = lambda progress: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    reach: Reach = lambda point: None,
) -> Rebuilt:
    """Build ``projection`` anew beside the live table and swap it in, while projectors and readers go on.

    Readers see the old table whole, then the new one whole, never an older version of a row. Memory does not grow with
    the archive; disk holds both tables. A rebuild that was interrupted is gone on with. Privileges granted on the old
    table are not carried over: grant them as default privileges.

    Args:
        hot: read lives from Redis, where it has them; None: from the archive.
        report: told how far it is.
        sleep: waits while somebody holds the live table.
        reach: told each point that is passed.

    Raises:
        RebuildRefusedError: the tables differ in columns that ``wanted.changed`` does not name. The live one stays; the
            new one is kept for the next attempt.
        RebuildRunningError, RebuildKeptError, RebuildBlockedError, ArchiveIncompleteError: each says what to do.
        SchemaError: the schema is a later one, whose columns this code would lose.
    """
    wanted = wanted or Wanted()
    started = asyncio.get_running_loop().time()
    await require_own_schema(engine)
    async with state.only_one(engine) as alone:
        builder = Builder(alone, projection, hot=hot, report=report, reach=reach)
        begun = await builder.begin()
        reach("begun")
        filled = await builder.fill(begun) if begun.state == "filling" else begun
        reach("filled")
        touched = await catch_up(engine, builder)
        reach("caught_up")
        compared = None
        if await is_projected(engine, projection):
            report(Progress("comparing", filled.events, filled.total, filled.orders))
            async with at_one_position(engine, builder) as snapshot:
                touched = set()
                compared = await compare_generations(snapshot, projection)
            reach("compared")
        swapped = not wanted.verify_only
        if swapped:
            _require_declared(projection, compared, wanted)
            terms = Terms(changed=wanted.changed, keep_old=wanted.keep_old, compare=compared is not None)
            await swap(builder, touched, terms, sleep)
        else:
            async with engine.begin() as connection:
                await discard(connection, projection)
                await alone.require()
    seconds = asyncio.get_running_loop().time() - started
    resumed = begun.state != "filling" or begun.done != ""
    return Rebuilt(projection.name, filled.orders, filled.events, seconds, resumed, compared, swapped)


async def build_missing(engine: AsyncEngine, stopping: asyncio.Event) -> None:
    """Build the projections that do not follow the log, one after the other; return when there are none, or at the end.

    An outage, or another rebuild, puts one off; a refusal is logged, and left to a person.
    """
    missing = deque(OTHERS.values())
    while missing and not stopping.is_set():
        projection = missing[0]
        try:
            if not await is_projected(engine, projection):
                built = await rebuild(engine, projection)
                log.info("projection_built", extra={"projection": projection.name, "events": built.events})
            missing.popleft()
        except (*DATABASE_OUTAGES, RebuildRunningError, RebuildBlockedError) as error:
            log.warning("projection_not_built", extra={"projection": projection.name, "problem": str(error)})
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), RETRY_SECONDS)
        except ProjectionError as error:
            log.error("projection_not_built", extra={"projection": projection.name, "problem": str(error)})
            missing.popleft()


async def is_projected(engine: AsyncEngine, projection: Projection) -> bool:
    """Whether the live table of ``projection`` follows the log in every partition; else it has yet to be built.

    It does not where it was left behind, by code of the release before, which does not know it.
    """
    if projection is ORDERS:
        return True
    async with reading(engine) as connection:
        return not await connection.scalar(_behind, {"projection": projection.name})


def _require_declared(projection: Projection, compared: Compared | None, wanted: Wanted) -> None:
    undeclared = {} if compared is None else compared.undeclared(wanted.changed)
    if compared is not None and undeclared:
        raise RebuildRefusedError(projection.name, undeclared, compared.samples)
