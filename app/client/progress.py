"""How far a follower of orders has come: which events are new to it, and after which to resume. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

ORDERS_MAX: Final = 10_000
"""Of so many orders the last seq is remembered."""
_STARTS: Final = ("after", "from", "snapshot")


class Progress:
    """Where a subscription is.

    Args:
        wanted: the members of ``subscribe``, with one of ``after``, ``from`` and ``snapshot`` at most.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._members = {name: value for name, value in wanted.items() if name not in _STARTS}
        self._first = {name: wanted[name] for name in ("from", "snapshot") if name in wanted}
        self._seqs: OrderedDict[str, int] = OrderedDict()
        self._is_filtered = "events" in wanted
        self._is_whole = "start" in (wanted.get("from"), wanted.get("after"))
        self.cursor: str | int | None = wanted.get("after")
        """The place of what was taken last; None before anything was."""

    @property
    def is_of_order(self) -> bool:
        """Whether one order is followed."""
        return "orderId" in self._members

    @property
    def subscribe(self) -> dict[str, Any]:
        """The members of the next ``subscribe``."""
        return {**self._members, **(self._first if self.cursor is None else {"after": self.cursor})}

    def begin(self, frame: Mapping[str, Any]) -> None:
        """Take in a ``subscribed``: from now on "now" would be later."""
        snapshot = frame.get("snapshot", {})
        after = frame.get("after", 0)
        if self.cursor is None:
            self.cursor = snapshot.get("asOf", str(after))
        if isinstance(after, int):
            self._seqs.setdefault(str(frame.get("orderId")), after)
        for order in snapshot.get("orders", ()):
            self._note(order["orderId"], order["seq"])

    def is_new(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is after what was taken of its order."""
        seq: int = event["seq"]
        return seq > self._seqs.get(event["orderId"], 0)

    def expected(self, event: Mapping[str, Any]) -> int:
        """Return the seq that must come next of an event's order: its own, where any may."""
        seq: int = event["seq"]
        unheard = 0 if self._is_whole and len(self._seqs) < ORDERS_MAX else None
        last = self._seqs.get(event["orderId"], unheard)
        return seq if self._is_filtered or last is None else last + 1

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        self._note(event["orderId"], event["seq"])
        self.cursor = event["cursor"]

    def _note(self, order_id: str, seq: int) -> None:
        self._seqs[order_id] = seq
        self._seqs.move_to_end(order_id)
        if len(self._seqs) > ORDERS_MAX:
            self._seqs.popitem(last=False)
