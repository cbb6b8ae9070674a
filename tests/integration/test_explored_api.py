"""Every operation answers as it is described, whatever it is asked."""

import asyncio

import pytest

from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.conftest import append_all, appends, market_life
from tests.descriptions import OPENAPI
from tests.integration.api import ready, redis_store, running
from tests.integration.exploring import Seen, explore, explore_links

pytestmark = pytest.mark.slow
REQUESTS = 300
LINK_REQUESTS = 6
SEED = 6
LINKED = {
    ("GET /api/orders/{orderId}", 200),
    ("GET /api/orders/{orderId}/events", 200),
    ("GET /api/orders/{orderId}/stream", 200),
    ("DELETE /api/orders/{orderId}", 200),
    ("DELETE /api/orders/{orderId}", 409),
}
"""What cannot be had without an order that was placed before."""


def test_every_operation_answers_as_described(redis_url: str, database_url: str) -> None:
    async def main() -> tuple[Seen, Seen]:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            await append_all(store, appends(stream_id(), market_life()))
            await Projector(store, api.database).project_available()
            await ready(api)
            asked = await asyncio.to_thread(explore, api.url, REQUESTS, SEED)
            return asked, await asyncio.to_thread(explore_links, api.url, LINK_REQUESTS, SEED)

    asked, linked = asyncio.run(main())
    described = {f"{method.upper()} {path}" for path, methods in OPENAPI["paths"].items() for method in methods}
    assert {label for label, _ in asked} == described
    assert asked.total() >= REQUESTS // 2
    assert linked.keys() >= LINKED
