"""A simulated chain on which the order alone decides what becomes of its swaps, whoever sends them and whenever."""

from typing import Final, Literal, TypeVar

from app.dex.chain import BLOCKHASH_LIFETIME, NETWORK_FEE, LandedFailed, SimulatedChain, Status
from app.dex.profile import Profile
from app.dex.transaction import SwapMessage
from app.orders.commands import PlaceOrder
from app.settings import Settings
from eventstore.redis.connection import Pipeline

Fate = Literal["lands", "dropped", "late", "fails"]

AMOUNTS: Final[dict[Fate, int]] = {
    "lands": 1_000_000_000,
    "dropped": 1_000_000_001,
    "late": 1_000_000_002,
    "fails": 1_000_000_003,
}
"""By what an order is known: it lands soon; its first attempt never does; at the last valid height; always in vain."""
LANDING_SLOTS: Final = 4
"""From the first broadcast to the landing."""
CALM: Final = Profile(venue_error_ppm=0, venue_timeout_ppm=0, drop_ppm=0, fork_ppm=0, handicap_ticks=(0, 0))
"""A world in which nothing goes wrong but what a test does, and equal orders get equal quotes."""

_FATES: Final = {amount: fate for fate, amount in AMOUNTS.items()}


class FatedChain(SimulatedChain):
    """The simulated chain, but for whether and where a swap lands; amounts that have no fate land soon."""

    def _status(self, signature: str, message: SwapMessage, sent: list[int], confirmed: int) -> Status | None:
        fate = _FATES.get(message.swap.amount, "lands")
        if fate == "dropped" and message.swap.attempt == 1:
            return None
        last_valid = int.from_bytes(message.blockhash[:8], "big") + BLOCKHASH_LIFETIME
        slot = last_valid if fate == "late" else sent[0] + LANDING_SLOTS
        if slot > min(confirmed, last_valid):
            return None
        if fate == "fails":
            return LandedFailed(slot=slot, error="SimulatedProgramError", network_fee=NETWORK_FEE)
        return self._execute(signature, message, slot)

    async def signatures(self) -> set[str]:
        """Return the id of everything that was ever sent."""
        key = self._keys[1]
        return {name.decode() for name in await self._connection.execute("HKEYS", key, key=key)}

    async def pass_slots(self, count: int) -> None:
        """Let ``count`` slots pass; where a clock runs, this only looks as often."""
        for _ in range(count):
            await self.observe(())


C = TypeVar("C", bound=FatedChain)


def open_fated(settings: Settings, redis_url: str, kind: type[C]) -> tuple[C, Pipeline]:
    """Return the chain of these settings, and the connection under it, to be closed at the end."""
    pipeline = Pipeline(settings.chain_redis_url or redis_url)
    namespace = f"chain:{{{settings.namespace}}}"
    chain = kind(pipeline, seed=settings.seed, profile=CALM, speed_ppm=settings.speed_ppm, namespace=namespace)
    return chain, pipeline


def fated_order(fate: Fate, *, idempotency_key: str | None = None) -> PlaceOrder:
    """An order that has this fate, with so much slippage allowed that only its fate decides."""
    return PlaceOrder(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=AMOUNTS[fate],
        slippage_bps=1_000,
        idempotency_key=idempotency_key,
        fingerprint=fate if idempotency_key else None,
    )
