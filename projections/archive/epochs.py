"""Epochs: registered in PostgreSQL, opened in Redis once it holds again what PostgreSQL has."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.errors import (
    ForkError,
    PartitionForkedError,
    PartitionOpenError,
    SeamError,
    StoreMismatchError,
    StoreUnavailableError,
    TruncatedError,
)
from eventstore.hot import HotStore, PartitionRecord, Restored
from eventstore.ids import LOG_START, Cursor
from eventstore.store import StoredEvent
from projections.archive import events as archive
from projections.archive.healing import (
    COMMITS_AT_ONCE,
    Obligations,
    lost_commits,
    open_streams,
    require_whole,
    whole_stream,
)
from projections.checkpoints import Checkpoint, bind, lock_checkpoints
from projections.database import DATABASE_OUTAGES
from projections.schema.tables import epochs, order_events

log: Final = logging.getLogger(__name__)

SETTING: Final = "setting:"
"""How an incarnation begins that is a setting's, not the server's own."""
LOCK_SECONDS: Final = 10
"""How long an opener waits for another one, and how long a frozen one may hold the row."""
OPENINGS_MAX: Final = 2
"""Partitions that one process opens at the same time; each takes up to two connections."""
_PAGE: Final = 1000


class Opened(Struct, frozen=True):
    """What opening a partition came to; ``healed`` events were written back."""

    epoch: int
    healed: int


class Epochs:
    """Opens partitions whose server may have lost data; one opener at a time, whatever process it is in.

    Args:
        hot: the store that lost something.
        engine: on a database with this code's schema; disposed of by the caller. Three connections or more.
        obligations: what the application's streams oblige to.
    """

    def __init__(self, hot: HotStore, engine: AsyncEngine, obligations: Obligations) -> None:
        self._hot = hot
        self._engine = engine
        self._obligations = obligations
        self._opening: dict[int, asyncio.Task[Opened]] = {}
        self._places = asyncio.Semaphore(OPENINGS_MAX)

    async def open(self, partition: int) -> Opened:
        """Return once the partition is open: heal it and open its next epoch, unless somebody else just did.

        Raises:
            PartitionForkedError: the two copies differ; nothing was opened.
            StoreMismatchError: they are the copies of different stores. Correct a URL.
            StoreUnavailableError: one of the servers does not answer, or another opener is slow. Try again.
        """
        running = self._opening.get(partition)
        if running is None:
            running = self._opening[partition] = asyncio.create_task(self._open(partition))
            running.add_done_callback(lambda done: self._opened(partition, done))
        return await asyncio.shield(running)

    def _opened(self, partition: int, done: asyncio.Task[Opened]) -> None:
        self._opening.pop(partition, None)
        if not done.cancelled():
            # Whoever waited has it; where all of them were cancelled, nobody asks for it any more.
            done.exception()

    async def _open(self, partition: int) -> Opened:
        try:
            async with self._places, self._alone(partition) as (connection, checkpoint):
                return await self._reopen(connection, checkpoint)
        except PartitionOpenError as error:
            raise StoreUnavailableError(
                f"partition {partition} is open: another process has just opened it, or its server was set back to an "
                "older epoch under the same identity; then set a greater ORDERTAPE_STORE_EPOCH in every process"
            ) from error
        except DATABASE_OUTAGES as error:
            problem = str(error).partition("\n")[0]
            raise StoreUnavailableError(
                f"partition {partition} cannot be opened without PostgreSQL: {problem}"
            ) from error

    @asynccontextmanager
    async def _alone(self, partition: int) -> AsyncIterator[tuple[AsyncConnection, Checkpoint]]:
        """Hold the partition's row: no other opener, and no projector, moves while the context is open."""
        async with self._engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            # A frozen opener must not hold the row for ever; the store's own checks stop it when it wakes up.
            await connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{LOCK_SECONDS}s'"))
            checkpoints = await lock_checkpoints(connection, [partition])
            if partition not in checkpoints:
                raise StoreUnavailableError(f"partition {partition} has no checkpoint in PostgreSQL yet")
            yield connection, checkpoints[partition]

    async def _reopen(self, connection: AsyncConnection, checkpoint: Checkpoint) -> Opened:
        partition = checkpoint.partition
        record = await self._hot.partition_record(partition)
        store_id = await _store_id(connection, record)
        known = await _last_epoch(connection, partition)
        if record.is_open and record.epoch == known:
            return Opened(record.epoch, 0)
        if record.is_open and record.epoch == 1 and not known:
            # A new store was opened before there was a schema to register that in.
            await self._register(record, 1, LOG_START, 0)
            return Opened(1, 0)
        _require_newest(record, known, await _last_incarnation(connection, partition))
        healed = await self._heal(connection, record, checkpoint)
        after = await self._hot.partition_record(partition)
        if after.found != record.found:
            raise StoreUnavailableError(f"the server of partition {partition} was replaced while it was opened")
        end = after.end
        epoch = 1 + max(known, record.epoch, record.end.epoch, checkpoint.epoch)
        # Registered first: an epoch that is open but not registered would let events of the one before it in.
        await self._register(record, epoch, end, healed)
        try:
            await self._hot.open_epoch(partition, store_id, epoch, end)
        except SeamError as error:
            raise StoreUnavailableError(f"partition {partition} changed while it was opened: {error}") from error
        log.warning(
            "epoch_opened",
            extra={"partition": partition, "epoch": epoch, "position": end.position, "healed": healed},
        )
        return Opened(epoch, healed)

    async def _register(self, record: PartitionRecord, epoch: int, end: Cursor, healed: int) -> None:
        row = {
            "partition": record.partition,
            "epoch": epoch,
            "position": end.position,
            "incarnation": record.found,
            "healed": healed,
        }
        later = (epochs.c.partition == record.partition, epochs.c.epoch > end.epoch, epochs.c.position < end.position)
        async with self._engine.begin() as connection:
            # What the log holds was not lost, whatever an opener wrote down that did not get to open its epoch.
            await connection.execute(update(epochs).where(*later).values(position=end.position))
            await connection.execute(insert(epochs).values(row))

    async def _heal(self, connection: AsyncConnection, record: PartitionRecord, checkpoint: Checkpoint) -> int:
        partition, end = record.partition, record.end
        everything_lost = end.position == 0 and checkpoint.position > 0
        if everything_lost:
            anchor = await _anchor(connection, checkpoint)
            healed = await self._restore_streams(connection, partition)
            # Last of all: until then the log is empty, and whoever takes over from here begins anew.
            await self._restore(connection, partition, [anchor])
            return healed
        if end.position < checkpoint.position:
            await _require_common(connection, partition, end)
        elif checkpoint.position:
            await self._require_checkpoint(checkpoint)
        healed = 0
        pages = lost_commits(connection, partition, end.position, checkpoint.position, self._obligations)
        async for page in pages:
            await self._restore(connection, partition, page)
            healed += sum(len(piece.events) for piece in page)
        if not record.store_id:
            # More than a suffix was lost: tasks and timers may be gone, too.
            healed += await self._restore_streams(connection, partition)
            await self._restore_duties(partition, checkpoint.end)
        return healed

    async def _require_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Require that Redis, which is not behind, holds the event that PostgreSQL ends with."""
        try:
            await self._hot.read_log({checkpoint.partition: checkpoint.end}, 1)
        except ForkError as error:
            found = f"another event, {error.found}" if error.found else "none"
            raise PartitionForkedError(
                checkpoint.partition, f"PostgreSQL ends with {checkpoint.end}, Redis has {found} there"
            ) from error
        except TruncatedError as error:
            raise PartitionForkedError(
                checkpoint.partition, f"PostgreSQL ends with {checkpoint.end}, Redis begins at {error.oldest}"
            ) from error

    async def _restore(self, connection: AsyncConnection, partition: int, pieces: list[Restored]) -> None:
        for piece in pieces:
            try:
                await self._hot.restore(partition, [piece])
            except SeamError as error:
                await self._restore_after_seam(connection, partition, piece, error)

    async def _restore_after_seam(
        self, connection: AsyncConnection, partition: int, piece: Restored, seam: SeamError
    ) -> None:
        """Restore a commit whose stream is missing altogether; everything else that does not fit is a fork."""
        earlier = await archive.read_stream(connection, piece.stream)
        before = [event for event in earlier if event.version < piece.events[0].version]
        if not before or await self._hot.read_stream(piece.stream, 0, 1):
            raise PartitionForkedError(partition, str(seam)) from seam
        whole = whole_stream(partition, piece.stream, before, self._obligations)
        try:
            await self._hot.restore(partition, [whole, piece])
        except SeamError as error:
            raise PartitionForkedError(partition, str(error)) from error

    async def _restore_streams(self, connection: AsyncConnection, partition: int) -> int:
        """Restore what is missing of the open streams, and the duties of all of them; return how many events."""
        restored = 0
        async for page in open_streams(connection, partition, self._obligations):
            for piece in page:
                held = await self._held(piece.stream)
                missing = piece.events[len(held) :]
                if missing:
                    piece = replace(piece, events=missing, prev=held[-1].hash if held else "")
                else:
                    piece = Restored(stream=piece.stream, duties=self._obligations.duties(piece.stream, held))
                try:
                    await self._hot.restore(partition, [piece])
                except SeamError as error:
                    raise PartitionForkedError(partition, str(error)) from error
                restored += len(missing)
        return restored

    async def _restore_duties(self, partition: int, after: Cursor) -> None:
        """Restore the duties of the streams that only Redis has the last events of."""
        while page := await self._hot.read_log({partition: after}, COMMITS_AT_ONCE):
            for stream in dict.fromkeys(commit.stream for commit in page):
                held = await self._held(stream)
                if not held:
                    raise PartitionForkedError(partition, f"Redis has {stream} in its log, and not the stream itself")
                duties = self._obligations.duties(stream, held)
                await self._hot.restore(partition, [Restored(stream=stream, duties=duties)])
            after = page[-1].end

    async def _held(self, stream: str) -> list[StoredEvent]:
        """Return all events of a stream that Redis has."""
        held: list[StoredEvent] = []
        while page := await self._hot.read_stream(stream, len(held), _PAGE):
            held += page
            if len(page) < _PAGE:
                break
        return held


async def adopt(engine: AsyncEngine, store_id: str, partitions: int) -> None:
    """Bind the database to the store, if it belongs to none yet.

    Raises:
        ReadModelMismatchError: it is another store's. Correct a URL; nothing was changed.
    """
    async with engine.begin() as connection:
        await bind(connection, store_id, partitions)


async def fences(connection: AsyncConnection, partitions: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Return, by partition, each registered epoch with the last position of the epochs before it."""
    query = select(epochs.c.partition, epochs.c.epoch, epochs.c.position).where(epochs.c.partition.in_(partitions))
    found: dict[int, list[tuple[int, int]]] = {}
    for partition, epoch, position in await connection.execute(query.order_by(epochs.c.epoch)):
        found.setdefault(partition, []).append((epoch, position))
    return found


