"""Reads of the read model of orders."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import ColumnElement, FromClause, Row, Select, and_, func, or_, select, true, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import reading
from projections.fold.orders import OrderRow
from projections.models.orders import ORDER_COLUMNS, order_row, orders, read_orders, select_orders

LIST_LIMIT_MAX: Final = 1000
OFFSET_MAX: Final = 10_000
SCANNED_MAX: Final = 10_000
"""Orders that one page looks through for those that a filter without an index of its own wants."""

_WIDTH: Final = len(ORDER_COLUMNS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAST_US: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND


class OrderFilter(Struct, frozen=True, kw_only=True):
    """Which orders a list is of; () and None: any."""

    client_id: str | None = None
    statuses: tuple[str, ...] = ()
    """One of them, now."""
    created_from_us: int | None = None
    """Created then or later, microseconds since 1970."""
    created_to_us: int | None = None
    """Created before."""
    side: str | None = None
    type: str | None = None
    asset: str | None = None
    """Base or quote asset."""
    pair: tuple[str, str] | None = None
    """Base and quote asset."""

    @property
    def is_indexed(self) -> bool:
        """Whether an index leads to these orders, and to no others."""
        return (self.side, self.type, self.asset, self.pair) == (None, None, None, None)


EVERY: Final = OrderFilter()


class Place(Struct, frozen=True):
    """A place in the list of all orders, newest first: that of an order, whether it still exists or not."""

    created_us: int
    order_id: str


class OrderPage(Struct, frozen=True):
    """Some orders, newest first."""

    orders: list[OrderRow]
    next: Place | None
    """After which the others come; None: there are none."""


async def get_order(engine: AsyncEngine, order_id: str) -> OrderRow | None:
    """Return an order as it was projected last; None where it is unknown or not projected yet."""
    async with reading(engine) as connection:
        return (await read_orders(connection, [order_id])).get(order_id)


async def list_orders(
    engine: AsyncEngine,
    wanted: OrderFilter = EVERY,
    *,
    limit: int,
    after: Place | None = None,
    offset: int = 0,
    scanned_max: int = SCANNED_MAX,
) -> OrderPage:
    """Return orders, newest first.

    Orders that come meanwhile do not shift the pages, nor do others of the same microsecond. A page of orders that no
    index leads to looks through at most ``scanned_max``: it may hold fewer than ``limit``, or none, and not be the
    last.

    Args:
        limit: 1 to 1000.
        after: where the page before ended; None for the first page.
        offset: so many orders are left out, 0 to 10,000; each costs as much as one that is returned.
        scanned_max: more than ``limit``.

    Raises:
        ValueError: ``limit`` or ``offset`` is out of range, or there is an offset though no index leads to the orders.
    """
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise ValueError(f"limit must be 1 to {LIST_LIMIT_MAX}, not {limit}")
    if not 0 <= offset <= (OFFSET_MAX if wanted.is_indexed else 0):
        raise ValueError(f"offset must be 0 to {OFFSET_MAX}, and 0 for what no index leads to, not {offset}")
    indexed = wanted.is_indexed
    query = _indexed(wanted, after, limit, offset) if indexed else _scanned(wanted, after, limit, scanned_max)
    async with reading(engine) as connection:
        records = (await connection.execute(query)).all()
    return _page(records, limit, None if indexed else scanned_max)


async def count_by_status(engine: AsyncEngine) -> dict[str, int]:
    """Return how many orders have each status; a status that none has is absent. Reads a whole index."""
    query = select(orders.c.status, func.count()).group_by(orders.c.status).order_by(orders.c.status)
    async with reading(engine) as connection:
        return {status: count for status, count in await connection.execute(query)}


def _indexed(wanted: OrderFilter, after: Place | None, limit: int, offset: int) -> Select[Any]:
    found = _newest(wanted, after, offset + limit + 1)
    return _in_order(select_orders(found), found).offset(offset).limit(limit + 1)


def _scanned(wanted: OrderFilter, after: Place | None, limit: int, scanned_max: int) -> Select[Any]:
    """Select the orders that match, and the last one that was looked at if there may be more after it."""
    found = _newest(wanted, after, scanned_max)
    number = func.row_number().over(order_by=(found.c.created_at.desc(), found.c.id.desc())).label("number")
    scanned = _in_order(select(found, number), found).limit(scanned_max).subquery("scanned")
    matches, last = _matches(wanted, scanned), scanned.c.number == scanned_max
    query = select_orders(scanned).add_columns(matches.label("matches"), scanned.c.number).where(or_(matches, last))
    return _in_order(query, scanned).limit(limit + 1)


def _page(records: Sequence[Row[Any]], limit: int, scanned_max: int | None) -> OrderPage:
    rows = [order_row(record[:_WIDTH]) for record in records]
    found = [row for row, record in zip(rows, records, strict=True) if scanned_max is None or record.matches]
    if len(found) > limit:
        return OrderPage(found[:limit], _place_of(found[limit - 1]))
    went_on = scanned_max is not None and bool(records) and records[-1].number == scanned_max
    return OrderPage(found, _place_of(rows[-1]) if went_on else None)


def _newest(wanted: OrderFilter, after: Place | None, limit: int) -> FromClause:
    """Select the newest orders by what there are indexes for: each status has its own part of one."""
    parts = [_part(wanted, status, after, limit) for status in wanted.statuses or (None,)]
    if len(parts) == 1:
        return parts[0].subquery("newest")
    return union_all(*(select(part.subquery()) for part in parts)).subquery("newest")


def _part(wanted: OrderFilter, status: str | None, after: Place | None, limit: int) -> Select[Any]:
    columns, conditions = orders.c, list[ColumnElement[bool]]()
    if wanted.client_id is not None:
        conditions.append(columns.client_id == wanted.client_id)
    if status is not None:
        conditions.append(columns.status == status)
    if wanted.created_from_us is not None:
        conditions.append(columns.created_at >= _moment(wanted.created_from_us))
    if wanted.created_to_us is not None:
        conditions.append(columns.created_at < _moment(wanted.created_to_us))
    if after is not None:
        conditions.append(tuple_(columns.created_at, columns.id) < (_moment(after.created_us), after.order_id))
    return _in_order(select(orders).where(*conditions), orders).limit(limit)


def _in_order(query: Select[Any], table: FromClause) -> Select[Any]:
    return query.order_by(table.c.created_at.desc(), table.c.id.desc())


def _matches(wanted: OrderFilter, table: FromClause) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.side is not None:
        conditions.append(table.c.side == wanted.side)
    if wanted.type is not None:
        conditions.append(table.c.type == wanted.type)
    if wanted.asset is not None:
        conditions.append(or_(table.c.base_asset == wanted.asset, table.c.quote_asset == wanted.asset))
    if wanted.pair is not None:
        conditions += [table.c.base_asset == wanted.pair[0], table.c.quote_asset == wanted.pair[1]]
    return and_(true(), *conditions)


def _place_of(row: OrderRow) -> Place:
    return Place((datetime.fromisoformat(row.created_at) - _EPOCH) // _MICROSECOND, row.id)


def _moment(us: int) -> datetime:
    # Before and after every order there is, where PostgreSQL's times reach further than Python's.
    return _EPOCH + max(0, min(us, _LAST_US)) * _MICROSECOND
