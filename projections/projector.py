"""The projector: follows the log, and moves rows, archive and checkpoints together, one transaction per batch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, assert_never

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.errors import ForkError, PositionMissingError, StoreUnavailableError
from eventstore.ids import event_id
from eventstore.store import EventStore, StoredCommit
from projections.archive.epochs import fences
from projections.archive.lines import EventLine, copy_events, event_line
from projections.checkpoints import (
    Checkpoint,
    Checkpoints,
    adopt_checkpoints,
    lock_checkpoints,
    move_checkpoints,
    read_checkpoints,
)
from projections.database import DATABASE_OUTAGES
from projections.errors import FrameError
from projections.fold.frames import Frame, decode_frame
from projections.fold.orders import OrderRow, apply
from projections.models.orders import read_orders, write_orders

log = logging.getLogger(__name__)

BATCH_COMMITS_MAX: Final = 5000
WAIT_SECONDS: Final = 0.5
"""How long one read of a quiet log waits; the bound on how late a request to stop is seen."""

GATHER_SECONDS: Final = 0.02
"""Pause after a batch: the first event of a quiet log is projected at once, those of a busy one in larger batches."""
IN_VAIN_MAX: Final = 3
"""Batches in a row that nobody else projected and that must not be: then this reader's server is the wrong one."""
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0


class Projected(Struct, frozen=True):
    """The batch is committed; ``ends`` are the checkpoints it moved."""

    events: int
    ends: dict[int, Checkpoint]


class Overtaken(Struct, frozen=True):
    """Somebody else moved a checkpoint since it was read; nothing of the batch was written. Read them again."""

    found: Checkpoints


class _Batch(Struct, frozen=True):
    frames: list[Frame]
    lines: list[EventLine]
    ends: dict[int, Checkpoint]
    places: list[tuple[int, int, int]]
    """Partition, epoch and position of each commit."""


