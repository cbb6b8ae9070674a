"""Reads of the read model of orders."""

from typing import Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import reading
from projections.errors import OrderUnknownError
from projections.fold.orders import OrderRow
from projections.models.orders import order_row, orders, read_orders, select_orders

LIST_LIMIT_MAX: Final = 1000


async def get_order(engine: AsyncEngine, order_id: str) -> OrderRow | None:
    """Return an order as it was projected last; None where it is unknown or not projected yet."""
    async with reading(engine) as connection:
        return (await read_orders(connection, [order_id])).get(order_id)


async def list_orders(
    engine: AsyncEngine,
    *,
    limit: int,
    before: str | None = None,
    client_id: str | None = None,
    status: str | None = None,
) -> list[OrderRow]:
    """Return orders, newest first.

    Args:
        limit: 1 to 1000.
        before: id of the last order of the page before; None for the first page. Orders that come meanwhile do not
            shift the pages.
        client_id: only orders of this client.
        status: only orders that have it now.

    Raises:
        OrderUnknownError: there is no order ``before``. Start from the first page.
        ValueError: ``limit`` is out of range.
    """
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise ValueError(f"limit must be 1 to {LIST_LIMIT_MAX}, not {limit}")
    place = tuple_(orders.c.created_at, orders.c.id)
    query = select_orders().order_by(orders.c.created_at.desc(), orders.c.id.desc()).limit(limit)
    if client_id is not None:
        query = query.where(orders.c.client_id == client_id)
    if status is not None:
        query = query.where(orders.c.status == status)
    async with reading(engine) as connection:
        if before is not None:
            start = (await connection.execute(select(*place).where(orders.c.id == before))).one_or_none()
            if start is None:
                raise OrderUnknownError(before)
            query = query.where(place < tuple(start))
        return [order_row(record) for record in await connection.execute(query)]


async def count_by_status(engine: AsyncEngine) -> dict[str, int]:
    """Return how many orders have each status; a status that none has is absent."""
    query = select(orders.c.status, func.count()).group_by(orders.c.status).order_by(orders.c.status)
    async with reading(engine) as connection:
        return {status: count for status, count in await connection.execute(query)}
