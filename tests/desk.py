"""A desk that leads orders through lives of a given plot, with every task, timer and trigger of each step."""

import random
from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec.structs import replace

from app.audit.examine import Examined
from app.clock import Clock
from app.dex.router import choose
from app.dex.tokens import token
from app.dex.transaction import instructions
from app.dex.venue import Swap
from app.execution.streams import OrderHead, OrderStreams
from app.orders.commands import (
    Command,
    ConfirmOrder,
    EndSubmission,
    ExpireOrder,
    FireTrigger,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RejectOrder,
    RestOrder,
    RetryDraw,
    RouteAttempt,
    StartAttempt,
)
from app.orders.events import Fees, Proof, Quote, Receipt, Side, Trigger
from app.orders.money import format_units
from app.orders.state import Building, CancelPending, Live, Resting, Routing, State, Submitted, Terminal, Terms
from app.orders.times import parse_time
from eventstore.canonical import seal
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import EventStore, StoredCommit, StoredEvent, Task
from tests.clocks import StepClock

FAILURES: Final = ("no_quote", "expired", "slippage", "guarded")
"""Outcomes of an attempt after which the next one follows."""
STOPS: Final = ("accepted", "routing", "building", "submitted", "unknown", "confirmed")
AMOUNT: Final = 1_500_000_000
HEIGHT: Final = 157
SLOT: Final = 7
LAUNCH_SLOT: Final = 3
EXPIRY_MS: Final = 60
"""How long an order lives whose plot lets its time pass."""

Plot = Sequence[str]
"""What becomes of an order: the outcomes of its attempts and, between them, what else happens to it.

``rest`` and ``fire`` put it where it waits and let its trigger be met; ``cancel``, ``reject`` and ``over`` (its time
passes) end it, or try to. A third failure ends it; ``accepted`` leaves it as it is.
"""
Kind = Literal["market", "limit", "ioc", "fok", "sniper"]

LIVES: Final[dict[str, tuple[Kind, Plot]]] = {
    "rests": ("limit", ["rest"]),
    "is triggered": ("limit", ["rest", "fire"]),
    "is triggered at once": ("limit", ["fire", "confirmed"]),
    "rests, is triggered and confirmed": ("limit", ["rest", "fire", "confirmed"]),
    "meets its limit and rests again": ("limit", ["rest", "fire", "guarded"]),
    "meets its limit, rests again and is confirmed": ("limit", ["rest", "fire", "guarded", "fire", "confirmed"]),
    "meets its anchor and rests again": ("limit", ["rest", "fire", "slippage", "slid", "fire", "confirmed"]),
    "retries and is confirmed": ("limit", ["fire", "no_quote", "expired", "confirmed"]),
    "uses its attempts up": ("limit", ["fire", "no_quote", "expired", "slippage"]),
    "is immediate and confirmed": ("ioc", ["confirmed"]),
    "is immediate and not met": ("ioc", ["guarded"]),
    "is immediate and not quoted": ("ioc", ["no_quote"]),
    "is immediate and its swap fails": ("ioc", ["slippage"]),
    "is all or none and not met": ("fok", ["guarded"]),
    "is all or none and never lands": ("fok", ["expired"]),
    "snipes": ("sniper", ["rest", "fire", "confirmed"]),
    "snipes too dear and rests again": ("sniper", ["rest", "fire", "costly"]),
    "snipes at the second try": ("sniper", ["rest", "fire", "costly", "fire", "confirmed"]),
    "is too large": ("market", ["heavy"]),
    "is cancelled before it rests": ("limit", ["cancel"]),
    "is cancelled while it rests": ("limit", ["rest", "cancel"]),
    "is cancelled after its trigger": ("limit", ["rest", "fire", "cancel"]),
    "is cancelled before any attempt": ("market", ["cancel"]),
    "is cancelled while it is routed": ("market", ["routing", "cancel"]),
    "is cancelled before it is signed": ("market", ["building", "cancel"]),
    "is cancelled while it waits": ("market", ["no_quote", "cancel"]),
    "is to be cancelled": ("market", ["submitted", "cancel"]),
    "is to be cancelled and not yet known": ("market", ["submitted", "cancel", "unknown"]),
    "is cancelled by proof": ("market", ["submitted", "cancel", "unknown", "expired"]),
    "is cancelled by its failure": ("market", ["no_quote", "submitted", "cancel", "slippage"]),
    "is too late to be cancelled": ("market", ["unknown", "cancel", "unknown", "confirmed"]),
    "ends before it rests": ("limit", ["over"]),
    "ends while it rests": ("limit", ["rest", "over"]),
    "ends while it waits": ("limit", ["fire", "no_quote", "over"]),
    "ends while it is routed": ("limit", ["fire", "routing", "over"]),
    "ends after proof": ("limit", ["fire", "submitted", "over", "expired"]),
    "ends with its attempt": ("limit", ["fire", "submitted", "over", "slippage"]),
    "is cancelled after its end": ("limit", ["fire", "submitted", "over", "cancel", "expired"]),
    "is confirmed after its end": ("limit", ["fire", "submitted", "over", "confirmed"]),
    "is rejected": ("sniper", ["reject"]),
}
"""Lives of orders that are no market order, or do not run to the end of their attempts: their kind and plot."""

