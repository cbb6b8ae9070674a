"""The engine's own workers on a scripted chain; what they do is recorded in the words of the model."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from app.dex.chain import Blockhash, Landed, LandedFailed, Observation, Status
from app.dex.errors import ChainUnavailableError
from app.dex.profile import Profile
from app.dex.tokens import Token
from app.dex.transaction import tx_id, verify
from app.dex.venue import VenueFees
from app.execution.streams import OrderHead
from app.main import build_streams, build_worker
from app.orders.commands import PlaceOrder
from app.settings import Settings
from eventstore.levels import FSYNC, MEMORY, Level
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult, Task
from tests.builders import stream_id
from tests.clocks import VirtualClock
from tests.model.protocol import Move

VALIDITY: Final = 9
"""Heights for which a blockhash stays usable: enough for the same bytes to be sent twice."""
TURNS_MAX: Final = 60
"""Most tasks that an order may take to its end."""
SETTINGS: Final = Settings(seed="model", speed_ppm=0, ack_level=MEMORY, intent_level=FSYNC)
ORDER_ID: Final = stream_id("client", number=1)
"""The same in every life: venues draw their prices from it."""
ORDER: Final = PlaceOrder(
    side="sell",
    base_asset="SOL",
    quote_asset="USDC",
    base_decimals=9,
    quote_decimals=6,
    amount=1_000_000_000,
    slippage_bps=1_000,
)

# What a market order's events are to the model: nothing, or a move. An event that is in neither fails the tests.
_PREPARING: Final = {"OrderAccepted", "AttemptStarted", "QuotesCollected", "RouteSelected"}
_STEPS: Final = {
    "SubmitIntentRecorded": Move("", "append_intent", "intent"),
    "OrderConfirmed": Move("", "append_outcome", "confirmed"),
    "OrderFailed": Move("", "append_outcome", "failed"),
    "AttemptFailed": Move("", "append_outcome", "ended"),
    "SubmissionUnknown": Move("", "let_go"),
}


class Fate(NamedTuple):
    """What becomes of the bytes of one attempt."""

    ends: Literal["executed", "refused", "expired"] = "executed"
    looks: int = 1
    """Looks at the chain, after the send that arrives, until it shows them."""
    lost: int = 0
    """Sends that reach nobody."""
    errors: int = 0
    """Sends, the first ones, whose caller is told that the chain is unavailable, arrived or not."""


class Script(NamedTuple):
    """What happens around one order."""

    fates: tuple[Fate, ...]
    """One for each attempt; the last one is for all that follow, too."""
    crashes: frozenset[tuple[str, int]] = frozenset()
    """Where workers die: a crash point, and at which passing of it, from 1."""
    task_ms: int = 5_000


class CrashError(Exception):
    """The worker is dead from here on."""


class Recorder:
    """The moves of the workers in the order in which they happened."""

    def __init__(self) -> None:
        self.worker = ""
        self.moves: list[Move] = []

    def add(self, *moves: Move) -> None:
        """Record ``moves`` of the worker whose turn it is."""
        self.moves += [move._replace(actor=self.worker) for move in moves if self.worker]


class RecordingStore(MemoryEventStore):
    """A store in memory that records what it was asked to append and to confirm; it takes every level to be reached."""

    def __init__(self, recorder: Recorder, clock: VirtualClock) -> None:
        super().__init__(partitions=4, store_id="model", now_us=clock.now_us)
        self._recorder = recorder

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        result = await super().append(replace(commit, level=None))
        names = [msgspec.json.decode(event.data)["meta"]["type"] for event in commit.events]
        moving = [_STEPS[name] for name in names if name not in _PREPARING]
        # The last attempt's failure and the order's are one outcome.
        self._recorder.add(*moving[-1:])
        self._reached(commit.level)
        return result

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """See :meth:`EventStore.confirm`."""
        await super().confirm(stream, version, event_hash, MEMORY)
        self._reached(level)
        return level

    def _reached(self, level: Level | None) -> None:
        if level is not None and level >= SETTINGS.intent:
            self._recorder.add(Move("", "make_durable"))


class ScriptedChain:
    """A chain whose fates are written beforehand; one block is confirmed with each look. See ``Chain``."""

    def __init__(self, recorder: Recorder, fates: Sequence[Fate]) -> None:
        self._recorder = recorder
        self._fates = fates
        self._height = 100
        self._valid_until = 0
        self._sends: dict[str, int] = {}
        self._shown_at: dict[str, int] = {}
        self._last_valid: dict[str, int] = {}

    async def slot(self) -> int:
        """See ``SimulatedChain``."""
        return self._height

    async def latest_blockhash(self) -> Blockhash:
        """See ``SimulatedChain``. Nothing can be signed without: this is the model's ``sign``."""
        self._recorder.add(Move("", "sign"))
        self._valid_until = self._height + VALIDITY
        return Blockhash(self._height.to_bytes(32, "big"), self._valid_until)

    async def send(self, message: bytes, signature: bytes) -> None:
        """See ``SimulatedChain``."""
        self._recorder.add(Move("", "send"))
        verify(message, signature)
        name = tx_id(signature)
        fate = self._fate(name)
        self._sends[name] += 1
        shown_at = self._height + fate.looks
        if fate.ends != "expired" and self._sends[name] > fate.lost and shown_at <= self._last_valid[name]:
            self._shown_at.setdefault(name, shown_at)
        if self._sends[name] <= fate.errors:
            raise ChainUnavailableError("scripted: no answer")

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """See ``SimulatedChain``: one view, its height and then the statuses."""
        (name,) = signatures
        fate = self._fate(name)
        self._height += 1
        shown = self._height >= self._shown_at.get(name, self._height + 1)
        statuses = {name: self._status(name)} if shown else {}
        height = "past" if self._height > self._last_valid[name] else "valid"
        status = fate.ends if shown else "absent"
        self._recorder.add(Move("", "read_height", height), Move("", "read_status", status))
        return Observation(height=self._height, slot=self._height, statuses=statuses)

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        """See ``SimulatedChain``. Nothing is launched here."""
        return {}

    @property
    def executed(self) -> int:
        """How many swaps were executed, or will be."""
        return sum(self._fate(name).ends == "executed" for name in self._shown_at)

    def _fate(self, name: str) -> Fate:
        # What is first heard of was signed with the blockhash that was given last: there is one order.
        self._last_valid.setdefault(name, self._valid_until)
        self._sends.setdefault(name, 0)
        return self._fates[min(list(self._sends).index(name), len(self._fates) - 1)]

    def _status(self, name: str) -> Status:
        slot = self._shown_at[name]
        if self._fate(name).ends == "refused":
            return LandedFailed(slot=slot, error="SimulatedProgramError", network_fee=5_000)
        return Landed(
            slot=slot,
            amount_in=1_000_000_000,
            amount_out=200_000_000,
            fee=1,
            fees=VenueFees(1, 0, 0),
            network_fee=5_000,
        )


