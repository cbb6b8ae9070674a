"""What Redis lost and PostgreSQL has, as the pieces that restore it, every hash checked on the way."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import Interval, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.canonical import chain_fault
from eventstore.errors import PartitionForkedError
from eventstore.hot import Duties, Restored
from eventstore.ids import event_id
from eventstore.store import NEW_STREAM_SECONDS_MAX, StoredCommit, StoredEvent
from projections.archive import events as archive
from projections.models.orders import orders

COMMITS_AT_ONCE: Final = 500
STREAMS_AT_ONCE: Final = 200
RECENT: Final = timedelta(seconds=2 * NEW_STREAM_SECONDS_MAX)
"""An ended stream that began within this time is still in use: the append that began it may be sent again."""


class Obligations(Struct, frozen=True):
    """What the application knows of its streams, for a store that knows only events."""

    duties: Callable[[str, Sequence[StoredEvent]], Duties]
    """Of a stream with these events, all of them: what must exist beside them, and what must not."""
    terminal: Collection[str]
    """Statuses after which nothing follows."""


class _Meta(Struct):
    prev: str | None = None
    hash: str = ""


class _Frame(Struct, rename="camel"):
    order_id: str
    seq: int
    meta: _Meta


_decode: Final = msgspec.json.Decoder(_Frame).decode


async def lost_commits(
    connection: AsyncConnection, partition: int, after: int, through: int, obligations: Obligations
) -> AsyncIterator[list[Restored]]:
    """Yield the archived commits after position ``after`` up to ``through``, in order, a page at a time.

    The last commit of each stream carries the stream's duties, so that an interrupted healing can go on anywhere.

    Raises:
        PartitionForkedError: an archived event is not what its hash says.
    """
    while after < through:
        page = [
            commit
            for commit in await archive.read_log(connection, partition, after, COMMITS_AT_ONCE)
            if commit.position <= through
        ]
        if not page:
            raise PartitionForkedError(partition, f"PostgreSQL's archive has nothing after position {after}")
        streams = await archive.read_streams(connection, {commit.stream for commit in page})
        for stream, events in streams.items():
            require_whole(partition, stream, events)
        yield [_lost_commit(partition, commit, streams[commit.stream], obligations) for commit in page]
        after = page[-1].position


def _lost_commit(
    partition: int, commit: StoredCommit, stream: Sequence[StoredEvent], obligations: Obligations
) -> Restored:
    first = commit.version - len(commit.events)
    events = tuple(stream[first : commit.version])
    if len(events) != len(commit.events):
        raise PartitionForkedError(partition, f"PostgreSQL's copy of {commit.stream} ends before its own log does")
    duties = obligations.duties(commit.stream, stream) if commit.version == len(stream) else Duties()
    prev = stream[first - 1].hash if first else ""
    return Restored(stream=commit.stream, entry=commit, events=events, prev=prev, duties=duties)


async def open_streams(
    connection: AsyncConnection, partition: int, obligations: Obligations
) -> AsyncIterator[list[Restored]]:
    """Yield every archived stream of the partition that is open or recent, whole, with its duties, a page at a time."""
    recent = orders.c.created_at > func.now() - bindparam("recent", RECENT, Interval)
    is_open = orders.c.status.not_in(list(obligations.terminal))
    query = select(orders.c.id).where(orders.c.partition == partition, or_(is_open, recent))
    ids = list(await connection.scalars(query.order_by(orders.c.id)))
    for start in range(0, len(ids), STREAMS_AT_ONCE):
        streams = await archive.read_streams(connection, ids[start : start + STREAMS_AT_ONCE])
        yield [whole_stream(partition, stream, events, obligations) for stream, events in streams.items()]


def whole_stream(partition: int, stream: str, events: Sequence[StoredEvent], obligations: Obligations) -> Restored:
    """Return a stream as the piece that restores all of it.

    Raises:
        PartitionForkedError: an archived event is not what its hash says.
    """
    require_whole(partition, stream, events)
    return Restored(stream=stream, events=tuple(events), duties=obligations.duties(stream, events))


def require_whole(partition: int, stream: str, events: Sequence[StoredEvent]) -> None:
    """Require that archived events of one stream, from any version on, are what their hashes say, without a hole.

    Raises:
        PartitionForkedError: they are not.
    """
    version, prev = (events[0].version - 1, None) if events and events[0].version > 1 else (0, "")
    for event in events:
        version += 1
        fault = _fault(stream, version, event, prev)
        if fault is not None:
            raise PartitionForkedError(
                partition, f"PostgreSQL's copy of event {event_id(stream, version)} is damaged: {fault}"
            )
        prev = event.hash


def _fault(stream: str, version: int, event: StoredEvent, prev: str | None) -> str | None:
    try:
        frame = _decode(event.data)
    except msgspec.DecodeError as error:
        return f"it is not an event: {error}"
    if (event.version, frame.order_id, frame.seq, frame.meta.hash) != (version, stream, version, event.hash):
        return f"there is event {event_id(frame.order_id, frame.seq)} with hash {frame.meta.hash}, not {event.hash}"
    return chain_fault(event.data, (frame.meta.prev or "") if prev is None else prev)
