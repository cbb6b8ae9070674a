"""A worker whose clock is an hour ahead, or behind, executes correctly beside one whose clock is right (K20)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.matrix.fates import FatedChain
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import END_SECONDS, Scene, process, quick, require_right, scene

pytestmark = pytest.mark.slow

HOUR_US = 3_600_000_000


@pytest.mark.parametrize("ahead_us", [HOUR_US, -HOUR_US], ids=["ahead", "behind"])
def test_a_worker_with_a_wrong_clock_executes_correctly(ahead_us: int, redis_url: str, tmp_path: Path) -> None:
    plan = Plan(settings=quick(), redis_url=redis_url, marker=str(tmp_path / "told"), ahead_us=ahead_us)
    asyncio.run(executed_beside_it(plan))


async def executed_beside_it(plan: Plan) -> None:
    async with scene(plan.settings, plan.redis_url) as on:
        orders = await on.place()
        ids = list(orders.values())
        with process(plan) as shifted:
            await begun(on, ids)
            await on.finish(ids)
            shifted.terminate()
            assert await asyncio.to_thread(shifted.wait, END_SECONDS) == 0
        require_right(orders, await on.look(ids))


async def begun(on: Scene[FatedChain], order_ids: Sequence[str]) -> None:
    """Return when the worker with the wrong clock has signed a swap of each order."""
    async with asyncio.timeout(END_SECONDS):
        for order_id in order_ids:
            while (await on.streams.load(order_id)).version < 5:
                await on.store.read_log(await on.store.log_ends(), 10, 0.05)
