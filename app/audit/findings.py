"""What an audit reports: each finding names a place, the rule that does not hold there, what it expects, what is."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

KEPT_MAX: Final = 1000
"""Most findings that are kept; the others are counted."""

Rule = Literal[
    # The log of a partition.
    "log_start",
    "log_density",
    "log_end",
    "log_entry",
    # Log and streams hold the same events.
    "log_missing",
    "stream_missing",
    "log_differs",
    # One stream by itself.
    "density",
    "chain",
    "identity",
    "readable",
    "names",
    "lifecycle",
    # What the events say.
    "attempts",
    "trigger",
    "routing",
    "protection",
    "proof",
    "receipt",
    # What an open order must have.
    "obligation",
    "unknown_order",
    # PostgreSQL holds the same.
    "checkpoint",
    "archive_density",
    "archive",
    "row",
]


class Fault(Struct, frozen=True):
    """A rule that does not hold at a place which the context names."""

    rule: Rule
    expected: str
    found: str


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A fault and its place: an order and perhaps one of its events, or a partition and perhaps a position."""

    rule: Rule
    expected: str
    found: str
    order_id: str | None = None
    seq: int | None = None
    partition: int | None = None
    position: int | None = None

    @property
    def place(self) -> str:
        """The place in words."""
        if self.order_id is not None:
            return f"order {self.order_id}" + (f", seq {self.seq}" if self.seq is not None else "")
        return f"partition {self.partition}" + (f", position {self.position}" if self.position is not None else "")


def of_order(order_id: str, fault: Fault, seq: int | None = None) -> Finding:
    """Return ``fault`` as a finding about an order, or about its event ``seq``."""
    return Finding(rule=fault.rule, expected=fault.expected, found=fault.found, order_id=order_id, seq=seq)


def of_partition(partition: int, fault: Fault, position: int | None = None) -> Finding:
    """Return ``fault`` as a finding about a partition, or about a position in its log."""
    return Finding(rule=fault.rule, expected=fault.expected, found=fault.found, partition=partition, position=position)


class Findings:
    """Collects findings in the order they come; keeps the first :data:`KEPT_MAX` and counts all."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.total = 0

    def add(self, finding: Finding) -> None:
        """Take one finding."""
        self.total += 1
        if self.total <= KEPT_MAX:
            self.kept.append(finding)

    def extend(self, findings: Sequence[Finding]) -> None:
        """Take several findings."""
        for finding in findings:
            self.add(finding)
