"""Rows to and from PostgreSQL, thousands at a time, within the caller's transaction."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import astuple
from psycopg import sql
from sqlalchemy import ColumnElement, Numeric, Row, Select, Table, Text, TextClause, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.store import StoredCommit
from projections import tables
from projections.database import driver_connection
from projections.orders import Frame, OrderRow

EventLine = tuple[str, int, str, str, str, str, str, int, int, int, str, str, datetime]
"""A row of ``order_events``: the columns of ``EVENT_COLUMNS``."""

EVENT_COLUMNS: Final = (
    "order_id",
    "version",
    "event",
    "status",
    "type",
    "payload",
    "created_at",
    "partition",
    "epoch",
    "position",
    "commit_id",
    "hash",
    "recorded_at",
)
ORDER_COLUMNS: Final = OrderRow.__struct_fields__

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
_UNITS: Final = tuple(ORDER_COLUMNS.index(name) for name in ("amount_in", "amount_out", "fee", "network_fee"))


def time_text(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return SQL for a time as frames spell it."""
    return func.to_char(func.timezone("UTC", column), _TIME)


def select_orders(table: Table = tables.orders) -> Select[Any]:
    """Return the query of whole orders, which :func:`order_row` reads; add conditions and order to it."""
    return select(*(_order_column(table.c[name]) for name in ORDER_COLUMNS))


def order_row(record: Row[Any]) -> OrderRow:
    """Return a record of :func:`select_orders` as the row that the fold knows."""
    values: list[Any] = list(record)
    for place in _UNITS:
        if values[place] is not None:
            values[place] = int(values[place])
    return OrderRow(*values)


async def read_orders(connection: AsyncConnection, order_ids: Collection[str]) -> dict[str, OrderRow]:
    """Return the rows of ``order_ids`` that exist, by id."""
    found = await connection.execute(select_orders().where(tables.orders.c.id == func.any(list(order_ids))))
    return {record[0]: order_row(record) for record in found}


async def write_orders(connection: AsyncConnection, rows: Collection[OrderRow], table: str = "orders") -> None:
    """Insert or replace ``rows``, one for each order.

    One statement and one round trip for any number of rows; a stage filled by COPY is no faster for a thousand.
    """
    await connection.execute(_upserts[table], {"rows": msgspec.json.encode(rows).decode()})


async def copy_orders(connection: AsyncConnection, rows: Iterable[OrderRow], table: str) -> None:
    """Add rows to an orders table; one that is there already fails the transaction."""
    await _copy(connection, table, ORDER_COLUMNS, map(astuple, rows))


async def copy_events(connection: AsyncConnection, lines: Iterable[EventLine]) -> None:
    """Add events to the archive; one that is there already fails the transaction."""
    await _copy(connection, "order_events", EVENT_COLUMNS, lines)


def event_line(commit: StoredCommit, position: int, frame: Frame, data: bytes) -> EventLine:
    """Return the archive's row of one event of ``commit``; ``data`` are its canonical bytes."""
    return (
        frame.order_id,
        frame.seq,
        frame.event,
        frame.status,
        frame.meta.type,
        data.decode(),
        frame.at,
        commit.partition,
        commit.epoch,
        position,
        commit.commit_id,
        frame.meta.hash,
        _EPOCH + timedelta(microseconds=commit.recorded_us),
    )


def _order_column(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if column.key in ("created_at", "updated_at", "expire_at"):
        return time_text(column)
    if column.key in ("amount", "limit_price"):
        return cast(func.trim_scale(column, type_=Numeric), Text)
    return column


def _upsert(table: str) -> TextClause:
    changes = ", ".join(f"{name} = excluded.{name}" for name in ORDER_COLUMNS[1:])
    return text(
        f"INSERT INTO {table} SELECT * FROM json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json)) "
        f"ON CONFLICT (id) DO UPDATE SET {changes}"
    )


_upserts: Final = {table: _upsert(table) for table in ("orders", "orders_next")}


async def _copy(
    connection: AsyncConnection, table: str, columns: Sequence[str], lines: Iterable[tuple[object, ...]]
) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    raw = await driver_connection(connection)
    async with raw.cursor() as cursor, cursor.copy(statement) as copy:
        for line in lines:
            await copy.write_row(line)