_LAUNCHED: Final = ("NEW1", "SOL", 6, 9)
_KEPT: Final = ("SOL", "USDC", 9, 6)
_AROUND: Final = {"guarded": (200_000_000, 400_000_000), "slid": (250_000_000, 350_000_000)}
"""Best quotes, for a sell and for a buy, of a market that has moved."""


class Desk:
    """Leads orders through lives of a given plot, with everything that belongs to each step."""

    def __init__(self, store: EventStore, clock: Clock, seed: int = 0, owner: str | None = None) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.clock = clock
        self.owner = owner
        self.streams = OrderStreams(store, clock, self.chance.randbytes, "test")
        self.tasks: dict[tuple[str, str], Task] = {}

    async def live(self, plot: Plot, side: Side = "sell", kind: Kind = "market") -> str:
        """Return the id of a new order that has lived ``plot``; snipers buy."""
        order_id = self.streams.new_order_id(self.owner or f"client {self.chance.randrange(100)}", None)
        place = placing(kind, "buy" if kind == "sniper" else side)
        if "over" in plot:
            place = replace(place, expire_at_us=self.clock.now_us() + EXPIRY_MS * 1000)
        await self.streams.place(order_id, "client", place)
        for step in plot:
            if step == "accepted":
                break
            await self.lead(order_id, step)
        return order_id

    async def lead(self, order_id: str, step: str) -> None:
        """Let one step of a plot happen; nothing happens to an order that has ended."""
        if isinstance((await self.streams.load(order_id)).state, Terminal):
            return
        match step:
            case "rest" | "reject":
                await self._record(order_id, "attempt", step)
            case "fire":
                order = await self.streams.load(order_id)
                if isinstance(order.state, Resting):
                    await self.streams.record(order, _fired(order.state), None)
                else:
                    await self._record(order_id, "attempt", step)
            case "cancel":
                await self.streams.cancel(order_id, "client")
            case "over":
                await self._pass_time(order_id)
            case _:
                await self.attempt(order_id, step)
        await self._tidy(order_id)

    async def attempt(self, order_id: str, outcome: str) -> None:
        """Let the attempt that is due have ``outcome``; an order that has ended has none."""
        order = await self.streams.load(order_id)
        if isinstance(order.state, Terminal):
            return
        task = await self._task(order_id)
        for make in (self._start, self._route, self._intend, self._end):
            command = make(order, outcome)
            if command is not None:
                order = (await self.streams.record(order, command, task)).order

    async def _record(self, order_id: str, kind: str, step: str) -> None:
        await self._take()
        order = await self.streams.load(order_id)
        await self.streams.record(order, _command(order.state, step), self.tasks[kind, order_id])

    async def _pass_time(self, order_id: str) -> None:
        order = await self.streams.load(order_id)
        expire_at = _terms(order.state).expire_at
        assert expire_at is not None
        while (left_us := parse_time(expire_at) - self.clock.now_us()) > 0:
            await self.clock.sleep(left_us / 1_000_000)
        await self._take()
        task = self.tasks.get(("expire", order_id))
        if task is not None:
            await self.streams.record(order, ExpireOrder(now_us=self.clock.now_us()), task)

    async def _take(self) -> None:
        await self.store.fire_timers(1000)
        for task in await self.store.take_tasks("w", 1000):
            self.tasks[task.kind, task.stream] = task

    async def _task(self, order_id: str) -> Task:
        await self._take()
        held = [task for kind in ("resolve", "attempt") if (task := self.tasks.get((kind, order_id)))]
        # Of two, the older one was finished by the append that set the newer one's timer.
        return max(held, key=lambda task: (len(task.id), task.id))

    async def _tidy(self, order_id: str) -> None:
        """Finish what is left of an order that has ended, as whoever takes it does."""
        if isinstance((await self.streams.load(order_id)).state, Terminal):
            for kind in ("attempt", "resolve", "expire"):
                task = self.tasks.pop((kind, order_id), None)
                if task is not None:
                    await self.store.finish_task(task)

    def _start(self, order: OrderHead, outcome: str) -> Command | None:
        return None if isinstance(order.state, Routing) else StartAttempt()

    def _route(self, order: OrderHead, outcome: str) -> Command | None:
        state = order.state
        if outcome == "routing" or not isinstance(state, Routing):
            return None
        terms, sell = state.terms, state.terms.side == "sell"
        around = _AROUND.get(outcome, (300_000_000, 300_000_000))[0 if sell else 1]
        amounts = {venue: around + self.chance.randrange(1_000_000) for venue in ("raydium", "meteora")}
        if self.chance.random() < 0.2:
            del amounts["meteora"]
        if outcome == "no_quote":
            amounts = {}
        launched = terms.order_type == "sniper"
        return RouteAttempt(
            slot=SLOT,
            quotes=tuple(_quote(venue, amounts.get(venue), outcome, terms) for venue in ("raydium", "meteora")),
            selection=choose(terms.side, amounts),
            retry=self._draw(),
            reference=None if launched else around,
            launch_slot=LAUNCH_SLOT if launched else None,
            rearmed=trigger_of(terms, further=1) if terms.rests else None,
            steps=instructions(swap_for(terms, order.order_id, state.attempt)),
        )

    def _intend(self, order: OrderHead, outcome: str) -> Command | None:
        if outcome == "building" or not isinstance(order.state, Building):
            return None
        signature = f"5x{order.order_id}{order.state.attempt}"
        return RecordIntent(tx_id=signature, message="AQID", last_valid_height=HEIGHT)

    def _end(self, order: OrderHead, outcome: str) -> Command | None:
        if not isinstance(order.state, Live):
            return None
        state = order.state.submitted if isinstance(order.state, CancelPending) else order.state
        match outcome:
            case "confirmed" | "guarded" | "slid":
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


