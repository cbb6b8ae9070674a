"""The newest events of all orders, ready to send, shared by every subscriber of this process. Pure: no I/O."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from app.orders.lifecycle import TERMINAL, Status, phase
from eventstore.ids import Cursor
from eventstore.store import StoredCommit, StoredEvent


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


class NotChainedError(Exception):
    """A frame does not follow the one before it: these are two histories of one order. Read it from its stream."""

    def __init__(self, order_id: str, seq: int, problem: str) -> None:
        super().__init__(f"event {seq} of {order_id} {problem}")
        self.order_id = order_id
        self.seq = seq


class Watcher(Protocol):
    """Wants to know when an order has new events."""

    def changed(self, order_id: str) -> None:
        """Take note; called within the append, so it must not wait, nor change the ring."""
        ...


class _Meta(Struct):
    prev: str | None


class _Head(Struct):
    status: Status
    meta: _Meta


_decode_head: Final = msgspec.json.Decoder(_Head).decode


def frame_of(order_id: str, seq: int, data: bytes, cursor: Cursor) -> Frame:
    """Return a stored event with the members that it does not store, its order's phase and its cursor, put last."""
    head = _decode_head(data)
    text = f'{data[:-1].decode()},"phase":"{phase(head.status)}","cursor":"{cursor}"}}'
    prev = (head.meta.prev or "")[: len(cursor.anchor)]
    return Frame(order_id, seq, text, head.status in TERMINAL, cursor.anchor, prev)


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
    """Keeps the newest frames, and tells watchers of their orders about each.

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
        self._watchers: dict[str, set[Watcher]] = {}

    def append(self, frame: Frame) -> None:
        """Add the next frame of its order.

        Raises:
            NotChainedError: it does not follow the order's last frame here. :meth:`clear` the ring.
        """
        frames = self._by_order.get(frame.order_id)
        if frames is None:
            frames = self._by_order[frame.order_id] = deque()
        elif (frame.seq, frame.prev) != (frames[-1].seq + 1, frames[-1].anchor):
            last = frames[-1]
            raise NotChainedError(
                frame.order_id,
                frame.seq,
                f"follows {frame.prev or 'nothing'}, so not event {last.seq}, which has {last.anchor}",
            )
        frames.append(frame)
        self._oldest_first.append(frame)
        self._characters += len(frame.text)
        while len(self._oldest_first) > self._frames_max or self._characters > self._characters_max:
            self._evict()
        for watcher in self._watchers.get(frame.order_id, ()):
            watcher.changed(frame.order_id)

    def clear(self) -> None:
        """Forget all frames. Watchers stay, and are not told."""
        self._oldest_first.clear()
        self._by_order.clear()
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

    def watch(self, order_id: str, watcher: Watcher) -> None:
        """Tell ``watcher`` about each frame of the order from now on. Idempotent."""
        self._watchers.setdefault(order_id, set()).add(watcher)

    def unwatch(self, order_id: str, watcher: Watcher) -> None:
        """Tell it no more. Idempotent."""
        watchers = self._watchers.get(order_id, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(order_id, None)

    def _evict(self) -> None:
        # Frames of one order leave in the order they came, so its oldest is the one that leaves now.
        frame = self._oldest_first.popleft()
        self._characters -= len(frame.text)
        frames = self._by_order[frame.order_id]
        frames.popleft()
        if not frames:
            del self._by_order[frame.order_id]
