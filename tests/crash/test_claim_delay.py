"""With default settings: a killed worker delays its orders by at most 10 s; a stopped one leaves nothing undone."""

import asyncio
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from app.cli.roles import Launch
from app.clock import SystemClock
from app.embedded import Servers
from app.main import build_streams, open_hot_store
from app.orders.state import Confirmed, Failed, Submitted, Waiting
from app.orders.times import parse_time
from app.settings import Settings
from tests.crash.matrix.process import Plan
from tests.crash.matrix.recovery import process, scene

pytestmark = pytest.mark.slow

ORDERS = 20
DELAY_US_MAX = 10_000_000
LIFE_US_MAX = 4_000_000
"""Of an undisturbed order: 0.2 s for quotes, up to 2.8 s for the swap, and the polls between."""
END_SECONDS = 60


def start_worker(settings: Settings, servers: Servers) -> "subprocess.Popen[bytes]":
    started = subprocess.Popen([sys.executable, "-m", "app.cli.roles", "worker"], stdin=subprocess.PIPE)
    assert started.stdin is not None
    started.stdin.write(msgspec.json.encode(Launch(settings, servers)) + b"\n")
    started.stdin.flush()
    return started


def fresh() -> Settings:
    return Settings(namespace=f"delay{secrets.token_hex(4)}", log_level="error")


async def placed(settings: Settings, redis_url: str) -> list[str]:
    """Accept the orders; the swap of each lands soon."""
    async with scene(settings, redis_url) as on:
        return [(await on.place(["lands"]))["lands"] for _ in range(ORDERS)]


async def swaps(settings: Settings, redis_url: str) -> Counter[str]:
    """How many swaps of each order were executed."""
    async with scene(settings, redis_url) as on:
        return Counter(entry.order_id for entry in await on.chain.ledger() if entry.outcome == "executed")


async def submitted(settings: Settings, redis_url: str, order_ids: list[str]) -> None:
    """Return once a worker has submitted at least one of the orders."""
    store = await open_hot_store(settings, redis_url, "test")
    streams = build_streams(store, SystemClock(), "test")
    async with asyncio.timeout(END_SECONDS):
        while not any([isinstance((await streams.load(order_id)).state, Submitted) for order_id in order_ids]):
            await store.read_log(await store.log_ends(), 10, 0.05)
    await store.close()


async def ends(settings: Settings, redis_url: str, order_ids: list[str]) -> dict[str, list[int]]:
    """Wait until every order has ended; return the times of its events, in microseconds."""
    store = await open_hot_store(settings, redis_url, "test")
    streams = build_streams(store, SystemClock(), "test")
    times: dict[str, list[int]] = {}
    async with asyncio.timeout(END_SECONDS):
        for order_id in order_ids:
            while not isinstance((await streams.load(order_id)).state, Confirmed | Failed):
                await store.read_log(await store.log_ends(), 10, 0.2)
            frames = [msgspec.json.decode(event.data) for event in await store.read_stream(order_id)]
            times[order_id] = [parse_time(frame["at"]) for frame in frames]
    await store.close()
    return times


def test_a_killed_worker_delays_its_orders_by_at_most_ten_seconds(redis_url: str, tmp_path: Path) -> None:
    settings = fresh()
    # In a world where nothing but the test goes wrong, so that lives differ by the kill alone.
    plan = Plan(settings=settings, redis_url=redis_url, marker=str(tmp_path / "told"))
    order_ids = asyncio.run(placed(settings, redis_url))
    with process(plan) as killed:
        asyncio.run(submitted(settings, redis_url, order_ids))
        with process(plan) as survivor:
            killed.kill()
            times = asyncio.run(ends(settings, redis_url, order_ids))
            assert asyncio.run(swaps(settings, redis_url)) == dict.fromkeys(order_ids, 1)
            survivor.terminate()
            assert survivor.wait(END_SECONDS) == 0
    lives = [at[-1] - at[0] for at in times.values()]
    assert max(lives) > LIFE_US_MAX, "no order was in the killed worker's hands"
    assert max(lives) <= LIFE_US_MAX + DELAY_US_MAX


def test_a_stopped_worker_ends_what_it_began_and_holds_no_task(redis_url: str, database_url: str) -> None:
    settings = fresh()
    order_ids = asyncio.run(placed(settings, redis_url))
    worker = start_worker(settings, Servers(redis_url, database_url))
    asyncio.run(submitted(settings, redis_url, order_ids))
    worker.terminate()
    worker.communicate(timeout=END_SECONDS)
    assert worker.returncode == 0

    async def check() -> None:
        store = await open_hot_store(settings, redis_url, "test")
        streams = build_streams(store, SystemClock(), "test")
        states = [(await streams.load(order_id)).state for order_id in order_ids]
        assert all(
            isinstance(state, Confirmed | Failed | Waiting)
            or (isinstance(state, Submitted) and state.next_check_at is not None)
            for state in states
        )
        assert sum(part.pending for part in await store.status()) == 0
        await store.close()

    asyncio.run(check())
