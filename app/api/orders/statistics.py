"""How many orders there are, and how much work waits for the workers."""

import asyncio
from collections.abc import Sequence
from typing import Final, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.access.entry import principal_of
from app.api.orders.answers import OrderStats, PartitionDepth, QueueStats
from app.api.orders.freshness import AsOf, Freshness
from app.api.problems import unavailable
from app.api.requests import read_query
from app.api.streaming.scopes import AllScope
from app.execution.coalesce import Shared
from app.orders.lifecycle import Phase, Status, phase
from eventstore.errors import StoreUnavailableError
from eventstore.store import EventStore, PartitionStatus
from projections.database import DATABASE_OUTAGES
from projections.queries.orders import count_by_status

STATS_PATH: Final = "/api/orders/stats"
QUEUE_PATH: Final = "/api/queue/stats"
COUNT_SECONDS: Final = 0.25
"""Whoever asks meanwhile shares one count, which reads a whole index."""


class StatisticsRoutes:
    """``/api/orders/stats`` and ``/api/queue/stats``."""

    def __init__(self, store: EventStore, database: AsyncEngine, freshness: Freshness) -> None:
        self._store = store
        self._database = database
        self._freshness = freshness
        self._counts = Shared(self._count, lambda: asyncio.sleep(COUNT_SECONDS))
        self._depths = Shared(self._depth, lambda: asyncio.sleep(0))

    def routes(self) -> list[BaseRoute]:
        """Return the routes, which come before that of a single order."""
        return [Route(STATS_PATH, self.orders, methods=["GET"]), Route(QUEUE_PATH, self.queue, methods=["GET"])]

    async def orders(self, request: Request) -> Response:
        """Count the orders of the read model, for those who may read them all."""
        await principal_of(request).require_scope(AllScope())
        read_query(request, ())
        try:
            stats = await self._counts.get()
        except DATABASE_OUTAGES as error:
            raise unavailable("ask again") from error
        return Response(msgspec.json.encode(stats), 200, stats.as_of.headers(), "application/json")

    async def queue(self, request: Request) -> Response:
        """Count the unfinished work of the event store, for the same."""
        await principal_of(request).require_scope(AllScope())
        read_query(request, ())
        try:
            stats = await self._depths.get()
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        return Response(msgspec.json.encode(stats), media_type="application/json")

    async def _count(self) -> OrderStats:
        as_of = await self._freshness.as_of()
        return _stats(await count_by_status(self._database), as_of)

    async def _depth(self) -> QueueStats:
        return _sum([_depth_of(status) for status in await self._store.status()])


def _stats(counts: dict[str, int], as_of: AsOf) -> OrderStats:
    statuses: dict[Status, int] = {status: counts.get(status, 0) for status in get_args(Status)}
    phases: dict[Phase, int] = dict.fromkeys(get_args(Phase), 0)
    for status, count in statuses.items():
        phases[phase(status)] += count
    return OrderStats(total=sum(counts.values()), statuses=statuses, phases=phases, as_of=as_of)


def _depth_of(status: PartitionStatus) -> PartitionDepth:
    return PartitionDepth(
        partition=status.partition,
        position=status.position,
        waiting=status.tasks - status.pending + status.waiting,
        active=status.pending,
        delayed=status.timers,
        failed=status.parked,
    )


def _sum(partitions: Sequence[PartitionDepth]) -> QueueStats:
    return QueueStats(
        waiting=sum(depth.waiting for depth in partitions),
        active=sum(depth.active for depth in partitions),
        delayed=sum(depth.delayed for depth in partitions),
        failed=sum(depth.failed for depth in partitions),
        partitions=list(partitions),
    )
