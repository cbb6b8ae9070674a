"""A worker is killed with four orders at a crash point, K3 to K16: another ends them, and nothing is executed twice."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from app.execution.failpoints import POINTS
from tests.crash.matrix.fates import AMOUNTS, Fate
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import SLOTS_BETWEEN, Ended, killed, quick, require_right, scene

pytestmark = pytest.mark.slow

FEWER: Final[dict[str, set[Fate]]] = {"K11": {"lands", "late", "fails"}, "K16": {"dropped"}}
"""Who reaches a point that not all orders reach: what is dropped never lands, and nothing else expires."""
REACHED: Final = (
    "taken",
    *(point for point in POINTS if point in {f"K{number}" for number in (*range(3, 15), 16)}),
)


@pytest.mark.parametrize("point", REACHED)
def test_a_worker_killed_at_any_point_never_executes_an_order_twice(point: str, redis_url: str, tmp_path: Path) -> None:
    settings = quick()
    fates = FEWER.get(point, set(AMOUNTS))
    plan = Plan(
        settings=settings, redis_url=redis_url, marker=str(tmp_path / "reached"), point=point, orders=len(fates)
    )
    orders = asyncio.run(placed(plan))
    assert killed(plan) == sorted(orders[fate] for fate in fates)
    require_right(orders, asyncio.run(finished(plan, orders)))


async def placed(plan: Plan) -> dict[Fate, str]:
    async with scene(plan.settings, plan.redis_url) as on:
        return await on.place()


async def finished(plan: Plan, orders: dict[Fate, str]) -> Ended:
    async with scene(plan.settings, plan.redis_url) as on:
        await on.chain.pass_slots(SLOTS_BETWEEN)
        await on.finish(list(orders.values()))
        return await on.look(list(orders.values()))
