"""A process dies while it accepts orders, before or after they are appended: a repetition makes each of them once."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from eventstore.ids import LOG_START
from tests.crash.matrix.fates import Fate, FatedChain
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import (
    END_SECONDS,
    SLOTS_BETWEEN,
    Scene,
    killed,
    marked,
    process,
    quick,
    require_right,
    scene,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("point,known", [("K1", False), ("K2", True)])
def test_an_order_that_is_asked_for_again_after_a_crash_exists_once(
    point: str, known: bool, redis_url: str, tmp_path: Path
) -> None:
    plan = Plan(settings=quick(), redis_url=redis_url, marker=str(tmp_path / "told"), role="place", point=point)
    died_with = set(killed(plan))
    again = msgspec.structs.replace(plan, point="")
    with process(again) as placing:
        assert placing.wait(END_SECONDS) == 0
    told: dict[Fate, tuple[str, bool]] = marked(again)
    orders = {fate: order_id for fate, (order_id, _) in told.items()}
    assert {repeated for _, repeated in told.values()} == {known}
    assert (set(orders.values()) == died_with) is known
    asyncio.run(ended_once(again, orders))


async def ended_once(plan: Plan, orders: dict[Fate, str]) -> None:
    async with scene(plan.settings, plan.redis_url) as on:
        assert await accepted(on) == sorted(orders.values())
        await on.chain.pass_slots(SLOTS_BETWEEN)
        await on.finish(list(orders.values()))
        require_right(orders, await on.look(list(orders.values())))


async def accepted(on: Scene[FatedChain]) -> list[str]:
    """Every order that the log says was accepted."""
    start = dict.fromkeys(range(on.store.partitions), LOG_START)
    return sorted(commit.stream for commit in await on.store.read_log(start, 1000))
