"""Equal orders, signed with one blockhash, are as many swaps: what tells them apart stands in each message."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from app.dex.chain import Observation
from app.dex.transaction import decode
from tests.crash.matrix.fates import FatedChain
from tests.crash.matrix.recovery import quick, scene_of

ORDERS = 100

pytestmark = pytest.mark.slow


class StandingChain(FatedChain):
    """Stands still until so many different swaps were sent as are waited for."""

    awaited = 0

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # handed on as they come
        self.messages: dict[bytes, bytes] = {}
        self._enough = asyncio.Event()

    async def send(self, message: bytes, signature: bytes) -> None:
        """See :meth:`SimulatedChain.send`."""
        await super().send(message, signature)
        self.messages[signature] = message
        if len(self.messages) >= self.awaited:
            self._enough.set()

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """See :meth:`SimulatedChain.observe`."""
        await self._enough.wait()
        return await super().observe(signatures)


def test_a_hundred_equal_orders_signed_with_one_blockhash_are_a_hundred_swaps(redis_url: str) -> None:
    asyncio.run(all_swapped(redis_url))


async def all_swapped(redis_url: str) -> None:
    async with scene_of(quick(), redis_url, StandingChain) as on:
        on.chain.awaited = ORDERS
        ids = [(await on.place(["lands"]))["lands"] for _ in range(ORDERS)]
        await on.finish(ids)
        ended = await on.look(ids)
        messages = [decode(message) for message in on.chain.messages.values()]
        unnamed = [replace(message, swap=replace(message.swap, order_id="")) for message in messages]
        assert unnamed == unnamed[:1] * ORDERS, "they differ in more than their order"
        assert len(ended.signatures) == ORDERS
        assert ended.executed == dict.fromkeys(ids, 1)
