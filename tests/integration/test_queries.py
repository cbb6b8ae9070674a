"""Reads of the read model on real PostgreSQL."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.memory import MemoryEventStore
from projections.projector.runner import Projector
from projections.queries import orders as queries
from projections.queries.orders import OrderFilter, OrderPage, Place
from tests.builders import stream_id
from tests.conftest import accepted, append_all, appends, database, execute, failed_life, filled, market_life, project

IDS = [stream_id(number=1000 + number) for number in range(7)]
MOMENTS = [1, 2, 3, 3, 3, 4, 5]
CLIENTS = "abababa"
VARIED = "UPDATE orders SET side = 'buy', type = 'limit', base_asset = 'ETH' WHERE id = ANY(%s)"


def seven_orders(database_url: str) -> MemoryEventStore:
    """Orders of two clients, failed and confirmed by turns; three of them were created in the same microsecond."""
    lives = [market_life() if number % 2 else failed_life() for number in range(7)]
    store = filled(
        commit
        for order, moment, life, client in zip(IDS, MOMENTS, lives, CLIENTS, strict=True)
        for commit in appends(order, life, client=client, start_us=moment * 1_000_000)
    )
    project(database_url, store)
    return store


def ids(page: OrderPage) -> list[str]:
    return [row.id for row in page.orders]


def test_orders_are_listed_newest_first_in_pages_that_stay_in_place(database_url: str) -> None:
    store = seven_orders(database_url)

    async def scenario() -> None:
        async with database(database_url) as engine:
            first = await queries.list_orders(engine, limit=3)
            await _project_one_more(store, engine)
            second = await queries.list_orders(engine, limit=3, after=first.next)
            third = await queries.list_orders(engine, limit=3, after=second.next)
            assert ids(first) + ids(second) + ids(third) == IDS[::-1]
            assert (first.next, third.next) == (Place(3_001_000, IDS[4]), None)
            exactly = await queries.list_orders(engine, limit=8)
            assert (len(exactly.orders), exactly.next) == (8, None)
            assert await queries.count_by_status(engine) == {"confirmed": 3, "failed": 4, "pending": 1}
            assert await queries.get_order(engine, stream_id()) is None
            for limit in (0, 1001):
                with pytest.raises(ValueError, match="limit must be 1 to 1000"):
                    await queries.list_orders(engine, limit=limit)
            for offset, wanted in ((10_001, OrderFilter()), (1, OrderFilter(side="buy"))):
                with pytest.raises(ValueError, match="offset must be 0 to 10000"):
                    await queries.list_orders(engine, wanted, limit=1, offset=offset)

    asyncio.run(scenario())


FILTERED: list[tuple[dict[str, Any], list[int]]] = [
    ({"client_id": "b"}, [5, 3, 1]),
    ({"client_id": "b", "statuses": ("confirmed",)}, [5, 3, 1]),
    ({"client_id": "b", "statuses": ("failed", "expired")}, []),
    ({"statuses": ("failed",)}, [6, 4, 2, 0]),
    ({"statuses": ("failed", "confirmed", "expired")}, [6, 5, 4, 3, 2, 1, 0]),
    ({"created_from_us": 3_001_000, "created_to_us": 4_001_000}, [4, 3, 2]),
    ({"created_to_us": 2_001_000}, [0]),
    ({"created_from_us": -(10**18), "created_to_us": 10**18, "client_id": "a"}, [6, 4, 2, 0]),
    ({"side": "buy"}, [6, 3, 0]),
    ({"type": "limit", "client_id": "a"}, [6, 0]),
    ({"asset": "ETH"}, [6, 3, 0]),
    ({"asset": "USDC", "statuses": ("failed", "confirmed")}, [6, 5, 4, 3, 2, 1, 0]),
    ({"asset": "ETH", "statuses": ("failed", "confirmed")}, [6, 3, 0]),
    ({"pair": ("SOL", "USDC")}, [5, 4, 2, 1]),
    ({"pair": ("ETH", "USDC"), "side": "sell"}, []),
]


SIZES = [(1, 2), (2, 3), (2, 7), (3, 4), (7, 100)]
"""Limits of a page, and of what it looks through."""


def test_a_filter_lists_what_it_says_in_pages_of_any_size_however_little_one_looks_through(database_url: str) -> None:
    seven_orders(database_url)
    execute(database_url, VARIED, [IDS[0], IDS[3], IDS[6]])

    async def pages(engine: AsyncEngine, wanted: OrderFilter, limit: int, scanned_max: int) -> Sequence[OrderPage]:
        found = [await queries.list_orders(engine, wanted, limit=limit, scanned_max=scanned_max)]
        while (place := found[-1].next) is not None:
            found.append(await queries.list_orders(engine, wanted, limit=limit, after=place, scanned_max=scanned_max))
        return found

    async def scenario() -> None:
        async with database(database_url) as engine:
            for members, numbers in FILTERED:
                wanted, expected = OrderFilter(**members), [IDS[number] for number in numbers]
                for limit, scanned_max in SIZES:
                    found = await pages(engine, wanted, limit, scanned_max)
                    assert [order for page in found for order in ids(page)] == expected
                    assert wanted.is_indexed or len(found) <= 7 // min(limit, scanned_max - 1) + 2
                    assert not wanted.is_indexed or all(len(page.orders) == limit for page in found[:-1])

    asyncio.run(scenario())


def test_an_offset_leaves_out_the_newest(database_url: str) -> None:
    seven_orders(database_url)

    async def scenario() -> None:
        async with database(database_url) as engine:
            page = await queries.list_orders(engine, OrderFilter(statuses=("failed", "confirmed")), limit=2, offset=3)
            assert ids(page) == [IDS[3], IDS[2]]
            assert page.next == Place(3_001_000, IDS[2])
            assert ids(await queries.list_orders(engine, limit=2, offset=7)) == []

    asyncio.run(scenario())


async def _project_one_more(store: MemoryEventStore, engine: AsyncEngine) -> None:
    await append_all(store, appends(stream_id(), [[accepted()]], start_us=9_000_000))
    await Projector(store, engine).project_available()
