"""The scanner of slots: finds the resting orders whose trigger the market met, slot by slot, and fires them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from app.clock import Clock
from app.dex.chain import CONFIRMATION_SLOTS
from app.dex.errors import ChainError
from app.dex.profile import Profile
from app.dex.tokens import PAIRS, Pair, launch_token
from app.dex.triggers import extremes
from app.execution.streams import OrderHead, OrderStreams
from app.execution.submission import Chain
from app.execution.triggers import BEGUN, DONE, Triggers
from app.orders.commands import FireTrigger
from app.orders.errors import OrderError
from app.orders.events import LAUNCH_BITS, LAUNCHES
from app.orders.state import Resting
from eventstore.errors import DamagedEntryError, EventStoreError, NotCanonicalError, WrongVersionError
from eventstore.store import EventStore, IndexRange

log = logging.getLogger(__name__)

RATE: Final = "scan"
WALK_SLOTS: Final = 64
"""Most slots walked at once; between two such walks others get their turn."""
AGAIN_SLOTS: Final = 25
"""Slots before the mark that are walked again, for orders that are put back into the store where they rested."""
TICKS_MAX: Final = 2048
"""Extremes of a pair at a slot that are remembered: those of a walk over all pairs, for the next partition and look."""
PAGE: Final = 256
"""Most orders fired at once."""
FOUND_MAX: Final = 100_000
"""Most orders of one range that are found at once; what lies beyond is found when these are fired."""
OUTAGE_SECONDS: Final = 0.5


class ScannerSettings(Struct, frozen=True, kw_only=True):
    """What the market is made from, and how often it is looked at."""

    seed: str
    profile: Profile
    scan_ms: int
    """Time between two looks at a partition, by whichever process comes first; one slot, or less."""


class Scanner:
    """Fires triggers until it is told to stop; any number of processes may run one.

    For each partition the slots since the last look are walked; what a slot's prices do not reach is not looked at, so
    that the cost depends on slots, pairs and fired orders, never on how many orders rest. The mark moves on when
    everything up to it has been fired: a process that dies in between leaves the work to the next one, and an order
    fired twice is refused its second event by its version.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        streams: OrderStreams,
        chain: Chain,
        triggers: Triggers,
        clock: Clock,
        settings: ScannerSettings,
    ) -> None:
        self._store = store
        self._streams = streams
        self._chain = chain
        self._triggers = triggers
        self._clock = clock
        self._settings = settings
        self._rests = [False] * store.partitions
        self._ticks = lru_cache(maxsize=TICKS_MAX)(self._extremes_at)

    async def run(self, stopping: asyncio.Event) -> None:
        """Scan every partition again and again until ``stopping`` is set."""
        while not stopping.is_set():
            try:
                await self.scan_all()
            except (EventStoreError, ChainError) as error:
                log.warning("scan_left", extra={"reason": f"{type(error).__name__}: {error}"})
                await self._clock.sleep(OUTAGE_SECONDS)
            await self._clock.sleep(self._settings.scan_ms / 1_000)

    async def scan_all(self) -> int:
        """Look once at each partition whose turn it is; return how many orders were fired.

        Raises:
            EventStoreError: of a partition that is out of order, when the others have been looked at.
            ChainError: the chain gave no answer.
        """
        slot = await self._confirmed_slot()
        fired = 0
        outage: EventStoreError | None = None
        for partition in range(self._store.partitions):
            try:
                if not (await self._store.take_rate(partition, RATE, 1, self._settings.scan_ms)).wait_ms:
                    fired += await self.scan(partition, slot)
            except EventStoreError as error:
                # A closed partition is no reason to leave the others.
                outage = outage or error
        if outage is not None:
            raise outage
        return fired

    async def _confirmed_slot(self) -> int:
        """Return the slot of the chain's confirmed view; where no time runs, orders that rest let a slot pass."""
        if any(self._rests):
            return (await self._chain.observe(())).slot
        return await self._chain.slot() - CONFIRMATION_SLOTS

    async def _resting(self, partition: int) -> dict[str, int]:
        indexes = [*_PRICE_INDEXES, LAUNCHES]
        return dict(zip(indexes, await self._store.count_entries(partition, indexes), strict=True))

    async def scan(self, partition: int, slot: int) -> int:
        """Fire what the slots from the partition's mark to ``slot`` meet; return how many orders were fired."""
        # Before anything is looked at: who comes to rest after that looks at the slots up to here by itself.
        await self._store.advance_mark(partition, BEGUN, slot)
        resting = await self._resting(partition)
        self._rests[partition] = any(resting.values())
        mark = await self._store.read_mark(partition, DONE)
        if mark is None:
            mark = await self._first_mark(partition, resting, slot)
        pairs = [pair for pair in PAIRS if any(resting[_index(pair, when)] for when in ("rises_to", "falls_to"))]
        fired = 0
        while mark < slot:
            end = min(slot, mark + WALK_SLOTS) if pairs else slot
            fired += await self._scan_prices(partition, pairs, range(mark + 1 - AGAIN_SLOTS, end + 1))
            await self._store.advance_mark(partition, DONE, end)
            mark = end
        if resting[LAUNCHES]:
            fired += await self._scan_launches(partition, slot)
        return fired

    async def _first_mark(self, partition: int, resting: dict[str, int], slot: int) -> int:
        """Return where to begin without a mark: before the first order that rests, if any does.

        A mark is missing in a new store, and in one that was refilled.
        """
        first = slot
        for index, count in resting.items():
            if not count or index == LAUNCHES:
                continue
            for entry in await self._store.read_index(partition, index):
                order = await self._loaded(entry.member)
                if order is not None and isinstance(order.state, Resting):
                    first = min(first, order.state.slot)
        return first

    async def _scan_prices(self, partition: int, pairs: Sequence[Pair], slots: range) -> int:
        ranges: list[IndexRange] = []
        for pair in pairs:
            ticks = [self._ticks(pair, slot) for slot in slots]
            ranges.append(IndexRange(_index(pair, "rises_to"), None, max(high for _, high in ticks)))
            ranges.append(IndexRange(_index(pair, "falls_to"), min(low for low, _ in ticks), None))
            await asyncio.sleep(0)

        def met(state: Resting) -> FireTrigger | None:
            return self._triggers.price_met(state.trigger, range(max(slots.start, state.slot + 1), slots.stop))

        # One round trip tells which ranges hold anything, and mostly none does.
        firsts = await self._store.find_entries(partition, ranges, 1)
        return sum(
            [
                await self._fire_range(partition, wanted, met)
                for wanted, first in zip(ranges, firsts, strict=True)
                if first
            ]
        )

    def _extremes_at(self, pair: Pair, slot: int) -> tuple[int, int]:
        return extremes(pair, range(slot, slot + 1), seed=self._settings.seed, profile=self._settings.profile)

    async def _scan_launches(self, partition: int, slot: int) -> int:
        fired, number = 0, 0
        while True:
            # One entry tells the next token that orders wait for, however many wait.
            following = IndexRange(LAUNCHES, (number + 1) << LAUNCH_BITS, None)
            ((*entries,),) = await self._store.find_entries(partition, (following,), 1)
            if not entries:
                return fired
            number = entries[0].score >> LAUNCH_BITS
            fired += await self._scan_launch(partition, number, slot)

    async def _scan_launch(self, partition: int, number: int, slot: int) -> int:
        token = launch_token(number)
        launch = (await self._chain.launch_slots([token]))[token.symbol]
        if slot < launch:
            return 0

        def met(state: Resting) -> FireTrigger | None:
            return self._triggers.launch_met(state.trigger, launch, range(state.slot + 1, slot + 1))

        start = number << LAUNCH_BITS
        last = start + min(slot - launch, (1 << LAUNCH_BITS) - 1)
        return await self._fire_range(partition, IndexRange(LAUNCHES, start, last), met)

    async def _fire_range(
        self, partition: int, wanted: IndexRange, met: Callable[[Resting], FireTrigger | None]
    ) -> int:
        """Fire every order of a range that ``met`` finds evidence for; those without stay."""
        fired, stayed = 0, 0
        seen: set[str] = set()
        while True:
            (entries,) = await self._store.find_entries(partition, (replace(wanted, skip=stayed),), FOUND_MAX)
            found = [entry.member for entry in entries if entry.member not in seen]
            if not found:
                return fired
            seen.update(found)
            for start in range(0, len(found), PAGE):
                page = found[start : start + PAGE]
                outcomes = await asyncio.gather(*(self._fire(order_id, met) for order_id in page))
                fired += outcomes.count("fired")
                stayed += outcomes.count("stays")

    async def _fire(
        self, order_id: str, met: Callable[[Resting], FireTrigger | None]
    ) -> Literal["fired", "stays", "gone"]:
        order = await self._loaded(order_id)
        if order is None:
            return "stays"
        if not isinstance(order.state, Resting):
            return "gone"
        evidence = met(order.state)
        if evidence is None:
            return "stays"
        try:
            await self._streams.record(order, evidence, None)
        except WrongVersionError:
            # It was cancelled, expired or fired meanwhile; if it rests again, its own slot decides.
            return "gone"
        log.info("trigger_fired", extra={"order_id": order_id, "slot": evidence.slot, "observed": evidence.observed})
        return "fired"

    async def _loaded(self, order_id: str) -> OrderHead | None:
        try:
            return await self._streams.load(order_id)
        except (OrderError, DamagedEntryError, NotCanonicalError) as error:
            # It stays where it is, for `audit verify` to find; no other order waits for it.
            log.error("trigger_broken", extra={"order_id": order_id, "reason": f"{type(error).__name__}: {error}"})
            return None


def _index(pair: Pair, when: str) -> str:
    return f"resting:{pair.name}:{when}"


_PRICE_INDEXES: Final[Sequence[str]] = [_index(pair, when) for pair in PAIRS for when in ("rises_to", "falls_to")]
