"""Lives of orders with one event that cannot be applied, and what the projections must make of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from eventstore.canonical import SealedEvent, seal
from eventstore.store import Append

RECEIPT: Final = {"venue": "raydium", "amountOut": "1", "fee": "0", "networkFee": "0"}

POISON: Final[Sequence[tuple[int, Mapping[str, Any], str]]] = (
    (2, {"attempt": None}, "AttemptStarted lacks attempt"),
    (6, {"receipt": {**RECEIPT, "amountIn": "x"}}, "is not an"),
    (3, {"at": "2027-13-45T08:00:01.000000Z"}, "the archive's columns do not take it"),
    (3, {"at": "yesterday"}, "has no time: 'yesterday'"),
    (4, {"chosen": {"venue": 7}}, "Expected `str`"),
    (6, {"receipt": {**RECEIPT, "amountIn": "99999999999999999"}}, "PostgreSQL refuses it: "),
)
"""Of a market order's six events: which one, what is changed in it (None: removed), and part of the reason given."""


def poisoned(commits: Sequence[Append], version: int, change: Mapping[str, Any]) -> list[Append]:
    """Return ``commits`` of one order with the event at ``version`` changed, and chained anew."""
    head, number = "", 0
    found: list[Append] = []
    for commit in commits:
        expected, events = (number, head), list[SealedEvent]()
        for event in commit.events:
            number += 1
            frame: dict[str, Any] = msgspec.json.decode(event.data)
            for name in ("prev", "hash"):
                del frame["meta"][name]
            if number == version:
                frame.update(change)
            events.append(seal({name: value for name, value in frame.items() if value is not None}, head))
            head = events[-1].hash
        found.append(replace(commit, expected_version=expected[0], expected_hash=expected[1], events=tuple(events)))
    return found
