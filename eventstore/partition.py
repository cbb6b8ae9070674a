"""One partition of the store in memory: its data, and what appending, restoring and removing do to them."""

from typing import Final

from eventstore.errors import (
    EpochStaleError,
    ForkError,
    IdempotencyConflictError,
    PartitionOpenError,
    PositionMissingError,
    QueueFullError,
    SeamError,
    StoreUnavailableError,
    StreamExpiredError,
    TruncatedError,
    WrongVersionError,
)
from eventstore.hot import ClosedStream, Duties, PartitionRecord, Restored
from eventstore.ids import LOG_START, Cursor, created_ms
from eventstore.levels import MEMORY
from eventstore.rates import Rate, RateTaken, taken
from eventstore.store import (
    DIRECT_MAX,
    NEW_STREAM_SECONDS_MAX,
    WAITING,
    Append,
    Appended,
    AppendResult,
    Duplicate,
    Existing,
    IndexEntry,
    IndexRange,
    ParkedTask,
    StoredCommit,
    StoredEvent,
    Task,
)


class Partition:
    """See the methods of :class:`eventstore.hot.HotStore`."""

    def __init__(self, number: int, store_id: str) -> None:
        self.number: Final = number
        self.store_id = store_id
        self.epoch = 1
        self.incarnation = "1"
        self.found = "1"
        self.position = 0
        self.streams: dict[str, list[StoredEvent]] = {}
        self.log: list[StoredCommit] = []
        self.tasks: dict[str, Task] = {}
        self.holders: dict[str, tuple[str, int]] = {}
        self.deliveries: dict[str, int] = {}
        self.consumers: dict[str, int] = {}
        """When each was last seen, in microseconds."""
        self.parked: dict[str, ParkedTask] = {}
        self.task_number = 0
        self.indexes: dict[str, dict[str, int]] = {}
        self.idempotency: dict[tuple[str, str], tuple[str, str]] = {}
        self.lanes: dict[str, int] = {}
        """The turn that was given out last in each lane, while any task waits."""
        self.turn = 0
        """The turn of the waiting task that became free last."""
        self.marks: dict[str, int] = {}
        self.rates: dict[str, int] = {}
        """How far what was taken of each rate reaches, in microseconds since 1970."""

    def add_task(self, stream: str, kind: str) -> None:
        """Add a task."""
        self.task_number += 1
        task = Task(stream, kind, self.number, str(self.task_number))
        self.tasks[task.id] = task

    def drop_task(self, task: Task) -> None:
        """Remove a task, held or not."""
        self.tasks.pop(task.id, None)
        self.holders.pop(task.id, None)
        self.deliveries.pop(task.id, None)

    @property
    def room(self) -> int:
        """How many more tasks may be free before those of new streams wait in their lanes."""
        return DIRECT_MAX - (len(self.tasks) - len(self.holders))

    def _wait_for_turn(self, lane: str, member: str) -> None:
        if not self.indexes.get(WAITING):
            self.lanes, self.turn = {}, 0
        turn = max(self.turn, self.lanes.get(lane, 0)) + 1
        self.lanes[lane] = turn
        self.indexes.setdefault(WAITING, {})[member] = turn

    def admit(self) -> bool:
        """Let waiting tasks become free, by their turns, while there is room; return whether any did."""
        admitted = self.entries(WAITING)[: max(0, self.room)]
        for entry in admitted:
            kind, _, stream = entry.member.partition(" ")
            self.add_task(stream, kind)
            del self.indexes[WAITING][entry.member]
            self.turn = entry.score
        return bool(admitted)

    def take_rate(self, name: str, rate: Rate, now_us: int) -> RateTaken:
        """See :meth:`EventStore.take_rate`."""
        self.rates[name], answer = taken(rate, self.rates.get(name, 0), now_us)
        return answer

    def hand_out(self, task_id: str, consumer: str, now_us: int) -> Task:
        """Let ``consumer`` hold a task."""
        self.holders[task_id] = (consumer, now_us)
        self.deliveries[task_id] = self.deliveries.get(task_id, 0) + 1
        return self.tasks[task_id]

    def drop_consumers(self, seen_before_us: int) -> set[str]:
        """Forget the consumers that hold nothing and were seen last before that time; return their names."""
        holding = {consumer for consumer, _ in self.holders.values()}
        dead = {name for name, seen in self.consumers.items() if seen < seen_before_us} - holding
        for name in dead:
            del self.consumers[name]
        return dead

    def lose(self) -> None:
        """Lose everything, as a server does that kept it in memory only and was replaced; for tests."""
        number, found, task_number = self.number, str(int(self.found) + 1), self.task_number
        self.__init__(number, "")  # type: ignore[misc]  # begins anew, as a new server does
        self.epoch, self.incarnation, self.found = 0, "", found
        # Ids of tasks are never used again: whoever still holds an old one may finish it.
        self.task_number = task_number

    def append(self, commit: Append, now_us: int) -> AppendResult:
        """Append ``commit``; the caller has checked its size, and wakes the readers."""
        self.require_open()
        stream = self.streams.get(commit.stream, [])
        repeated = self._repeated(stream, commit) or self._existing(commit)
        if repeated is not None:
            return repeated
        head_hash = stream[-1].hash if stream else ""
        if len(stream) != commit.expected_version or head_hash != commit.expected_hash:
            raise WrongVersionError(commit.stream, commit.expected_version, len(stream), head_hash)
        if not stream and now_us // 1000 - created_ms(commit.stream) > NEW_STREAM_SECONDS_MAX * 1000:
            raise StreamExpiredError(commit.stream)
        ahead = len(self.indexes.get(WAITING, {}))
        depth = len(self.tasks) + ahead
        if not stream and commit.queue_max is not None and depth >= commit.queue_max:
            raise QueueFullError(self.number, depth)
        waits = not stream and commit.lane is not None and (ahead > 0 or self.room <= 0)
        self._write(commit, now_us, waits=waits)
        return Appended(commit.expected_version + len(commit.events), self.epoch, self.position, MEMORY)

    def require_open(self) -> None:
        """Refuse a writer while the partition is closed."""
        if self.epoch == 0 or self.incarnation != self.found:
            raise EpochStaleError(self.number, self.epoch, self.epoch)

    def require(self, stream: str, version: int, event_hash: str) -> None:
        """See :meth:`EventStore.confirm`."""
        self.require_open()
        events = self.streams.get(stream, [])
        if len(events) < version or events[version - 1].hash != event_hash:
            head = events[-1].hash if events else ""
            raise WrongVersionError(stream, version, len(events), head)

    @staticmethod
    def _repeated(stream: list[StoredEvent], commit: Append) -> Duplicate | None:
        first = commit.expected_version
        if len(stream) <= first or stream[first].commit_id != commit.commit_id:
            return None
        last = [event for event in stream if event.commit_id == commit.commit_id][-1]
        return Duplicate(last.version, last.epoch, last.position, MEMORY)

    def _existing(self, commit: Append) -> Existing | None:
        key = commit.idempotency
        if key is None:
            return None
        record = self.idempotency.get((key.scope, key.key))
        if record is None:
            return None
        stream, fingerprint = record
        if fingerprint != key.fingerprint:
            raise IdempotencyConflictError(stream)
        return Existing(stream, MEMORY)

    def _write(self, commit: Append, now_us: int, *, waits: bool) -> None:
        stream = self.streams.setdefault(commit.stream, [])
        for event in commit.events:
            self.position += 1
            stream.append(
                StoredEvent(len(stream) + 1, self.epoch, self.position, commit.commit_id, event.hash, event.data)
            )
        self.log.append(
            StoredCommit(
                partition=self.number,
                epoch=self.epoch,
                position=self.position,
                stream=commit.stream,
                version=len(stream),
                commit_id=commit.commit_id,
                recorded_us=now_us,
                events=tuple(event.data for event in commit.events),
                anchors=tuple(event.hash[:8] for event in commit.events),
            )
        )
        if commit.finish_task is not None:
            self.drop_task(commit.finish_task)
        if waits and commit.add_task is not None:
            self._wait_for_turn(commit.lane or "", f"{commit.add_task} {commit.stream}")
        self._oblige(
            commit.stream,
            Duties(
                add_task=None if waits else commit.add_task,
                set_entries=commit.set_entries,
                clear_entries=commit.clear_entries,
                idempotency=commit.idempotency,
            ),
        )

    def _oblige(self, stream: str, duties: Duties) -> None:
        if duties.add_task is not None:
            self.add_task(stream, duties.add_task)
        for entry in duties.set_entries:
            self.indexes.setdefault(entry.index, {})[entry.member] = entry.score
        for index, member in duties.clear_entries:
            self.indexes.get(index, {}).pop(member, None)
        key = duties.idempotency
        if key is not None:
            self.idempotency[key.scope, key.key] = (stream, key.fingerprint)

    def after(self, cursor: Cursor) -> list[StoredCommit]:
        """Return the commits after ``cursor``, which must be in the log if it has an anchor."""
        start, end = self.log_start(), self.end
        if cursor.anchor:
            self._require(cursor, start)
        elif cursor.position > end.position:
            raise PositionMissingError(self.number, cursor.position, end.position)
        if start > cursor.position + 1:
            raise TruncatedError(self.number, cursor, start)
        return [commit for commit in self.log if commit.position > cursor.position]

    def _require(self, cursor: Cursor, start: int) -> None:
        for commit in self.log:
            first = commit.position - len(commit.events) + 1
            if first <= cursor.position <= commit.position:
                anchor = commit.anchors[cursor.position - first] if commit.epoch == cursor.epoch else ""
                if anchor != cursor.anchor:
                    raise ForkError(self.number, cursor, anchor)
                return
        if start > cursor.position:
            raise TruncatedError(self.number, cursor, start)
        raise ForkError(self.number, cursor, "")

    @property
    def end(self) -> Cursor:
        """Where the log ends."""
        return self.log[-1].end if self.log else LOG_START

    def log_start(self) -> int:
        """See :meth:`HotStore.log_start`."""
        return self.log[0].position - len(self.log[0].events) + 1 if self.log else 0

    def record(self) -> PartitionRecord:
        """See :meth:`HotStore.partition_record`."""
        return PartitionRecord(
            partition=self.number,
            store_id=self.store_id,
            epoch=self.epoch,
            incarnation=self.incarnation,
            found=self.found,
            position=self.position,
            end=self.end,
        )

    def restore(self, piece: Restored) -> None:
        """See :meth:`HotStore.restore`."""
        if self.epoch and self.incarnation == self.found:
            raise PartitionOpenError(self.number)
        stream = self.streams.get(piece.stream, [])
        entry = piece.entry
        if entry and self.log and self.end.position != entry.position - len(entry.events):
            raise SeamError(f"the log of {piece.stream}", f"position {entry.position}", self.end.entry_id)
        if piece.events:
            version, head = len(stream), stream[-1].hash if stream else ""
            if (piece.events[0].version, piece.prev) != (version + 1, head):
                raise SeamError(f"the stream of {piece.stream}", piece.prev or "nothing", f"{version} {head}")
            self.streams.setdefault(piece.stream, []).extend(piece.events)
        if entry:
            self.log.append(entry)
        self._oblige(piece.stream, piece.duties)

    def open_epoch(self, store_id: str, epoch: int, end: Cursor) -> None:
        """See :meth:`HotStore.open_epoch`."""
        if self.epoch >= epoch or self.end.entry_id != end.entry_id:
            raise SeamError(f"epoch {epoch}", end.entry_id, f"{self.end.entry_id}, epoch {self.epoch}")
        self.store_id, self.epoch, self.position = store_id, epoch, end.position
        self.incarnation = self.found

    def remove(self, closed: ClosedStream, index: str) -> bool:
        """See :meth:`HotStore.remove_closed`."""
        stream = self.streams.get(closed.stream)
        if stream and (stream[-1].version, stream[-1].hash) != (closed.version, closed.hash):
            return False
        self.streams.pop(closed.stream, None)
        self.indexes.get(index, {}).pop(closed.stream, None)
        if closed.idempotency and self.idempotency.get(closed.idempotency, ("", ""))[0] == closed.stream:
            del self.idempotency[closed.idempotency]
        return True

    def trim(self, keep: Cursor) -> int:
        """See :meth:`HotStore.trim_log`."""
        kept = [commit for commit in self.log if commit.position >= keep.position]
        first = kept[0].position - len(kept[0].events) + 1 if kept else 0
        anchor = kept[0].anchors[keep.position - first] if kept and first <= keep.position else ""
        if not anchor or kept[0].epoch != keep.epoch or keep.anchor not in ("", anchor):
            raise StoreUnavailableError(f"the log of partition {self.number} does not hold {keep}: nothing was removed")
        removed = len(self.log) - len(kept)
        self.log = kept
        return removed

    def within(self, bounds: IndexRange) -> list[IndexEntry]:
        """Return the entries that ``bounds`` names, lowest score first."""
        return [
            entry
            for entry in self.entries(bounds.index)
            if (bounds.low is None or entry.score >= bounds.low) and (bounds.high is None or entry.score <= bounds.high)
        ][bounds.skip :]

    def entries(self, index: str) -> list[IndexEntry]:
        """Return the entries of an index, lowest score first."""
        found = self.indexes.get(index, {})
        return [IndexEntry(index, member, score) for score, member in sorted((s, m) for m, s in found.items())]
