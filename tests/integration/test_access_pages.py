"""Web pages: which origins may use the API, by which names a development server is called, and safe headers."""

import asyncio
import json

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from app.api.access.doors import AccessPolicy
from app.api.access.origins import is_loopback
from tests.integration.api import ORDER, Api, connected, hear_nothing_more, memory_store, problem, running
from tests.integration.guarded import Guarded, guarded_by, on_guarded

DESK = "https://desk.example"
FOREIGN = (
    "https://evil.example",
    "null",
    "",
    "http://127.0.0.1",
    "http://localhost:1",
    "https://desk.example.evil.example",
)
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def test_pages_of_foreign_origins_change_and_follow_nothing() -> None:
    async def main() -> None:
        async with running(memory_store()) as api:
            order_id = await api.place()
            for origin in FOREIGN:
                headers = {"Origin": origin}
                for method, path in (
                    ("POST", "/api/orders"),
                    ("POST", "/order"),
                    ("DELETE", f"/api/orders/{order_id}"),
                    ("POST", f"/api/orders/{order_id}/cancel"),
                    ("GET", f"/api/orders/{order_id}/stream?wait=0"),
                    ("GET", "/api/stream?wait=0"),
                ):
                    refused = await api.http.request(method, path, headers=headers, content=json.dumps(ORDER))
                    problem(refused, 403, "origin_refused")
                    assert "access-control-allow-origin" not in refused.headers
                read = await api.http.get(f"/api/orders/{order_id}", headers=headers)
                assert read.status_code == 200 and "access-control-allow-origin" not in read.headers
            own = {"Origin": api.url}
            assert (await api.http.post("/api/orders", json=ORDER, headers=own)).status_code == 202
            assert (await api.http.get("/api/stream?wait=0", headers=own)).status_code == 200

    asyncio.run(main())


def test_a_socket_of_a_foreign_page_is_refused_before_it_opens(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        for origin in FOREIGN[:3]:
            with pytest.raises(InvalidStatus) as refused:
                async with on.socket(on.ann, Origin=origin):
                    raise AssertionError("the socket must not open")
            assert refused.value.response.status_code == 403
        for origin in (DESK, DESK.upper(), on.api.url):
            async with on.socket(on.ann, Origin=origin) as socket:
                await hear_nothing_more(socket)

    on_guarded(keys_url, scenario, guarded_by(origins=frozenset({DESK})))


def test_an_allowed_origin_reads_answers_and_asks_first(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        shown = await on.ann.http.get("/api/orders/nonsense", headers={"Origin": DESK})
        assert shown.headers["access-control-allow-origin"] == DESK
        assert "Retry-After" in shown.headers["access-control-expose-headers"]
        assert shown.headers["vary"] == "Origin"
        asked = {"Origin": DESK, "Access-Control-Request-Method": "DELETE"}
        preflight = await on.api.http.options("/api/orders/nonsense", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, DESK)
        assert preflight.headers["access-control-allow-methods"] == "GET, POST, DELETE"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        unknown = await on.api.http.get("/api/orders", headers={"Origin": DESK})
        assert (unknown.status_code, unknown.headers["access-control-allow-origin"]) == (401, DESK)
        foreign = await on.api.http.options("/api/orders", headers={**asked, "Origin": FOREIGN[0]})
        assert foreign.status_code == 401 and "access-control-allow-origin" not in foreign.headers
        assert foreign.headers["vary"] == "Origin"

    on_guarded(keys_url, scenario, guarded_by(origins=frozenset({DESK})))


def test_two_origins_are_none(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        both = httpx.Headers([("Origin", DESK), ("Origin", FOREIGN[0])])
        problem(await on.ann.http.post("/api/tickets", headers=both), 403, "origin_refused")

    on_guarded(keys_url, scenario, guarded_by(origins=frozenset({DESK})))


def test_a_server_without_keys_is_called_by_this_machine_s_names_alone() -> None:
    async def scenario(api: Api) -> None:
        port = api.url.rpartition(":")[2]
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST", "desk.localhost"):
            assert (await api.http.get("/livez", headers={"Host": host})).status_code == 200
        for host in (f"evil.example:{port}", "evil.example", "192.168.0.7", "localhost.evil.example", "x", "[::2]"):
            refused = await api.http.get("/livez", headers={"Host": host, "Origin": f"http://{host}"})
            problem(refused, 403, "host_refused")
        for path in ("/api/orders/ws", "/ws"):
            async with connected(api, path=path) as socket:
                await hear_nothing_more(socket)

    async def main() -> None:
        async with running(memory_store(), access=AccessPolicy()) as api:
            await scenario(api)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("[::1]", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False), ("", False)),
    ],
)
def test_loopback_is_what_this_machine_alone_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_every_answer_carries_safe_headers_and_no_server(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        order_id = await on.ann.place()
        for answer in (
            await on.ann.http.get(f"/api/orders/{order_id}"),
            await on.ann.http.get("/api/orders/nonsense"),
            await on.ann.http.get("/nowhere"),
            await on.ann.http.get(f"/api/orders/{order_id}/stream?wait=0"),
            await on.api.http.get("/livez"),
            await on.api.http.get("/api/orders"),
            await on.api.http.get("/api/orders?token=x"),
            await on.ann.http.post("/api/tickets"),
        ):
            assert {name: answer.headers.get(name) for name in SAFE} == SAFE
            assert "server" not in answer.headers
        with pytest.raises(InvalidStatus) as refused:
            async with on.socket(Authorization="Bearer nonsense"):
                raise AssertionError("the socket must not open")
        assert {name: refused.value.response.headers.get(name) for name in SAFE} == SAFE

    on_guarded(keys_url, scenario)