class Projector:
    """Projects one event store into one database.

    Several may run: each batch is applied once, the others notice and go on behind it.

    Args:
        store: open; closed by the caller.
        engine: on a database with this code's schema; disposed of by the caller.
        sleep: waits between attempts while a server is down.
        batch_commits_max: commits in one transaction, at least one for each partition.
        on_fork: called when the log does not hold what was projected last, after which reading must not find that
            again; None: :meth:`run` raises it.
    """

    def __init__(
        self,
        store: EventStore,
        engine: AsyncEngine,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        batch_commits_max: int = BATCH_COMMITS_MAX,
        on_fork: Callable[[ForkError], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._sleep = sleep
        self._limit = max(1, batch_commits_max // store.partitions)
        self._retry_seconds = RETRY_SECONDS_MIN
        self._on_fork = on_fork
        self._in_vain = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Project until ``stopping`` is set. While a server is down, wait and try again, for as long as it takes.

        Raises:
            ReadModelMismatchError, ForkError, TruncatedError, PositionMissingError, OrderMismatchError, FrameError:
                the log and the database do not fit; everything before is projected, nothing was skipped.
        """
        while not stopping.is_set():
            try:
                await self._follow(stopping)
            except ForkError as fork:
                if self._on_fork is None:
                    raise
                await self._on_fork(fork)
            except (*DATABASE_OUTAGES, StoreUnavailableError) as error:
                problem = str(error).partition("\n")[0]
                log.warning("projector_outage", extra={"problem": problem, "retry_seconds": self._retry_seconds})
                await self._pause(self._retry_seconds, stopping)
                self._retry_seconds = min(self._retry_seconds * 2, RETRY_SECONDS_MAX)

    async def project_available(self) -> int:
        """Project what the log holds now, and return the number of events that this call projected.

        Raises:
            as :meth:`run`, and whatever a server that is down raises. Call again.
        """
        ends = await self._store.log_ends()
        checkpoints = await adopt_checkpoints(self._engine, self._store)
        # Also where nothing is new: the log must hold what was projected last.
        await self._store.read_log({number: at.end for number, at in checkpoints.items()}, 1)
        events = 0
        while behind := [n for n, end in ends.items() if checkpoints[n].position < end.position]:
            commits = await self._read({number: checkpoints[number] for number in behind}, 0)
            if not commits:
                missing = checkpoints[behind[0]]
                raise PositionMissingError(missing.partition, missing.position + 1, ends[missing.partition].position)
            events += await self._advance(commits, checkpoints)
        return events

    async def _follow(self, stopping: asyncio.Event) -> None:
        checkpoints = await adopt_checkpoints(self._engine, self._store)
        while not stopping.is_set():
            commits = await self._read(checkpoints, WAIT_SECONDS)
            if commits:
                await self._advance(commits, checkpoints)
            self._retry_seconds = RETRY_SECONDS_MIN
            if commits:
                await self._pause(GATHER_SECONDS, stopping)

    async def _read(self, after: Checkpoints, wait_seconds: float) -> Sequence[StoredCommit]:
        return await self._store.read_log({n: at.end for n, at in after.items()}, self._limit, wait_seconds)

    async def _advance(self, commits: Sequence[StoredCommit], checkpoints: dict[int, Checkpoint]) -> int:
        """Project ``commits``, bring ``checkpoints`` up to date, and return the number of events projected."""
        match await self._project(_batch(commits, checkpoints), checkpoints):
            case Projected(events, ends):
                self._in_vain = 0
                checkpoints.update(ends)
                return events
            case Overtaken(found) if found == checkpoints and self._in_vain == IN_VAIN_MAX:
                raise StoreUnavailableError("the log is read from a server that has been replaced")
            case Overtaken(found):
                self._in_vain += 1
                moved = {n: [checkpoints[n].position, at.position] for n, at in found.items() if at != checkpoints[n]}
                log.info("projector_overtaken", extra={"moved": moved})
                checkpoints.update(found)
                return 0
            case unreachable:
                assert_never(unreachable)

    async def _project(self, batch: _Batch, assumed: Checkpoints) -> Projected | Overtaken:
        async with self._engine.begin() as connection:
            locked = await lock_checkpoints(connection, batch.ends)
            if any(assumed[number] != checkpoint for number, checkpoint in locked.items()) or _is_fenced(
                batch.places, await fences(connection, list(batch.ends))
            ):
                return Overtaken(await read_checkpoints(connection))
            await _write(connection, batch)
        return Projected(len(batch.frames), batch.ends)

    async def _pause(self, seconds: float, stopping: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _write(connection: AsyncConnection, batch: _Batch) -> None:
    changed = await _fold(connection, batch.frames)
    await copy_events(connection, batch.lines)
    await write_orders(connection, changed)
    await move_checkpoints(connection, batch.ends)


async def _fold(connection: AsyncConnection, frames: Sequence[Frame]) -> list[OrderRow]:
    """Return the rows after ``frames``, each order once."""
    known = await read_orders(connection, {frame.order_id for frame in frames})
    for frame in frames:
        known[frame.order_id] = apply(known.get(frame.order_id), frame)
    return list(known.values())


def _batch(commits: Sequence[StoredCommit], checkpoints: Checkpoints) -> _Batch:
    """Decode ``commits``, which must continue ``checkpoints`` without a hole."""
    frames: list[Frame] = []
    lines: list[EventLine] = []
    ends: dict[int, Checkpoint] = {}
    for commit in commits:
        last = ends.get(commit.partition, checkpoints[commit.partition])
        first = commit.position - len(commit.events) + 1
        if first != last.position + 1:
            raise PositionMissingError(commit.partition, last.position + 1, first)
        for index, data in enumerate(commit.events):
            frame = _frame_of(commit, index, data)
            frames.append(frame)
            lines.append(event_line(commit, first + index, frame, data))
        ends[commit.partition] = Checkpoint(commit.partition, commit.epoch, commit.position, commit.anchors[-1])
    places = [(commit.partition, commit.epoch, commit.position) for commit in commits]
    return _Batch(frames, lines, ends, places)


def _is_fenced(places: Sequence[tuple[int, int, int]], epochs: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
    """Whether a place lies beyond the end of its epoch: it was read from a server that has been replaced since."""
    return any(
        epoch < later and position > end
        for partition, epoch, position in places
        for later, end in epochs.get(partition, ())
    )


def _frame_of(commit: StoredCommit, index: int, data: bytes) -> Frame:
    """Decode an event of ``commit`` and require what the log says of it: order, version, hash."""
    version = commit.version - len(commit.events) + 1 + index
    name = event_id(commit.stream, version)
    frame = decode_frame(data, name)
    if (frame.order_id, frame.seq) != (commit.stream, version):
        raise FrameError(name, f"says it is {event_id(frame.order_id, frame.seq)}")
    if not frame.meta.hash.startswith(commit.anchors[index]):
        raise FrameError(name, f"has hash {frame.meta.hash}, its log entry {commit.anchors[index]}")
    return frame
