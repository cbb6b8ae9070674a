"""The simulated chain's clock: slots pass with the server's time or with observations, and never go back."""

import time

from app.dex.chain import (
    SimulatedChain,
)
from tests.integration.worlds import (
    REAL_TIME,
    WAIT_SECONDS,
    World,
    run,
    sale,
)


def test_without_a_clock_only_observations_let_slots_pass(redis_url: str) -> None:
    async def test(world: World) -> None:
        start = await world.chain.slot()
        await world.chain.latest_blockhash()
        await world.send(sale())
        await world.chain.ledger()
        assert await world.chain.slot() == start
        heights = [(await world.chain.observe([])).height for _ in range(5)]
        assert heights == [start - 2 + passed for passed in range(1, 6)]
        assert await world.opened().slot() == start + 5

    run(redis_url, test)


def test_the_clock_never_goes_back_whatever_the_speed_or_the_time_of_day(redis_url: str) -> None:
    async def passes(chain: SimulatedChain, slot: int) -> int:
        deadline = time.monotonic() + WAIT_SECONDS
        while (now := await chain.slot()) < slot:
            assert time.monotonic() < deadline
        return now

    async def test(world: World) -> None:
        start = await world.chain.slot()
        fast = await passes(world.chain, start + 50)
        slow = world.opened(REAL_TIME)
        assert fast <= await slow.slot() <= fast + 10_000
        stopped = await world.opened(0).slot()
        assert stopped >= fast
        seconds, _ = await world.client.time()
        await world.client.hset(f"{world.namespace}:clock", "since", str((seconds + 3_600) * 1_000_000))
        assert stopped <= await slow.slot() <= stopped + 1
        await passes(world.opened(1_000 * REAL_TIME), stopped + 5)

    run(redis_url, test, speed_ppm=1_000 * REAL_TIME)


def test_slots_pass_with_the_time_of_the_server(redis_url: str) -> None:
    async def test(world: World) -> None:
        start = await world.chain.slot()
        since = int(await world.client.hget(f"{world.namespace}:clock", "since") or 0)
        await world.client.hset(f"{world.namespace}:clock", "since", str(since - 4_000_000))
        assert start + 10 <= await world.chain.slot() <= start + 10 + WAIT_SECONDS

    run(redis_url, test, speed_ppm=REAL_TIME)
