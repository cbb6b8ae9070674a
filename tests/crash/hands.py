"""Workers and scanners led by hand, one task at a time, through crashes wherever a test wants them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.clock import SystemClock
from app.dex.chain import BLOCKHASH_LIFETIME, Observation
from app.dex.tokens import SOL, USDC, pair_of
from app.dex.venue import VENUES, spot_tick
from app.execution.failpoints import Reach, unwatched
from app.execution.process import OrderProcess
from app.execution.streams import OrderHead, OrderStreams
from app.main import build_scanner, build_streams, build_worker
from app.orders.commands import RecordIntent, RestOrder
from app.orders.events import Trigger
from app.orders.state import Building, Terminal
from app.settings import Settings
from eventstore.errors import StoreUnavailableError
from eventstore.ids import partition_in
from eventstore.levels import MEMORY, Level
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, AppendResult, Task
from tests.crash.matrix.fates import CALM, Fate, FatedChain, fated_order, open_fated
from tests.crash.matrix.recovery import quick

CLIENT: Final = "client"
PAIR: Final = pair_of(SOL, USDC)
TASKS_MAX: Final = 12
"""Tasks that an order needs at most until its end, crashes included."""
LEAP_SLOTS: Final = 200
"""More than the life of a blockhash."""
WALKED_SLOTS: Final = 50
"""Slots after a peak that a scanner walks at its first look: more than it walks again at its next one."""
FAR_SLOTS: Final = 200
FIRST_SLOT: Final = 10_000
LIFE_US: Final = 3_600_000_000


class CrashError(Exception):
    """What ends a worker at a crash point; nobody catches it."""


class QuickClock(SystemClock):
    """The machine's clock, set ahead, but that no wait takes any time."""

    def __init__(self, ahead_us: int = 0) -> None:
        self._ahead_us = ahead_us

    def now_us(self) -> int:
        """See :meth:`Clock.now_us`."""
        return super().now_us() + self._ahead_us

    async def sleep(self, seconds: float) -> None:
        """See :meth:`Clock.sleep`."""
        await asyncio.sleep(0)


class JournalStore(RedisEventStore):
    """Writes down the status after each append; appends fail while ``failing``."""

    journal: list[str]
    failing = False

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        if self.failing:
            raise StoreUnavailableError("as the test wants it")
        result = await super().append(commit)
        self.journal.append(msgspec.json.decode(commit.events[-1].data)["status"])
        return result


class JournalChain(FatedChain):
    """Writes down every broadcast."""

    journal: list[str]
    sent: list[tuple[bytes, bytes]]

    async def send(self, message: bytes, signature: bytes) -> None:
        """See :meth:`SimulatedChain.send`."""
        self.journal.append("sent")
        self.sent.append((signature, message))
        await super().send(message, signature)


class LeapingChain(JournalChain):
    """Goes on by more than the life of a blockhash after each look at a swap."""

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """See :meth:`SimulatedChain.observe`."""
        seen = await super().observe(signatures)
        for _ in range(LEAP_SLOTS if signatures else 0):
            await super().observe(())
        return seen


