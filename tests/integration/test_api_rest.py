"""Orders over REST: a real server on a free port, real Valkey and PostgreSQL behind it."""

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta

import pytest

from app.api.server import listen
from projections.projector.runner import Projector
from tests.integration.api import EVENTS, ORDER, Api, live, on_memory, problem, redis_store, running


def test_an_order_is_accepted_listed_and_told_from_start_to_end(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            response = await api.http.post("/api/orders", json=ORDER)
            assert response.status_code == 202
            accepted = response.json()
            order_id = accepted["orderId"]
            first = (await api.http.get(f"/api/orders/{order_id}/events")).json()["events"][0]
            assert accepted == {
                "orderId": order_id,
                "status": "pending",
                "phase": "PENDING",
                "seq": 1,
                "duplicate": False,
                "wsUrl": f"/api/orders/ws?orderId={order_id}",
                "cursor": first["cursor"],
            }
            assert response.headers["location"] == f"/api/orders/{order_id}"
            await live(api.streams, order_id)
            other = await api.place(clientId="user02")
            await Projector(store, api.database).project_available()

            shown = (await api.http.get(f"/api/orders/{order_id}")).json()
            listed = (await api.http.get("/api/orders")).json()
            assert [row["orderId"] for row in listed["orders"]] == [other, order_id]
            assert {**listed["orders"][1], "asOf": {"positions": {order_id[-2:]: 6}, "lagMs": 0}} == shown
            assert "next" not in listed
            for query, expected in [
                ({"limit": "1"}, [other]),
                ({"status": "confirmed"}, [order_id]),
                ({"clientId": "user02"}, [other]),
                ({"clientId": "user02", "status": "failed"}, []),
            ]:
                found = (await api.http.get("/api/orders", params=query)).json()
                assert [row["orderId"] for row in found["orders"]] == expected

    asyncio.run(main())


def test_an_order_is_shown_as_its_stream_has_it_before_it_is_projected() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        assert (await api.http.get(f"/api/orders/{order_id}")).json()["seq"] == 1
        await live(api.streams, order_id)
        shown = (await api.http.get(f"/api/orders/{order_id}")).json()
        times = {shown.pop("createdAt"), shown.pop("updatedAt")}
        assert len(times) == 2
        assert shown == {
            "orderId": order_id,
            "clientId": "user01",
            "side": "buy",
            "orderType": "market",
            "baseAsset": "SOL",
            "quoteAsset": "USDC",
            "amount": "10",
            "slippageBps": 50,
            "status": "confirmed",
            "phase": "COMPLETED",
            "attempts": 1,
            "venue": "raydium",
            "txId": "5xSignature",
            "amountIn": "1502.25",
            "amountOut": "10",
            "executedPrice": "150.225",
            "fee": "3.75",
            "networkFee": "0.000005",
            "seq": 6,
            "asOf": {"positions": {order_id[-2:]: 6}, "lagMs": 0},
        }

    on_memory(scenario)


def test_a_limit_order_is_shown_with_its_price_and_its_end() -> None:
    async def scenario(api: Api) -> None:
        end = datetime.now(UTC) + timedelta(days=1)
        order_id = await api.place(type="limit", maxPrice=150.50, expireAt=end.isoformat())
        shown = (await api.http.get(f"/api/orders/{order_id}")).json()
        assert (shown["orderType"], shown["limitPrice"], shown["timeInForce"]) == ("limit", "150.5", "GTC")
        assert shown["expireAt"] == end.isoformat(timespec="microseconds").replace("+00:00", "Z")
        fill_or_kill = await api.place(type="limit", price="150", tif="fok")
        assert (await api.http.get(f"/api/orders/{fill_or_kill}")).json()["timeInForce"] == "FOK"
        sniper = await api.place(type="sniper", baseAsset="NEW7", quoteAsset="SOL")
        shown = (await api.http.get(f"/api/orders/{sniper}")).json()
        assert shown["orderType"] == "sniper"
        assert not {"limitPrice", "timeInForce", "expireAt"} & set(shown)

    on_memory(scenario)


def test_an_order_whose_stream_is_gone_is_shown_from_the_read_model(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store:
            async with running(store, database_url) as api:
                order_id = await api.place()
                await live(api.streams, order_id)
                await Projector(store, api.database).project_available()
                before = (await api.http.get(f"/api/orders/{order_id}")).json()
            async with redis_store(redis_url) as empty, running(empty, database_url) as api:
                assert (await api.http.get(f"/api/orders/{order_id}")).json() == before
                assert (await api.http.get(f"/api/orders/{order_id}/events")).status_code == 404

    asyncio.run(main())


def test_the_events_of_an_order_are_the_stored_ones_in_pages() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id)
        path = f"/api/orders/{order_id}/events"
        whole = (await api.http.get(path)).json()
        assert [event["event"] for event in whole["events"]] == EVENTS
        assert {key: whole[key] for key in ("orderId", "last", "more")} == {
            "orderId": order_id,
            "last": 6,
            "more": False,
        }
        stored = await api.store.read_stream(order_id)
        for event, kept in zip(whole["events"], stored, strict=True):
            assert event.pop("cursor") == str(kept.cursor)
            assert event.pop("phase") in ("PENDING", "PROCESSING", "COMPLETED")
            assert event == json.loads(kept.data)
        for after in ("2", f"{order_id}/2", str(stored[1].cursor)):
            page = (await api.http.get(path, params={"after": after, "limit": "3"})).json()
            assert [event["seq"] for event in page["events"]] == [3, 4, 5]
            assert (page["last"], page["more"]) == (5, True)
        end = (await api.http.get(path, params={"after": "6"})).json()
        assert (end["events"], end["last"], end["more"]) == ([], 6, False)

    on_memory(scenario)


@pytest.mark.parametrize("path", ["/api/orders", "/api/orders/execute", "/order"])
def test_every_submit_path_accepts_an_order(path: str) -> None:
    async def scenario(api: Api) -> None:
        response = await api.http.post(path, json={"tokenIn": "SOL", "tokenOut": "USDC", "amount": "0.5"})
        assert (response.status_code, response.json()["phase"]) == (202, "PENDING")

    on_memory(scenario)


def test_an_idempotency_key_makes_one_order_of_many_requests() -> None:
    async def scenario(api: Api) -> None:
        headers = {"Idempotency-Key": '"key-1"'}
        responses = await asyncio.gather(*(api.http.post("/api/orders", json=ORDER, headers=headers) for _ in range(5)))
        assert len({response.json()["orderId"] for response in responses}) == 1
        assert sorted(response.status_code for response in responses) == [200, 200, 200, 200, 202]
        for response in responses:
            repeated = response.status_code == 200
            assert response.json()["duplicate"] is repeated
            assert response.headers.get("idempotent-replayed") == ("true" if repeated else None)
        in_body = await api.http.post("/api/orders", json={**ORDER, "amount": "10.0", "idempotencyKey": "key-1"})
        assert in_body.json()["orderId"] == responses[0].json()["orderId"]

        conflict = await api.http.post("/api/orders", json={**ORDER, "amount": 11}, headers=headers)
        assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")
        assert conflict.json()["orderId"] == responses[0].json()["orderId"]
        elsewhere = await api.http.post("/api/orders", json={**ORDER, "clientId": "user02"}, headers=headers)
        assert elsewhere.status_code == 202
        assert sum(status.position for status in await api.store.status()) == 2

    on_memory(scenario)


def test_a_refused_order_creates_nothing_and_names_its_fields() -> None:
    async def scenario(api: Api) -> None:
        body = problem(await api.http.post("/api/orders", json={**ORDER, "amount": -1}), 400, "invalid_order")
        assert body["errors"] == [{"pointer": "/amount", "message": "must be greater than zero"}]
        assert body["error"] == "Bad Request"
        for content in (b'{"side":', b"\xff", b'{"amount":NaN}', b"[]", b"", b'{"clientId":"\\ud800"}'):
            problem(await api.http.post("/api/orders", content=content), 400, "json_malformed")
        problem(await api.http.post("/api/orders", content=b"[" * 100), 400, "json_too_deep")
        problem(await api.http.post("/api/orders", content=b" " * 65_537), 413, "body_too_large")
        for kind in ("limit", "sniper", "stop"):
            problem(await api.http.post("/api/orders", json={**ORDER, "type": kind}), 400, "invalid_order")
        assert sum(status.position for status in await api.store.status()) == 0
        assert (await api.http.get("/livez")).status_code == 200

    on_memory(scenario)


def test_what_does_not_exist_is_a_problem_that_says_so() -> None:
    unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"
    elsewhere = "01ARZ3NDEKTSV4RRFFQ69G5FAV-77"

    async def scenario(api: Api) -> None:
        body = problem(await api.http.get("/api/x"), 404, "route_not_found")
        assert {key: body[key] for key in ("message", "error", "statusCode")} == {
            "message": "Route GET:/api/x not found",
            "error": "Not Found",
            "statusCode": 404,
        }
        refused = await api.http.delete("/api/orders")
        problem(refused, 405, "method_not_allowed")
        assert {"GET", "POST"} <= set(refused.headers["allow"].split(", "))
        for path in ("/api/orders/execute", "/api/orders/ws"):
            upgrade = await api.http.get(path)
            problem(upgrade, 426, "upgrade_required")
            assert upgrade.headers["upgrade"] == "websocket"
        for order_id in (unknown, elsewhere):
            problem(await api.http.get(f"/api/orders/{order_id}/events"), 404, "not_found")
        for order_id in ("nonsense", "%00", "x" * 500):
            problem(await api.http.get(f"/api/orders/{order_id}"), 400, "order_id_malformed")

    on_memory(scenario)


def test_an_unknown_order_is_not_found_when_the_database_knows_it_neither(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            for order_id in ("01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "01ARZ3NDEKTSV4RRFFQ69G5FAV-77"):
                problem(await api.http.get(f"/api/orders/{order_id}"), 404, "not_found")
                problem(await api.http.get(f"/api/orders/{order_id}/events"), 404, "not_found")

    asyncio.run(main())


BAD_PLACES = [
    ("7", 400, "after_beyond_end"),
    ("999999999999999", 400, "after_beyond_end"),
    ("-1", 400, "after_malformed"),
    ("x", 400, "after_malformed"),
    ("01ARZ3NDEKTSV4RRFFQ69G5FAV-03/1", 400, "after_malformed"),
    ("1-1-00000000", 410, "fork"),
    ("1-9-00000000", 410, "fork"),
    ("9-9-00000000", 410, "fork"),
]


def test_a_place_that_is_none_of_the_orders_events_is_refused() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id)
        for after, status, code in BAD_PLACES:
            response = await api.http.get(f"/api/orders/{order_id}/events", params={"after": after})
            body = problem(response, status, code)
            if code == "after_beyond_end":
                assert body["last"] == 6
            if status == 410:
                assert body["cursor"] == after

    on_memory(scenario)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "status=done", "clientId=", "page=2", "clientId=%00"],
)
def test_a_bad_query_is_refused_by_parameter(query: str) -> None:
    async def scenario(api: Api) -> None:
        body = problem(await api.http.get(f"/api/orders?{query}"), 400, "invalid_query")
        assert str(body["detail"]).startswith(query.partition("=")[0])

    on_memory(scenario)


def test_answers_are_sent_without_delay_under_asyncios_own_loop() -> None:
    """It turns Nagle's algorithm off for accepted sockets that know their protocol, as they do from their listener."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
