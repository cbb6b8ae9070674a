"""Opening both copies together: one store, created where there is none, healed where Redis lost something."""

import asyncio
import logging
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.errors import PartitionForkedError, SeamError, StoreEmptyError, StoreUnavailableError
from eventstore.hot import HotStore, PartitionRecord
from eventstore.ids import LOG_START
from eventstore.levels import Level
from projections.archive.epochs import Epochs, Opened, adopt
from projections.archive.healing import Obligations
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import ORDERS
from projections.database import DATABASE_OUTAGES, reading
from projections.errors import SchemaError
from projections.schema.migrations import require_schema
from projections.schema.tables import checkpoints, store

log: Final = logging.getLogger(__name__)

SCHEMA_SECONDS: Final = 20
"""How long to wait for the projector to bring the schema up to date."""
_POLL_SECONDS: Final = 0.1


async def open_archived(
    hot: HotStore, engine: AsyncEngine, obligations: Obligations, level: Level, *, new_store_id: str
) -> ArchivedEventStore:
    """Return the store that ``hot`` and the database at ``engine`` make, its partitions open if that is possible now.

    While PostgreSQL does not answer, open partitions are used as they are; closed ones stay closed, and are opened by
    the first append after.

    Args:
        hot: connected, and closed with the result.
        new_store_id: names the store where neither copy has one.

    Raises:
        StoreEmptyError: Redis holds nothing, PostgreSQL does. Correct a URL, or restore.
        ReadModelMismatchError: they are the copies of different stores.
        SchemaError: the database's schema did not become that of this code.
    """
    archived = ArchivedEventStore(hot, engine, Epochs(hot, engine, obligations), level)
    records = [await hot.partition_record(number) for number in range(hot.partitions)]
    if is_empty(records):
        await _create(archived, engine, records, new_store_id)
        return archived
    # Also where all are open: only the register tells that a later epoch was opened on another server.
    try:
        await open_closed(archived, engine)
    except (*DATABASE_OUTAGES, StoreUnavailableError) as error:
        log.warning("partitions_not_opened", extra={"problem": str(error).partition("\n")[0]})
    return archived


async def attach_archived(
    hot: HotStore, engine: AsyncEngine, obligations: Obligations, level: Level
) -> ArchivedEventStore:
    """Return the store that ``hot`` and the database make, as it is; for whoever only reads.

    Raises:
        StoreEmptyError: see :func:`open_archived`.
    """
    records = [await hot.partition_record(number) for number in range(hot.partitions)]
    if is_empty(records):
        await _require_unknown(engine)
    return ArchivedEventStore(hot, engine, Epochs(hot, engine, obligations), level)


def is_empty(records: list[PartitionRecord]) -> bool:
    """Whether a server holds nothing of any partition."""
    return not any(record.store_id or record.end.position for record in records)


async def open_closed(archived: ArchivedEventStore, engine: AsyncEngine) -> None:
    """Open every closed partition, and register those that were opened before there was a schema.

    A forked one stays closed, and is told in the log: the others go on without it.

    Raises:
        as :func:`open_archived`; StoreUnavailableError.
    """
    await _wait_for_schema(engine)
    hot = archived.hot
    store_id = hot.store_id or await known_store(engine)
    if store_id:
        await adopt(engine, store_id, hot.partitions)
    for number in range(hot.partitions):
        try:
            await archived.open_partition(number)
        except PartitionForkedError as error:
            log.error("partition_forked", extra={"partition": number, "report": error.report})


async def restore(archived: ArchivedEventStore, engine: AsyncEngine) -> list[Opened]:
    """Refill an empty Redis: every order that has not ended; return what each partition came to, in order.

    Raises:
        StoreUnavailableError, PartitionForkedError: see there. Call again.
    """
    await adopt(engine, await known_store(engine), archived.hot.partitions)
    return [await archived.open_partition(number) for number in range(archived.hot.partitions)]


async def known_store(engine: AsyncEngine) -> str:
    """Return the id of the store that the database belongs to; "" for none."""
    async with reading(engine) as connection:
        return await connection.scalar(select(store.c.store_id)) or ""


async def _create(
    archived: ArchivedEventStore, engine: AsyncEngine, records: list[PartitionRecord], new_store_id: str
) -> None:
    try:
        await require_schema(engine)
    except SchemaError as error:
        known = ""
        if error.current is not None:
            await _wait_for_schema(engine)
            known = await _require_unknown(engine)
    else:
        known = await _require_unknown(engine)
    if known:
        # What Redis lost had positions: those that are given now need a later epoch, to be told apart.
        await open_closed(archived, engine)
        return
    hot, store_id = archived.hot, new_store_id
    for record in records:
        try:
            await hot.open_epoch(record.partition, store_id, 1, LOG_START)
        except SeamError:
            # Another process creates it at the same time: the name that the first partition got is everybody's.
            store_id = (await hot.partition_record(record.partition)).store_id or store_id


async def _require_unknown(engine: AsyncEngine) -> str:
    """Return the id of the store that the database belongs to, of which it must have no event; "" for none."""
    known = await known_store(engine)
    async with reading(engine) as connection:
        events = await connection.scalar(
            select(func.sum(checkpoints.c.position)).where(checkpoints.c.projection == ORDERS)
        )
    if events:
        raise StoreEmptyError(known, int(events))
    return known


async def _wait_for_schema(engine: AsyncEngine) -> None:
    deadline = asyncio.get_running_loop().time() + SCHEMA_SECONDS
    while True:
        try:
            await require_schema(engine)
            return
        except SchemaError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS)