async def _last_epoch(connection: AsyncConnection, partition: int) -> int:
    found = await connection.scalar(select(func.max(epochs.c.epoch)).where(epochs.c.partition == partition))
    return found or 0


async def _last_incarnation(connection: AsyncConnection, partition: int) -> str:
    query = select(epochs.c.incarnation).where(epochs.c.partition == partition).order_by(epochs.c.epoch.desc()).limit(1)
    return await connection.scalar(query) or ""


def _require_newest(record: PartitionRecord, known: int, last: str) -> None:
    """Refuse a process whose server, or whose setting, names data older than those that an epoch was opened for."""
    found = record.found
    if record.is_open and record.epoch < known and found != last:
        raise StoreUnavailableError(
            f"the server of partition {record.partition} was replaced: it is in epoch {record.epoch}, but epoch "
            f"{known} was opened on another one; correct REDIS_URL, or set a greater ORDERTAPE_STORE_EPOCH in every "
            "process"
        )
    numbers = [text.removeprefix(SETTING) for text in (found, last)]
    if not last.startswith(SETTING) or (found.startswith(SETTING) and int(numbers[0]) >= int(numbers[1])):
        return
    raise StoreUnavailableError(
        f"the partition's epoch was opened with ORDERTAPE_STORE_EPOCH={numbers[1]}: this process must have the same "
        "setting, or a greater one after a loss"
    )


