"""Reading the partitions' logs for subscribers: what follows a place, and where a place is to be found."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from app.api.problems import ProblemError
from app.api.resume import is_held
from app.api.streaming.places import LogPlace
from app.api.streaming.ring import Frame, LogNotChainedError, Ring, frames_of_commit
from app.api.streaming.scopes import (
    BEGINNING,
    AfterCursors,
    ClientScope,
    FromNow,
    FromStart,
    Last,
    LogScope,
    Since,
    format_cursors,
    parse_cursors,
)
from eventstore.errors import ForkError, PositionMissingError, StoreUnavailableError, TruncatedError
from eventstore.ids import LOG_START, Cursor, partition_of
from eventstore.store import EventStore, StoredCommit

EPOCHS_MAX: Final = 64
"""How many epochs back from its end a log is looked through for a position."""
STEP: Final = 256
WINDOW: Final = 200
SCAN_MAX: Final = 10_000
"""How many positions of a partition are looked through for its newest events."""

Admits = Callable[[Frame], Awaitable[bool]]


class LogReader:
    """Reads logs from the ring where it has them, else from the store, while ``catch_ups`` has room."""

    def __init__(self, store: EventStore, ring: Ring, catch_ups: asyncio.Semaphore) -> None:
        self._store = store
        self._ring = ring
        self._catch_ups = catch_ups

    def partitions(self, scope: LogScope) -> dict[int, Cursor]:
        """Return the beginnings of the logs that a scope covers."""
        if isinstance(scope, ClientScope):
            return {partition_of(scope.client, self._store.partitions): LOG_START}
        return dict.fromkeys(range(self._store.partitions), LOG_START)

    async def following(self, place: LogPlace, limit: int) -> tuple[list[Frame], bool]:
        """Return what follows a place, about ``limit`` frames at most, and whether that is less than there is now.

        Raises:
            LogNotChainedError: the log does not hold the place any more.
            ProblemError: ``cursor_unavailable``: what follows has left the log for ever.
            StoreUnavailableError: back off and ask again.
        """
        each = max(8, limit // len(place.cursors))
        frames: list[Frame] = []
        behind: dict[int, Cursor] = {}
        more = False
        heads = self._ring.heads
        for number, cursor in place.cursors.items():
            found = self._ring.log_after(number, cursor, each)
            if found is None:
                behind[number] = cursor
            else:
                frames += found
                more = more or len(found) == each
        if behind:
            commits = await self._read_behind(place, behind, each)
            # Partitions, and archive and log, are read one after the other, so a page that is not full need not be
            # the last. One that has nothing at all is: a forked partition yields nothing, wherever it ends.
            ends = {commit.partition: commit.end for commit in commits}
            more = more or (
                bool(commits) and any(_is_before({**behind, **ends}[number], heads, number) for number in behind)
            )
            frames += [
                frame
                for commit in commits
                for frame in frames_of_commit(commit)
                if frame.cursor.position > behind[commit.partition].position
            ]
        return frames, more

    async def _read_behind(self, place: LogPlace, behind: Mapping[int, Cursor], limit: int) -> Sequence[StoredCommit]:
        try:
            async with self._catch_ups:
                return await self._store.read_log(behind, limit)
        except (ForkError, PositionMissingError) as error:
            raise LogNotChainedError(error.partition, behind[error.partition], str(error)) from error
        except TruncatedError as error:
            raise await self._unavailable(place.scope, place.text, error) from error

    async def ends(self, scope: LogScope) -> dict[int, Cursor]:
        """Return where the logs that a scope covers end, as far as this process has read them."""
        ends = self._ring.heads or await self._store.log_ends()
        return {number: ends[number] for number in self.partitions(scope)}

    async def place(
        self, scope: LogScope, start: AfterCursors | FromStart | FromNow | Since | Last, admits: Admits
    ) -> LogPlace:
        """Return the place that a client asks for.

        Args:
            admits: whether an event is among those that :class:`Last` counts.

        Raises:
            ProblemError: ``fork`` or ``cursor_unavailable``: there is no such place, or nothing goes on from it.
            StoreUnavailableError: back off and ask again.
        """
        if isinstance(start, FromNow):
            return LogPlace(scope, await self.ends(scope))
        async with self._catch_ups:
            match start:
                case Since(at_us):
                    cursors = await self._gather(scope, lambda number, end: self._since(number, end, at_us))
                case Last(count):
                    cursors = await self._last(scope, count, admits)
                case FromStart():
                    cursors = self.partitions(scope)
                    await self._check(scope, cursors, BEGINNING)
                case AfterCursors(text):
                    cursors = parse_cursors(scope, self.partitions(scope), text)
                    await self._check(scope, cursors, text)
        return LogPlace(scope, cursors)

    async def _check(self, scope: LogScope, cursors: Mapping[int, Cursor], text: str) -> None:
        lost: dict[int, Cursor] = {}
        for number, cursor in cursors.items():
            if self._has(number, cursor):
                continue
            try:
                if cursor == LOG_START:
                    await self._store.read_log({number: cursor}, 1)
                elif not await is_held(self._store, number, cursor):
                    lost[number] = cursor
            except TruncatedError as error:
                raise await self._unavailable(scope, text, error) from error
        if lost:
            raise await self._fork(scope, cursors, lost)

    def _has(self, number: int, cursor: Cursor) -> bool:
        head = self._ring.heads.get(number, LOG_START)
        try:
            return cursor.position <= head.position and self._ring.log_after(number, cursor, 0) is not None
        except LogNotChainedError:
            return False

    async def _fork(self, scope: LogScope, cursors: Mapping[int, Cursor], lost: Mapping[int, Cursor]) -> ProblemError:
        asked, common = format_cursors(scope, cursors), dict(cursors)
        for number, cursor in lost.items():
            try:
                common[number] = await self._common(number, cursor)
            except TruncatedError as error:
                raise await self._unavailable(scope, asked, error) from error
        return ProblemError(
            "fork",
            f"what {asked} names did not last: forget the events after lastCommon.cursor, and resume after it",
            cursor=asked,
            lastCommon={"cursor": format_cursors(scope, common)},
        )

    async def _common(self, number: int, cursor: Cursor) -> Cursor:
        """Return the newest event that was in the log before ``cursor`` and is still: both histories have it."""
        end = (await self._store.log_ends())[number]
        low, high = 0, min(cursor.position - 1, end.position)
        while low < high:
            middle = (low + high + 1) // 2
            found = await self._commit_after(number, middle - 1, end)
            if found is not None and (found.epoch, middle) < (cursor.epoch, cursor.position):
                low = middle
            else:
                high = middle - 1
        return await self._at(number, low, end)

    async def _unavailable(self, scope: LogScope, text: str, error: TruncatedError) -> ProblemError:
        ends = await self._store.log_ends()
        oldest = await self._at(error.partition, error.oldest, ends[error.partition])
        covered = self.partitions(scope)
        query = f"?clientId={scope.client}" if isinstance(scope, ClientScope) else ""
        return ProblemError(
            "cursor_unavailable",
            f"the log of partition {error.partition} now begins at position {error.oldest} and the archive has nothing "
            "before it: take the snapshot, and subscribe with it",
            cursor=text,
            earliest=format_cursors(scope, {error.partition: oldest}),
            head=format_cursors(scope, {number: ends[number] for number in covered}),
            snapshot=f"/api/orders{query}",
        )

    async def _gather(self, scope: LogScope, find: Callable[[int, Cursor], Awaitable[Cursor]]) -> dict[int, Cursor]:
        ends = await self._store.log_ends()
        numbers = list(self.partitions(scope))
        try:
            found = await asyncio.gather(*(find(number, ends[number]) for number in numbers))
        except TruncatedError as error:
            raise await self._unavailable(scope, BEGINNING, error) from error
        return dict(zip(numbers, found, strict=True))

    async def _since(self, number: int, end: Cursor, at_us: int) -> Cursor:
        """Return the place before the first commit that was recorded at ``at_us`` or later."""
        low, step = end.position, STEP
        while low > 0:
            low, step = max(0, low - step), step * 4
            try:
                found = await self._commit_after(number, low, end)
            except TruncatedError as error:
                found = await self._commit_after(number, error.oldest - 1, end)
                low = error.oldest - 1
                if found is None or found.recorded_us >= at_us:
                    # What came before it since that time, if anything did, is gone.
                    raise
            if found is not None and found.recorded_us < at_us:
                break
        high = end.position
        while low < high:
            middle = (low + high) // 2
            found = await self._commit_after(number, middle, end)
            if found is None or found.recorded_us >= at_us:
                high = middle
            else:
                low = found.position
        return await self._at(number, low, end)

    async def _last(self, scope: LogScope, count: int, admits: Admits) -> dict[int, Cursor]:
        ends = await self._store.log_ends()
        places: dict[int, Cursor] = {}
        newest: list[tuple[int, int, int]] = []
        for number in self.partitions(scope):
            found, low = await self._newest(number, ends[number], count, admits)
            newest += found
            places[number] = ends[number] if len(found) >= count else await self._at(number, low, ends[number])
        newest.sort()
        for number in places:
            kept = [position for _, partition, position in newest[-count:] if partition == number]
            if kept:
                places[number] = await self._at(number, min(kept) - 1, ends[number])
            elif len(newest) >= count:
                places[number] = ends[number]
        return places

    async def _newest(
        self, number: int, end: Cursor, count: int, admits: Admits
    ) -> tuple[list[tuple[int, int, int]], int]:
        """Return (time, partition, position) of a log's newest events, and the position that was looked through to."""
        found: list[tuple[int, int, int]] = []
        upto = end.position
        while upto > max(0, end.position - SCAN_MAX) and len(found) < count:
            low = max(0, upto - WINDOW)
            try:
                commits = await self._read_between(number, low, upto, end)
            except TruncatedError as error:
                # The oldest event is where the place is, so that is left out.
                low = max(low, error.oldest)
                commits = await self._read_between(number, low, upto, end)
            for commit in commits:
                for frame in frames_of_commit(commit):
                    if low < frame.cursor.position <= upto and await admits(frame):
                        found.append((commit.recorded_us, number, frame.cursor.position))
            if low == upto:
                break
            upto = low
        return sorted(found)[-count:], upto

    async def _read_between(self, number: int, low: int, upto: int, end: Cursor) -> list[StoredCommit]:
        """Return the commits with the events after ``low`` up to ``upto``; an answer ends where the archive does.

        Raises:
            TruncatedError: they have left the log.
        """
        commits: list[StoredCommit] = []
        while low < upto and (page := await self._read_from(number, low, end, WINDOW)):
            commits += page
            low = page[-1].position
        return commits

    async def _at(self, number: int, position: int, end: Cursor) -> Cursor:
        """Return the cursor of the event at a position; the log's beginning for position 0."""
        if position == end.position:
            return end
        if position <= 0:
            return LOG_START
        commit = await self._commit_after(number, position - 1, end)
        if commit is None:
            raise LogNotChainedError(number, Cursor(end.epoch, position), "its end")
        return frames_of_commit(commit)[position - commit.position - 1].cursor

    async def _commit_after(self, number: int, position: int, end: Cursor) -> StoredCommit | None:
        """Return the commit that has the event after a position, whatever its epoch; None at the log's end."""
        commits = await self._read_from(number, position, end, 1)
        return commits[0] if commits else None

    async def _read_from(self, number: int, position: int, end: Cursor, limit: int) -> Sequence[StoredCommit]:
        """Return commits with the events after a position, whatever its epoch.

        Raises:
            TruncatedError: that has left the log.
        """
        if position >= end.position:
            return ()
        # Which epoch a position is of is not known; a place in another one is answered with a hole.
        for epoch in range(end.epoch, max(end.epoch - EPOCHS_MAX, -1), -1):
            try:
                return await self._store.read_log({number: Cursor(epoch, position)}, limit)
            except PositionMissingError:
                continue
        raise StoreUnavailableError(f"partition {number}: no place at position {position} was found")


def _is_before(cursor: Cursor, heads: Mapping[int, Cursor], number: int) -> bool:
    return number not in heads or cursor.position < heads[number].position
