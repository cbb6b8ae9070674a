"""The newest events of all orders, ready to send, shared by every subscriber of this process. Pure: no I/O."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from app.orders.lifecycle import TERMINAL, Status, phase
from eventstore.ids import LOG_START, Cursor
from eventstore.store import StoredCommit, StoredEvent

EVERYTHING: Final = "*"
"""The topic of all events; an order's is its id."""

_CURSOR: Final = ',"cursor":"'


class Frame(Struct, frozen=True):
    """One event as clients receive it; ``terminal`` says that no other follows it."""

    order_id: str
    seq: int
    text: str
    terminal: bool
    anchor: str
    """First 8 hex digits of the event's hash."""
    prev: str
    """The anchor of the event before it; "" for the order's first."""
    cursor: Cursor = LOG_START
    event: str = ""
    at: str = ""
    status: str = ""
    client: str | None = None
    assets: tuple[str, str] | None = None
    """Base and quote asset, where the event names them: an order's first one does."""

    @property
    def partition(self) -> int:
        """Whose log has the event."""
        return int(self.order_id[-2:])

    @property
    def without_cursor(self) -> str:
        """The text up to the member ``cursor``, to be followed by another one."""
        return self.text[: self.text.rindex(_CURSOR)]


class NotChainedError(Exception):
    """A frame does not follow the one before it: these are two histories of one order. Read it from its stream."""

    def __init__(self, order_id: str, seq: int, problem: str) -> None:
        super().__init__(f"event {seq} of {order_id} {problem}")
        self.order_id = order_id
        self.seq = seq


class LogNotChainedError(Exception):
    """What follows in a partition's log does not follow what a reader has of it: these are two histories."""

    def __init__(self, partition: int, cursor: Cursor, found: Cursor | str) -> None:
        super().__init__(f"partition {partition}: {found} does not go on from {cursor}")
        self.partition = partition
        self.cursor = cursor


class Watcher(Protocol):
    """Wants to know when there are new events of a topic."""

    def changed(self, topic: str, partition: int, before: Cursor) -> None:
        """Take note; called within the append, so it must not wait, nor change the ring.

        ``before`` is where the log of the event's ``partition`` ended without it.
        """
        ...


def client_topic(client: str) -> str:
    """Return the topic of all events of one client's orders."""
    return f"client {client}"


class _Meta(Struct):
    prev: str | None
    client: str | None = None


class _Head(Struct, rename="camel"):
    event: str
    at: str
    status: Status
    meta: _Meta
    base_asset: str | None = None
    quote_asset: str | None = None


_decode_head: Final = msgspec.json.Decoder(_Head).decode


def frame_of(order_id: str, seq: int, data: bytes, cursor: Cursor) -> Frame:
    """Return a stored event with the members that it does not store, its order's phase and its cursor, put last."""
    head = _decode_head(data)
    base, quote = head.base_asset, head.quote_asset
    return Frame(
        order_id,
        seq,
        f'{data[:-1].decode()},"phase":"{phase(head.status)}"{_CURSOR}{cursor}"}}',
        head.status in TERMINAL,
        cursor.anchor,
        (head.meta.prev or "")[: len(cursor.anchor)],
        cursor,
        head.event,
        head.at,
        head.status,
        head.meta.client,
        None if base is None or quote is None else (base, quote),
    )


def frame_of_event(order_id: str, event: StoredEvent) -> Frame:
    """Return one event of a stream as a frame."""
    return frame_of(order_id, event.version, event.data, event.cursor)


def frames_of_commit(commit: StoredCommit) -> list[Frame]:
    """Return the events of a log entry as frames, oldest first."""
    older = len(commit.events) - 1
    return [
        frame_of(
            commit.stream,
            commit.version - older + number,
            data,
            Cursor(commit.epoch, commit.position - older + number, anchor),
        )
        for number, (data, anchor) in enumerate(zip(commit.events, commit.anchors, strict=True))
    ]