async def _store_id(connection: AsyncConnection, record: PartitionRecord) -> str:
    """Return the name of the store that the database belongs to, which must be that of the record, if there is one."""
    store_id = str((await connection.execute(text("SELECT store_id FROM store"))).scalar_one())
    if record.store_id not in ("", store_id):
        raise StoreMismatchError(
            f"PostgreSQL belongs to event store {store_id}, Redis to {record.store_id}: correct REDIS_URL or "
            "DATABASE_URL"
        )
    return store_id


async def _anchor(connection: AsyncConnection, checkpoint: Checkpoint) -> Restored:
    """Return the log entry at the checkpoint: the next position's witness."""
    first = await archive.read_log(connection, checkpoint.partition, checkpoint.position - 1, 1)
    if not first or first[0].end != checkpoint.end:
        raise PartitionForkedError(
            checkpoint.partition, f"PostgreSQL's archive does not hold its own checkpoint {checkpoint.end}"
        )
    events = await archive.read_stream(connection, first[0].stream, first[0].version - len(first[0].events))
    require_whole(checkpoint.partition, first[0].stream, events[: len(first[0].events)])
    return Restored(stream=first[0].stream, entry=first[0])


async def _require_common(connection: AsyncConnection, partition: int, end: Cursor) -> None:
    """Require that the event that Redis ends with is PostgreSQL's at that position."""
    if end.position == 0:
        return
    found = await archive.cursor_at(connection, partition, end.position)
    if found != end:
        last = await connection.scalar(
            select(func.max(order_events.c.position)).where(order_events.c.partition == partition)
        )
        raise PartitionForkedError(
            partition, f"Redis ends with {end}, PostgreSQL has {found or 'nothing'} there and ends at position {last}"
        )
