"""PostgreSQL's side of the audit: whole and of this store, and for each order what its stream says."""

from collections.abc import Collection
from typing import Final

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.findings import Fault, Finding, Rule, of_order, of_partition
from app.audit.log import commit_at
from eventstore.store import EventStore
from projections.checkpoints import Checkpoint, read_checkpoints
from projections.database import reading, snapshot
from projections.diff import diff
from projections.errors import ReadModelMismatchError
from projections.models.orders import orders
from projections.schema.tables import order_events
from projections.schema.tables import store as owners

_NOTHING: Final = "nothing"
_events: Final = order_events.c
_orders: Final = orders.c


class Archived(Struct, frozen=True):
    """How many events and orders of a partition the database holds; ``last`` is its greatest position."""

    events: int
    last: int
    orders: int
    rows: int


async def checkpoints_of(engine: AsyncEngine, store: EventStore) -> dict[int, Checkpoint]:
    """Return the checkpoints of a database that holds this store's read model, or nothing yet.

    Raises:
        ReadModelMismatchError: it is another store's. Correct a URL.
    """
    async with reading(engine) as connection:
        found = (await connection.execute(select(owners.c.store_id, owners.c.partitions))).one_or_none()
        identity = (store.store_id, store.partitions)
        if found is not None and tuple(found) != identity:
            raise ReadModelMismatchError((found[0], found[1]), identity)
        return await read_checkpoints(connection)


async def events_before(engine: AsyncEngine, partition: int, position: int) -> int:
    """Return how many events of ``partition`` before ``position`` are archived."""
    query = select(func.count()).where(_events.partition == partition, _events.position < position)
    async with reading(engine) as connection:
        return int(await connection.scalar(query) or 0)


async def partition_findings(engine: AsyncEngine, store: EventStore, checkpoint: Checkpoint) -> list[Finding]:
    """Return what is wrong with the database's share of a partition as a whole."""
    async with snapshot(engine, orders.name, order_events.name) as connection:
        now = (await read_checkpoints(connection)).get(checkpoint.partition, checkpoint)
        held = await _archived(connection, checkpoint.partition)
    faults: list[Fault] = []
    if (held.events, held.last) != (now.position, now.position):
        expected = f"{now.position} events up to position {now.position}"
        faults.append(Fault("archive_density", expected, f"{held.events} events up to position {held.last}"))
    if held.orders != held.rows:
        faults.append(Fault("row", f"{held.orders} rows, one per archived order", f"{held.rows} rows"))
    faults += await _anchor_faults(store, checkpoint)
    return [of_partition(checkpoint.partition, fault) for fault in faults]


async def _archived(connection: AsyncConnection, partition: int) -> Archived:
    first = func.count().filter(_events.version == 1)
    query = select(func.count(), func.coalesce(func.max(_events.position), 0), first)
    events, last, orders = (await connection.execute(query.where(_events.partition == partition))).one()
    rows = await connection.scalar(select(func.count()).where(_orders.partition == partition))
    return Archived(events, last, orders, rows or 0)


async def _anchor_faults(store: EventStore, checkpoint: Checkpoint) -> list[Fault]:
    if checkpoint.position == 0:
        return []
    commit = await commit_at(store, checkpoint.partition, checkpoint.end)
    found = commit.anchors[-1] if commit is not None and commit.anchors and commit.end == checkpoint.end else None
    if found == checkpoint.anchor:
        return []
    expected = f"the event {checkpoint.anchor} of the checkpoint in the log at {checkpoint.end.entry_id}"
    return [Fault("checkpoint", expected, found or _NOTHING)]


async def order_findings(engine: AsyncEngine, store: EventStore, order_ids: Collection[str]) -> list[Finding]:
    """Return where the rows and archived events of these orders are not what their streams say.

    What the projector has not reached yet is no difference. The orders' streams must be readable.
    """
    findings: list[Finding] = []
    for found in await diff(store, engine, order_ids):
        rule, field, seq = _address(found.field)
        expected, actual = (_text(field, text) for text in (found.expected, found.found))
        findings.append(of_order(found.order_id, Fault(rule, expected, actual), seq))
    return findings


def _address(field: str) -> tuple[Rule, str, int | None]:
    if not field.startswith("events/"):
        return "row", field, None
    _, version, column = f"{field}/".split("/", 2)
    return "archive", column.rstrip("/") or "event", int(version)


def _text(field: str, value: str) -> str:
    return f"{field} {value or _NOTHING}"
