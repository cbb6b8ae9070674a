"""A store in memory, a chain whose slot the test moves, and the processes that rest orders and scan slots."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, Final

from hypothesis import strategies as st

from app.dex.chain import CONFIRMATION_SLOTS, Blockhash, Observation
from app.dex.market import grid_price
from app.dex.pools.launches import launch_token
from app.dex.profile import MAJOR
from app.dex.tokens import SOL, USDC, Pair, Token, pair_of
from app.dex.transaction import Wallet
from app.dex.venue import VENUES, spot_tick
from app.execution.coalesce import Observer, Shared
from app.execution.failpoints import unwatched
from app.execution.process import OrderProcess, ProcessSettings
from app.execution.scanner import AGAIN_SLOTS, Scanner, ScannerSettings
from app.execution.streams import OrderStreams
from app.execution.submission import Submission
from app.execution.triggers import DONE, Triggers
from app.orders.codec import from_frame
from app.orders.commands import PlaceOrder, RestOrder
from app.orders.events import Trigger, TriggerFired
from app.orders.money import format_units
from eventstore.errors import StoreUnavailableError, WrongVersionError
from eventstore.ids import partition_in
from eventstore.levels import MEMORY
from eventstore.memory import MemoryEventStore
from eventstore.store import EventStore, Task
from tests.clocks import StepClock

SEED: Final = "scanner"
START: Final = 20_000
SOL_USDC: Final = pair_of(SOL, USDC)
NEW: Final = launch_token(3)
LAUNCH: Final = START + 20
OWNER: Final = "owner"
PARTITION: Final = 0
WAIT_SECONDS: Final = 20


class FakeChain:
    """A chain whose slot the test moves; nothing is sent to it."""

    def __init__(self) -> None:
        self.confirmed = START
        self.launches: dict[str, int] = {NEW.symbol: LAUNCH}

    async def slot(self) -> int:
        return self.confirmed + CONFIRMATION_SLOTS

    async def observe(self, signatures: Sequence[str]) -> Observation:
        return Observation(height=self.confirmed, slot=self.confirmed, statuses={})

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        return {token.symbol: self.launches[token.symbol] for token in tokens}

    async def latest_blockhash(self) -> Blockhash:
        raise AssertionError("no order of these tests is ever quoted, so none is sent")

    async def send(self, message: bytes, signature: bytes) -> None:
        raise AssertionError("no order of these tests is ever quoted, so none is sent")


class BreakingStore:
    """A store as one process sees it that ends at its k-th call, before or after the store has done it; 0: never.

    It gives other processes ``turns`` turns between any two calls, and counts what it is asked for.
    """

    def __init__(
        self, store: MemoryEventStore, break_at: int = 0, *, after: bool = False, found_max: int = 0, turns: int = 1
    ) -> None:
        self._store = store
        self._left = break_at
        self._after = after
        self._found_max = found_max
        self._turns = turns
        self.calls: Counter[str] = Counter()
        self.entries = 0
        self.before: dict[str, Callable[[], Awaitable[Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            self._left -= 1
            breaks = self._left == 0
            for _ in range(self._turns):
                await asyncio.sleep(0)
            if breaks and not self._after:
                raise StoreUnavailableError("the process has ended")
            if name in self.before:
                await self.before.pop(name)()
            if name == "find_entries" and self._found_max:
                args = (*args[:2], self._found_max)
            result = await found(*args, **options)
            if name == "find_entries":
                self.entries += sum(len(entries) for entries in result)
            if breaks:
                raise StoreUnavailableError("the process has ended")
            await asyncio.sleep(0)
            return result

        return call


class World:
    """A store, a chain, and processes that rest orders and scan slots."""

    def __init__(self, partitions: int = 1) -> None:
        self.clock = StepClock()
        self.store = MemoryEventStore(partitions=partitions, store_id="memory", now_us=self.clock.now_us)
        self.chain = FakeChain()
        self.entropy = iter(range(1, 1 << 60))
        self.streams = self.streams_on(self.store)
        self.orders: list[str] = []

    def streams_on(self, store: EventStore) -> OrderStreams:
        return OrderStreams(store, self.clock, lambda size: next(self.entropy).to_bytes(size, "big"), "test")

    def triggers(self) -> Triggers:
        return Triggers(self.chain, seed=SEED, profile=MAJOR)

    def scanner(self, store: EventStore | None = None) -> Scanner:
        found = store or self.store
        return Scanner(
            store=found,
            streams=self.streams_on(found),
            chain=self.chain,
            triggers=self.triggers(),
            clock=self.clock,
            settings=ScannerSettings(seed=SEED, profile=MAJOR, scan_ms=1),
        )

    def process(self, store: EventStore) -> OrderProcess:
        """A worker's order process without venues: what is triggered is not quoted, and waits for its next attempt."""
        submission = Submission(
            chain=self.chain,
            blockhashes=Shared(self.chain.latest_blockhash, _turn),
            observer=Observer(self.chain.observe, self.clock, 0),
            wallet=Wallet(SEED),
            clock=self.clock,
            speed_ppm=0,
            reach=unwatched,
        )
        return OrderProcess(
            store=store,
            streams=self.streams_on(store),
            venues=(),
            triggers=self.triggers(),
            slots=Shared(self.chain.slot, _turn),
            submission=submission,
            clock=self.clock,
            settings=ProcessSettings(
                seed=SEED, profile=MAJOR, speed_ppm=0, quote_timeout_ms=1, task_ms=5_000, intent_level=MEMORY
            ),
        )

    async def place(self, command: PlaceOrder) -> Task:
        """Accept an order and return its task, held by a worker."""
        order_id = self.streams.new_order_id(OWNER, None)
        await self.streams.place(order_id, OWNER, command)
        self.orders.append(order_id)
        return await self.task_of(order_id)

    async def task_of(self, order_id: str) -> Task:
        for task in await self.store.list_tasks(partition_in(order_id)):
            if task.stream == order_id:
                return task
        raise AssertionError(f"{order_id} has no task")

    async def rest(self, trigger: Trigger, slot: int) -> str:
        """An order that rests since ``slot`` for ``trigger``."""
        task = await self.place(limit("sell", "1") if trigger.when != "launched" else sniper(500))
        order = await self.streams.load(task.stream)
        await self.streams.record(order, RestOrder(trigger=trigger, slot=slot), task)
        return task.stream

    async def mark(self) -> int | None:
        return await self.store.read_mark(PARTITION, DONE)

    async def fired(self, order_id: str) -> list[TriggerFired]:
        events = [from_frame(stored.data) for stored in await self.store.read_stream(order_id)]
        return [event for event in events if isinstance(event, TriggerFired)]


