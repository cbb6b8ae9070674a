"""A desk that leads orders through lives of a given plot, with every task and timer that belongs to each step."""

import random
from collections.abc import Sequence
from typing import Final

from app.audit.examine import Examined
from app.clock import Clock
from app.dex.router import choose
from app.execution.streams import OrderHead, OrderStreams
from app.orders.commands import (
    Command,
    ConfirmOrder,
    EndSubmission,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RetryDraw,
    RouteAttempt,
    StartAttempt,
)
from app.orders.events import Proof, Quote, Receipt, Side
from app.orders.money import format_units
from app.orders.state import Building, Routing, Submitted
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import EventStore, StoredCommit, StoredEvent, Task
from tests.clocks import StepClock

FAILURES: Final = ("no_quote", "expired", "slippage", "guarded")
"""Outcomes of an attempt after which the next one follows."""
STOPS: Final = ("accepted", "routing", "building", "submitted", "unknown", "confirmed")
AMOUNT: Final = 1_500_000_000
HEIGHT: Final = 157

Plot = Sequence[str]
"""What becomes of an order: failures, then where it stands; a third failure ends it."""


class Desk:
    """Leads orders through lives of a given plot, with everything that belongs to each step."""

    def __init__(self, store: EventStore, clock: Clock, seed: int = 0, owner: str | None = None) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.clock = clock
        self.owner = owner
        self.streams = OrderStreams(store, clock, self.chance.randbytes, "test")
        self.tasks: dict[str, Task] = {}

    async def live(self, plot: Plot, side: Side = "sell") -> str:
        """Return the id of a new order that has lived ``plot``."""
        order_id = self.streams.new_order_id(self.owner or f"client {self.chance.randrange(100)}", None)
        place = PlaceOrder(
            side=side,
            base_asset="SOL",
            quote_asset="USDC",
            base_decimals=9,
            quote_decimals=6,
            amount=AMOUNT,
            slippage_bps=50,
        )
        await self.streams.place(order_id, "client", place)
        for outcome in plot:
            if outcome == "accepted":
                break
            await self.attempt(order_id, outcome)
        return order_id

    async def attempt(self, order_id: str, outcome: str) -> None:
        """Let the attempt that is due have ``outcome``."""
        task = await self._task(order_id)
        order = await self.streams.load(order_id)
        for make in (self._start, self._route, self._intend, self._end):
            command = make(order, outcome)
            if command is not None:
                order = (await self.streams.record(order, command, task)).order

    async def _task(self, order_id: str) -> Task:
        await self.store.fire_timers(1000)
        self.tasks.update({task.stream: task for task in await self.store.take_tasks("w", 1000)})
        return self.tasks[order_id]

    def _start(self, order: OrderHead, outcome: str) -> Command | None:
        return None if isinstance(order.state, Routing) else StartAttempt()

    def _route(self, order: OrderHead, outcome: str) -> Command | None:
        state = order.state
        if outcome == "routing" or not isinstance(state, Routing):
            return None
        sell = state.terms.side == "sell"
        around = {"guarded": 200_000_000 if sell else 400_000_000}.get(outcome, 300_000_000)
        amounts = {venue: around + self.chance.randrange(1_000_000) for venue in ("raydium", "meteora")}
        if self.chance.random() < 0.2:
            del amounts["meteora"]
        if outcome == "no_quote":
            amounts = {}
        quotes = tuple(
            Quote(venue=venue, amount=format_units(amounts[venue], 6), fee="0.003", impact_ppm=10, latency_ms=3)
            if venue in amounts
            else Quote(venue=venue, status="error", reason="out of order", latency_ms=1)
            for venue in ("raydium", "meteora")
        )
        return RouteAttempt(slot=7, quotes=quotes, selection=choose(state.terms.side, amounts), retry=self._draw())

    def _intend(self, order: OrderHead, outcome: str) -> Command | None:
        if outcome == "building" or not isinstance(order.state, Building):
            return None
        signature = f"5x{order.order_id}{order.state.attempt}"
        return RecordIntent(tx_id=signature, message="AQID", last_valid_height=HEIGHT)

    def _end(self, order: OrderHead, outcome: str) -> Command | None:
        state = order.state
        if not isinstance(state, Submitted):
            return None
        match outcome:
            case "confirmed" | "guarded":
                return ConfirmOrder(tx_id=state.tx_id, receipt=receipt_of(state))
            case "unknown":
                return PostponeResolve(now_us=self.clock.now_us(), speed_ppm=1_000_000)
            case "expired":
                proof = Proof(kind="expired", tx_id=state.tx_id, slot=160, height=HEIGHT + 1, last_valid_height=HEIGHT)
                return EndSubmission(proof=proof, retry=self._draw())
            case "slippage":
                proof = Proof(kind="failed_on_chain", tx_id=state.tx_id, slot=9, error="ExceededSlippage")
                return EndSubmission(proof=proof, retry=self._draw())
            case _:
                return None

    def _draw(self) -> RetryDraw:
        return RetryDraw(now_us=self.clock.now_us(), jitter_ppm=self.chance.randrange(10**6), speed_ppm=0)


def receipt_of(state: Submitted) -> Receipt:
    """What the chain says when the swap was executed exactly at its limit."""
    ordered, limit = format_units(state.terms.amount, 9), format_units(state.limit, 6)
    paid, received = (ordered, limit) if state.terms.side == "sell" else (limit, ordered)
    return Receipt(venue=state.venue, amount_in=paid, amount_out=received, fee="0.003", network_fee="0.000005", slot=9)


def desk(seed: int = 0) -> Desk:
    """A desk on a new store in memory, all orders in one partition."""
    clock = StepClock()
    return Desk(MemoryEventStore(partitions=4, store_id="memory", now_us=clock.now_us), clock, seed, "owner")


def stream_in(store: EventStore, order_id: str) -> list[StoredEvent]:
    """A stream in memory, to tamper with."""
    assert isinstance(store, MemoryEventStore)
    return store._parts[partition_in(order_id)].streams[order_id]


def log_in(store: EventStore, order_id: str) -> list[StoredCommit]:
    """The log of an order's partition in memory, to tamper with."""
    assert isinstance(store, MemoryEventStore)
    return store._parts[partition_in(order_id)].log


def broken(examined: Examined) -> set[tuple[int, str]]:
    """(seq, rule) of every fault."""
    return {(step.stored.version, fault.rule) for step in examined.steps for fault in step.faults}
