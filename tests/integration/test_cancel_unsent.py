"""A swap that is recorded but has reached nobody, and its order is cancelled: nobody sends it any more."""

import asyncio
from typing import Any

from app.dex.tokens import SOL, USDC
from app.orders.state import Cancelled, CancelPending, Submitted
from tests.integration.trading import Trading, on_trading, order_of


class Deaf:
    """A chain that hears nothing of what it is sent, and counts it."""

    def __init__(self, chain: Any) -> None:
        self._chain = chain
        self.sent = 0

    async def send(self, message: bytes, signature: bytes) -> None:
        self.sent += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)


def test_an_order_that_is_to_be_cancelled_is_not_sent_again_and_ends_with_the_proof(redis_url: str) -> None:
    async def scenario(trading: Trading) -> None:
        deaf: Any = Deaf(trading.chain)
        trading.chain = deaf
        order_id = await trading.order(order_of("sell", SOL, USDC, 10**9))
        async with trading.at_work():
            await trading.reach([order_id], Submitted)
        assert deaf.sent > 0
        answer = await trading.streams.cancel(order_id, "client")
        assert isinstance(answer.order.state, CancelPending)
        deaf.sent = 0
        async with trading.at_work():
            (head,) = await asyncio.wait_for(trading.ends([order_id]), 20)
        assert isinstance(head.state, Cancelled)
        assert (await trading.names(order_id))[-2:] == ["attempt_failed", "cancelled"]
        assert deaf.sent == 0
        assert await trading.swaps() == {}

    on_trading(redis_url, scenario, task_ms=300, quote_timeout_ms=200)
