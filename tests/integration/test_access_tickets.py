"""Tickets stand for a key once and for a short while; keys are kept out of addresses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conftest import execute
from tests.integration.api import (
    WAIT_SECONDS,
    hear,
    problem,
    running,
)
from tests.integration.guarded import ANN, Guarded, closed, guarded_by, on_guarded


async def ticket_of(on: Guarded) -> str:
    response = await on.ann.http.post("/api/tickets")
    assert (response.status_code, set(response.json())) == (201, {"ticket", "expiresAt"})
    ticket: str = response.json()["ticket"]
    return ticket


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ClientConnection]:
    async with connect(url, compression=None, open_timeout=WAIT_SECONDS) as socket:
        yield socket


def test_a_ticket_opens_one_stream_or_socket(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        mine = await on.ann.place()
        path = f"/api/orders/{mine}/stream"
        ticket = await ticket_of(on)
        polled = await on.api.http.get(path, params={"ticket": ticket, "wait": 0})
        assert len(polled.json()["events"]) == 1
        for one in (ticket, "ott_" + "0" * 64, "nonsense", ""):
            refused = await on.api.http.get(path, params={"ticket": one, "wait": 0})
            assert "get another one" in str(problem(refused, 401, "unauthenticated")["detail"])
        ticket = await ticket_of(on)
        async with opened(f"{on.api.socket_url}?orderId={mine}&ticket={ticket}") as socket:
            assert (await hear(socket))["event"] == "pending"
        async with opened(f"{on.api.socket_url}?orderId={mine}&ticket={ticket}") as socket:
            assert await closed(socket) == 4401
        foreign = await on.sam.place()
        shown = {"ticket": await ticket_of(on), "wait": "0"}
        refused = await on.api.http.get(f"/api/orders/{foreign}/stream", params=shown)
        problem(refused, 404, "not_found")

    on_guarded(keys_url, scenario)


def test_a_ticket_ends_with_its_time_and_with_its_key(database_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        path = f"/api/clients/{ANN}/stream"
        late = await ticket_of(on)
        execute(database_url, "UPDATE api_tickets SET expires_at = now()")
        problem(await on.api.http.get(path, params={"ticket": late, "wait": 0}), 401, "unauthenticated")
        orphan = await ticket_of(on)
        assert execute(database_url, "SELECT count(*) FROM api_tickets") == [(1,)]
        execute(database_url, "UPDATE api_tickets SET key_id = 'none'")
        problem(await on.api.http.get(path, params={"ticket": orphan, "wait": 0}), 401, "unauthenticated")

    on_guarded(database_url, scenario)


@pytest.mark.slow
def test_of_two_processes_that_are_shown_a_ticket_one_takes_it(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with running(on.api.store, keys_url, access=guarded_by()) as second:
            for _ in range(5):
                query = {"ticket": await ticket_of(on), "wait": "0"}
                path = f"/api/clients/{ANN}/stream"
                asked = [api.http.get(path, params=query) for api in (on.api, second) for _ in range(3)]
                assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [200, *[401] * 5]

    on_guarded(keys_url, scenario)


def test_a_ticket_belongs_to_streams_and_is_not_given_beside_a_key(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        ticket = await ticket_of(on)
        problem(await on.api.http.get("/api/orders", params={"ticket": ticket}), 400, "invalid_query")
        path = f"/api/clients/{ANN}/stream?wait=0&ticket={ticket}"
        problem(await on.ann.http.get(path), 400, "invalid_query")
        problem(await on.api.http.get(f"{path}&ticket={ticket}"), 400, "invalid_query")
        assert (await on.api.http.get(path)).status_code == 200

    on_guarded(keys_url, scenario)


def test_a_key_in_an_address_is_refused_with_the_reason(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        key = on.ann.key
        escaped = key.replace("_", "%5F")
        for query in (f"token={key}", "key=x", "access_token=x", f"after={key}", "API_KEY=x", f"x={escaped}"):
            for path in ("/api/stream", "/api/orders"):
                refused = problem_of_key(await on.ann.http.get(f"{path}?{query}"))
                assert key not in refused and "revoke" in refused
        assert key not in problem_of_key(await on.ann.http.get(f"/api/orders/{key}"))

    on_guarded(keys_url, scenario)


def problem_of_key(response: httpx.Response) -> str:
    assert (response.status_code, response.json()["code"]) == (400, "key_in_url")
    return response.text
