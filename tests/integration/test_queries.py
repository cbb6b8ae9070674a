"""Reads of the read model on real PostgreSQL."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.memory import MemoryEventStore
from projections.errors import OrderUnknownError
from projections.projector.runner import Projector
from projections.queries import orders as queries
from tests.builders import stream_id
from tests.conftest import accepted, append_all, appends, database, failed_life, filled, market_life, project


def test_orders_are_listed_newest_first_in_pages_that_stay_in_place(database_url: str) -> None:
    ids = [stream_id(number=1000 + number) for number in range(7)]
    moments = [1, 2, 3, 3, 3, 4, 5]
    lives = [market_life() if number % 2 else failed_life() for number in range(7)]
    store = filled(
        commit
        for order, moment, life, client in zip(ids, moments, lives, "abababa", strict=True)
        for commit in appends(order, life, client=client, start_us=moment * 1_000_000)
    )
    project(database_url, store)

    async def scenario() -> None:
        async with database(database_url) as engine:
            first = [row.id for row in await queries.list_orders(engine, limit=3)]
            await _project_one_more(store, engine)
            second = [row.id for row in await queries.list_orders(engine, limit=3, before=first[-1])]
            third = [row.id for row in await queries.list_orders(engine, limit=3, before=second[-1])]
            assert first + second + third == ids[::-1]
            of_client = await queries.list_orders(engine, limit=10, client_id="b", status="confirmed")
            assert [row.id for row in of_client] == [ids[5], ids[3], ids[1]]
            assert await queries.count_by_status(engine) == {"confirmed": 3, "failed": 4, "pending": 1}
            assert await queries.get_order(engine, stream_id()) is None
            with pytest.raises(OrderUnknownError):
                await queries.list_orders(engine, limit=3, before=stream_id())
            for limit in (0, 1001):
                with pytest.raises(ValueError, match="limit must be 1 to 1000"):
                    await queries.list_orders(engine, limit=limit)

    asyncio.run(scenario())


async def _project_one_more(store: MemoryEventStore, engine: AsyncEngine) -> None:
    await append_all(store, appends(stream_id(), [[accepted()]], start_us=9_000_000))
    await Projector(store, engine).project_available()