class Lived(NamedTuple):
    """An order's life: what its workers did, how it stands, and the swaps that the chain executed."""

    moves: tuple[Move, ...]
    order: OrderHead
    executed: int


def live(script: Script) -> Lived:
    """Let two workers, which take turns, bring one market order to its end."""

    async def scenario() -> Lived:
        clock = VirtualClock()
        life = asyncio.create_task(_live(script, clock))
        await clock.run_until(life)
        return await life

    return asyncio.run(scenario())


async def _live(script: Script, clock: VirtualClock) -> Lived:
    recorder = Recorder()
    store, chain = RecordingStore(recorder, clock), ScriptedChain(recorder, script.fates)
    streams = build_streams(store, clock, "test")
    await streams.place(ORDER_ID, "client", ORDER)
    passed: Counter[str] = Counter()

    def reach(point: str, order_id: str) -> None:
        passed[point] += 1
        if (point, passed[point]) in script.crashes:
            raise CrashError(point)

    settings = replace(SETTINGS, task_ms=script.task_ms)
    profile = Profile(venue_error_ppm=0, venue_timeout_ppm=0)
    processes = [build_worker(settings, store, chain, clock, profile=profile, reach=reach)._process for _ in range(2)]
    for turn in range(TURNS_MAX):
        task = await _due(store)
        if task is None:
            return Lived(tuple(recorder.moves), await streams.load(ORDER_ID), chain.executed)
        recorder.worker = f"worker {turn % 2 + 1}"
        recorder.add(Move("", "take"))
        try:
            await processes[turn % 2].advance(task)
        except CrashError:
            recorder.add(Move("", "let_go"))
    raise AssertionError(f"the order is not at its end after {TURNS_MAX} tasks")


async def _due(store: MemoryEventStore) -> Task | None:
    await store.fire_timers(10)
    tasks = [*await store.take_tasks("any", 10), *await store.claim_tasks("any", 0, 10)]
    return tasks[0] if tasks else None
