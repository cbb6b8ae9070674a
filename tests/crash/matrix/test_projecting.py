"""Outcomes reach PostgreSQL and clients although whoever carries them dies on the way (K14, K15)."""

import asyncio
from pathlib import Path

import pytest

from app.client import Client
from projections.diff import diff
from projections.projector.runner import Projector
from tests.conftest import database, execute
from tests.crash.matrix.fates import Fate
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import SWAPS, OrderIds, killed, quick, scene
from tests.integration.api import running

pytestmark = pytest.mark.slow


def test_outcomes_of_a_worker_that_died_with_them_are_projected(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    plan = Plan(settings=quick(), redis_url=redis_url, marker=str(tmp_path / "reached"), point="K14")
    orders = asyncio.run(accepted(plan))
    assert killed(plan) == sorted(orders.values())
    asyncio.run(read_model_is_the_fold(plan, database_url, orders))


def test_a_client_resumes_without_gap_or_repeat_after_the_projector_died(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    plan = Plan(
        settings=quick(),
        redis_url=redis_url,
        database_url=database_url,
        marker=str(tmp_path / "reached"),
        role="project",
        point="K15",
    )
    orders = asyncio.run(ended(plan))
    assert killed(plan) == sorted(orders.values())
    asyncio.run(resumed_at_every_event(plan, orders))
    asyncio.run(read_model_is_the_fold(plan, database_url, orders))


async def accepted(plan: Plan) -> dict[Fate, str]:
    async with scene(plan.settings, plan.redis_url) as on:
        return await on.place()


async def ended(plan: Plan) -> dict[Fate, str]:
    async with scene(plan.settings, plan.redis_url) as on:
        orders = await on.place()
        await on.finish(list(orders.values()))
        return orders


async def resumed_at_every_event(plan: Plan, orders: OrderIds) -> None:
    async with (
        scene(plan.settings, plan.redis_url) as on,
        running(on.store, plan.database_url) as api,
        Client(api.url) as client,
    ):
        for order_id in orders.values():
            versions = [event.version for event in await on.store.read_stream(order_id)]
            for seen in versions[:-1]:
                frames = [frame async for frame in client.events(order_id, after=seen)]
                assert [frame["seq"] for frame in frames] == versions[seen:]


async def read_model_is_the_fold(plan: Plan, database_url: str, orders: OrderIds) -> None:
    async with scene(plan.settings, plan.redis_url) as on:
        async with database(database_url) as engine:
            await Projector(on.store, engine).project_available()
            assert await diff(on.store, engine) == []
        rows = await asyncio.to_thread(execute, database_url, "SELECT id, status FROM orders")
        assert set(rows) == {(orders[fate], "confirmed" if swaps else "failed") for fate, swaps in SWAPS.items()}
