"""A worker stands still at a crash point until another has ended its orders: what it then does comes too late (K17)."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.crash.matrix.fates import AMOUNTS
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import (
    END_SECONDS,
    SLOTS_BETWEEN,
    marked,
    process,
    quick,
    require_right,
    scene,
    stopped,
)

pytestmark = pytest.mark.slow

ALL: Final = len(AMOUNTS)
SENT_LATE: Final = ("K7", "K8")
"""Points between the recording of an intent and the sending of its bytes, which then go out late."""


@pytest.mark.parametrize("point", [f"K{number}" for number in range(3, 13)])
def test_a_worker_that_wakes_up_late_changes_nothing(point: str, redis_url: str, tmp_path: Path) -> None:
    plan = Plan(
        settings=quick(),
        redis_url=redis_url,
        marker=str(tmp_path / "reached"),
        point=point,
        # What is dropped never lands, so it does not reach K11 itself.
        orders=ALL - 1 if point == "K11" else ALL,
        end="stop",
    )
    asyncio.run(outlived(plan))


async def outlived(plan: Plan) -> None:
    async with scene(plan.settings, plan.redis_url) as on:
        orders = await on.place()
        ids = list(orders.values())
        with process(plan) as zombie:
            await asyncio.to_thread(stopped, zombie)
            assert set(marked(plan)) <= set(ids)
            await on.chain.pass_slots(SLOTS_BETWEEN)
            await on.finish(ids)
            before = await on.look(ids)
            require_right(orders, before)
            os.kill(zombie.pid, signal.SIGCONT)
            zombie.terminate()
            assert await asyncio.to_thread(zombie.wait, END_SECONDS) == 0
        late = marked(plan)
        assert "appended" not in late
        assert late.get("refused", 0) > 0, "it woke up with nothing to do"
        assert ("sent" in late) is (plan.point in SENT_LATE)
        after = await on.look(ids)
        assert after == before
