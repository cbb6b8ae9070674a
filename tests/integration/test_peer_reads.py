"""Reads and submissions as clients of other engines make them: each family's paths, and the members it reads."""

import asyncio
from typing import Any

import pytest

from app.api.orders.aliases import OF_ORDERS, SUBMIT_PATHS
from app.clock import SystemClock
from app.orders.times import parse_time
from eventstore.memory import MemoryEventStore
from projections.projector.runner import Projector
from tests.desk import Desk
from tests.integration.api import (
    LIFE,
    ORDER,
    Api,
    connected,
    hear_many,
    live,
    memory_store,
    on_memory,
    problem,
    running,
)
from tests.integration.test_queries import IDS, seven_orders

SWAP = {"tokenIn": "SOL", "tokenOut": "USDC", "amountIn": 1.5, "orderType": "market", "slippageBps": 50}


@pytest.mark.parametrize("path", SUBMIT_PATHS)
def test_an_order_is_posted_and_its_socket_is_at_the_address_in_the_answer(path: str) -> None:
    async def scenario(api: Api) -> None:
        before_us = SystemClock().now_us()
        response = await api.http.post(path, json=SWAP, headers={"Idempotency-Key": "k"})
        answer = response.json()
        order_id = answer["orderId"]
        url = f"/api/orders/execute?orderId={order_id}"
        assert before_us <= parse_time(answer.pop("timestamp")) <= SystemClock().now_us()
        cursor = str((await api.store.read_stream(order_id))[0].cursor)
        assert answer == {
            **{"orderId": order_id, "status": "pending", "phase": "PENDING", "seq": 1, "duplicate": False},
            **{"success": True, "message": "the order is accepted and queued", "cursor": cursor},
            **dict.fromkeys(("wsUrl", "wsEndpoint", "websocketUrl", "upgradeUrl"), url),
        }
        await live(api.streams, order_id, LIFE[:1])
        address, _, query = answer["wsUrl"].partition("?")
        async with connected(api, f"?{query}", path=address) as socket:
            assert [frame["event"] for frame in await hear_many(socket, 2)] == ["pending", "routing"]
        again = await api.http.post(path, json=SWAP, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["orderId"]) == (200, order_id)
        assert again.json()["message"] == "the order was accepted before"

    on_memory(scenario)


@pytest.mark.parametrize("path", ["/orders/{}", "/order/{}"])
def test_an_order_is_read_under_the_names_of_others(path: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id)
        own = (await api.http.get(f"/api/orders/{order_id}")).json()
        theirs: dict[str, Any] = (await api.http.get(path.format(order_id))).json()
        assert {name: theirs[name] for name in own} == own
        assert {name: value for name, value in theirs.items() if name not in own} == {
            **{"id": order_id, "userId": "user01", "type": "market", "tokenIn": "USDC", "tokenOut": "SOL"},
            **{"txHash": "5xSignature", "dex": "raydium", "selectedDex": "raydium", "price": "150.225"},
        }
        stopped = (await api.http.delete(path.format(await api.place()))).json()
        assert stopped["status"] == "cancelled"
        cancelled = (await api.http.get(path.format(stopped["orderId"]))).json()
        assert (cancelled["reason"], cancelled["phase"]) == ("cancelled on request", "FAILED")
        sold = (await api.http.post("/orders", json=SWAP)).json()["orderId"]
        shown = (await api.http.get(path.format(sold))).json()
        assert (shown["tokenIn"], shown["tokenOut"]) == ("SOL", "USDC")
        assert "txHash" not in shown
        problem(await api.http.get(path.format("nonsense")), 400, "order_id_malformed")

    assert len(OF_ORDERS) == 10
    on_memory(scenario)


@pytest.mark.parametrize("path", ["/api/orders/history", "/orders"])
def test_a_history_is_read_page_by_page(database_url: str, path: str) -> None:
    store = seven_orders(database_url)

    async def main() -> None:
        async with running(store, database_url) as api:
            met, query, pages = [], {"limit": "3"}, 0
            while True:
                answer = (await api.http.get(path, params=query)).json()
                met += [order["id"] for order in answer["orders"]]
                pages += 1
                if not answer["hasMore"]:
                    break
                assert answer["next"] == answer["nextCursor"]
                query["cursor"] = answer["nextCursor"]
            assert (met, pages, "nextCursor" in answer) == (IDS[::-1], 3, False)

    asyncio.run(main())


def test_orders_are_counted_by_status_and_by_phase(database_url: str) -> None:
    store = seven_orders(database_url)

    async def main() -> None:
        async with running(store, database_url) as api:
            response = await api.http.get("/api/orders/stats")
            stats = response.json()
            assert stats["total"] == 7
            assert {name: count for name, count in stats["statuses"].items() if count} == {"failed": 4, "confirmed": 3}
            assert len(stats["statuses"]) == 11
            assert stats["phases"] == {"PENDING": 0, "PROCESSING": 0, "COMPLETED": 3, "FAILED": 4}
            assert sum(stats["asOf"]["positions"].values()) == sum(part.position for part in await store.status())
            assert response.headers["ordertape-lag-ms"] == "0"
            problem(await api.http.get("/api/orders/stats?from=x"), 400, "invalid_query")

    asyncio.run(main())


def test_the_queue_is_told_as_the_store_has_it() -> None:
    async def main() -> None:
        store = memory_store()
        async with running(store) as api:
            retried = await Desk(store, SystemClock()).live(["no_quote"])
            order_ids = [await api.place(clientId=f"client {number}") for number in range(6)]
            taken = await store.take_tasks("worker", 1)
            await store.park_task(taken[0], "broken")
            stats = (await api.http.get("/api/queue/stats")).json()
            partitions = stats.pop("partitions")
            active = len(taken) - 1
            assert stats == {"waiting": 6 - len(taken), "active": active, "delayed": 1, "failed": 1}
            assert [part["partition"] for part in partitions] == [0, 1, 2, 3]
            for name, total in stats.items():
                assert sum(part[name] for part in partitions) == total
            assert sum(part["position"] for part in partitions) == len(order_ids) + len(
                await store.read_stream(retried)
            )

    asyncio.run(main())


def test_tasks_that_wait_in_their_lanes_are_waiting() -> None:
    async def main() -> None:
        store = MemoryEventStore(partitions=1, store_id="memory", now_us=SystemClock().now_us)
        async with running(store) as api:
            for _ in range(70):
                await api.place()
            status = (await store.status())[0]
            assert (status.tasks, status.waiting) == (64, 6)
            assert (await api.http.get("/api/queue/stats")).json()["waiting"] == 70

    asyncio.run(main())


def test_counts_without_what_they_count_in_are_unavailable() -> None:
    async def scenario(api: Api) -> None:
        problem(await api.http.get("/api/orders/stats"), 503, "unavailable")
        assert (await api.http.get("/api/health")).json() == {"status": "ok", "version": "0.0.test"}
        for path in ("/api/orders/history", "/api/orders/stats", "/orders"):
            # None of these words is taken for an order id.
            assert (await api.http.get(path)).json()["code"] == "unavailable"

    on_memory(scenario)


def test_what_is_listed_is_what_was_placed(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        store = memory_store()
        async with running(store, database_url) as api:
            placed = [(await api.http.post("/orders", json=ORDER)).json()["orderId"] for _ in range(3)]
            await Projector(store, api.database).project_available()
            listed = (await api.http.get("/api/orders?limit=2&offset=1&userId=user01&status=pending")).json()
            assert [order["orderId"] for order in listed["orders"]] == placed[1::-1]

    asyncio.run(main())
