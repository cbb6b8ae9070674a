"""Comparing both copies: is every row the fold of its stream, and every archived event the stream's own?"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Text, cast, func, select, union
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.canonical import canonical
from eventstore.errors import NotCanonicalError
from eventstore.ids import LOG_START, event_id, partition_in
from eventstore.store import EventStore, StoredEvent
from projections.checkpoints import read_checkpoints
from projections.database import reading
from projections.errors import FrameError, OrderMismatchError
from projections.fold.frames import Frame, decode_frame
from projections.fold.orders import OrderRow, apply
from projections.models.orders import orders, read_orders, time_text
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
)

_Values = Mapping[str, Any]


class Finding(Struct, frozen=True):
    """Where PostgreSQL is not what the streams say."""

    order_id: str
    field: str
    """A column of ``orders``, or ``row`` for a whole one; ``events/<version>/<column>``, or ``events/<version>`` for a
    whole event; ``stream`` where the stream itself is damaged: then ``found`` says how."""
    expected: str
    """What the stream says; "" for nothing."""
    found: str
    """What PostgreSQL holds; "" for nothing."""


class _Copies(Struct, frozen=True):
    """Of some orders, what PostgreSQL holds, in one snapshot."""

    reached: dict[int, int]
    rows: dict[str, OrderRow]
    events: dict[str, dict[int, _Values]]


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
            findings += _findings(order_id, stream, copies.rows.get(order_id), copies.events.get(order_id, {}))
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
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        reached = {number: at.position for number, at in (await read_checkpoints(connection)).items()}
        return _Copies(reached, await read_orders(connection, order_ids), await _read_events(connection, order_ids))


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


def _findings(
    order_id: str, stream: Sequence[StoredEvent], row: OrderRow | None, archived: Mapping[int, _Values]
) -> Iterator[Finding]:
    expected: OrderRow | None = None
    events: dict[int, _Values] = {}
    try:
        for event in stream:
            frame = decode_frame(event.data, event_id(order_id, event.version))
            expected = apply(expected, frame)
            events[event.version] = _archivable(event, frame)
    except (FrameError, OrderMismatchError) as error:
        yield Finding(order_id, "stream", "", str(error))
        return
    yield from _row_findings(order_id, expected, row)
    yield from _event_findings(order_id, events, archived)


def _row_findings(order_id: str, expected: OrderRow | None, row: OrderRow | None) -> Iterator[Finding]:
    if expected is not None and row is not None:
        yield from _differences(order_id, "", asdict(expected), asdict(row))
    elif expected is not row:
        yield Finding(order_id, "row", *(f"version {side.version}" if side else "" for side in (expected, row)))


def _event_findings(
    order_id: str, expected: Mapping[int, _Values], archived: Mapping[int, _Values]
) -> Iterator[Finding]:
    for version in sorted(expected.keys() | archived.keys()):
        field = f"events/{version}"
        if version not in archived:
            yield Finding(order_id, field, expected[version]["payload"], "")
        elif version not in expected:
            yield Finding(order_id, field, "", archived[version]["payload"])
        else:
            found = {**archived[version], "payload": _canonical_text(archived[version]["payload"])}
            yield from _differences(order_id, f"{field}/", expected[version], found)


def _differences(order_id: str, prefix: str, expected: _Values, found: _Values) -> Iterator[Finding]:
    for name, value in expected.items():
        if value != found[name]:
            yield Finding(order_id, prefix + name, _shown(value), _shown(found[name]))


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _archivable(event: StoredEvent, frame: Frame) -> _Values:
    return {
        "event": frame.event,
        "status": frame.status,
        "type": frame.meta.type,
        "created_at": frame.at,
        "partition": partition_in(frame.order_id),
        "epoch": event.epoch,
        "position": event.position,
        "commit_id": event.commit_id,
        "hash": event.hash,
        "payload": event.data.decode(),
    }


def _canonical_text(payload: str) -> str:
    """Return archived JSON in canonical form; as it is where it has none, which no event of ours lacks."""
    try:
        return canonical(msgspec.json.decode(payload)).decode()
    except NotCanonicalError:
        return payload
