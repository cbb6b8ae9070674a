"""Writing a batch: archive, rows, parked events and checkpoints, in one transaction."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Final

import psycopg
from msgspec import Struct
from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.errors import StoreUnavailableError
from projections.archive.lines import copy_events
from projections.checkpoints import Checkpoints, lock_projections, move_checkpoints
from projections.fold.histories import Change, Entry, Followed, Parked, follow
from projections.fold.orders import OrderRow
from projections.models.orders import PROJECTION as ORDERS
from projections.models.orders import read_orders
from projections.models.projection import Step
from projections.models.registry import OTHERS
from projections.parking import held_orders, park
from projections.projector.batches import Batch

STATEMENT_SECONDS: Final = 4
"""What no statement of a batch takes. A projector that stands still within its transaction is ended by its server after
that, so that it does not hold up the one that takes over."""

_bound: Final = text(
    "SELECT set_config('statement_timeout', :ms, true), set_config('idle_in_transaction_session_timeout', :ms, true)"
)
WANTED: Final = frozenset(name for projection in OTHERS.values() for name in projection.event_types)


class Moving(Struct, frozen=True):
    """The checkpoints of a batch's partitions, locked."""

    found: Checkpoints
    """Of ``orders``."""
    joined: Mapping[str, Collection[int]]
    """By name of another projection, the partitions in which it is where ``orders`` is: it moves along there.

    Elsewhere it is being built: see :mod:`projections.rebuild`.
    """


async def bound_statements(connection: AsyncConnection) -> None:
    """Let the server end this transaction when it, or one of its statements, stands still."""
    await connection.execute(_bound, {"ms": str(STATEMENT_SECONDS * 1000)})


@asynccontextmanager
async def bounded(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that the server ends when it, or one of its statements, stands still.

    Raises:
        StoreUnavailableError: it was ended for that; nothing was committed. Begin anew.
    """
    try:
        async with engine.begin() as connection:
            await bound_statements(connection)
            yield connection
    except (DBAPIError, psycopg.Error) as error:
        # The drivers call it an internal error, which no outage is.
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, IdleInTransactionSessionTimeout):
            raise StoreUnavailableError("PostgreSQL has ended a transaction that stood still") from error
        raise


async def write(connection: AsyncConnection, batch: Batch, moving: Moving) -> list[Parked]:
    """Write ``batch``, and return the events that had to be parked; what the database refuses fails the transaction."""
    await copy_events(connection, batch.lines)
    parked = await apply_entries(connection, batch.entries, moving.joined)
    await move_all(connection, batch, moving)
    return parked


async def apply_entries(
    connection: AsyncConnection, entries: Sequence[Entry], joined: Mapping[str, Collection[int]]
) -> list[Parked]:
    """Bring the tables of ``orders``, and of the projections that move along, to where they are after ``entries``.

    Returns the events that had to be parked.
    """
    order_ids = {entry.order_id for entry in entries}
    rows = await read_orders(connection, order_ids)
    # An order without a row that is not new may be one whose first event could not be applied.
    unknown = [entry.order_id for entry in entries if entry.version > 1 and entry.order_id not in rows]
    held = await held_orders(connection, ORDERS.name, unknown) if unknown else {}
    followed = list(_follow(rows, entries, held))
    moved = [each.row for each in followed if each.row is not None and each.row is not rows.get(each.row.id)]
    await ORDERS.apply(connection, ORDERS.name, Step(moved, []))
    parked = [event for each in followed for event in each.parked]
    await park(connection, ORDERS.name, parked)
    await move_along(connection, [change for each in followed for change in each.changes], joined)
    return parked


def _follow(rows: Mapping[str, OrderRow], entries: Iterable[Entry], held: Collection[str]) -> Iterable[Followed]:
    # Stable: the events of one order stay in order.
    for order_id, run in groupby(sorted(entries, key=_order_of), key=_order_of):
        row = rows.get(order_id)
        is_held = order_id in held if row is None else row.quality == "quarantined"
        yield follow(order_id, row, run, held=is_held, wanted=WANTED)


def _order_of(entry: Entry) -> str:
    return entry.order_id


async def move_along(
    connection: AsyncConnection, changes: Sequence[Change], joined: Mapping[str, Collection[int]]
) -> None:
    """Bring the tables of other projections to where they are after ``changes``, in the partitions they joined."""
    for name, projection in OTHERS.items():
        types, partitions = projection.event_types, joined.get(name, ())
        ours = [c for c in changes if c.frame.meta.type in types and c.row.partition in partitions]
        if ours:
            await projection.apply(connection, name, Step([], ours))


async def lock_all(connection: AsyncConnection, partitions: Collection[int]) -> Moving:
    """Lock the checkpoints of every live projection in ``partitions`` until the transaction ends."""
    found = await lock_projections(connection, [ORDERS.name, *OTHERS], partitions)
    orders = found[ORDERS.name]
    joined = {name: {n for n, at in found[name].items() if at == orders.get(n)} for name in OTHERS}
    return Moving(orders, joined)


async def move_all(connection: AsyncConnection, batch: Batch, moving: Moving) -> None:
    """Move the checkpoints of ``orders``, and of what moves along, to the end of ``batch``."""
    ends = batch.ends
    moves = {
        name: [ends[number] for number in partitions if number in ends] for name, partitions in moving.joined.items()
    }
    await move_checkpoints(connection, {ORDERS.name: list(ends.values()), **moves}, batch.recorded_us)
