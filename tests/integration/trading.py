"""A bench for orders of every type: places them, lets slots pass, runs workers and scanners, and knows the prices."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any, Final

from msgspec.structs import replace

from app.clock import SystemClock
from app.dex.chain import CONFIRMATION_SLOTS, LedgerEntry
from app.dex.market import grid_price, pool_reserve
from app.dex.profile import Profile
from app.dex.tokens import Pair, Token, token
from app.dex.venue import VENUES, spot_tick
from app.execution.streams import OrderHead
from app.main import build_scanner, build_worker, open_hot_store
from app.orders.codec import from_frame
from app.orders.commands import PlaceOrder
from app.orders.events import Event, Side, Trigger
from app.orders.money import format_units
from app.orders.state import State, Terminal
from app.settings import Settings
from tests.integration.test_worker import END_SECONDS, Bench

LIVELY: Final = Profile(
    venue_error_ppm=0,
    venue_timeout_ppm=0,
    drop_ppm=0,
    fork_ppm=0,
    landing_ppm=(0, 1_000_000),
    handicap_ticks=(0, 0),
    volatility_ppm=10_000_000,
)
"""Nothing fails, what is sent lands in the next slot, and prices move by some 8 ticks a slot."""
_AT_ONCE: Final = 400


class Trading(Bench):
    """An event store, a chain and orders of every type."""

    async def order(self, command: PlaceOrder, client: str = "client") -> str:
        """Place an order of ``client`` and return its id."""
        order_id = self.streams.new_order_id(client, None)
        await self.streams.place(order_id, client, command)
        return order_id

    @asynccontextmanager
    async def at_work(
        self,
        *,
        workers: int = 1,
        scanners: int = 0,
        settings: Settings | None = None,
        seconds_max: float | None = END_SECONDS,
    ) -> AsyncIterator[None]:
        """Run so many workers and scanners until the context closes, which it must within ``seconds_max``."""
        stopping, settings = asyncio.Event(), settings or self.settings
        parts = (settings, self.store, self.chain, SystemClock())
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(build_worker(*parts, profile=self.profile).run(stopping))
            for _ in range(scanners):
                group.create_task(build_scanner(*parts, profile=self.profile).run(stopping))
            try:
                async with asyncio.timeout(seconds_max):
                    yield
            finally:
                stopping.set()
                await self.end_waits()

    async def until(self, order_id: str, reached: Callable[[OrderHead], bool]) -> OrderHead:
        """Wait until an order is as wanted."""
        while not reached(head := await self.streams.load(order_id)):
            await self.store.read_log(await self.store.log_ends(), 100, 0.05)
        return head

    async def reach(self, order_ids: Sequence[str], kind: type[State] | Any) -> list[OrderHead]:
        """Wait until each of the orders is in a state of this kind."""
        return [await self.until(order_id, lambda head: isinstance(head.state, kind)) for order_id in order_ids]

    async def ends(self, order_ids: Sequence[str]) -> list[OrderHead]:
        """Wait until each of the orders has ended."""
        return await self.reach(order_ids, Terminal)

    async def quiet(self) -> None:
        """Wait until no task is left."""
        while sum(part.tasks + part.pending + part.waiting for part in await self.store.status()):
            await self.store.read_log(await self.store.log_ends(), 100, 0.05)

    async def confirmed_slot(self) -> int:
        return await self.chain.slot() - CONFIRMATION_SLOTS

    async def pass_to(self, confirmed: int) -> None:
        """Let slots pass until the chain's confirmed view is at least of slot ``confirmed``; at speed 0."""
        while (left := confirmed - await self.confirmed_slot()) > 0:
            await asyncio.gather(*(self.chain.observe(()) for _ in range(min(left, _AT_ONCE))))

    async def scan(self) -> int:
        """Look once at every partition; return how many orders were fired."""
        slot = await self.confirmed_slot()
        scanner = build_scanner(self.settings, self.store, self.chain, SystemClock(), profile=self.profile)
        return sum([await scanner.scan(partition, slot) for partition in range(self.store.partitions)])

    async def events(self, order_id: str) -> list[Event]:
        return [from_frame(stored.data) for stored in await self.store.read_stream(order_id)]

    async def names(self, order_id: str) -> list[object]:
        return [frame["event"] for frame in await self.frames(order_id)]

    async def executed(self, order_id: str) -> LedgerEntry:
        """The one swap that the chain executed for an order."""
        (entry,) = [
            entry for entry in await self.chain.ledger() if entry.order_id == order_id and entry.outcome == "executed"
        ]
        return entry

    async def entries(self, index: str) -> dict[str, int]:
        """What an index holds in all partitions."""
        return {
            entry.member: entry.score
            for partition in range(self.store.partitions)
            for entry in await self.store.read_index(partition, index)
        }

    def spots(self, pair: Pair, slot: int) -> dict[str, int]:
        """The venues' spot ticks."""
        seed, profile = self.settings.seed, self.profile
        return {venue: spot_tick(venue, pair, slot, seed=seed, profile=profile) for venue in VENUES}

    def first_met(self, trigger: Trigger, after: int) -> tuple[int, str, int]:
        """The first slot after ``after`` at which a venue's price is where ``trigger`` waits for it, from prices alone.

        With the venue that is farthest beyond, the first in order of equal ones, and its tick.
        """
        base, quote = trigger.pair.split("/")
        pair, sign = Pair(token(base), token(quote)), 1 if trigger.when == "rises_to" else -1
        slot = after
        while True:
            slot += 1
            spots = self.spots(pair, slot)
            venue = max(VENUES, key=lambda name: sign * spots[name])
            if sign * spots[venue] >= sign * trigger.level:
                return slot, venue, spots[venue]


def on_trading(
    redis_url: str,
    scenario: Callable[[Trading], Awaitable[None]],
    profile: Profile = LIVELY,
    **settings: Any,
) -> None:
    """Run a scenario at speed 0 in a namespace of its own."""

    async def run() -> None:
        given = replace(Settings(namespace=f"t{secrets.token_hex(5)}", speed_ppm=0, claim_idle_ms=6_000), **settings)
        store = await open_hot_store(given, redis_url, "test")
        trading = Trading(given, store, redis_url, profile)
        try:
            await scenario(trading)
        finally:
            await trading.connection.close()
            await store.close()

    asyncio.run(run())


def order_of(side: Side, base: Token, quote: Token, amount: int, **fields: Any) -> PlaceOrder:
    """An order for ``amount`` base units of ``base``; a market order unless the fields say otherwise."""
    return PlaceOrder(
        side=side,
        base_asset=base.symbol,
        quote_asset=quote.symbol,
        base_decimals=base.decimals,
        quote_decimals=quote.decimals,
        amount=amount,
        **{"slippage_bps": 100, **fields},
    )


def limit_order(pair: Pair, when: str, level: int, *, reversed_pair: bool = False, **fields: Any) -> PlaceOrder:
    """A small limit order that waits for the pool's price at ``level``, its pair named either way round."""
    in_pool = Fraction(grid_price(1, level), 1 << 64)
    amount = pool_reserve(pair) // 10**6
    side: Side = "sell" if (when == "rises_to") is not reversed_pair else "buy"
    base, quote = pair.base, pair.quote
    if reversed_pair:
        base, quote, amount, in_pool = quote, base, int(amount * in_pool), 1 / in_pool
    price = in_pool * Fraction(10) ** (base.decimals - quote.decimals) * 10**18
    text = format_units(price.numerator // price.denominator, 18)
    return order_of(side, base, quote, amount, order_type="limit", limit_price=text, **fields)