class Ring:
    """Keeps the newest frames, and tells watchers of their topics about each.

    A watcher that is registered before it looks misses nothing: what is not there yet will be told.

    Args:
        frames_max: the oldest frame makes room for one above it.
        characters_max: likewise, for the frames' texts together.
    """

    def __init__(self, *, frames_max: int, characters_max: int) -> None:
        self._frames_max = frames_max
        self._characters_max = characters_max
        self._characters = 0
        self._oldest_first: deque[Frame] = deque()
        self._by_order: dict[str, deque[Frame]] = {}
        self._logs: dict[int, deque[Frame]] = {}
        self._floors: dict[int, Cursor] = {}
        self._watchers: dict[str, set[Watcher]] = {}

    def begin(self, places: Mapping[int, Cursor]) -> None:
        """Take up the partitions' logs there: the frame that comes next of each is the one after its place."""
        self._floors.update(places)
        self._logs.update({number: deque() for number in places})

    def append(self, frame: Frame) -> None:
        """Add the next frame of its order.

        Raises:
            NotChainedError: it does not follow the order's last frame here. :meth:`clear` the ring.
            LogNotChainedError: nor does it follow its log's last one. Likewise.
        """
        frames = self._by_order.get(frame.order_id)
        if frames is not None and (frame.seq, frame.prev) != (frames[-1].seq + 1, frames[-1].anchor):
            last = frames[-1]
            raise NotChainedError(
                frame.order_id,
                frame.seq,
                f"follows {frame.prev or 'nothing'}, so not event {last.seq}, which has {last.anchor}",
            )
        before = self._append_to_log(frame)
        if frames is None:
            frames = self._by_order[frame.order_id] = deque()
        frames.append(frame)
        self._oldest_first.append(frame)
        self._characters += len(frame.text)
        while len(self._oldest_first) > self._frames_max or self._characters > self._characters_max:
            self._evict()
        topics = [frame.order_id, EVERYTHING]
        if frame.client is not None:
            topics.append(client_topic(frame.client))
        for topic in topics:
            for watcher in self._watchers.get(topic, ()):
                watcher.changed(topic, frame.partition, before)

    def _append_to_log(self, frame: Frame) -> Cursor:
        """Add the frame to its log, and return where that ended before."""
        number = frame.partition
        if number not in self._floors:
            return LOG_START
        before = self._head(number)
        if frame.cursor.position != before.position + 1 or frame.cursor.epoch < before.epoch:
            raise LogNotChainedError(number, before, frame.cursor)
        self._logs[number].append(frame)
        return before

    def clear(self) -> None:
        """Forget all frames, and where the logs were. Watchers stay, and are not told."""
        self._oldest_first.clear()
        self._by_order.clear()
        self._logs.clear()
        self._floors.clear()
        self._characters = 0

    def after(self, order_id: str, seq: int, anchor: str | None = None) -> Sequence[Frame] | None:
        """Return the order's frames after ``seq``, oldest first; empty when it has none that is newer.

        None: the frame that follows ``seq`` is not here, or no longer. Read the stream.

        Args:
            anchor: of the event ``seq``, "" for seq 0; None: whichever it is.

        Raises:
            NotChainedError: the event ``seq`` is another one here.
        """
        frames = self._by_order.get(order_id)
        if frames is None or frames[0].seq > seq + 1:
            return None
        index = seq - frames[0].seq
        if anchor is not None and index < len(frames):
            found = frames[index].anchor if index >= 0 else frames[0].prev
            if found != anchor:
                raise NotChainedError(order_id, seq, f"has {found or 'no'} anchor, not {anchor or 'none'}")
        return list(islice(frames, index + 1, None))

    @property
    def heads(self) -> Mapping[int, Cursor]:
        """Where each partition's log has been read to; none before :meth:`begin`."""
        return {number: self._head(number) for number in self._logs}

    def _head(self, number: int) -> Cursor:
        log = self._logs[number]
        return log[-1].cursor if log else self._floors[number]

    def log_after(self, partition: int, cursor: Cursor, limit: int) -> Sequence[Frame] | None:
        """Return at most ``limit`` frames of a partition's log after ``cursor``; empty when none is newer.

        None: the frame that follows ``cursor`` is not here, or no longer. Read the log.

        Raises:
            LogNotChainedError: the event at the cursor's place is another one here.
        """
        floor = self._floors.get(partition)
        if floor is None or cursor.position < floor.position:
            return None
        log = self._logs[partition]
        skipped = cursor.position - floor.position
        if skipped > len(log):
            return ()
        at = log[skipped - 1].cursor if skipped else floor
        if at != cursor:
            raise LogNotChainedError(partition, cursor, at)
        # By index, as the frames that are asked for are nearly always the last ones.
        return [log[index] for index in range(skipped, min(len(log), skipped + limit))]

    def watch(self, topic: str, watcher: Watcher) -> None:
        """Tell ``watcher`` about each frame of the topic from now on. Idempotent."""
        self._watchers.setdefault(topic, set()).add(watcher)

    def unwatch(self, topic: str, watcher: Watcher) -> None:
        """Tell it no more. Idempotent."""
        watchers = self._watchers.get(topic, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(topic, None)

    def _evict(self) -> None:
        # Frames of one order, and of one log, leave in the order they came, so its oldest is the one that leaves now.
        frame = self._oldest_first.popleft()
        self._characters -= len(frame.text)
        frames = self._by_order[frame.order_id]
        frames.popleft()
        if not frames:
            del self._by_order[frame.order_id]
        log = self._logs.get(frame.partition)
        if log:
            self._floors[frame.partition] = log.popleft().cursor