async def _turn() -> None:
    await asyncio.sleep(0)


def limit(side: Any, price: str) -> PlaceOrder:
    return PlaceOrder(
        side=side,
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=1_000_000_000,
        slippage_bps=100,
        order_type="limit",
        limit_price=price,
    )


def sniper(max_fee_bps: int) -> PlaceOrder:
    return PlaceOrder(
        side="buy",
        base_asset=NEW.symbol,
        quote_asset="SOL",
        base_decimals=6,
        quote_decimals=9,
        amount=1_000_000,
        slippage_bps=100,
        order_type="sniper",
        max_fee_bps=max_fee_bps,
    )


def spots(slot: int, pair: Pair = SOL_USDC) -> dict[str, int]:
    return {venue: spot_tick(venue, pair, slot, seed=SEED, profile=MAJOR) for venue in VENUES}


def is_met(trigger: Trigger, slot: int) -> bool:
    """Whether the market meets a trigger at a slot: said here once more, from the prices alone."""
    if trigger.when == "launched":
        return slot >= LAUNCH + trigger.level
    ticks = spots(slot).values()
    return max(ticks) >= trigger.level if trigger.when == "rises_to" else min(ticks) <= trigger.level


def first_met(trigger: Trigger, after: int, last: int) -> int | None:
    return next((slot for slot in range(after + 1, last + 1) if is_met(trigger, slot)), None)


async def work(world: World, store: EventStore, task: Task) -> None:
    """Advance an order as a worker does: again when somebody else was first, and not when the process has ended."""
    with suppress(StoreUnavailableError):
        for _ in range(3):
            with suppress(WrongVersionError):
                await world.process(store).advance(task)
                return


def spike(when: str) -> tuple[int, Trigger]:
    """A slot after which the price is beyond a level for a slot or two, and then not for longer than is rescanned."""
    sign = 1 if when == "rises_to" else -1

    def beyond(slot: int) -> int:
        return max(sign * tick for tick in spots(slot).values())

    for slot in range(START, START + 5_000):
        level = beyond(slot + 1)
        if level > beyond(slot) and all(beyond(later) < level for later in range(slot + 3, slot + 3 + 2 * AGAIN_SLOTS)):
            return slot, Trigger(pair="SOL/USDC", when=when, level=sign * level)  # type: ignore[arg-type]
    raise AssertionError("this seed has no such slot")


def limit_for(trigger: Trigger) -> PlaceOrder:
    """A limit order that waits for ``trigger``: its price lies just on the right side of the tick."""
    at = Fraction(grid_price(1, trigger.level), 1 << 64) * 10**3
    digits = 10**12
    if trigger.when == "rises_to":
        return limit("sell", format_units(at.numerator * digits // at.denominator, 12))
    return limit("buy", format_units(-(-at.numerator * digits // at.denominator), 12))


levels = st.integers(-8, 8)


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    """Triggers near the price at the start, and launches near it, so that some are met soon and some never."""
    if draw(st.integers(0, 4)) == 0:
        return Trigger(pair="NEW3/SOL", when="launched", level=draw(st.integers(0, 40)), number=3)
    when = draw(st.sampled_from(["rises_to", "falls_to"]))
    spot = max(spots(START).values()) if when == "rises_to" else min(spots(START).values())
    return Trigger(pair="SOL/USDC", when=when, level=spot + draw(levels))  # type: ignore[arg-type]
