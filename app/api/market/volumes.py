"""Daily volumes and venues' shares over REST."""

from collections.abc import Mapping
from datetime import date
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.access.entry import principal_of
from app.api.orders.freshness import FRESHNESS_PARAMETERS, AsOf, Freshness, read_wanted
from app.api.problems import ProblemError, unavailable
from app.api.requests import invalid_parameter, read_client, read_limit, read_pair, read_query
from app.orders.money import format_units
from eventstore.ids import partition_of
from projections.database import DATABASE_OUTAGES
from projections.models.volumes import PROJECTION as VOLUMES
from projections.queries.volumes import LIST_LIMIT_MAX, VenueVolume, list_volumes

VOLUMES_PATH: Final = "/api/volumes"
VOLUMES_QUERY: Final = ("limit", "from", "to", "pair", "clientId", *FRESHNESS_PARAMETERS)
LIST_LIMIT: Final = 100


class VolumeView(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one venue exchanged of a pair on one UTC day; amounts are decimal text in the unit of their asset."""

    day: date
    pair: str
    venue: str
    orders: int
    base_volume: str
    quote_volume: str
    base_fee: str
    quote_fee: str
    share_bps: int
    """The venue's part of the pair's base volume of that day, in 1/100 %, rounded down."""


class VolumeList(Struct, frozen=True, rename="camel"):
    """Volumes by day, pair and venue, newest day first."""

    volumes: list[VolumeView]
    as_of: AsOf


class VolumeRoutes:
    """``/api/volumes``."""

    def __init__(self, database: AsyncEngine, freshness: Freshness, partitions: int) -> None:
        self._database = database
        self._freshness = freshness
        self._partitions = partitions

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route(VOLUMES_PATH, self.newest, methods=["GET"])]

    async def newest(self, request: Request) -> Response:
        """Return volumes by day, pair and venue, newest day first: of all clients together, or of one."""
        principal = principal_of(request)
        query = read_query(request, VOLUMES_QUERY)
        limit, client = read_limit(query, LIST_LIMIT, LIST_LIMIT_MAX), read_client(query)
        if client is not None:
            principal.require_client(client)
        partition = None if client is None else partition_of(client, self._partitions)
        known = principal.partition if partition is None else partition
        first, last, pair = _day(query, "from"), _day(query, "to"), read_pair(query)
        await self._freshness.projected(read_wanted(query, self._partitions, known))
        try:
            as_of = await self._freshness.as_of(partition, VOLUMES.name)
            found = await list_volumes(self._database, limit=limit, first=first, last=last, pair=pair, client_id=client)
        except DATABASE_OUTAGES as error:
            raise unavailable("ask again") from error
        if len(as_of.positions) < (self._partitions if partition is None else 1):
            raise ProblemError("unavailable", "the volumes are being built: ask again")
        as_of = as_of.only(known)
        answer = VolumeList([_view(volume) for volume in found], as_of)
        return Response(msgspec.json.encode(answer), 200, as_of.headers(), "application/json")


def _view(volume: VenueVolume) -> VolumeView:
    return VolumeView(
        day=volume.day,
        pair=f"{volume.base_asset}/{volume.quote_asset}",
        venue=volume.venue,
        orders=volume.orders,
        base_volume=format_units(volume.base_units, volume.base_decimals),
        quote_volume=format_units(volume.quote_units, volume.quote_decimals),
        base_fee=format_units(volume.base_fee, volume.base_decimals),
        quote_fee=format_units(volume.quote_fee, volume.quote_decimals),
        share_bps=volume.share_bps,
    )


def _day(query: Mapping[str, str], name: str) -> date | None:
    value = query.get(name)
    try:
        return None if value is None else date.fromisoformat(value)
    except ValueError:
        raise invalid_parameter(name, "must be a day such as 2027-01-15") from None
