"""A worker whose clock is an hour ahead, or behind, executes correctly beside one whose clock is right (K20)."""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from app.clock import SystemClock
from app.dex.tokens import SOL, USDC
from app.embedded import Servers
from app.main import build_streams, open_hot_store
from app.orders.codec import at_in
from app.orders.state import Terminal
from app.orders.times import parse_time
from tests.crash.matrix.fates import FatedChain
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import END_SECONDS, Scene, process, quick, require_right, scene
from tests.integration.trading import order_of

pytestmark = pytest.mark.slow

HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000

ROLE = """
import asyncio, signal, sys
import msgspec
from app.embedded import Servers
from app.main import run_worker
from app.settings import Settings
from tests.crash.matrix.process import set_clock

async def main():
    settings, servers, ahead_us = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[Settings, Servers, int])
    set_clock(ahead_us)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await run_worker(settings, servers, stopping)

asyncio.run(main())
"""


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


@pytest.mark.parametrize("ahead_us", [HOUR_US, -HOUR_US], ids=["ahead", "behind"])
def test_the_worker_process_writes_the_time_of_the_server(ahead_us: int, redis_url: str, database_url: str) -> None:
    asyncio.run(written_by_the_role(ahead_us, Servers(redis_url, database_url)))


def started(given: bytes) -> subprocess.Popen[bytes]:
    """Start the worker process, which reads what it is given."""
    role = subprocess.Popen([sys.executable, "-c", ROLE], stdin=subprocess.PIPE)
    assert role.stdin is not None
    role.stdin.write(given)
    role.stdin.close()
    return role


async def written_by_the_role(ahead_us: int, servers: Servers) -> None:
    settings = replace(quick(), namespace=f"k{uuid.uuid4().hex[:10]}")
    store = await open_hot_store(settings, servers.redis_url, "test")
    streams = build_streams(store, SystemClock(), "api")
    order_id = streams.new_order_id("client", None)
    await streams.place(order_id, "client", order_of("sell", SOL, USDC, 10**9))
    given = msgspec.json.encode((settings, servers, ahead_us))
    with started(given) as role:
        try:
            async with asyncio.timeout(END_SECONDS):
                while not isinstance((await streams.load(order_id)).state, Terminal):
                    await store.read_log(await store.log_ends(), 10, 0.05)
        finally:
            role.terminate()
        assert await asyncio.to_thread(role.wait, END_SECONDS) == 0
    now_us = time.time_ns() // 1000
    written = [parse_time(at_in(event.data)) for event in await store.read_stream(order_id)]
    await store.close()
    assert len(written) >= 6
    assert all(abs(now_us - at_us) < MINUTE_US for at_us in written)
