"""The projector: follows the log, and moves rows, archive and checkpoints together, one transaction per batch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, assert_never

from msgspec import Struct
from psycopg.errors import QueryCanceled
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.errors import (
    ForkError,
    PartitionForkedError,
    PositionMissingError,
    StoreUnavailableError,
    TruncatedError,
)
from eventstore.ids import event_id
from eventstore.store import EventStore, StoredCommit
from projections.archive.epochs import fences
from projections.checkpoints import Checkpoint, Checkpoints, adopt_checkpoints, read_checkpoints
from projections.database import DATABASE_OUTAGES, reading
from projections.errors import ArchiveConflictError
from projections.fold.histories import Parked
from projections.projector.batches import Batch, Faults, Standing, batch_of, compare
from projections.projector.leases import Leases
from projections.projector.refusals import REFUSALS, find_fault, require_refusal
from projections.projector.writing import bounded, lock_all, write

log = logging.getLogger(__name__)

BATCH_COMMITS_MAX: Final = 5000
BATCH_COMMITS_START: Final = 1000
BATCH_SECONDS: Final = 0.5
"""How long a transaction is meant to take: batches shrink above, and grow below half of it while they are full."""
WAIT_SECONDS: Final = 0.5
"""How long one read of a quiet log waits; the bound on how late a request to stop is seen."""

GATHER_SECONDS: Final = 0.02
"""Pause after a batch: the first event of a quiet log is projected at once, those of a busy one in larger batches."""
ASIDE_SECONDS: Final = 5.0
"""A partition whose log cannot be followed is left out for so long before it is looked at again."""
IN_VAIN_MAX: Final = 3
"""Batches in a row that nobody else projected and that must not be: then this reader's server is the wrong one."""
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0

STANDSTILLS: Final = (ForkError, PartitionForkedError, TruncatedError, PositionMissingError, ArchiveConflictError)
"""Why one partition cannot be followed, while the others can."""

Reach = Callable[[str, Batch], None]
"""Called with the name of each point that a batch passes: ``locked``, ``written``, ``committed``; for crash tests."""


class Projected(Struct, frozen=True):
    """The batch is committed; ``ends`` are the checkpoints it moved."""

    events: int
    ends: dict[int, Checkpoint]


class Overtaken(Struct, frozen=True):
    """A checkpoint is not where the batch continues; nothing of it was written. Read on from ``found``."""

    found: Checkpoints
    standing: dict[int, Standing]


class Fenced(Struct, frozen=True):
    """Nothing was written: others own the partitions now, or their log is that of a server that was replaced."""

    partitions: list[int]
    found: Checkpoints
    """Empty where a lease was lost."""


