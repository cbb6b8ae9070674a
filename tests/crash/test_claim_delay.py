"""With default settings: a killed worker delays its orders by at most 10 s; a stopped one leaves nothing undone."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections import Counter

import msgspec
import pytest

from app.cli.roles import Launch
from app.clock import SystemClock
from app.dex.profile import Profile
from app.embedded import Servers
from app.main import build_streams, open_chain, open_hot_store
from app.orders.state import Confirmed, Failed, Submitted, Waiting
from app.orders.times import parse_time
from app.settings import Settings
from tests.crash.crashing_worker import Plan
from tests.crash.test_worker_crashes import place

pytestmark = pytest.mark.slow

ORDERS = 20
DELAY_US_MAX = 10_000_000
LIFE_US_MAX = 4_000_000
"""Of an undisturbed order: 0.2 s for quotes, up to 2.8 s for the swap, and the polls between."""
END_SECONDS = 60
CALM = Profile(venue_error_ppm=0, venue_timeout_ppm=0, drop_ppm=0, fork_ppm=0)


def start_worker(settings: Settings, servers: Servers) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-m", "app.cli.roles", "worker"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(Launch(settings, servers)) + b"\n")
    process.stdin.flush()
    return process


def fresh() -> Settings:
    return Settings(namespace=f"delay{secrets.token_hex(4)}", log_level="error")


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
    chain, connection = open_chain(settings, redis_url, CALM)
    swaps = Counter(entry.order_id for entry in await chain.ledger() if entry.outcome == "executed")
    assert set(swaps.values()) <= {1}
    await connection.close()
    await store.close()
    return times


def start_calm_worker(settings: Settings, redis_url: str) -> "subprocess.Popen[bytes]":
    """A worker in a world where nothing but the test goes wrong, so that lives differ by the kill alone."""
    process = subprocess.Popen([sys.executable, "-m", "tests.crash.crashing_worker"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(Plan(settings, redis_url, profile=CALM)))
    process.stdin.close()
    process.stdin = None
    return process


def test_a_killed_worker_delays_its_orders_by_at_most_ten_seconds(redis_url: str) -> None:
    settings = fresh()
    order_ids = [asyncio.run(place(settings, redis_url)) for _ in range(ORDERS)]
    killed = start_calm_worker(settings, redis_url)
    asyncio.run(submitted(settings, redis_url, order_ids))
    survivor = start_calm_worker(settings, redis_url)
    killed.kill()
    try:
        times = asyncio.run(ends(settings, redis_url, order_ids))
    finally:
        survivor.terminate()
        survivor.communicate(timeout=END_SECONDS)
        killed.communicate(timeout=END_SECONDS)
    assert survivor.returncode == 0
    assert killed.returncode == -signal.SIGKILL
    lives = [at[-1] - at[0] for at in times.values()]
    assert max(lives) > LIFE_US_MAX, "no order was in the killed worker's hands"
    assert max(lives) <= LIFE_US_MAX + DELAY_US_MAX


def test_a_stopped_worker_ends_what_it_began_and_holds_no_task(redis_url: str, database_url: str) -> None:
    settings = fresh()
    order_ids = [asyncio.run(place(settings, redis_url)) for _ in range(ORDERS)]
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
