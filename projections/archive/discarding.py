"""Choosing the second copy of a forked partition: what the hot store alone has is saved, then removed."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.errors import EventStoreError, ForkError, PartitionForkedError, TruncatedError
from eventstore.hot import HotStore
from eventstore.store import StoredEvent
from projections.archive import events as archive
from projections.archive.healing import Obligations, open_streams
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import read_checkpoints
from projections.database import reading

STREAMS_AT_ONCE: Final = 200
_PAGE_EVENTS: Final = 1000
_OTHERS: Final = text(
    "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name IN ('ordertape api', 'ordertape worker', 'ordertape projector', 'ordertape up')"
)


class EngineRunsError(EventStoreError):
    """Parts of the engine are connected to the database. Stop them; nothing was changed."""

    def __init__(self, parts: list[str]) -> None:
        super().__init__(f"an engine is running ({', '.join(parts)} is connected to PostgreSQL): stop it first")
        self.parts = parts


class SaveError(EventStoreError):
    """The file cannot be written, so nothing was removed. Name another one."""


async def require_no_engine(engine: AsyncEngine) -> None:
    """Require that no part of an engine uses the database.

    Raises:
        EngineRunsError: one does.
    """
    async with reading(engine) as connection:
        parts = sorted(await connection.scalars(_OTHERS))
    if parts:
        raise EngineRunsError(parts)


async def discard_forked(
    archived: ArchivedEventStore, engine: AsyncEngine, obligations: Obligations, partition: int, file: Path
) -> int | None:
    """Save to ``file`` what the hot store alone has of a forked partition, then remove the partition from it.

    Open the partition next, which fills it from the second copy. Returns the number of events saved, one JSON object
    per line; None where the partition is not forked: then it is open, and nothing was saved or removed.

    Raises:
        PartitionForkedError: the second copy is damaged, so it cannot be chosen.
        SaveError: the file exists, or cannot be written.
        DamagedEntryError: the hot store has an entry that cannot be read.
        StoreUnavailableError: a server does not answer. Call again, with another file.
    """
    if not await _is_forked(archived, engine, partition):
        return None
    async with reading(engine) as connection:
        # Proves every event that is about to be written back, before the other copy is gone.
        async for _ in open_streams(connection, partition, obligations):
            pass
    saved = await _save(archived.hot, engine, partition, file)
    await archived.hot.discard_partition(partition)
    return saved


async def _is_forked(archived: ArchivedEventStore, engine: AsyncEngine, partition: int) -> bool:
    try:
        await archived.open_partition(partition)
    except PartitionForkedError:
        return True
    async with reading(engine) as connection:
        checkpoint = (await read_checkpoints(connection)).get(partition)
    try:
        if checkpoint is not None and checkpoint.position:
            await archived.hot.read_log({partition: checkpoint.end}, 1)
    except (ForkError, TruncatedError):
        return True
    return False


async def _save(hot: HotStore, engine: AsyncEngine, partition: int, file: Path) -> int:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        saved = 0
        with os.fdopen(descriptor, "wb") as lines:
            async for stream, event in _only_hot(hot, engine, partition):
                lines.write(msgspec.json.encode(_line(stream, event)) + b"\n")
                saved += 1
            lines.flush()
            os.fsync(lines.fileno())
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            # The name of a new file is its folder's.
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SaveError(f"{file} cannot be written, so nothing was removed: {error}") from error
    return saved


async def _only_hot(hot: HotStore, engine: AsyncEngine, partition: int) -> AsyncIterator[tuple[str, StoredEvent]]:
    """Yield every event of the hot store that is not the same in the second copy."""
    streams = sorted(await hot.list_streams(partition))
    for start in range(0, len(streams), STREAMS_AT_ONCE):
        page = streams[start : start + STREAMS_AT_ONCE]
        async with reading(engine) as connection:
            known = await archive.read_streams(connection, page)
        for stream in page:
            same = set(known.get(stream, ()))
            after = 0
            while events := await hot.read_stream(stream, after, _PAGE_EVENTS):
                for event in events:
                    if event not in same:
                        yield stream, event
                after = events[-1].version


def _line(stream: str, event: StoredEvent) -> dict[str, Any]:
    line: dict[str, Any] = {
        "orderId": stream,
        "version": event.version,
        "epoch": event.epoch,
        "position": event.position,
        "commitId": event.commit_id,
        "hash": event.hash,
    }
    try:
        return {**line, "event": event.data.decode()}
    except UnicodeDecodeError:
        return {**line, "eventBase64": base64.b64encode(event.data).decode()}
