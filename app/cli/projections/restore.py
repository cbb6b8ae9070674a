"""`restore`: an empty Redis, or a forked partition, filled again from PostgreSQL, while no engine runs."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.connections import settings_here
from app.main import OBLIGATIONS, open_database, open_hot_store, servers
from app.settings import Settings
from eventstore.errors import EventStoreError
from eventstore.hot import HotStore
from projections.archive.discarding import discard_forked, require_no_engine
from projections.archive.epochs import Epochs, Opened
from projections.archive.opening import is_empty, known_store
from projections.archive.opening import restore as restore_all
from projections.archive.store import ArchivedEventStore
from projections.schema.migrations import require_schema


class RestoreRefusedError(EventStoreError):
    """There is nothing that this command may restore; the message says why. Nothing was changed."""


def restore(
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition, which is forked.")] = None,
    discard: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="New file for the events of Redis that PostgreSQL does not have."),
    ] = None,
) -> None:
    """Fill Redis from PostgreSQL after it lost everything: every open order, with its tasks and timers.

    With --partition and --discard: of one partition whose copies differ, keep PostgreSQL's. What Redis alone has is
    written to FILE, one JSON object per line, and removed. Stop the engine first.
    """
    if (partition is None) != (discard is None):
        raise typer.BadParameter("--partition and --discard go together")

    async def run(console: Console) -> None:
        settings = settings_here()
        # Not a running engine's servers: the data directory must be free.
        async with servers(settings) as found:
            database = open_database(found, "restore")
            try:
                await require_schema(database)
                await require_no_engine(database)
                hot = await open_hot_store(settings, found.redis_url)
                archived = _archived(settings, hot, database)
                try:
                    if partition is None or discard is None:
                        await _fill(archived, database, console)
                    else:
                        await _choose(archived, database, (partition, discard), console)
                finally:
                    await archived.close()
            finally:
                await database.dispose()

    asyncio.run(run(Console(soft_wrap=True, highlight=False)))


def _archived(settings: Settings, hot: HotStore, database: AsyncEngine) -> ArchivedEventStore:
    return ArchivedEventStore(hot, database, Epochs(hot, database, OBLIGATIONS), settings.ack_level)


async def _fill(archived: ArchivedEventStore, database: AsyncEngine, console: Console) -> None:
    hot = archived.hot
    if not is_empty([await hot.partition_record(number) for number in range(hot.partitions)]):
        raise RestoreRefusedError(
            "Redis is not empty, so there is nothing to restore: what it lost of a partition is written back when the "
            "engine starts. Of a forked partition, keep PostgreSQL's copy with --partition and --discard"
        )
    if not await known_store(database):
        raise RestoreRefusedError("PostgreSQL has no event store either: start the engine, which creates one")
    for number, opened in enumerate(await restore_all(archived, database)):
        _tell(console, number, opened)


async def _choose(
    archived: ArchivedEventStore, database: AsyncEngine, choice: tuple[int, Path], console: Console
) -> None:
    partition, file = choice
    if partition >= archived.partitions:
        raise RestoreRefusedError(f"the store has partitions 0 to {archived.partitions - 1}")
    discarded = await discard_forked(archived, database, OBLIGATIONS, partition, file)
    if discarded is None:
        raise RestoreRefusedError(f"partition {partition} is not forked: both copies agree, and nothing was discarded")
    console.print(f"partition {partition}: {discarded} events that only Redis had are in {file}")
    _tell(console, partition, await archived.open_partition(partition))


def _tell(console: Console, partition: int, opened: Opened) -> None:
    console.print(f"partition {partition}: {opened.healed} events written back, epoch {opened.epoch} is open")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(restore)
