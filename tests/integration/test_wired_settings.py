"""Settings reach what they name: the limits of the API's process, and how a worker asks its venues."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from app.cli.demo import free_port
from app.dex.errors import CircuitOpenError, VenueUnavailableError
from app.dex.profile import ASSIGNMENT
from app.dex.tokens import SOL, USDC
from app.dex.venue import Swap
from app.embedded import Servers
from app.main import build_venues, run_api
from app.settings import Settings
from tests.clocks import VirtualClock
from tests.integration.api import ORDER, WAIT_SECONDS, problem

SWAP = Swap(order_id="o", attempt=1, side="sell", base=SOL, quote=USDC, amount=10**9)


@pytest.mark.parametrize(
    "limits,status,code",
    [
        ({"queue_max": 1}, 503, "queue_full"),
        ({"client_orders_per_minute": 1}, 429, "rate_limited"),
        ({"orders_per_minute": 1}, 429, "rate_limited"),
    ],
)
def test_the_api_process_limits_orders_as_its_settings_say(
    redis_url: str, database_url: str, limits: dict[str, Any], status: int, code: str
) -> None:
    async def scenario() -> None:
        settings = replace(Settings(namespace=f"s{uuid.uuid4().hex[:10]}", port=free_port()), **limits)
        stopping = asyncio.Event()
        serving = asyncio.create_task(run_api(settings, Servers(redis_url, database_url), stopping))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}", timeout=WAIT_SECONDS) as http:
            first = await answered(http, serving)
            second = await http.post("/api/orders", json=ORDER)
        stopping.set()
        await serving
        assert first.status_code == 202
        problem(second, status, code)

    asyncio.run(scenario())


def test_the_api_process_wants_keys_and_gives_quotes_as_its_settings_say(redis_url: str, database_url: str) -> None:
    async def scenario() -> None:
        namespace = f"s{uuid.uuid4().hex[:10]}"
        settings = Settings(namespace=namespace, port=free_port(), speed_ppm=0, idempotency_key="required")
        stopping = asyncio.Event()
        serving = asyncio.create_task(run_api(settings, Servers(redis_url, database_url), stopping))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}", timeout=WAIT_SECONDS) as http:
            problem(await answered(http, serving), 400, "idempotency_key_missing")
            quoted = await http.get("/api/quotes?tokenIn=SOL&tokenOut=USDC&amount=1")
        stopping.set()
        await serving
        assert [quote["venue"] for quote in quoted.json()["quotes"]] == ["raydium", "meteora"]

    asyncio.run(scenario())


async def answered(http: httpx.AsyncClient, serving: asyncio.Task[None]) -> httpx.Response:
    """The answer to the first order, when the server listens."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not serving.done():
            try:
                return await http.post("/api/orders", json=ORDER)
            except httpx.ConnectError:
                await asyncio.wait([serving], timeout=0.02)
    raise AssertionError("the server has ended")


def test_a_worker_asks_its_venues_as_its_settings_say() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        failing = replace(ASSIGNMENT, venue_error_ppm=1_000_000, venue_timeout_ppm=0)
        settings = Settings(venue_failures_max=2, venue_open_ms=700, venue_concurrency=1)
        venue = build_venues(settings, failing, clock)[0]

        async def refusals(count: int) -> list[type[BaseException]]:
            found: list[type[BaseException]] = []

            async def ask() -> None:
                asked = (venue.quote(SWAP, 10_000) for _ in range(count))
                answers = await asyncio.gather(*asked, return_exceptions=True)
                found.extend(type(answer) for answer in answers if isinstance(answer, BaseException))

            await clock.run_until(asyncio.create_task(ask()))
            return found

        started_us = clock.now_us()
        assert await refusals(3) == [VenueUnavailableError, VenueUnavailableError, CircuitOpenError]
        # One after the other: the second had to wait for the first.
        assert clock.now_us() - started_us == 2 * failing.quote_latency_ms * 1_000
        until = asyncio.create_task(clock.sleep(0.699))
        await clock.run_until(until)
        assert await refusals(1) == [CircuitOpenError]
        await clock.run_until(asyncio.create_task(clock.sleep(0.001)))
        assert await refusals(1) == [VenueUnavailableError]

    asyncio.run(scenario())
