"""The read model of orders: its table, and its rows to and from PostgreSQL, thousands at a time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, astuple
from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Select,
    SmallInteger,
    Table,
    Text,
    TextClause,
    cast,
    func,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from projections.database import copy_rows
from projections.fold.orders import OrderRow
from projections.models.projection import Key, Step
from projections.schema.tables import metadata

ORDER_COLUMNS: Final = OrderRow.__struct_fields__

_TIME: Final = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
_UNITS: Final = tuple(ORDER_COLUMNS.index(name) for name in ("amount_in", "amount_out", "fee", "network_fee"))
_AMOUNTS: Final = ("amount", "amount_in", "amount_out", "fee", "network_fee")
_UNITS_LIMIT: Final = 2**64


def orders_table(metadata: MetaData, name: str) -> Table:
    """Define the orders table under ``name``; its constraints and indexes are called ``<name>_…``.

    ``amount`` is in the base asset's own unit; ``amount_in``, ``amount_out`` and ``fee`` are in base units of the asset
    paid in, received and paid in; ``network_fee`` is in lamports. ``venue``, ``tx_id`` and the failure are those of the
    latest attempt, or why the order was cancelled. ``limit_price`` is quote asset per base asset; it and
    ``time_in_force`` belong to limit orders alone, ``expire_at`` to orders with an end of their own. ``quality`` is
    ``ok``, ``quarantined`` (the row stands still before an event that could not be applied) or ``incomplete`` (an event
    was skipped), with the reason and the time at which that event was appended.
    """
    table = Table(
        name,
        metadata,
        Column("id", Text, nullable=False),
        Column("client_id", Text),
        Column("side", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("base_asset", Text, nullable=False),
        Column("quote_asset", Text, nullable=False),
        Column("amount", Numeric(38, 18), nullable=False),
        Column("slippage_bps", Integer, nullable=False),
        Column("status", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("venue", Text),
        Column("tx_id", Text),
        Column("amount_in", Numeric(20, 0)),
        Column("amount_out", Numeric(20, 0)),
        Column("fee", Numeric(20, 0)),
        Column("network_fee", Numeric(20, 0)),
        Column("base_decimals", SmallInteger, nullable=False),
        Column("quote_decimals", SmallInteger, nullable=False),
        Column("failure_code", Text),
        Column("failure_message", Text),
        Column("idempotency_key", Text),
        Column("fingerprint", Text),
        Column("version", Integer, nullable=False),
        Column("head_hash", Text, nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("updated_at", DateTime(timezone=True), nullable=False),
        Column("limit_price", Numeric(38, 18)),
        Column("time_in_force", Text),
        Column("expire_at", DateTime(timezone=True)),
        Column("quality", Text, nullable=False, server_default="ok"),
        Column("quality_reason", Text),
        Column("quality_since", DateTime(timezone=True)),
        PrimaryKeyConstraint("id", name=f"{name}_pkey"),
        *(
            CheckConstraint(f"{amount} >= 0 AND {amount} < {_UNITS_LIMIT}", name=f"{name}_{amount}_check")
            for amount in _AMOUNTS
        ),
        CheckConstraint("side IN ('buy', 'sell')", name=f"{name}_side_check"),
        CheckConstraint("version >= 1", name=f"{name}_version_check"),
        CheckConstraint("quality IN ('ok', 'quarantined', 'incomplete')", name=f"{name}_quality_check"),
    )
    _index_orders(table.c, name)
    return table


def _index_orders(columns: ReadOnlyColumnCollection[str, Column[Any]], name: str) -> None:
    Index(f"{name}_created", columns.created_at, columns.id)
    Index(f"{name}_client_created", columns.client_id, columns.created_at, columns.id)
    Index(f"{name}_status_created", columns.status, columns.created_at, columns.id)
    Index(f"{name}_client_status_created", columns.client_id, columns.status, columns.created_at, columns.id)
    Index(f"{name}_quality", columns.id, postgresql_where=columns.quality != text("'ok'::text"))
    Index(
        f"{name}_idempotency",
        func.coalesce(columns.client_id, text("''::text")),
        columns.idempotency_key,
        unique=True,
        postgresql_where=columns.idempotency_key.is_not(None),
    )


class Orders:
    """See :class:`Projection`. The fold of every other projection stands on these rows."""

    name: Final = "orders"
    event_types: Final = frozenset[str]()

    def define(self, metadata: MetaData, table: str) -> Table:
        """See :meth:`Projection.define`."""
        return orders_table(metadata, table)

    async def apply(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """See :meth:`Projection.apply`."""
        await write_orders(connection, step.rows, table)

    async def load(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """See :meth:`Projection.load`."""
        await copy_orders(connection, step.rows, table)

    def fold(self, steps: Sequence[Step]) -> Mapping[Key, Mapping[str, Any]]:
        """See :meth:`Projection.fold`."""
        return {(row.id,): asdict(row) for step in steps for row in step.rows}


PROJECTION: Final = Orders()

orders: Final = PROJECTION.define(metadata, PROJECTION.name)


def time_text(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return SQL for a time as frames spell it."""
    return func.to_char(func.timezone("UTC", column), _TIME)


def select_orders(table: FromClause = orders) -> Select[Any]:
    """Return the query of whole orders, which :func:`order_row` reads; add conditions and order to it."""
    return select(*(_order_column(table.c[name]) for name in ORDER_COLUMNS))


def order_row(record: Sequence[Any]) -> OrderRow:
    """Return a record of :func:`select_orders` as the row that the fold knows."""
    values: list[Any] = list(record)
    for place in _UNITS:
        if values[place] is not None:
            values[place] = int(values[place])
    return OrderRow(*values)


async def read_orders(
    connection: AsyncConnection, order_ids: Collection[str], table: Table = orders
) -> dict[str, OrderRow]:
    """Return the rows of ``order_ids`` that exist, by id."""
    found = await connection.execute(select_orders(table).where(table.c.id == func.any(list(order_ids))))
    return {record[0]: order_row(record) for record in found}


async def write_orders(connection: AsyncConnection, rows: Collection[OrderRow], table: str = "orders") -> None:
    """Insert or replace ``rows``, one for each order.

    One statement and one round trip for any number of rows; a stage filled by COPY is no faster for a thousand.
    """
    if rows:
        await connection.execute(_upsert(table), {"rows": msgspec.json.encode(rows).decode()})


async def copy_orders(connection: AsyncConnection, rows: Iterable[OrderRow], table: str) -> None:
    """Add rows to an orders table; one that is there already fails the transaction."""
    await copy_rows(connection, table, ORDER_COLUMNS, map(astuple, rows))


def _order_column(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if column.key in ("created_at", "updated_at", "expire_at", "quality_since"):
        return time_text(column)
    if column.key in ("amount", "limit_price"):
        return cast(func.trim_scale(column, type_=Numeric), Text)
    return column


@cache
def _upsert(table: str) -> TextClause:
    names, changes = ", ".join(ORDER_COLUMNS), ", ".join(f"{name} = excluded.{name}" for name in ORDER_COLUMNS[1:])
    # Columns by name: a later schema may have more of them, with defaults.
    return text(
        f"INSERT INTO {table} ({names}) "
        f"SELECT {names} FROM json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json)) "
        f"ON CONFLICT (id) DO UPDATE SET {changes}"
    )
