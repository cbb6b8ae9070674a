"""How many orders are taken, and from whom: what is refused is told when to come back, and nothing of it is created."""

import asyncio

import pytest

from app.api.orders.intake import OrderLimits
from app.clock import SystemClock
from eventstore.memory import MemoryEventStore
from eventstore.rates import RateTaken
from eventstore.store import EventStore
from tests.integration.api import (
    ORDER,
    Api,
    connected,
    hear,
    memory_store,
    problem,
    redis_store,
    running,
    say,
)


async def orders(store: EventStore) -> int:
    """How many orders were created; each has one event."""
    return sum(status.position for status in await store.status())


async def refused_for_haste(api: Api, **fields: object) -> int:
    """Return how many milliseconds a refused order is asked to wait."""
    response = await api.http.post("/api/orders", json={**ORDER, **fields})
    body = problem(response, 429, "rate_limited")
    wait_ms = body["retryAfterMs"]
    assert isinstance(wait_ms, int)
    assert int(response.headers["retry-after"]) == -(-wait_ms // 1000)
    return wait_ms


def test_a_client_in_haste_is_told_when_to_come_back_and_others_are_not_held_up() -> None:
    async def main() -> None:
        async with running(memory_store(), orders=OrderLimits(client_per_minute=2)) as api:
            for _ in range(2):
                await api.place()
            assert 20_000 < await refused_for_haste(api) <= 30_000
            assert await orders(api.store) == 2
            await api.place(clientId="user02")
            async with connected(api) as socket:
                await say(socket, **ORDER, id=1)
                refused = await hear(socket)
                assert (refused["type"], refused["code"], refused["id"]) == ("error", "rate_limited", 1)
                assert 0 < refused["retryAfterMs"] <= 30_000
                await say(socket, **{**ORDER, "clientId": "user03"})
                assert (await hear(socket))["event"] == "pending"

    asyncio.run(main())


def test_orders_without_a_client_count_as_one_clients_whatever_their_keys() -> None:
    async def main() -> None:
        async with running(memory_store(), orders=OrderLimits(client_per_minute=3)) as api:
            for number in range(3):
                await api.place(clientId=None, idempotencyKey=f"key {number}")
            for number in range(3, 9):
                await refused_for_haste(api, clientId=None, idempotencyKey=f"key {number}")
            assert await orders(api.store) == 3

    asyncio.run(main())


def test_all_clients_together_are_bounded_over_all_processes(redis_url: str) -> None:
    async def main() -> None:
        limits = OrderLimits(client_per_minute=100, per_minute=3)
        async with (
            redis_store(redis_url) as store,
            running(store, orders=limits) as one,
            running(store, orders=limits) as other,
        ):
            for number, api in enumerate([one, other, one]):
                await api.place(clientId=f"client {number}")
            for number, api in enumerate([one, other]):
                assert 0 < await refused_for_haste(api, clientId=f"other {number}") <= 20_000
            assert await orders(store) == 3

    asyncio.run(main())


def test_what_one_client_is_refused_is_not_taken_from_the_others() -> None:
    async def main() -> None:
        limits = OrderLimits(client_per_minute=1, per_minute=2)
        async with running(memory_store(), orders=limits) as api:
            await api.place()
            for _ in range(3):
                await refused_for_haste(api)
            await api.place(clientId="user02")

    asyncio.run(main())


def test_an_order_that_is_refused_for_its_content_takes_nothing_of_the_rate() -> None:
    async def main() -> None:
        async with running(memory_store(), orders=OrderLimits(client_per_minute=1)) as api:
            problem(await api.http.post("/api/orders", json={**ORDER, "amount": 0}), 400, "invalid_order")
            await api.place()
            await refused_for_haste(api)
            problem(await api.http.post("/api/orders", json={**ORDER, "amount": 0}), 400, "invalid_order")

    asyncio.run(main())


class NoRates(MemoryEventStore):
    """Counts what is taken of any rate."""

    taken = 0

    async def take_rate(self, partition: int, name: str, count: int, period_ms: int) -> RateTaken:
        self.taken += 1
        return await super().take_rate(partition, name, count, period_ms)


def test_every_answer_to_an_order_says_how_its_rates_stand(redis_url: str) -> None:
    async def main() -> None:
        limits = OrderLimits(client_per_minute=2, per_minute=60)
        async with redis_store(redis_url) as store, running(store, orders=limits) as api:
            answers = [
                await api.http.post("/api/orders", json={**ORDER, "idempotencyKey": "key-1"}),
                await api.http.post("/api/orders", json={**ORDER, "idempotencyKey": "key-1", "amount": 11}),
                await api.http.post("/api/orders", json=ORDER),
            ]
            assert [answer.status_code for answer in answers] == [202, 422, 429]
            for answer in answers[:2]:
                assert answer.headers["ratelimit-policy"] == '"client";q=2;w=60, "all";q=60;w=60'
            assert answers[0].headers["ratelimit"] == '"client";r=1;t=30, "all";r=59;t=1'
            assert answers[1].headers["ratelimit"].startswith('"client";r=0;t=')
            # What the client's own rate refuses is not asked of everybody's.
            wait = answers[2].headers["retry-after"]
            assert answers[2].headers["ratelimit"] == f'"client";r=0;t={wait}'
            assert answers[2].headers["ratelimit-policy"] == '"client";q=2;w=60'
            shown = await api.http.get(f"/api/orders/{answers[0].json()['orderId']}")
            assert "ratelimit" not in shown.headers
        async with running(memory_store()) as api:
            assert "ratelimit" not in (await api.http.post("/api/orders", json=ORDER)).headers

    asyncio.run(main())


def test_an_order_that_all_together_are_too_fast_for_is_told_both_rates() -> None:
    async def main() -> None:
        async with running(memory_store(), orders=OrderLimits(client_per_minute=3, per_minute=1)) as api:
            await api.place()
            refused = await api.http.post("/api/orders", json=ORDER)
            wait = refused.headers["retry-after"]
            limits = dict(one.strip().split(";", 1) for one in refused.headers["ratelimit"].split(","))
            assert limits == {'"client"': limits['"client"'], '"all"': f"r=0;t={wait}"}
            assert limits['"client"'].startswith("r=1;t=")
        async with running(memory_store(), orders=OrderLimits(per_minute=9), queue_max=1) as api:
            await api.place()
            full = await api.http.post("/api/orders", json=ORDER)
            problem(full, 503, "queue_full")
            assert full.headers["ratelimit"].startswith('"all";r=7;t=')

    asyncio.run(main())


def test_without_limits_no_rate_is_asked_for() -> None:
    async def main() -> None:
        store = NoRates(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store) as api:
            await api.place()
        assert store.taken == 0
        async with running(store, orders=OrderLimits(client_per_minute=9, per_minute=9)) as api:
            await api.place()
        assert store.taken == 2

    asyncio.run(main())


async def check_full_queue(store: EventStore) -> None:
    """A full partition takes nothing and keeps no key; a repeated order is found all the same, and room is used."""
    keyed = {**ORDER, "idempotencyKey": "first"}
    async with running(store, queue_max=1) as api:
        first = (await api.http.post("/api/orders", json=keyed)).json()["orderId"]
        response = await api.http.post("/api/orders", json={**ORDER, "idempotencyKey": "second"})
        assert "nothing was created" in str(problem(response, 503, "queue_full")["detail"])
        assert response.headers["retry-after"] == "1"
        async with connected(api) as socket:
            await say(socket, **ORDER, idempotencyKey="second", id=1)
            refused = await hear(socket)
            assert (refused["code"], refused["id"], refused["retryAfterMs"]) == ("queue_full", 1, 1000)
        assert await orders(store) == 1
        assert (await api.http.post("/api/orders", json=keyed)).json()["orderId"] == first

        (task,) = await store.take_tasks("worker", 10)
        await store.finish_task(task)
        accepted = await api.http.post("/api/orders", json={**ORDER, "idempotencyKey": "second"})
        assert (accepted.status_code, accepted.json()["duplicate"]) == (202, False)


def test_a_full_queue_takes_no_order_and_keeps_no_key() -> None:
    asyncio.run(check_full_queue(memory_store()))


def test_a_full_queue_of_a_real_server_takes_no_order_and_keeps_no_key(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store:
            await check_full_queue(store)

    asyncio.run(main())


@pytest.mark.parametrize("client", ["user01", None])
def test_cancelling_is_never_limited(client: str | None) -> None:
    async def main() -> None:
        store = memory_store()
        async with running(store, orders=OrderLimits(client_per_minute=1, per_minute=1), queue_max=1) as api:
            order_id = await api.place(clientId=client)
            assert (await api.http.delete(f"/api/orders/{order_id}")).status_code == 200

    asyncio.run(main())