def placing(kind: Kind = "market", side: Side = "sell") -> PlaceOrder:
    """An order of a kind that the desk leads: at 300 in the quote asset it is met, at 200 or 400 it is not."""
    base, quote, base_decimals, quote_decimals = _LAUNCHED if kind == "sniper" else _KEPT
    place = PlaceOrder(
        side=side,
        base_asset=base,
        quote_asset=quote,
        base_decimals=base_decimals,
        quote_decimals=quote_decimals,
        amount=AMOUNT,
        slippage_bps=50,
    )
    match kind:
        case "limit":
            return replace(place, order_type="limit", limit_price=_limit_price(side))
        case "ioc":
            return replace(place, order_type="limit", limit_price=_limit_price(side), time_in_force="IOC")
        case "fok":
            return replace(place, order_type="limit", limit_price=_limit_price(side), time_in_force="FOK")
        case "sniper":
            return replace(place, order_type="sniper", max_fee_bps=100)
        case _:
            return place


def _limit_price(side: Side) -> str:
    return "150" if side == "sell" else "250"


def trigger_of(terms: Terms, further: int = 0) -> Trigger:
    """What an order of the desk waits for, at first or ``further`` away."""
    if terms.order_type == "sniper":
        return Trigger(pair="NEW1/SOL", when="launched", level=2 + further, number=1)
    if terms.side == "sell":
        return Trigger(pair="SOL/USDC", when="rises_to", level=-18_972 + further)
    return Trigger(pair="SOL/USDC", when="falls_to", level=-13_864 - further)


