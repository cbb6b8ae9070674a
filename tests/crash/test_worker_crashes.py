"""A worker is killed at every named point of an attempt: another finishes the order, and nothing is executed twice."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from app.clock import SystemClock
from app.main import build_streams, build_worker, open_chain, open_hot_store
from app.orders.commands import PlaceOrder
from app.orders.state import Confirmed, Failed, State
from app.settings import Settings
from eventstore.canonical import chain_fault
from tests.crash.crashing_worker import POINTS, Plan

pytestmark = pytest.mark.slow

END_SECONDS = 30
SLOTS_BETWEEN = 10


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_point_never_executes_an_order_twice(point: str, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(
        namespace=f"crash{secrets.token_hex(4)}", speed_ppm=0, quote_timeout_ms=200, task_ms=500, claim_idle_ms=600
    )
    marker = tmp_path / "reached"
    plan = Plan(settings, redis_url, point, str(marker))
    order_id = asyncio.run(place(settings, redis_url))
    killed = subprocess.run(
        [sys.executable, "-m", "tests.crash.crashing_worker"], input=msgspec.json.encode(plan), timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert marker.read_text() == point
    state, swaps = asyncio.run(finish(settings, redis_url, order_id))
    assert isinstance(state, Confirmed | Failed)
    assert swaps == (1 if isinstance(state, Confirmed) else 0)


async def place(settings: Settings, redis_url: str) -> str:
    """Accept one order."""
    store = await open_hot_store(settings, redis_url, "test")
    streams = build_streams(store, SystemClock(), "api")
    order_id = streams.new_order_id("client", None)
    command = PlaceOrder(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=1_000_000_000,
        slippage_bps=50,
    )
    await streams.place(order_id, "client", command)
    await store.close()
    return order_id


async def finish(settings: Settings, redis_url: str, order_id: str) -> tuple[State, int]:
    """Let a healthy worker end the order; return its state and the swaps that the chain's own ledger has for it."""
    store = await open_hot_store(settings, redis_url, "test")
    chain, connection = open_chain(settings, redis_url)
    # The world moves on: a swap that is signed anew has another blockhash, so another signature, and would be a second.
    for _ in range(SLOTS_BETWEEN):
        await chain.observe([])
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(build_worker(settings, store, chain, SystemClock()).run(stopping))
        async with asyncio.timeout(END_SECONDS):
            streams = build_streams(store, SystemClock(), "test")
            while not isinstance((order := await streams.load(order_id)).state, Confirmed | Failed):
                await store.read_log(await store.log_ends(), 10, 0.2)
        stopping.set()
    prev = ""
    for event in await store.read_stream(order_id):
        assert chain_fault(event.data, prev) is None
        prev = event.hash
    assert sum(part.tasks + part.timers for part in await store.status()) == 0
    ledger = Counter(entry.order_id for entry in await chain.ledger() if entry.outcome == "executed")
    await connection.close()
    await store.close()
    return order.state, ledger[order_id]