class Projector:
    """Projects one event store into one database.

    Several may run, in any number of processes: each partition has one owner, and another takes over when that falls
    silent. Each batch is applied once.

    Args:
        store: open; closed by the caller.
        engine: on a database with this code's schema; disposed of by the caller.
        sleep: waits between attempts while a server is down.
        batch_commits_max: commits in one transaction, at least one for each partition.
        on_fork: called when the log does not hold what was projected last.
        reach: told each point that a batch passes.
    """

    def __init__(
        self,
        store: EventStore,
        engine: AsyncEngine,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        batch_commits_max: int = BATCH_COMMITS_MAX,
        on_fork: Callable[[ForkError], Awaitable[None]] | None = None,
        reach: Reach = lambda point, batch: None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._sleep = sleep
        self._limit_max = max(1, batch_commits_max // store.partitions)
        self._limit = min(self._limit_max, max(1, BATCH_COMMITS_START // store.partitions))
        self._retry_seconds = RETRY_SECONDS_MIN
        self._on_fork = on_fork
        self._reach = reach
        self._in_vain = 0
        self._leases = Leases(engine)
        self._aside: dict[int, float] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Project the partitions that this projector owns until ``stopping`` is set, then give them back.

        While a server is down, wait and try again, for as long as it takes. A partition whose log is forked, truncated
        or has a hole stands still, with its reason in ``leases.problem``; it is looked at again and again.

        Raises:
            ReadModelMismatchError: the database is another store's.
        """
        while not stopping.is_set():
            try:
                await self._follow(stopping)
            except (*DATABASE_OUTAGES, StoreUnavailableError) as error:
                if isinstance(error, OperationalError) and isinstance(error.orig, QueryCanceled):
                    self._limit = max(1, self._limit // 2)
                problem = str(error).partition("\n")[0]
                log.warning("projector_outage", extra={"problem": problem, "retry_seconds": self._retry_seconds})
                await self._pause(self._retry_seconds, stopping)
                self._retry_seconds = min(self._retry_seconds * 2, RETRY_SECONDS_MAX)
        try:
            await self._leases.leave()
        except DATABASE_OUTAGES as error:
            # Then they end by themselves.
            log.warning("leases_kept", extra={"problem": str(error).partition("\n")[0]})

    async def project_available(self) -> int:
        """Take all partitions, project what the log holds now, give them back; return the number of events projected.

        Whoever owned them is fenced, and takes them again afterwards.

        Raises:
            STANDSTILLS: the log and the database do not fit; everything before is projected, nothing was skipped.
            ReadModelMismatchError, and whatever a server that is down raises. Call again.
        """
        ends = await self._store.log_ends()
        checkpoints = await adopt_checkpoints(self._engine, self._store)
        await self._leases.take_all()
        try:
            # Also where nothing is new: the log must hold what was projected last.
            await self._store.read_log({number: at.end for number, at in checkpoints.items()}, 1)
            events = 0
            while behind := [n for n, end in ends.items() if checkpoints[n].position < end.position]:
                commits = await self._read({number: checkpoints[number] for number in behind}, 0)
                if not commits:
                    missing = checkpoints[behind[0]]
                    end = ends[missing.partition].position
                    raise PositionMissingError(missing.partition, missing.position + 1, end)
                events += await self._advance(commits, checkpoints)
                if not ends.keys() <= self._leases.held.keys():
                    await self._leases.take_all()
                    async with reading(self._engine) as connection:
                        checkpoints = await read_checkpoints(connection)
        finally:
            await self._leases.leave()
        return events

    async def _follow(self, stopping: asyncio.Event) -> None:
        checkpoints = await adopt_checkpoints(self._engine, self._store)
        while not stopping.is_set():
            if self._leases.is_due:
                before = self._leases.held.keys()
                await self._leases.renew()
                if self._leases.held.keys() - before:
                    async with reading(self._engine) as connection:
                        checkpoints = await read_checkpoints(connection)
            await self._look_again(checkpoints)
            ours = {n: at for n, at in checkpoints.items() if n in self._leases.held and n not in self._aside}
            commits: Sequence[StoredCommit] = ()
            try:
                if ours:
                    commits = await self._read(ours, WAIT_SECONDS)
                if commits:
                    await self._advance(commits, checkpoints)
            except STANDSTILLS as error:
                await self._set_aside(error)
            self._retry_seconds = RETRY_SECONDS_MIN
            if commits:
                await self._pause(GATHER_SECONDS, stopping)
            elif not ours:
                await self._pause(WAIT_SECONDS, stopping)

    async def _read(self, after: Checkpoints, wait_seconds: float) -> Sequence[StoredCommit]:
        return await self._store.read_log({n: at.end for n, at in after.items()}, self._limit, wait_seconds)

    async def _set_aside(self, error: Exception) -> None:
        """Leave a partition out for a while; the others go on."""
        assert isinstance(error, STANDSTILLS)
        problem = f"{type(error).__name__}: {error}"
        if self._leases.problems.get(error.partition) != problem:
            log.error("partition_stands_still", extra={"partition": error.partition, "problem": str(error)})
        if isinstance(error, ForkError) and self._on_fork is not None:
            await self._on_fork(error)
        self._aside[error.partition] = asyncio.get_running_loop().time() + ASIDE_SECONDS
        await self._leases.tell(error.partition, problem)

    async def _look_again(self, checkpoints: dict[int, Checkpoint]) -> None:
        """Take partitions that were left out long enough back in, if their logs can be read now.

        Whether what they hold can be projected, the next batch shows: until then their problem stands.
        """
        now = asyncio.get_running_loop().time()
        due = [number for number, until in self._aside.items() if until <= now]
        if due:
            # What stood in the way may have been the database, set back since.
            async with reading(self._engine) as connection:
                checkpoints.update(await read_checkpoints(connection))
        for partition in due:
            if partition not in self._leases.held:
                del self._aside[partition]
                continue
            try:
                pending = await self._read({partition: checkpoints[partition]}, 0)
            except STANDSTILLS as error:
                await self._set_aside(error)
            else:
                del self._aside[partition]
                if not pending:
                    await self._go_on([partition])

    async def _go_on(self, partitions: Iterable[int]) -> None:
        for partition in self._leases.problems.keys() & set(partitions):
            log.info("partition_goes_on", extra={"partition": partition})
            await self._leases.tell(partition, None)

    async def _advance(self, commits: Sequence[StoredCommit], checkpoints: dict[int, Checkpoint]) -> int:
        """Project ``commits``, bring ``checkpoints`` up to date, and return the number of events projected."""
        try:
            outcome = await self._project(commits, checkpoints, {})
        except REFUSALS as refusal:
            return await self._narrow(commits, checkpoints, refusal)
        match outcome:
            case Projected(events, ends):
                self._in_vain = 0
                checkpoints.update(ends)
                await self._go_on(ends)
                return events
            case Fenced(partitions, found) if not found:
                log.info("projector_fenced", extra={"partitions": partitions})
                self._leases.forget(partitions)
                return 0
            case Fenced(_, found) if found == checkpoints and self._in_vain == IN_VAIN_MAX:
                raise StoreUnavailableError("the log is read from a server that has been replaced")
            case Fenced(_, found) | Overtaken(found, _):
                self._in_vain += 1
                moved = {n: [checkpoints[n].position, at.position] for n, at in found.items() if at != checkpoints[n]}
                log.info("projector_overtaken", extra={"moved": moved, "outcome": type(outcome).__name__})
                checkpoints.update(found)
                return 0
            case unreachable:
                assert_never(unreachable)

    async def _narrow(
        self, commits: Sequence[StoredCommit], checkpoints: dict[int, Checkpoint], refusal: Exception
    ) -> int:
        """Project the halves of a batch that the database refuses; of a single commit, find the event and go on."""
        if len(commits) > 1:
            done, half = 0, len(commits) // 2
            for part in (commits[:half], commits[half:]):
                # What the first half did not get to do, the second must not build on: it is read again.
                if _continues(part, checkpoints):
                    done += await self._advance(part, checkpoints)
            return done
        require_refusal(refusal, commits[0])
        return await self._project_without(commits[0], checkpoints)

    async def _project_without(self, commit: StoredCommit, checkpoints: dict[int, Checkpoint]) -> int:
        """Project a commit with each event that the database refuses as one that cannot be applied."""
        faults: Faults = {}
        for _ in commit.events:
            async with self._engine.connect() as connection:
                faults = await find_fault(connection, commit, checkpoints, faults)
            try:
                outcome = await self._project([commit], checkpoints, faults)
            except REFUSALS as refusal:
                require_refusal(refusal, commit)
                continue
            if isinstance(outcome, Projected):
                checkpoints.update(outcome.ends)
                return outcome.events
            return 0
        raise StoreUnavailableError(
            f"PostgreSQL refuses {event_id(commit.stream, commit.version)} whatever is left out"
        )

    async def _project(
        self, commits: Sequence[StoredCommit], assumed: Checkpoints, faults: Faults
    ) -> Projected | Overtaken | Fenced:
        batch = batch_of(commits, assumed, faults)
        started = asyncio.get_running_loop().time()
        async with bounded(self._engine) as connection:
            moving = await lock_all(connection, batch.ends)
            if batch.ends.keys() - moving.found.keys():
                raise StoreUnavailableError("the database has lost its checkpoints: it is adopted again")
            if lost := await self._leases.lost(connection, batch.ends):
                return Fenced(lost, {})
            standing = {n: compare(assumed[n], end, moving.found[n]) for n, end in batch.ends.items()}
            if any(each != "ok" for each in standing.values()):
                return Overtaken(await read_checkpoints(connection), standing)
            if replaced := _replaced(batch.places, await fences(connection, list(batch.ends))):
                return Fenced(replaced, await read_checkpoints(connection))
            self._reach("locked", batch)
            parked = await write(connection, batch, moving)
            self._reach("written", batch)
        self._reach("committed", batch)
        _tell_quarantined(parked)
        self._adapt(commits, asyncio.get_running_loop().time() - started)
        return Projected(len(batch.entries), batch.ends)

    def _adapt(self, commits: Sequence[StoredCommit], seconds: float) -> None:
        if seconds > BATCH_SECONDS:
            self._limit = max(1, self._limit // 2)
        elif seconds < BATCH_SECONDS / 2 and len(commits) >= self._limit:
            self._limit = min(self._limit_max, 2 * self._limit)

    async def _pause(self, seconds: float, stopping: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _continues(commits: Sequence[StoredCommit], checkpoints: Checkpoints) -> bool:
    firsts = {commit.partition: commit for commit in reversed(commits)}
    return all(c.position - len(c.events) == checkpoints[n].position for n, c in firsts.items())


def _replaced(places: Sequence[tuple[int, int, int]], epochs: Mapping[int, Sequence[tuple[int, int]]]) -> list[int]:
    """Return the partitions with a place beyond the end of its epoch: read from a server that has been replaced."""
    return [
        partition
        for partition, epoch, position in places
        if any(epoch < later and position > end for later, end in epochs.get(partition, ()))
    ]


def _tell_quarantined(parked: Sequence[Parked]) -> None:
    for event in parked:
        if event.reason is not None:
            facts = {"order_id": event.order_id, "version": event.version, "reason": event.reason}
            log.error("order_quarantined", extra=facts)
