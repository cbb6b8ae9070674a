"""What a run of events makes of one order's row: each is applied, or the order stands still before it. Pure."""

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from eventstore.ids import event_id
from projections.errors import FrameError, OrderMismatchError, ProjectionError
from projections.fold.frames import Frame
from projections.fold.orders import OrderRow, apply

log: Final = logging.getLogger(__name__)

REASON_CHARACTERS_MAX: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Entry(Struct, frozen=True, gc=False):
    """One event of an order as log or archive hand it over."""

    order_id: str
    version: int
    partition: int
    position: int
    recorded_us: int
    """When it was appended: the store's server's clock, microseconds since 1970."""
    hash: str
    """Whole, or its first 8 digits where the event cannot be read."""
    frame: Frame | None
    fault: str | None = None
    """Why it cannot be applied, known before anybody tries; None for a frame that may be."""


class Change(Struct, frozen=True, gc=False):
    """An event that was applied, and its order's row after it."""

    frame: Frame
    row: OrderRow


class Parked(Struct, frozen=True, gc=False):
    """An event that waits because it, or one before it of its order, could not be applied: that one has the reason."""

    order_id: str
    version: int
    partition: int
    position: int
    reason: str | None
    recorded_us: int


class Followed(Struct, frozen=True):
    """What came of some events of one order."""

    order_id: str
    row: OrderRow | None
    """None where the order has no row, before or after."""
    changes: list[Change]
    parked: list[Parked]


Skips = Mapping[tuple[str, int], str]
"""Why events, by order and version, are passed over."""


def follow(
    order_id: str,
    row: OrderRow | None,
    entries: Iterable[Entry],
    *,
    held: bool = False,
    skips: Skips | None = None,
    wanted: Collection[str] = (),
) -> Followed:
    """Return what ``entries``, the next events of an order in order, make of its row.

    An event that cannot be applied quarantines the row: it stays as it is, but for its quality, and that event and all
    later ones are parked. An event that is skipped moves version, hash and status only, and leaves the row incomplete;
    no other projection is told of it.

    Args:
        held: the order is quarantined already.
        skips: the events that are passed over.
        wanted: the event types whose changes are returned.
    """
    changes: list[Change] = []
    parked: list[Parked] = []
    for entry in entries:
        reason = None
        if not held:
            try:
                skip = (skips or {}).get((entry.order_id, entry.version))
                row = _step(row, entry, skip)
                if skip is None and entry.frame is not None and entry.frame.meta.type in wanted:
                    changes.append(Change(entry.frame, row))
                continue
            except ProjectionError as error:
                reason = str(error)
            except Exception as error:
                # A bug in a fold stops the orders that meet it, not those beside them.
                log.exception("fold_failed", extra={"order_id": entry.order_id, "version": entry.version})
                reason = f"{type(error).__name__}: {error}"
            held, reason = True, reason[:REASON_CHARACTERS_MAX]
            row = quarantined(row, reason, entry.recorded_us)
        parked.append(_parked(entry, reason))
    return Followed(order_id, row, changes, parked)


def quarantined(row: OrderRow | None, reason: str, recorded_us: int) -> OrderRow | None:
    """Return ``row`` as one that stands still because of an event appended at that time; None where there is none."""
    if row is None:
        return None
    return replace(row, quality="quarantined", quality_reason=reason, quality_since=time_text_of(recorded_us))


def time_text_of(microseconds: int) -> str:
    """Return a time, in microseconds since 1970, as frames spell it."""
    return (_EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _step(row: OrderRow | None, entry: Entry, skip: str | None) -> OrderRow:
    if skip is not None and row is not None:
        return _passed_over(row, entry, skip)
    if entry.fault is not None or entry.frame is None:
        raise FrameError(event_id(entry.order_id, entry.version), entry.fault or "is not a published event")
    if row is None and entry.version > 1:
        raise OrderMismatchError(entry.order_id, 0, entry.version, "has no row to follow")
    return apply(row, entry.frame)


def _passed_over(row: OrderRow, entry: Entry, reason: str) -> OrderRow:
    if entry.version != row.version + 1:
        raise OrderMismatchError(row.id, row.version, entry.version, "is not the next one")
    frame = entry.frame
    return replace(
        row,
        status=row.status if frame is None else frame.status,
        version=entry.version,
        head_hash=entry.hash,
        updated_at=row.updated_at if frame is None else frame.at,
        quality="incomplete",
        quality_reason=f"event {entry.version} was skipped: {reason}"[:REASON_CHARACTERS_MAX],
        quality_since=time_text_of(entry.recorded_us),
    )


def _parked(entry: Entry, reason: str | None) -> Parked:
    return Parked(entry.order_id, entry.version, entry.partition, entry.position, reason, entry.recorded_us)
