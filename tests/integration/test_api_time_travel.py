"""An order as it was: at a time, or after one of its events; from the stream, and from the archive."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from app.orders.times import format_time
from tests.builders import stream_id
from tests.conftest import append_all, appends, market_life
from tests.integration.api import Api, memory_store, on_memory, problem, running
from tests.integration.copies import Copies, on_copies

START_US = 1_700_000_000_000_000
ORDER = stream_id(number=77)
PATH = f"/api/orders/{ORDER}"
STATUSES = ["pending", "routing", "routing", "building", "submitted", "confirmed"]


def at(seq: int, more_us: int = 0) -> str:
    """When an event of the order happened: they are a millisecond apart."""
    return format_time(START_US + seq * 1000 + more_us)


def on_a_life(scenario: Callable[[Api], Awaitable[None]]) -> None:
    """Run ``scenario`` with an order of six events."""

    async def main() -> None:
        store = memory_store()
        await append_all(store, appends(ORDER, market_life(), start_us=START_US))
        async with running(store) as api:
            await scenario(api)

    asyncio.run(main())


def test_an_order_is_shown_as_it_was_after_each_of_its_events() -> None:
    async def scenario(api: Api) -> None:
        cursors = [str(event.cursor) for event in await api.store.read_stream(ORDER)]
        for seq, status in enumerate(STATUSES, 1):
            expected = {"seq": seq, "at": at(seq), "cursor": cursors[seq - 1]}
            for text in (str(seq), f"{ORDER}/{seq}", cursors[seq - 1], at(seq), at(seq, 999)):
                response = await api.http.get(PATH, params={"asOf": text})
                shown = response.json()
                assert (shown["status"], shown["seq"], shown["updatedAt"]) == (status, seq, at(seq))
                assert shown["pointInTime"] == {"asOf": text, **expected}
                # How fresh an answer is, is said of orders as they are.
                assert "asOf" not in shown and "ordertape-position" not in response.headers
                assert ("txId" in shown, "amountOut" in shown) == (seq >= 5, seq == 6)
                assert response.headers["etag"] == f'"{seq}"'
        offset = "2023-11-15T00:13:20.003+02:00"
        assert (await api.http.get(PATH, params={"asOf": offset})).json()["seq"] == 3
        now = (await api.http.get(PATH)).json()
        last = (await api.http.get(PATH, params={"asOf": "6"})).json()
        assert now.pop("asOf") and last.pop("pointInTime")
        assert now == last
        known = await api.http.get(PATH, params={"asOf": "3"}, headers={"If-None-Match": '"3"'})
        assert known.status_code == 304

    on_a_life(scenario)


def test_an_order_that_did_not_exist_yet_is_not_found_with_the_reason() -> None:
    async def scenario(api: Api) -> None:
        for text in (at(0), at(1, -1), "0001-01-01T00:00:00Z", "0"):
            body = problem(await api.http.get(PATH, params={"asOf": text}), 404, "not_found")
            assert body["detail"] == f"order {ORDER} did not exist yet at {text}: it was accepted at {at(1)}"
        unknown = f"/api/orders/{stream_id()}"
        for text in (at(1), "1", "0"):
            body = problem(await api.http.get(unknown, params={"asOf": text}), 404, "not_found")
            assert "did not exist yet" not in str(body["detail"])

    on_a_life(scenario)


def test_a_moment_that_is_none_of_the_orders_is_refused() -> None:
    async def scenario(api: Api) -> None:
        refused: list[tuple[str, int, str]] = [
            ("7", 400, "after_beyond_end"),
            ("1-1-00000000", 410, "fork"),
            ("9999-01-01T00:00:00Z", 400, "invalid_query"),
            ("2023-11-14T22:13:20", 400, "invalid_query"),
            ("2023-11-14T22:13:20 02:00", 400, "invalid_query"),
            ("yesterday", 400, "invalid_query"),
            ("1700000000", 400, "after_beyond_end"),
            (f"{stream_id()}/1", 400, "invalid_query"),
            ("", 400, "invalid_query"),
        ]
        for text, status, code in refused:
            problem(await api.http.get(PATH, params={"asOf": text}), status, code)
        beside = {"asOf": "3", "minPosition": "1"}
        body = problem(await api.http.get(PATH, params=beside), 400, "invalid_query")
        assert str(body["detail"]).startswith("asOf must not be given beside minPosition")
        body = problem(await api.http.get("/api/orders", params={"asOf": at(3)}), 400, "invalid_query")
        assert "/api/orders/{orderId}?asOf=" in str(body["detail"])

    on_a_life(scenario)


def test_an_archived_order_is_shown_as_it_was(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order_id,) = await copies.confirmed(1)
        path = f"/api/orders/{order_id}"
        async with running(copies.store, database_url) as api:

            async def shown() -> list[dict[str, Any]]:
                return [(await api.http.get(path, params={"asOf": str(seq)})).json() for seq in range(1, 7)]

            hot = await shown()
            assert [one["status"] for one in hot] == STATUSES
            times = [one["updatedAt"] for one in hot]
            assert (await copies.sweep()).removed == 1
            assert not await copies.is_hot(order_id)
            assert await shown() == hot
            by_time = (await api.http.get(path, params={"asOf": times[-1]})).json()
            assert by_time.pop("pointInTime")["cursor"] == hot[-1].pop("pointInTime")["cursor"]
            assert by_time == hot[-1]

    on_copies(redis_url, database_url, scenario)


def test_a_partition_that_does_not_exist_has_no_past() -> None:
    async def scenario(api: Api) -> None:
        elsewhere = "/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-77"
        problem(await api.http.get(elsewhere, params={"asOf": "2023-11-14T22:13:20Z"}), 404, "not_found")

    on_memory(scenario)
