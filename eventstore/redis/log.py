"""The logs of all partitions: read from a cursor whose event they still hold, and trimmed at the old end."""

from collections.abc import Mapping, Sequence

from eventstore.errors import ForkError, PositionMissingError, StoreUnavailableError, TruncatedError
from eventstore.ids import LOG_START, Cursor
from eventstore.redis.connection import Pipeline
from eventstore.redis.entries import stored_commit
from eventstore.store import StoredCommit


class Logs:
    """See the methods of :class:`eventstore.store.EventStore` and :class:`eventstore.hot.HotStore`."""

    def __init__(self, pipeline: Pipeline, keys: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._keys = [f"{prefix}:log" for prefix in keys]
        # What each partition's log is known to hold, and the generation of connections since which it is.
        self._held: dict[int, tuple[Cursor, int]] = {}

    async def read(self, after: Mapping[int, Cursor], limit: int, wait_seconds: float) -> list[StoredCommit]:
        """See :meth:`EventStore.read_log`."""
        generation = self._pipeline.generation
        for number, cursor in after.items():
            if cursor.anchor and self._held.get(number) != (cursor, generation):
                await self._require(number, cursor)
        streams = {self._keys[number]: cursor.entry_id for number, cursor in after.items()}
        numbers = {self._keys[number].encode(): number for number in after}
        replies = await self._pipeline.read_streams("XREAD", limit, wait_seconds, streams)
        if not replies:
            await self._require_ends(after)
        commits: list[StoredCommit] = []
        for key, entries in replies:
            number = numbers[key]
            read = [stored_commit(number, entry) for entry in entries]
            await self._require_dense(after[number], read)
            commits += read
            self._held[number] = (read[-1].end, generation)
        return commits

    async def _require_dense(self, start: Cursor, commits: Sequence[StoredCommit]) -> None:
        last = start
        for commit in commits:
            first = commit.position - len(commit.events) + 1
            within = last is start and commit.epoch == start.epoch and first <= start.position < commit.position
            if first != last.position + 1 and not within:
                if last is start:
                    await self._explain(commit.partition, start)
                raise PositionMissingError(commit.partition, last.position + 1, first)
            last = commit.end

    async def _require_ends(self, after: Mapping[int, Cursor]) -> None:
        """Nothing follows these cursors: require that this is because the logs end there."""
        for number, cursor in after.items():
            end = await self._end(number)
            if end.position < cursor.position or (end.position == cursor.position and end.epoch != cursor.epoch):
                await self._explain(number, cursor)
                if end.position < cursor.position:
                    raise PositionMissingError(number, cursor.position, end.position)

    async def _explain(self, number: int, cursor: Cursor) -> None:
        """Raise why a read from ``cursor`` went wrong, if the log's own state says so."""
        if cursor.anchor:
            await self._require(number, cursor)
        start = await self.start(number)
        if start > cursor.position + 1:
            raise TruncatedError(number, cursor, start)

    def doubt(self, number: int) -> None:
        """Ask a partition's log again what it holds, at the next read: it may have lost something."""
        self._held.pop(number, None)

    async def _require(self, number: int, cursor: Cursor) -> None:
        generation = self._pipeline.generation
        found = await self._pipeline.execute("XRANGE", self._keys[number], cursor.entry_id, "+", "COUNT", 1)
        commit = stored_commit(number, found[0]) if found else None
        anchor = anchor_at(commit, cursor) if commit else ""
        if anchor != cursor.anchor:
            start = await self.start(number)
            if not anchor and start > cursor.position:
                raise TruncatedError(number, cursor, start)
            raise ForkError(number, cursor, anchor)
        self._held[number] = (cursor, generation)

    async def ends(self) -> dict[int, Cursor]:
        """See :meth:`EventStore.log_ends`."""
        return {number: await self._end(number) for number in range(len(self._keys))}

    async def _end(self, number: int) -> Cursor:
        newest = await self._pipeline.execute("XREVRANGE", self._keys[number], "+", "-", "COUNT", 1)
        return stored_commit(number, newest[0]).end if newest else LOG_START

    async def start(self, number: int) -> int:
        """See :meth:`HotStore.log_start`."""
        oldest = await self._pipeline.execute("XRANGE", self._keys[number], "-", "+", "COUNT", 1)
        if not oldest:
            return 0
        commit = stored_commit(number, oldest[0])
        return commit.position - len(commit.events) + 1

    async def trim(self, number: int, keep: Cursor) -> int:
        """See :meth:`HotStore.trim_log`."""
        key = self._keys[number]
        found = await self._pipeline.execute("XRANGE", key, keep.entry_id, "+", "COUNT", 1)
        anchor = anchor_at(stored_commit(number, found[0]), keep) if found else ""
        if not anchor or keep.anchor not in ("", anchor):
            raise StoreUnavailableError(f"the log of partition {number} does not hold {keep}: nothing was removed")
        return int(await self._pipeline.execute("XTRIM", key, "MINID", "=", found[0][0]))


def anchor_at(commit: StoredCommit, cursor: Cursor) -> str:
    """Return the anchor of the event that ``commit`` has at the place of ``cursor``; "" for none."""
    first = commit.position - len(commit.events) + 1
    if commit.epoch != cursor.epoch or not first <= cursor.position <= commit.position:
        return ""
    return commit.anchors[cursor.position - first]
