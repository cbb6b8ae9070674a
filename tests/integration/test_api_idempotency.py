"""Idempotency keys: how they are written, when they are needed, and what repeated orders get."""

import asyncio

import httpx
import pytest

from app.api.orders.intake import OrderLimits
from app.client import Client, UnreachableError
from app.clock import SystemClock
from eventstore.errors import StoreUnavailableError
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult
from tests.integration.api import (
    ORDER,
    WAIT_SECONDS,
    Api,
    connected,
    hear,
    memory_store,
    on_memory,
    problem,
    running,
    say,
)

KEY = {"Idempotency-Key": '"key-1"'}


class HeldStore(MemoryEventStore):
    """Appends new streams only when it is let; then fails so often first."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.let = asyncio.Event()
        self.asked = asyncio.Event()
        self.failures = 0
        self.appends = 0

    async def append(self, commit: Append) -> AppendResult:
        self.appends += 1
        self.asked.set()
        await self.let.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("out of order for the moment")
        return await super().append(commit)


async def post(api: Api, **fields: object) -> httpx.Response:
    return await api.http.post("/api/orders", json={**ORDER, **fields}, headers=KEY)


async def sent(api: Api, store: HeldStore, **fields: object) -> asyncio.Task[httpx.Response]:
    """A request whose append is under way."""
    store.asked.clear()
    task = asyncio.create_task(post(api, **fields))
    async with asyncio.timeout(WAIT_SECONDS):
        await store.asked.wait()
    return task


def test_every_spelling_of_the_header_names_the_same_key() -> None:
    async def scenario(api: Api) -> None:
        spellings = [{"Idempotency-Key": text} for text in ('"k-1"', "k-1", '"k-1";a=1', '"k-1" ; b;c="d"')]
        spellings.append({"X-Idempotency-Key": "k-1"})
        answers = [await api.http.post("/api/orders", json=ORDER, headers=headers) for headers in spellings]
        answers.append(await api.http.post("/api/orders", json={**ORDER, "idempotencyKey": "k-1"}))
        assert [answer.status_code for answer in answers] == [202, 200, 200, 200, 200, 200]
        assert len({answer.json()["orderId"] for answer in answers}) == 1
        for bad in ('"k-1', '"k"1"', '"a\\b"', '""', '"a" "b"', '"é"'):
            refused = await api.http.post("/api/orders", json=ORDER, headers=[(b"Idempotency-Key", bad.encode())])
            problem(refused, 400, "idempotency_key_malformed")
        twice = [("Idempotency-Key", "a"), ("X-Idempotency-Key", "b")]
        problem(await api.http.post("/api/orders", json=ORDER, headers=twice), 400, "idempotency_key_malformed")
        other = {**ORDER, "idempotencyKey": "k-2"}
        body = problem(await api.http.post("/api/orders", json=other, headers=spellings[0]), 400, "invalid_order")
        assert [error["pointer"] for error in body["errors"]] == ["/idempotencyKey"]  # type: ignore[attr-defined]

    on_memory(scenario)


def test_a_server_that_needs_keys_takes_no_order_without_one() -> None:
    async def main() -> None:
        async with running(memory_store(), orders=OrderLimits(key_required=True)) as api:
            refused = await api.http.post("/api/orders", json=ORDER)
            problem(refused, 400, "idempotency_key_missing")
            page = '</problems/idempotency_key_missing>; rel="describedby"; type="text/html"'
            assert refused.headers["link"] == page
            async with connected(api) as socket:
                await say(socket, **ORDER, id=1)
                in_band = await hear(socket)
                assert (in_band["code"], in_band["id"]) == ("idempotency_key_missing", 1)
                await say(socket, **ORDER, idempotencyKey="key-2")
                assert (await hear(socket))["event"] == "pending"
            assert (await post(api)).status_code == 202
            assert sum(status.position for status in await api.store.status()) == 2

    asyncio.run(main())


def test_a_repeated_order_waits_for_the_first_and_gets_its_result() -> None:
    async def main() -> None:
        store = HeldStore()
        limits = OrderLimits(in_flight_seconds=WAIT_SECONDS)
        async with running(store, orders=limits) as api:
            first = await sent(api, store)
            others = [asyncio.create_task(post(api)) for _ in range(5)]
            async with connected(api) as socket:
                await say(socket, **ORDER, idempotencyKey="key-1", id=1)
                await asyncio.wait(others, timeout=0.2)
                store.let.set()
                accepted = await first
                order_id = accepted.json()["orderId"]
                facts = {"orderId": order_id, "cursor": accepted.json()["cursor"]}
                assert await hear(socket) == {"type": "accepted", "id": 1, "duplicate": True, **facts}
            for repeated in await asyncio.gather(*others):
                assert (repeated.status_code, repeated.headers["idempotent-replayed"]) == (200, "true")
                assert repeated.json() == {**accepted.json(), "duplicate": True}
            assert store.appends == 1

    asyncio.run(main())


def test_a_repeated_order_that_has_waited_long_enough_is_told_to_come_back() -> None:
    async def main() -> None:
        store = HeldStore()
        async with running(store, orders=OrderLimits(in_flight_seconds=0.05)) as api:
            first = await sent(api, store)
            refused = await post(api)
            assert problem(refused, 409, "idempotency_in_flight")["retryAfterMs"] == 1000
            assert refused.headers["retry-after"] == "1"
            async with Client(api.url) as client:
                # Nothing is wrong with the order: it may be sent again.
                with pytest.raises(UnreachableError, match="has not been answered yet"):
                    await client.submit(ORDER, idempotency_key="key-1")
            assert store.appends == 1
            # The same key of other clients is another key: they wait for nobody.
            elsewhere = [await sent(api, store, clientId=client) for client in ("user02", None)]
            store.let.set()
            assert [one.status_code for one in await asyncio.gather(*elsewhere)] == [202, 202]
            assert (await first).status_code == 202
            assert (await post(api)).json()["orderId"] == (await first).json()["orderId"]

    asyncio.run(main())


def test_another_content_under_a_key_in_flight_is_a_conflict_once_the_first_is_accepted() -> None:
    async def main() -> None:
        store = HeldStore()
        async with running(store, orders=OrderLimits(in_flight_seconds=WAIT_SECONDS)) as api:
            first = await sent(api, store)
            other = asyncio.create_task(post(api, amount=11))
            await asyncio.wait([other], timeout=0.1)
            assert store.appends == 1
            store.let.set()
            assert problem(await other, 422, "idempotency_conflict")["orderId"] == (await first).json()["orderId"]

    asyncio.run(main())


@pytest.mark.parametrize("amount", [10, 11])
def test_a_repeated_order_is_tried_itself_when_the_first_has_failed(amount: int) -> None:
    async def main() -> None:
        store = HeldStore()
        store.failures = 1
        async with running(store, orders=OrderLimits(in_flight_seconds=WAIT_SECONDS)) as api:
            first = await sent(api, store)
            other = asyncio.create_task(post(api, amount=amount))
            await asyncio.wait([other], timeout=0.1)
            store.let.set()
            problem(await first, 503, "unavailable")
            assert ((await other).status_code, (await other).json()["duplicate"]) == (202, False)
            assert (store.appends, sum(status.position for status in await store.status())) == (2, 1)

    asyncio.run(main())
