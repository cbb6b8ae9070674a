"""Log and stream hold the same events: whatever one has, the other has at the same place, byte for byte."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from app.audit.findings import Fault, Finding, of_order
from app.audit.log import LogEvent, Span, commit_at, events_of
from eventstore.ids import Cursor
from eventstore.store import EventStore, StoredEvent

_AROUND: Final = 24
"""Bytes shown on either side of the first difference."""

LogView = dict[int, LogEvent]
"""An order's events as the log holds them, by version."""


async def compare(
    store: EventStore, order_id: str, stream: Sequence[StoredEvent], view: LogView, span: Span
) -> list[Finding]:
    """Return every difference between an order's stream and the log.

    Args:
        stream: all events of the order, read after ``view``.
        view: its events that were met in the log; those it lacks are looked up.
        span: what the log holds; events before it have left the log.
    """
    findings: list[Finding] = []
    for event in stream:
        if event.version in view or 0 < event.position < span.first:
            continue
        await _look_up(store, order_id, event, view, span.partition)
        if event.version not in view:
            fault = Fault("log_missing", f"it in the log at position {event.position}", "another event, or none")
            findings.append(of_order(order_id, fault, event.version))
    findings += differences(order_id, stream, view)
    return findings


async def _look_up(store: EventStore, order_id: str, event: StoredEvent, view: LogView, partition: int) -> None:
    commit = await commit_at(store, partition, Cursor(event.epoch, event.position))
    if commit is not None and commit.stream == order_id:
        for logged in events_of(commit):
            view.setdefault(logged.version, logged)


def differences(order_id: str, stream: Sequence[StoredEvent], view: Mapping[int, LogEvent]) -> Iterator[Finding]:
    """Yield where the stream is not what the log says of it; pure."""
    stored = {event.version: event for event in stream}
    for version, logged in sorted(view.items()):
        event = stored.get(version)
        if event is None:
            fault = Fault("stream_missing", f"seq {version}, which the log has at position {logged.position}", "none")
            yield of_order(order_id, fault, version)
            continue
        for fault in _event_differences(logged, event):
            yield of_order(order_id, fault, version)


def _event_differences(logged: LogEvent, event: StoredEvent) -> Iterator[Fault]:
    if logged.data != event.data:
        yield Fault("log_differs", *_excerpts(logged.data, event.data))
    in_log = {
        "epoch": logged.epoch,
        "position": logged.position,
        "commit": logged.commit_id,
        "hash": logged.anchor,
    }
    in_stream = {
        "epoch": event.epoch,
        "position": event.position,
        "commit": event.commit_id,
        "hash": event.hash[:8],
    }
    for field, value in in_log.items():
        if in_stream[field] != value:
            yield Fault("log_differs", f"{field} {value}, as in the log", f"{field} {in_stream[field]} in the stream")


def _excerpts(logged: bytes, stored: bytes) -> tuple[str, str]:
    """Return both texts around their first difference."""
    pairs = zip(logged, stored, strict=False)
    shared = min(len(logged), len(stored))
    at = next((index for index, (left, right) in enumerate(pairs) if left != right), shared)
    start = max(0, at - _AROUND)
    log_text, stream_text = (
        data[start : at + _AROUND].decode("utf-8", "backslashreplace") for data in (logged, stored)
    )
    return f"…{log_text}… at byte {at}, as in the log", f"…{stream_text}… in the stream"
