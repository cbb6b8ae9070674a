"""Whose orders are whose over REST: another client's is answered like one that does not exist, and roles hold."""

import httpx

from app.api.access.keys import new_key
from eventstore.ids import partition_of
from tests.builders import stream_id
from tests.conftest import caught_up
from tests.conftest import running as projecting
from tests.integration.api import ORDER, problem
from tests.integration.guarded import ANN, SAM, Guarded, made_key, on_guarded

NAMELESS = {name: value for name, value in ORDER.items() if name != "clientId"}


def test_the_two_clients_share_a_partition() -> None:
    assert partition_of(ANN, 4) == partition_of(SAM, 4)


def test_nobody_without_a_key_is_answered_anything_but_whether_the_server_lives(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        order_id = await on.ann.place()
        nobody = on.api.http
        for path in ("/livez", "/readyz", "/health", "/api/health"):
            assert (await nobody.get(path)).status_code in (200, 503)
        for path in ("/", "/dashboard", "/dashboard/main.js", "/docs", "/problems", "/problems/not_found"):
            assert (await nobody.get(path)).status_code in (200, 404)
        for method, path in (
            ("GET", f"/api/orders/{order_id}"),
            ("GET", f"/api/orders/{order_id}/events"),
            ("GET", f"/api/orders/{order_id}/stream"),
            ("DELETE", f"/api/orders/{order_id}"),
            ("POST", f"/api/orders/{order_id}/cancel"),
            ("GET", "/api/orders"),
            ("POST", "/api/orders"),
            ("POST", "/order"),
            ("GET", "/api/stream"),
            ("GET", "/api/volumes"),
            ("POST", "/api/tickets"),
            ("GET", "/nowhere"),
            ("POST", "/livez"),
            ("POST", "/dashboard"),
            ("GET", "/dashboards"),
        ):
            response = await nobody.request(method, path, json=ORDER if method == "POST" else None)
            problem(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"] == 'Bearer realm="ordertape"'

    on_guarded(keys_url, scenario)


def test_whatever_is_no_active_key_opens_nothing(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        key, other = on.admin.key, new_key(lambda count: bytes(count)).text
        changed = key[:-1] + ("0" if key[-1] != "0" else "1")
        shown = ("", "Bearer", "Bearer nonsense", f"Basic {key}", key, f"Bearer {key.upper()}", f"Bearer {other}")
        for header in (*shown, f"Bearer {changed}", f"Bearer {on.ann.key[:17]}{key[17:]}", f"Bearer {key}{key}"):
            refused = await on.api.http.get("/api/orders", headers={"Authorization": header})
            problem(refused, 401, "unauthenticated")
        twice = httpx.Headers([("Authorization", f"Bearer {key}")] * 2)
        problem(await on.api.http.get("/api/orders", headers=twice), 401, "unauthenticated")

    on_guarded(keys_url, scenario)


def test_an_order_belongs_to_the_client_of_its_key(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        for order_id in (await on.ann.place(), await on.ann.place(clientId=ANN), await on.ann.place(userId=ANN)):
            assert (await on.ann.http.get(f"/api/orders/{order_id}")).json()["clientId"] == ANN
        for name in ("clientId", "userId"):
            refused = await on.ann.http.post("/api/orders", json={**NAMELESS, name: SAM})
            assert "this key places orders of ann alone" in str(problem(refused, 403, "forbidden")["detail"])
        both = await on.ann.http.post("/api/orders", json={**NAMELESS, "clientId": ANN, "userId": SAM})
        problem(both, 403, "forbidden")
        assert (await on.admin.http.get(f"/api/orders/{await on.admin.place(clientId=SAM)}")).json()["clientId"] == SAM
        assert "clientId" not in (await on.admin.http.get(f"/api/orders/{await on.admin.place()}")).json()

    on_guarded(keys_url, scenario)


def test_an_idempotency_key_is_its_client_s_own(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        first = await on.ann.place(idempotencyKey="k1")
        again = await on.ann.http.post("/api/orders", json={**NAMELESS, "idempotencyKey": "k1", "clientId": ANN})
        assert again.json()["orderId"] == first
        assert await on.sam.place(idempotencyKey="k1") != first

    on_guarded(keys_url, scenario)


def test_a_foreign_order_is_answered_like_a_missing_one(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        foreign = await on.sam.place()
        missing = stream_id(SAM)
        assert foreign != missing and foreign[-2:] == missing[-2:]
        elsewhere = f"{missing[:-2]}{(int(missing[-2:]) + 1) % 4:02d}"
        for method, path in (
            ("GET", ""),
            ("GET", "?afterCursor=1-1-00000000"),
            ("GET", "/events"),
            ("GET", "/events?after=1"),
            ("GET", "/events?after=99"),
            ("GET", "/events?after=1-1-00000000"),
            ("GET", "/stream"),
            ("GET", "/stream?wait=0"),
            ("GET", "/stream?snapshot=true"),
            ("DELETE", ""),
            ("POST", "/cancel"),
        ):
            told = []
            for order_id in (foreign, missing, elsewhere):
                response = await on.ann.http.request(method, f"/api/orders/{order_id}{path}")
                problem(response, 404, "not_found")
                headers = {name: value for name, value in response.headers.items() if name != "date"}
                told.append((response.text.replace(order_id, "ID"), headers))
            assert told[0] == told[1] == told[2], (method, path)
        assert (await on.sam.http.get(f"/api/orders/{foreign}")).json()["status"] == "pending"
        assert (await on.sam.http.delete(f"/api/orders/{foreign}")).status_code == 200

    on_guarded(keys_url, scenario)


def test_an_auditor_reads_everything_and_changes_nothing(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        order_id = await on.ann.place()
        for path in ("", "/events", "/stream?wait=0"):
            assert (await on.auditor.http.get(f"/api/orders/{order_id}{path}")).status_code == 200
        problem(await on.auditor.http.post("/api/orders", json=NAMELESS), 403, "forbidden")
        problem(await on.auditor.http.post("/api/orders", json=ORDER), 403, "forbidden")
        problem(await on.auditor.http.delete(f"/api/orders/{order_id}"), 403, "forbidden")
        problem(await on.auditor.http.delete(f"/api/orders/{stream_id()}"), 403, "forbidden")
        assert (await on.admin.http.delete(f"/api/orders/{order_id}")).json()["status"] == "cancelled"
        problem(await on.admin.http.delete(f"/api/orders/{stream_id()}"), 404, "not_found")

    on_guarded(keys_url, scenario)


def test_an_auditor_of_a_client_changes_nothing_of_that_client_s_either(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        _, key = await made_key(keys_url, ANN, "auditor")
        order_id = await on.ann.place()
        shown = {"Authorization": f"Bearer {key}"}
        problem(await on.api.http.delete(f"/api/orders/{order_id}", headers=shown), 403, "forbidden")
        problem(await on.api.http.post("/api/orders", json=NAMELESS, headers=shown), 403, "forbidden")

    on_guarded(keys_url, scenario)


def test_a_trader_who_may_read_all_cancels_its_own_orders_alone(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        _, key = await made_key(keys_url, ANN, "trader", "auditor")
        shown = {"Authorization": f"Bearer {key}"}
        mine, foreign = await on.ann.place(), await on.sam.place()
        assert (await on.api.http.get(f"/api/orders/{foreign}", headers=shown)).status_code == 200
        refused = await on.api.http.delete(f"/api/orders/{foreign}", headers=shown)
        assert problem(refused, 403, "forbidden")["orderId"] == foreign
        assert (await on.api.http.delete(f"/api/orders/{mine}", headers=shown)).status_code == 200

    on_guarded(keys_url, scenario)


def test_a_trader_lists_its_own_orders_alone(database_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with projecting(database_url, on.api.store) as engine:
            mine = [await on.ann.place() for _ in range(2)]
            theirs = await on.sam.place()
            await caught_up(engine, on.api.store)
            for path in ("/api/orders", f"/api/orders?clientId={ANN}"):
                listed = (await on.ann.http.get(path)).json()
                assert [order["orderId"] for order in listed["orders"]] == mine[::-1]
                assert list(listed["asOf"]["positions"]) == [mine[0][-2:]]
            for path in (f"/api/orders?clientId={SAM}", "/api/orders?clientId=nobody"):
                problem(await on.ann.http.get(path), 403, "forbidden")
            first = (await on.ann.http.get("/api/orders?limit=1")).json()
            second = (await on.ann.http.get(f"/api/orders?limit=1&cursor={first['next']}")).json()
            assert [order["orderId"] for page in (first, second) for order in page["orders"]] == mine[::-1]
            # The place of a foreign order is a place, and nothing more.
            after_theirs = (await on.auditor.http.get("/api/orders?limit=1")).json()
            assert after_theirs["orders"][0]["orderId"] == theirs
            listed = (await on.ann.http.get(f"/api/orders?cursor={after_theirs['next']}")).json()
            assert [order["orderId"] for order in listed["orders"]] == mine[::-1]
            for path in ("/api/orders/stats", "/api/queue/stats"):
                problem(await on.ann.http.get(path), 403, "forbidden")
                assert (await on.auditor.http.get(path)).status_code == 200
            assert len((await on.auditor.http.get("/api/orders")).json()["orders"]) == 3
            of_bob = (await on.auditor.http.get(f"/api/orders?clientId={SAM}")).json()["orders"]
            assert [order["orderId"] for order in of_bob] == [theirs]

    on_guarded(database_url, scenario)


def test_a_trader_sees_its_own_volumes_and_those_of_all_together(database_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with projecting(database_url, on.api.store) as engine:
            order_id = await on.ann.place()
            await caught_up(engine, on.api.store)
            own, together = [
                (await on.ann.http.get(f"/api/volumes{query}")).json() for query in (f"?clientId={ANN}", "")
            ]
            assert list(own["asOf"]["positions"]) == list(together["asOf"]["positions"]) == [order_id[-2:]]
            problem(await on.ann.http.get(f"/api/volumes?clientId={SAM}"), 403, "forbidden")
            everything = (await on.auditor.http.get("/api/volumes")).json()
            assert list(everything["asOf"]["positions"]) == ["00", "01", "02", "03"]
            assert (await on.auditor.http.get(f"/api/volumes?clientId={ANN}")).status_code == 200

    on_guarded(database_url, scenario)
