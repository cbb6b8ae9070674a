"""Lists of orders over HTTP: filters, pages that hold still, and links to the next one."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.orders.times import format_time
from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.conftest import accepted, append_all, appends, execute
from tests.integration.api import Api, on_memory, problem, running
from tests.integration.test_queries import CLIENTS, IDS, VARIED, seven_orders

Scenario = Callable[[Api], Awaitable[None]]


def on_seven_orders(database_url: str, scenario: Scenario) -> None:
    """Run ``scenario`` with the orders of :mod:`tests.integration.test_queries`, three of which are limit buys."""
    store = seven_orders(database_url)
    execute(database_url, VARIED, [IDS[0], IDS[3], IDS[6]])

    async def main() -> None:
        async with running(store, database_url) as api:
            await scenario(api)

    asyncio.run(main())


FOUND: list[tuple[dict[str, str], list[int]]] = [
    ({"status": "failed"}, [6, 4, 2, 0]),
    ({"status": "FAILED,confirmed"}, [6, 5, 4, 3, 2, 1, 0]),
    ({"phase": "completed"}, [5, 3, 1]),
    ({"phase": "FAILED,COMPLETED", "status": "failed"}, [6, 4, 2, 0]),
    ({"phase": "PENDING"}, []),
    ({"clientId": "b"}, [5, 3, 1]),
    ({"userId": "b", "status": "confirmed"}, [5, 3, 1]),
    ({"side": "buy"}, [6, 3, 0]),
    ({"type": "limit", "clientId": "a"}, [6, 0]),
    ({"asset": "ETH"}, [6, 3, 0]),
    ({"asset": "7vfCXTUXx5WJV5JADk17DUJ4ksgau7utNKj4b963voxs", "status": "confirmed"}, [3]),
    ({"pair": "SOL/USDC"}, [5, 4, 2, 1]),
    ({"createdFrom": format_time(3_001_000), "createdTo": format_time(4_001_000)}, [4, 3, 2]),
    ({"createdFrom": "1970-01-01T01:00:05+01:00"}, [6]),
    ({"createdTo": "0001-01-01T00:00:00Z"}, []),
    ({"offset": "5", "limit": "1"}, [1]),
]


def test_a_list_has_exactly_the_orders_that_its_filters_name(database_url: str) -> None:
    async def scenario(api: Api) -> None:
        for query, numbers in FOUND:
            answer = (await api.http.get("/api/orders", params=query)).json()
            assert [order["orderId"] for order in answer["orders"]] == [IDS[number] for number in numbers], query

    on_seven_orders(database_url, scenario)


@pytest.mark.parametrize("path", ["/api/orders", "/api/orders/history"])
def test_following_the_links_meets_each_order_once_whatever_comes_meanwhile(database_url: str, path: str) -> None:
    async def scenario(api: Api) -> None:
        met: list[str] = []
        url: str | None = f"{path}?limit=2&clientId=a&status=failed,confirmed"
        while url is not None:
            response = await api.http.get(url)
            answer = response.json()
            met += [order["orderId"] for order in answer["orders"]]
            link = re.fullmatch(r'<(.+)>; rel="next"', response.headers.get("link", ""))
            assert ("next" in answer) == (link is not None)
            by_hand = {"limit": "2", "clientId": "a", "status": "failed,confirmed", "cursor": answer.get("next", "")}
            url = link[1] if link is not None else None
            if url is not None:
                again = (await api.http.get(path, params=by_hand)).json()["orders"]
                assert again == (await api.http.get(url)).json()["orders"]
            # Newer ones, and one of the same time as those at the end of the first page.
            for start_us in (3_000_000, 9_000_000):
                await append_all(api.store, appends(stream_id("a"), [[accepted()]], client="a", start_us=start_us))
            await Projector(api.store, api.database).project_available()
        assert [order for order in met if order in IDS] == [IDS[number] for number in (6, 4, 2, 0)]
        assert len(set(met)) == len(met)

    assert CLIENTS == "abababa"
    on_seven_orders(database_url, scenario)


REFUSED = [
    "status=done",
    "status=failed,",
    "status=",
    "phase=failed,done",
    "phase=PENDING&status=failed",
    "side=up",
    "type=stop",
    "asset=XYZ",
    "pair=SOL",
    "pair=SOL/XYZ",
    "createdFrom=1700000000",
    "createdTo=2027-01-31T12:00:00",
    "createdFrom=2027-01-31T12:00:00+01:00",
    "cursor=",
    "cursor=01ARZ3NDEKTSV4RRFFQ69G5FAV-03",
    "cursor=1-7-9f86d081",
    "cursor=MS54",
    "cursor=%00",
    "cursor=%C3%B0",
    "cursor=MTIzLjAxQVJaM05ERUtUU1Y0UlJGRlE2OUc1RkFWLTAz!",
    "offset=-1",
    "offset=10001",
    "offset=1&cursor=MTIzLjAxQVJaM05ERUtUU1Y0UlJGRlE2OUc1RkFWLTAz",
    "offset=1&side=buy",
    "userId=a&clientId=a",
    "before=01ARZ3NDEKTSV4RRFFQ69G5FAV-03",
]


def test_a_query_that_is_not_understood_is_refused_by_parameter() -> None:
    async def scenario(api: Api) -> None:
        for query in REFUSED:
            body: dict[str, Any] = problem(await api.http.get(f"/api/orders?{query}"), 400, "invalid_query")
            assert body["errors"][0]["pointer"] == f"/{query.partition('=')[0]}", query

    on_memory(scenario)


def test_the_events_of_an_order_link_to_the_next_page(database_url: str) -> None:
    async def scenario(api: Api) -> None:
        response = await api.http.get(f"/api/orders/{IDS[1]}/events?limit=4")
        link = f'</api/orders/{IDS[1]}/events?after=4&limit=4>; rel="next"'
        assert (response.headers["link"], response.json()["more"]) == (link, True)
        last = await api.http.get(f"/api/orders/{IDS[1]}/events?after=4&limit=4")
        assert ("link" in last.headers, [event["seq"] for event in last.json()["events"]]) == (False, [5, 6])

    on_seven_orders(database_url, scenario)