class Hands:
    """An event store and a chain, and whatever a worker or a scanner does with them, when it is told to.

    ``journal`` has the status after each append, and ``sent`` for each broadcast, in order.
    """

    def __init__(self, settings: Settings, store: JournalStore, chain: JournalChain) -> None:
        self.settings = settings
        self.store = store
        self.chain = chain
        self.streams: OrderStreams = build_streams(store, SystemClock(), "test")
        self.journal: list[str] = []
        store.journal, chain.journal, chain.sent = self.journal, self.journal, []

    async def place(self, fate: Fate) -> str:
        """Accept an order of this fate, which is over in an hour."""
        order_id = self.streams.new_order_id(CLIENT, None)
        order = fated_order(fate)
        over_us = SystemClock().now_us() + LIFE_US
        await self.streams.place(order_id, CLIENT, replace(order, expire_at_us=over_us))
        return order_id

    async def rest(self, trigger: Trigger, slot: int) -> str:
        """Accept a limit order and let it wait for ``trigger``, not met at ``slot``."""
        order_id = self.streams.new_order_id(CLIENT, None)
        order = replace(fated_order("lands"), order_type="limit", limit_price="1")
        await self.streams.place(order_id, CLIENT, order)
        task = await self._task(order_id)
        await self.streams.record(await self.streams.load(order_id), RestOrder(trigger=trigger, slot=slot), task)
        return order_id

    async def advance(
        self, order_id: str, *, reach: Reach = unwatched, intent_level: Level = MEMORY, ahead_us: int = 0
    ) -> None:
        """Let a new worker do the order's task, with a clock that is so much ahead; raises what the worker meets."""
        task = await self._task(order_id)
        await self._process(reach, intent_level, ahead_us).advance(task)

    async def crash_at(self, point: str, order_id: str) -> None:
        """Let a worker do the order's tasks until it crashes at ``point``."""

        def reach(passed: str, _: str) -> None:
            if passed == point:
                raise CrashError(point)

        for _ in range(TASKS_MAX):
            try:
                await self.advance(order_id, reach=reach)
            except CrashError:
                return
        raise AssertionError(f"{point} was not reached within {TASKS_MAX} tasks")

    async def to_the_end(self, order_id: str, ahead_us: int = 0) -> None:
        """Let workers do the order's tasks until it has ended."""
        for _ in range(TASKS_MAX):
            await self.advance(order_id, ahead_us=ahead_us)
            if isinstance((await self.streams.load(order_id)).state, Terminal):
                return
        raise AssertionError(f"the order has not ended within {TASKS_MAX} tasks: {await self.names(order_id)}")

    async def signed(self, order: OrderHead) -> RecordIntent:
        """Return the intent of a worker that has chosen a route, not recorded."""
        assert isinstance(order.state, Building)
        return await self._process(unwatched, MEMORY, 0)._submission.build(order.order_id, order.state)

    async def scan(self, order_id: str, slot: int) -> int:
        """Let a new scanner look at the order's partition up to ``slot``; return how many orders it fired."""
        scanner = build_scanner(self.settings, self.store, self.chain, QuickClock(), profile=CALM)
        return await scanner.scan(partition_in(order_id), slot)

    async def frames(self, order_id: str) -> list[dict[str, Any]]:
        """Return the order's events."""
        return [msgspec.json.decode(event.data) for event in await self.store.read_stream(order_id)]

    async def names(self, order_id: str) -> list[str]:
        """Return the public names of the order's events."""
        return [frame["event"] for frame in await self.frames(order_id)]

    async def require_swaps(self, order_id: str, count: int) -> None:
        """The chain's ledger has so many swaps of the order when nothing can land any more."""
        await self.chain.pass_slots(BLOCKHASH_LIFETIME + 1)
        swaps = [one for one in await self.chain.ledger() if one.order_id == order_id and one.outcome == "executed"]
        assert len(swaps) == count

    def _process(self, reach: Reach, intent_level: Level, ahead_us: int) -> OrderProcess:
        settings = replace(self.settings, intent_level=intent_level)
        clock = QuickClock(ahead_us)
        return build_worker(settings, self.store, self.chain, clock, profile=CALM, reach=reach)._process

    async def _task(self, order_id: str) -> Task:
        await self.store.fire_timers(100)
        held = [*await self.store.take_tasks("hand", 100), *await self.store.claim_tasks("hand", 0, 100)]
        return next(task for task in held if task.stream == order_id)


@asynccontextmanager
async def hands(redis_url: str, kind: type[JournalChain] = JournalChain) -> AsyncIterator[Hands]:
    """A store and a chain that nobody else has, on a server that need not flush; closed with the context."""
    settings = replace(quick(), ack_level=MEMORY)
    store_settings = StoreSettings(level=MEMORY, namespace=settings.namespace)
    store = await JournalStore.open(redis_url, store_settings, new_store_id="test")
    chain, connection = open_fated(settings, redis_url, kind)
    try:
        yield Hands(settings, store, chain)
    finally:
        await connection.close()
        await store.close()


class Peak(Struct, frozen=True):
    """A slot at which a trigger is met that is met at none of the slots after it, for a while."""

    slot: int
    trigger: Trigger


def peak(seed: str) -> Peak:
    """Return the first slot of the simulated market with a price that is not seen again for :data:`FAR_SLOTS`."""
    ticks = [_highest(seed, slot) for slot in range(FIRST_SLOT, FIRST_SLOT + 10 * FAR_SLOTS)]
    found = next(at for at, tick in enumerate(ticks) if tick > max(ticks[at + 1 : at + 1 + FAR_SLOTS]))
    return Peak(FIRST_SLOT + found, Trigger(pair=PAIR.name, when="rises_to", level=ticks[found]))


def _highest(seed: str, slot: int) -> int:
    return max(spot_tick(name, PAIR, slot, seed=seed, profile=CALM) for name in VENUES)
