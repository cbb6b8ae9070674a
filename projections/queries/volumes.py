"""Reads of the daily volumes: what was exchanged, and each venue's share of it."""

from datetime import date
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Integer, Numeric, Select, cast, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import reading
from projections.models.volumes import volumes

LIST_LIMIT_MAX: Final = 1000
_BPS: Final = 10_000

_columns: Final = volumes.c
_place: Final = (_columns.day, _columns.base_asset, _columns.quote_asset, _columns.venue)


class VenueVolume(Struct, frozen=True):
    """What one venue exchanged of a pair on one day, for all clients or for the one asked for.

    Units are base units of the pair's assets. ``share_bps`` is the venue's part of the pair's base volume of that day,
    in 1/100 %, rounded down, 0 where that is nothing.
    """

    day: date
    base_asset: str
    quote_asset: str
    venue: str
    base_decimals: int
    quote_decimals: int
    orders: int
    base_units: int
    quote_units: int
    base_fee: int
    quote_fee: int
    share_bps: int


async def list_volumes(
    engine: AsyncEngine,
    *,
    limit: int,
    first: date | None = None,
    last: date | None = None,
    pair: tuple[str, str] | None = None,
    client_id: str | None = None,
) -> list[VenueVolume]:
    """Return daily volumes by venue, newest day first, then by pair and venue.

    Args:
        limit: 1 to 1000.
        first: the first day, UTC.
        last: the last one.
        pair: base and quote asset.
        client_id: only this client's; "" for anonymous orders.

    Raises:
        ValueError: ``limit`` is out of range.
    """
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise ValueError(f"limit must be 1 to {LIST_LIMIT_MAX}, not {limit}")
    query = _by_venue().limit(limit)
    if first is not None:
        query = query.where(_columns.day >= first)
    if last is not None:
        query = query.where(_columns.day <= last)
    if pair is not None:
        query = query.where(_columns.base_asset == pair[0], _columns.quote_asset == pair[1])
    if client_id is not None:
        query = query.where(_columns.client_id == client_id)
    async with reading(engine) as connection:
        return [VenueVolume(*row[:4], *map(int, row[4:])) for row in await connection.execute(query)]


def _by_venue() -> Select[Any]:
    traded = func.sum(_columns.base_units)
    # The share is of whatever the conditions leave: of all clients, or of the one asked for.
    whole = func.nullif(func.sum(traded).over(partition_by=_place[:3]), 0)
    share = cast(func.coalesce(func.floor(cast(traded * _BPS, Numeric) / whole), 0), Integer)
    sums = (_columns.orders, _columns.base_units, _columns.quote_units, _columns.base_fee, _columns.quote_fee)
    decimals = (func.max(_columns.base_decimals), func.max(_columns.quote_decimals))
    query = select(*_place, *decimals, *map(func.sum, sums), share).group_by(*_place)
    return query.order_by(_columns.day.desc(), *_place[1:])
