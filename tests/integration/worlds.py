"""A simulated chain of its own for each test, and how a worker would use it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from redis.asyncio import Redis

from app.dex.chain import (
    Blockhash,
    Observation,
    SimulatedChain,
)
from app.dex.profile import Profile
from app.dex.tokens import SOL, USDC
from app.dex.transaction import SwapMessage, Wallet, encode, tx_id
from app.dex.venue import Swap, price_swap
from app.orders.events import Side
from eventstore.redis.connection import Pipeline

WAIT_SECONDS = 20
SEED = "chain"
WALLET = Wallet(SEED)
ANY_PRICE: Final[dict[Side, int]] = {"sell": 1, "buy": (1 << 64) - 1}
REAL_TIME = 1_000_000

CALM = Profile(drop_ppm=0, fork_ppm=0)
NEXT_SLOT = Profile(drop_ppm=0, fork_ppm=0, landing_ppm=(0, 1_000_000))


class World:
    """A fresh chain, and how a worker would use it."""

    def __init__(self, client: Redis, connection: Pipeline, profile: Profile, speed_ppm: int, namespace: str) -> None:
        self.client = client
        self.connection = connection
        self.profile = profile
        self.namespace = namespace
        self.chain = self.opened(speed_ppm)

    def opened(self, speed_ppm: int = 0, *, seed: str = SEED, profile: Profile | None = None) -> SimulatedChain:
        """The same stored chain, as another process opens it."""
        return SimulatedChain(
            self.connection, seed=seed, profile=profile or self.profile, speed_ppm=speed_ppm, namespace=self.namespace
        )

    async def send(
        self, swap: Swap, *, limit: int | None = None, blockhash: Blockhash | None = None, venue: str = "raydium"
    ) -> str:
        """Sign and send a swap; return its transaction id."""
        message = signed_bytes(swap, blockhash or await self.chain.latest_blockhash(), limit=limit, venue=venue)
        signature = WALLET.sign(message)
        await self.chain.send(message, signature)
        return tx_id(signature)

    async def observed_until(self, signature: str, *, slots: int = 400) -> Observation:
        """The first observation that has a status for ``signature``."""
        for _ in range(slots):
            observation = await self.chain.observe([signature])
            if signature in observation.statuses:
                return observation
        raise AssertionError(f"{signature} did not land within {slots} slots")

    async def pass_slots(self, count: int) -> Observation:
        for _ in range(count):
            observation = await self.chain.observe([])
        return observation

    async def pass_to(self, slot: int) -> None:
        """Let slots pass until ``slot`` is the current one."""
        await self.pass_slots(slot - await self.chain.slot())
        assert await self.chain.slot() == slot


def run(redis_url: str, test: Callable[[World], Awaitable[None]], profile: Profile = CALM, speed_ppm: int = 0) -> None:
    """Run ``test`` in a world of its own."""

    async def scenario() -> None:
        connection = Pipeline(redis_url)
        try:
            async with Redis.from_url(redis_url) as client:
                await test(World(client, connection, profile, speed_ppm, f"{{chain-{uuid.uuid4().hex}}}"))
        finally:
            await connection.close()

    asyncio.run(asyncio.wait_for(scenario(), 6 * WAIT_SECONDS))


def sale(number: int = 1, *, side: Side = "sell", attempt: int = 1) -> Swap:
    return Swap(order_id=f"order-{number}", attempt=attempt, side=side, base=SOL, quote=USDC, amount=1_000_000_000)


def signed_bytes(swap: Swap, blockhash: Blockhash, *, limit: int | None = None, venue: str = "raydium") -> bytes:
    bound = ANY_PRICE[swap.side] if limit is None else limit
    return encode(SwapMessage(payer=WALLET.address, blockhash=blockhash.hash, venue=venue, swap=swap, limit=bound))


def price(swap: Swap, slot: int, profile: Profile = CALM) -> int:
    return price_swap("raydium", swap, slot, seed=SEED, profile=profile).amount
