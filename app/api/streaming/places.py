"""Places: where a subscriber is in the events of its scope; the one thing that it costs while it does not read."""

from collections.abc import Mapping
from typing import Final

from app.api.streaming.ring import Frame, LogNotChainedError
from app.api.streaming.scopes import LogScope, join_cursors, parse_cursors, texts_of
from eventstore.ids import LOG_START, Cursor, partition_in


class OrderPlace:
    """A place in one order's events: after ``seq``, which has ``anchor``; (0, "") before the first."""

    def __init__(self, order_id: str) -> None:
        self.order_id: Final = order_id
        self.seq = 0
        self.anchor = ""
        self.text = "0"
        """What to resume by."""

    def move(self, seq: int, anchor: str, text: str) -> None:
        """Be after an event that was looked up."""
        self.seq, self.anchor, self.text = seq, anchor, text

    def passed(self, frame: Frame) -> None:
        """Be after ``frame``, which follows this place."""
        assert frame.seq == self.seq + 1, f"event {frame.seq} of {frame.order_id} does not follow {self.seq}"
        self.move(frame.seq, frame.anchor, str(frame.cursor))

    def positions_of(self, text: str) -> dict[int, int]:
        """Return the log's position that a cursor of such a place names, by partition.

        Raises:
            BadIdError, ProblemError: it is none.
        """
        return {partition_in(self.order_id): Cursor.parse(text).position}

    def woken(self, partition: int, before: Cursor) -> None:
        """Ignore where the log was: an order's place is its own."""


class LogPlace:
    """A place in the logs of the partitions that a scope covers."""

    def __init__(self, scope: LogScope, cursors: Mapping[int, Cursor]) -> None:
        self.scope: Final = scope
        self.cursors: Final = dict(cursors)
        self._at_head = False
        # Where thousands pass the same events, spelling all cursors for each of these is most of what that costs.
        self._texts: dict[int, str] | None = None
        self._text: str | None = None

    @property
    def text(self) -> str:
        """What to resume by."""
        if self._text is None:
            if self._texts is None:
                self._texts = texts_of(self.cursors)
            self._text = join_cursors(self.scope, self._texts)
        return self._text

    def _moved(self, number: int, cursor: Cursor) -> None:
        self.cursors[number], self._text = cursor, None
        if self._texts is not None and number in self._texts:
            self._texts[number] = str(cursor)
        else:
            self._texts = None

    def passed(self, frame: Frame) -> None:
        """Be after ``frame``, whether it was sent or left out.

        Raises:
            LogNotChainedError: it does not follow this place.
        """
        number, before = frame.partition, self.cursors[frame.partition]
        if frame.cursor.position != before.position + 1 or frame.cursor.epoch < before.epoch:
            raise LogNotChainedError(number, before, frame.cursor)
        self._moved(number, frame.cursor)

    def positions_of(self, text: str) -> dict[int, int]:
        """See :meth:`OrderPlace.positions_of`."""
        beginnings = dict.fromkeys(self.cursors, LOG_START)
        return {number: cursor.position for number, cursor in parse_cursors(self.scope, beginnings, text).items()}

    def settle(self, heads: Mapping[int, Cursor]) -> bool:
        """Return whether the place is where the ring is: then it moves with that until it is woken."""
        self._at_head = all(heads.get(number) == cursor for number, cursor in self.cursors.items())
        return self._at_head

    def follow(self, heads: Mapping[int, Cursor]) -> None:
        """Be where the ring is, if nothing that the scope covers came since :meth:`settle`."""
        if self._at_head:
            self.cursors.update({number: heads[number] for number in self.cursors if number in heads})
            self._texts = self._text = None

    def woken(self, partition: int, before: Cursor) -> None:
        """Take note of the first event since :meth:`settle`: up to it, there was none that the scope covers."""
        if self._at_head:
            self._at_head = False
            self.cursors[partition] = before
            self._texts = self._text = None


Place = OrderPlace | LogPlace
