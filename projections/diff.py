"""Comparing both copies: is every row the fold of its stream, and every archived event the stream's own?"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Text, cast, func, select, union
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.canonical import canonical
from eventstore.errors import NotCanonicalError
from eventstore.ids import LOG_START, partition_in
from eventstore.store import EventStore, StoredEvent
from projections.checkpoints import read_checkpoints
from projections.database import reading, snapshot
from projections.fold.frames import read_event
from projections.fold.histories import Entry, Followed, Skips, follow
from projections.fold.orders import OrderRow
from projections.models.orders import PROJECTION as ORDERS
from projections.models.orders import orders, read_orders, time_text
from projections.parking import Quarantine, list_quarantined, read_skips
from projections.schema.tables import order_events

PAGE_ORDERS: Final = 200
PAGE_EVENTS: Final = 1000

_ARCHIVED: Final = (
    "event",
    "status",
    "type",
    "created_at",
    "partition",
    "epoch",
    "position",
    "commit_id",
    "hash",
    "payload",
    "data",
)

_PLACE: Final = ("partition", "epoch", "position", "commit_id", "payload")

_Values = Mapping[str, Any]
Kind = Literal["missing", "stale", "extra", "value", "quarantined"]


class Finding(Struct, frozen=True):
    """Where PostgreSQL is not what the streams say."""

    kind: Kind
    """``missing``: a row or event is not there; ``extra``: nothing says it should be; ``stale``: the row is at an
    earlier version than its partition is projected to; ``quarantined``: so it is, because an event cannot be applied;
    ``value``: one column says something else."""
    order_id: str
    field: str
    """A column of ``orders``, or ``row`` for a whole one; ``events/<version>/<column>``, or ``events/<version>`` for a
    whole event."""
    expected: str
    """What the stream says; "" for nothing."""
    found: str
    """What PostgreSQL holds; "" for nothing."""


class _Copies(Struct, frozen=True):
    """Of some orders, what PostgreSQL holds, in one snapshot."""

    reached: dict[int, int]
    rows: dict[str, OrderRow]
    events: dict[str, dict[int, _Values]]
    parked: dict[str, Quarantine]
    skips: Skips


async def diff(store: EventStore, engine: AsyncEngine, order_ids: Collection[str] | None = None) -> list[Finding]:
    """Return every difference between the streams, as far as they are projected, and the database; [] for none.

    Safe while orders run and the projector works: what is not projected yet is no difference.

    Args:
        order_ids: the orders to compare; None for all that the log or the database knows.

    Raises:
        BadIdError: one of ``order_ids`` is not an order id.
    """
    ids = sorted(set(order_ids) if order_ids is not None else await _known_orders(store, engine))
    findings: list[Finding] = []
    for start in range(0, len(ids), PAGE_ORDERS):
        page = ids[start : start + PAGE_ORDERS]
        # The database first: streams only grow, so what it holds by then is in them.
        copies = await _read_copies(engine, page)
        for order_id in page:
            reached = copies.reached.get(partition_in(order_id), 0)
            stream = [event for event in await _read_stream(store, order_id) if event.position <= reached]
            findings += _findings(order_id, stream, copies)
    return findings


async def _known_orders(store: EventStore, engine: AsyncEngine) -> set[str]:
    async with reading(engine) as connection:
        known = set(await connection.scalars(union(select(orders.c.id), select(order_events.c.order_id))))
    after = dict.fromkeys(range(store.partitions), LOG_START)
    while commits := await store.read_log(after, PAGE_EVENTS):
        for commit in commits:
            known.add(commit.stream)
            after[commit.partition] = commit.end
    return known


async def _read_copies(engine: AsyncEngine, order_ids: Collection[str]) -> _Copies:
    async with snapshot(engine, orders.name, order_events.name) as connection:
        reached = {number: at.position for number, at in (await read_checkpoints(connection)).items()}
        return _Copies(
            reached,
            await read_orders(connection, order_ids),
            await _read_events(connection, order_ids),
            {found.order_id: found for found in await list_quarantined(connection, ORDERS.name, order_ids)},
            await read_skips(connection, order_ids),
        )


async def _read_events(connection: AsyncConnection, order_ids: Collection[str]) -> dict[str, dict[int, _Values]]:
    columns = order_events.c
    special = {"created_at": time_text(columns.created_at), "payload": cast(columns.payload, Text)}
    query = select(columns.order_id, columns.version, *(special.get(name, columns[name]) for name in _ARCHIVED))
    found: dict[str, dict[int, _Values]] = {}
    for record in await connection.execute(query.where(columns.order_id == func.any(list(order_ids)))):
        found.setdefault(record[0], {})[record[1]] = dict(zip(_ARCHIVED, record[2:], strict=True))
    return found


async def _read_stream(store: EventStore, order_id: str) -> list[StoredEvent]:
    events: list[StoredEvent] = []
    while page := await store.read_stream(order_id, len(events), PAGE_EVENTS):
        events += page
    return events


def _findings(order_id: str, stream: Sequence[StoredEvent], copies: _Copies) -> Iterator[Finding]:
    entries = [_entry(order_id, event) for event in stream]
    expected = follow(order_id, None, entries, skips=copies.skips)
    yield from _row_findings(expected, copies.rows.get(order_id), copies.parked.get(order_id))
    events = {event.version: _archivable(event, entry) for event, entry in zip(stream, entries, strict=True)}
    yield from _event_findings(order_id, events, copies.events.get(order_id, {}))


def _row_findings(expected: Followed, found: OrderRow | None, parked: Quarantine | None) -> Iterator[Finding]:
    order_id, row = expected.order_id, expected.row
    if parked is not None:
        whole = f"version {row.version}" if row is not None and not expected.parked else "all its events applied"
        stands = f"stands still before event {parked.version}: {parked.reason}"
        yield Finding("quarantined", order_id, "row", whole, stands)
    elif row is None and found is None:
        if expected.parked:
            yield Finding("missing", order_id, "row", "parked events", "")
    elif row is None or found is None:
        sides = ("" if side is None else f"version {side.version}" for side in (row, found))
        yield Finding("extra" if row is None else "missing", order_id, "row", *sides)
    elif found.version < row.version:
        yield Finding("stale", order_id, "version", str(row.version), str(found.version))
    else:
        # When a skipped event was appended, its stream does not tell.
        known = {name: value for name, value in asdict(row).items() if name != "quality_since"}
        yield from _differences(order_id, "", known, asdict(found))


def _event_findings(
    order_id: str, expected: Mapping[int, _Values], archived: Mapping[int, _Values]
) -> Iterator[Finding]:
    for version in sorted(expected.keys() | archived.keys()):
        field = f"events/{version}"
        if version not in archived:
            yield Finding("missing", order_id, field, expected[version]["payload"], "")
        elif version not in expected:
            yield Finding("extra", order_id, field, "", _archived(archived[version])["payload"])
        else:
            said = expected[version]
            if archived[version]["data"] is not None:
                # Bytes that no column takes are archived as they are, without what they say.
                said = {name: said[name] for name in _PLACE}
            yield from _differences(order_id, f"{field}/", said, _archived(archived[version]))


def _differences(order_id: str, prefix: str, expected: _Values, found: _Values) -> Iterator[Finding]:
    for name, value in expected.items():
        if value != found[name]:
            yield Finding("value", order_id, prefix + name, _shown(value), _shown(found[name]))


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _entry(order_id: str, event: StoredEvent) -> Entry:
    found = read_event(order_id, event.version, event.hash, event.data)
    frame, fault = (None, found) if isinstance(found, str) else (found, None)
    return Entry(order_id, event.version, partition_in(order_id), event.position, 0, event.hash, frame, fault)


def _archivable(event: StoredEvent, entry: Entry) -> _Values:
    """Return the archive's columns of an event; of one that cannot be read, its place and its bytes alone."""
    frame = entry.frame
    place = {
        "partition": entry.partition,
        "epoch": event.epoch,
        "position": event.position,
        "commit_id": event.commit_id,
        "payload": _shown_bytes(event.data),
    }
    if frame is None:
        return place
    public = {"event": frame.event, "status": frame.status, "type": frame.meta.type, "created_at": frame.at}
    return {**place, **public, "hash": event.hash}


def _archived(columns: _Values) -> _Values:
    """Return an archived event's columns with its bytes as text."""
    raw = columns["data"]
    payload = _canonical_text(columns["payload"]) if raw is None else _shown_bytes(bytes(raw))
    return {**columns, "payload": payload}


def _shown_bytes(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _canonical_text(payload: str) -> str:
    """Return archived JSON in canonical form; as it is where it has none, which no event of ours lacks."""
    try:
        return canonical(msgspec.json.decode(payload)).decode()
    except NotCanonicalError:
        return payload
