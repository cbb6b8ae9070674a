"""One client's flood does not hold up another client's order, by real workers on a real server."""

import asyncio
from typing import Final

import msgspec
import pytest

from app.dex.tokens import SOL, USDC
from app.orders.lifecycle import TERMINAL
from eventstore.ids import LOG_START, partition_in, partition_of
from tests.integration.trading import LIVELY, Trading, on_trading, order_of

FLOOD: Final = "flood"
_AT_ONCE: Final = 100


def neighbour(partitions: int) -> str:
    """A client of the same partition as the flood's."""
    names = (f"client {number}" for number in range(1_000))
    return next(name for name in names if partition_of(name, partitions) == partition_of(FLOOD, partitions))


async def flooded(trading: Trading, count: int) -> None:
    order = order_of("sell", SOL, USDC, 10**7)
    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*(trading.order(order, FLOOD) for _ in range(start, min(start + _AT_ONCE, count))))


async def ended_before(trading: Trading, single: str) -> int:
    """How many of the flood's orders ended before the single one did, by their partition's log."""
    commits = await trading.store.read_log({partition_in(single): LOG_START}, 1_000_000)
    ended = [commit.stream for commit in commits if msgspec.json.decode(commit.events[-1])["status"] in TERMINAL]
    return ended.index(single)


@pytest.mark.parametrize(
    ("count", "share"), [(500, 0.2), pytest.param(2_000, 0.15, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_a_flood_of_one_client_delays_the_order_of_another_by_little(redis_url: str, count: int, share: float) -> None:
    """``share`` is the greatest part of the flood that may have ended when the order that came last ends."""

    async def scenario(trading: Trading) -> None:
        await flooded(trading, count)
        single = await trading.order(order_of("sell", SOL, USDC, 10**7), neighbour(trading.store.partitions))
        async with trading.at_work():
            await trading.ends([single])
        assert await ended_before(trading, single) < share * count

    on_trading(redis_url, scenario, LIVELY, concurrency=16)
