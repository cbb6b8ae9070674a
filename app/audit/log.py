"""A partition's log as the auditor reads it: page by page, past every hole, and single commits by their position."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from msgspec import Struct

from app.audit.findings import Fault, Finding, of_partition
from eventstore.errors import BadIdError, PositionMissingError, TruncatedError
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.store import EventStore, StoredCommit

PAGE: Final = 500

Report = Callable[[Finding], None]


class Span(Struct, frozen=True):
    """The positions of a partition's log that an audit covers, from the first one kept to the last at its start."""

    partition: int
    first: int
    last: Cursor

    def covers(self, position: int) -> bool:
        """Return whether the log must hold ``position``."""
        return self.first <= position <= self.last.position


class LogEvent(Struct, frozen=True):
    """An event as the log holds it."""

    version: int
    epoch: int
    position: int
    commit_id: str
    anchor: str
    data: bytes


async def span_of(store: EventStore, partition: int) -> Span:
    """Return what the log of ``partition`` holds now; for an empty log, a span that covers nothing."""
    last = (await store.log_ends())[partition]
    try:
        commits = await store.read_log({partition: LOG_START}, 1)
    except PositionMissingError as missing:
        return Span(partition, missing.found, last)
    except TruncatedError as truncated:
        return Span(partition, truncated.oldest, last)
    return Span(partition, _first(commits[0]) if commits else 1, last)


async def scan(store: EventStore, span: Span, report: Report) -> AsyncIterator[StoredCommit]:
    """Yield the commits of ``span``, oldest first; report each hole and go on behind it."""
    at = Cursor(0, span.first - 1)
    limit = PAGE
    while at.position < span.last.position:
        try:
            page = await store.read_log({span.partition: at}, limit)
        except PositionMissingError as hole:
            # Commits of the page before the hole are still to be read: smaller pages end before it.
            if limit > 1:
                limit //= 2
                continue
            if hole.found <= at.position:
                report(_end(span, hole.found))
                return
            report(of_partition(span.partition, _gap(at.position + 1, hole.found), at.position + 1))
            at, limit = Cursor(at.epoch, hole.found - 1), PAGE
            continue
        if not page:
            report(_end(span, at.position))
            return
        for commit in page:
            if _first(commit) != at.position + 1:
                report(of_partition(span.partition, _gap(at.position + 1, _first(commit)), at.position + 1))
            at = commit.end
            yield commit
        limit = PAGE


async def commit_at(store: EventStore, partition: int, at: Cursor) -> StoredCommit | None:
    """Return the commit that covers a position; None where the log has none."""
    if at.position < 1:
        return None
    try:
        commits = await store.read_log({partition: Cursor(at.epoch, at.position - 1)}, 1)
    except (PositionMissingError, TruncatedError):
        return None
    found = commits[0] if commits else None
    return found if found is not None and _first(found) <= at.position <= found.position else None


def events_of(commit: StoredCommit) -> Iterator[LogEvent]:
    """Yield the events of a commit with the numbers that the log gives them."""
    count = len(commit.events)
    for index, data in enumerate(commit.events):
        back = count - 1 - index
        yield LogEvent(
            version=commit.version - back,
            epoch=commit.epoch,
            position=commit.position - back,
            commit_id=commit.commit_id,
            anchor=commit.anchors[index] if index < len(commit.anchors) else "",
            data=data,
        )


def entry_faults(commit: StoredCommit) -> Iterator[Fault]:
    """Yield what is wrong with a log entry by itself."""
    try:
        partition = partition_in(commit.stream)
    except BadIdError as error:
        yield Fault("log_entry", "an order id", str(error))
        return
    if partition != commit.partition:
        yield Fault("log_entry", f"an order of partition {commit.partition}", f"order {commit.stream}")
    if len(commit.anchors) != len(commit.events):
        yield Fault("log_entry", f"{len(commit.events)} anchors, one per event", f"{len(commit.anchors)} anchors")
    if commit.version < len(commit.events):
        yield Fault("log_entry", f"a version of at least {len(commit.events)}", f"version {commit.version}")


def _first(commit: StoredCommit) -> int:
    return commit.position - len(commit.events) + 1


def _end(span: Span, found: int) -> Finding:
    fault = Fault("log_end", f"a log up to position {span.last.position}", f"its end at position {found}")
    return of_partition(span.partition, fault)


def _gap(expected: int, found: int) -> Fault:
    return Fault("log_density", f"position {expected} next", f"position {found}")