def swap_for(terms: Terms, order_id: str, attempt: int) -> Swap:
    """The swap of an attempt."""
    return Swap(
        order_id=order_id,
        attempt=attempt,
        side=terms.side,
        base=token(terms.base_asset),
        quote=token(terms.quote_asset),
        amount=terms.amount,
    )


def _terms(state: State) -> Terms:
    terms: Terms = getattr(state, "terms")  # noqa: B009 - every state of a placed order has them, Absent has not
    return terms


def _command(state: State, step: str) -> Command:
    trigger = trigger_of(_terms(state))
    match step:
        case "rest":
            return RestOrder(trigger=trigger, slot=LAUNCH_SLOT)
        case "reject":
            return RejectOrder(code="no_liquidity")
        case _:
            return _firing(trigger)


def _fired(state: Resting) -> FireTrigger:
    return _firing(state.trigger, state.slot + 1)


def _firing(trigger: Trigger, slot: int = LAUNCH_SLOT + 1) -> FireTrigger:
    if trigger.when == "launched":
        slot = max(slot, LAUNCH_SLOT + trigger.level)
        return FireTrigger(trigger=trigger, slot=slot, observed=slot - LAUNCH_SLOT, launch_slot=LAUNCH_SLOT)
    return FireTrigger(trigger=trigger, slot=slot, observed=trigger.level, venue="raydium")


def _quote(venue: str, amount: int | None, outcome: str, terms: Terms) -> Quote:
    if amount is None:
        return Quote(venue=venue, status="error", reason="out of order", code="unavailable", latency_ms=1)
    return Quote(
        venue=venue,
        amount=format_units(amount, terms.quote_decimals),
        fee=format_units(amount // 20, terms.quote_decimals) if outcome == "costly" else "0.003",
        impact_ppm=200_000 if outcome == "heavy" else 10,
        latency_ms=3,
    )


def receipt_of(state: Submitted) -> Receipt:
    """What the chain says when the swap was executed exactly at its limit."""
    terms = state.terms
    ordered = format_units(terms.amount, terms.base_decimals)
    limit = format_units(state.limit, terms.quote_decimals)
    paid, received = (ordered, limit) if terms.side == "sell" else (limit, ordered)
    return Receipt(
        venue=state.venue,
        amount_in=paid,
        amount_out=received,
        fee="0.003",
        network_fee="0.000005",
        slot=9,
        fees=Fees(lp="0.00252", protocol="0.00036", fund="0.00012"),
    )


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


def resealed(stream: Sequence[StoredEvent], frames: Sequence[dict[str, Any]]) -> list[StoredEvent]:
    """A forged stream: other contents, with hashes and chain computed anew."""
    forged: list[StoredEvent] = []
    prev = ""
    for number, frame in enumerate(frames):
        meta = {name: value for name, value in frame["meta"].items() if name not in ("prev", "hash")}
        sealed = seal({**frame, "meta": meta}, prev)
        like = stream[min(number, len(stream) - 1)]
        forged.append(
            replace(like, version=number + 1, position=stream[0].position + number, hash=sealed.hash, data=sealed.data)
        )
        prev = sealed.hash
    return forged


def broken(examined: Examined) -> set[tuple[int, str]]:
    """(seq, rule) of every fault."""
    return {(step.stored.version, fault.rule) for step in examined.steps for fault in step.faults}
