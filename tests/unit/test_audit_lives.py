"""The audit on orders that wait, are cancelled or expire: clean as they are, and each forged fact found."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from app.audit.examine import examine
from app.audit.replay import replay
from app.audit.verify import verify
from app.orders.codec import Origin, from_frame, to_frame
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelCode,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    Retry,
    Side,
    SubmissionUnknown,
    TriggerFired,
)
from app.orders.lifecycle import CANCELLATIONS, failure_of
from app.orders.times import format_time
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import DIRECT_MAX, WAITING, StoredEvent
from tests.builders import stream_id
from tests.clocks import START_US, StepClock
from tests.desk import EXPIRY_MS, LIVES, Desk, broken, desk, resealed, stream_in

END_US: Final = START_US + EXPIRY_MS * 1000 + 2
"""When an order of the desk ends that has an end; the clock is looked at twice before."""
RETRY: Final = Retry(attempt=2, delay_ms=1, due_at=format_time(START_US))
EXPIRED: Final = OrderExpired(expire_at=format_time(START_US))
TIMED_OUT: Final = failure_of("blockhash_expired")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def rules(trader: Desk, *order_ids: str) -> set[str]:
    report = await verify(trader.store, None, StepClock().now_us, order_ids)
    return {finding.rule for finding in report.findings}


@pytest.mark.parametrize("name", LIVES)
def test_every_life_is_clean_in_the_whole_and_at_every_point(name: str) -> None:
    async def scenario(side: Side) -> None:
        trader = desk()
        kind, plot = LIVES[name]
        order_id = await trader.live(plot, side, kind)
        report = await verify(trader.store, None, StepClock().now_us)
        assert (report.findings, report.orders) == ((), 1)
        whole = await replay(trader.store, order_id)
        for seq, event in enumerate(whole.events, 1):
            told = await replay(trader.store, order_id, seq)
            assert (told.findings, told.state and told.state.status) == ((), event.status)
            assert event.says and "\n" not in event.says

    for side in ("sell", "buy"):
        run(scenario(side))


Forge = Callable[[Any], Event | None]
"""Another event in the place of the last one of its type; None leaves it out."""

FORGERIES: Final[dict[str, tuple[str, type[Event], Forge, str]]] = {
    "a limit order without a limit": ("rests", OrderAccepted, lambda e: replace(e, limit_price=None), "protection"),
    "a market order with a limit": (
        "is cancelled before any attempt",
        OrderAccepted,
        lambda e: replace(e, limit_price="1"),
        "protection",
    ),
    "a market order that is immediate": (
        "is cancelled before any attempt",
        OrderAccepted,
        lambda e: replace(e, time_in_force="IOC"),
        "protection",
    ),
    "an asset that nobody trades": ("rests", OrderAccepted, lambda e: replace(e, base_asset="XYZ"), "trigger"),
    "steps of an asset that nobody trades": (
        "is immediate and confirmed",
        OrderAccepted,
        lambda e: replace(e, base_asset="XYZ"),
        "routing",
    ),
    "another pair's price": ("rests", OrderRested, lambda e: _rested(e, pair="SOL/USDT"), "trigger"),
    "the other direction": ("rests", OrderRested, lambda e: _rested(e, when="falls_to"), "trigger"),
    "a launch for a price": ("rests", OrderRested, lambda e: _rested(e, when="launched"), "trigger"),
    "a price for a launch": ("snipes", OrderRested, lambda e: _rested(e, when="falls_to"), "trigger"),
    "another token's launch": ("snipes", OrderRested, lambda e: _rested(e, number=2), "trigger"),
    "another slot than the quotes'": (
        "meets its limit and rests again",
        OrderRested,
        lambda e: replace(e, slot=8),
        "trigger",
    ),
    "rest without a guard": (
        "meets its limit and rests again",
        PriceProtectionTripped,
        lambda e: None,
        "protection",
    ),
    "another trigger than the one waited for": (
        "is triggered",
        TriggerFired,
        lambda e: replace(e, trigger=replace(e.trigger, level=e.trigger.level - 1)),
        "trigger",
    ),
    "another direction at once": (
        "is triggered at once",
        TriggerFired,
        lambda e: replace(e, trigger=replace(e.trigger, when="falls_to")),
        "trigger",
    ),
    "a slot that was looked at before": ("is triggered", TriggerFired, lambda e: replace(e, slot=3), "trigger"),
    "a price below the level": (
        "is triggered",
        TriggerFired,
        lambda e: replace(e, observed=e.observed - 1),
        "trigger",
    ),
    "too soon after the launch": ("snipes", TriggerFired, lambda e: replace(e, observed=1), "trigger"),
    "another time since the launch": ("snipes", TriggerFired, lambda e: replace(e, observed=9), "trigger"),
    "a launch at no slot": ("snipes", TriggerFired, lambda e: replace(e, launch_slot=None), "trigger"),
    "an attempt used up by a guard that lets it wait": (
        "meets its limit, rests again and is confirmed",
        AttemptStarted,
        lambda e: replace(e, attempt=2),
        "attempts",
    ),
    "an attempt given back by a guard": (
        "meets its anchor and rests again",
        AttemptStarted,
        lambda e: replace(e, attempt=1),
        "attempts",
    ),
    "a guard left out": ("is immediate and not met", PriceProtectionTripped, lambda e: None, "protection"),
    "a message of one's own": (
        "is immediate and not met",
        AttemptFailed,
        lambda e: replace(e, error=replace(e.error, message="never mind")),
        "lifecycle",
    ),
    "an immediate order that goes on": (
        "is immediate and not quoted",
        AttemptFailed,
        lambda e: replace(e, retry=RETRY),
        "attempts",
    ),
    "a further attempt that cannot help": (
        "is too large",
        AttemptFailed,
        lambda e: replace(e, retry=RETRY),
        "attempts",
    ),
    "an immediate order that fails": (
        "is immediate and its swap fails",
        OrderCancelled,
        lambda e: OrderFailed(error=failure_of("slippage_exceeded"), attempts=1),
        "lifecycle",
    ),
    "another reason to cancel": (
        "is immediate and not met",
        OrderCancelled,
        lambda e: cancelled("fill_or_kill", e.by),
        "lifecycle",
    ),
    "another who cancels": ("is all or none and not met", OrderCancelled, lambda e: replace(e, by="me"), "lifecycle"),
    "another message of the cancellation": (
        "is cancelled while it rests",
        OrderCancelled,
        lambda e: replace(e, message="gone"),
        "lifecycle",
    ),
    "a cancellation by its terms": (
        "is cancelled while it rests",
        OrderCancelled,
        lambda e: cancelled("fill_or_kill", e.by),
        "lifecycle",
    ),
    "an end in time after a cancellation": (
        "is cancelled after its end",
        OrderCancelled,
        lambda e: OrderExpired(expire_at=format_time(END_US)),
        "lifecycle",
    ),
    "a cancellation without proof": (
        "is cancelled by proof",
        AttemptFailed,
        lambda e: replace(e, proof=None),
        "proof",
    ),
    "a cancellation with another's proof": (
        "is cancelled by its failure",
        AttemptFailed,
        lambda e: replace(e, proof=replace(e.proof, tx_id="tx")),
        "proof",
    ),
    "a cancellation that somebody else asked for": (
        "is cancelled by proof",
        OrderCancelled,
        lambda e: replace(e, by="somebody"),
        "lifecycle",
    ),
    "a failure of what was to be cancelled": (
        "is cancelled by proof",
        OrderCancelled,
        lambda e: OrderFailed(error=TIMED_OUT, attempts=1),
        "lifecycle",
    ),
    "an end in time of what was to be cancelled": (
        "is cancelled by proof",
        OrderCancelled,
        lambda e: EXPIRED,
        "lifecycle",
    ),
    "a rejected cancellation without its confirmation": (
        "is too late to be cancelled",
        OrderConfirmed,
        lambda e: SubmissionUnknown(checks=3, next_check_at=format_time(START_US)),
        "lifecycle",
    ),
    "a skipped check of what is to be cancelled": (
        "is to be cancelled and not yet known",
        SubmissionUnknown,
        lambda e: replace(e, checks=2),
        "attempts",
    ),
    "another end than ordered": ("ends while it rests", OrderExpired, lambda e: EXPIRED, "lifecycle"),
    "an end that was not ordered": ("is cancelled while it rests", OrderCancelled, lambda e: EXPIRED, "lifecycle"),
    "a failure although attempts are left": (
        "ends after proof",
        OrderExpired,
        lambda e: OrderFailed(error=TIMED_OUT, attempts=1),
        "lifecycle",
    ),
    "a rejection in other words": (
        "is rejected",
        OrderRejected,
        lambda e: replace(e, error=replace(e.error, message="no")),
        "lifecycle",
    ),
}


def cancelled(code: CancelCode, by: str) -> OrderCancelled:
    return OrderCancelled(by=by, code=code, message=CANCELLATIONS[code].message)


def _rested(event: OrderRested, **changes: Any) -> OrderRested:
    return replace(event, trigger=replace(event.trigger, **changes))


def retold(order_id: str, stream: Sequence[StoredEvent], events: Sequence[Event]) -> list[StoredEvent]:
    """A forged stream of other events, each at the time that its place has in the true one."""
    origin = Origin(actor="test", client=None, command="c")
    times = [msgspec.json.decode(event.data)["at"] for event in stream]
    frames = [
        to_frame(event, order_id=order_id, seq=seq, at=times[min(seq, len(times)) - 1], origin=origin)
        for seq, event in enumerate(events, 1)
    ]
    return resealed(stream, frames)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_fact_of_a_life_is_found(name: str) -> None:
    life, kind, forge, rule = FORGERIES[name]

    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(LIVES[life][1], "sell", LIVES[life][0])
        stream = stream_in(trader.store, order_id)
        events = [from_frame(event.data) for event in stream]
        index = max(place for place, event in enumerate(events) if isinstance(event, kind))
        another = forge(events[index])
        events[index : index + 1] = [] if another is None else [another]
        faults = broken(examine(order_id, retold(order_id, stream, events)))
        assert rule in {found for _, found in faults}
        assert {found for _, found in faults}.isdisjoint({"chain", "density", "identity", "names"})

    run(scenario())


def test_a_buyers_trigger_is_met_from_above_only() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest", "fire"], "buy", "limit")
        stream = stream_in(trader.store, order_id)
        accepted, rested, fired = (from_frame(event.data) for event in stream)
        assert isinstance(fired, TriggerFired)
        for step, found in ((-1, set()), (0, set()), (1, {(3, "trigger")})):
            events = [accepted, rested, replace(fired, observed=fired.observed + step)]
            assert broken(examine(order_id, retold(order_id, stream, events))) == found

    run(scenario())


def test_rest_after_a_guard_that_no_better_market_mends_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest", "fire", "heavy"], "sell", "limit")
        stream = stream_in(trader.store, order_id)
        events = [from_frame(event.data) for event in stream]
        (rested,) = [event for event in events if isinstance(event, OrderRested)]
        forged = retold(order_id, stream, [*events[:-2], replace(rested, slot=7)])
        assert broken(examine(order_id, forged)) == {(len(forged), "protection")}

    run(scenario())


@pytest.mark.parametrize("us,found", [(-1, True), (0, False)])
def test_an_order_that_expires_before_its_time_is_found(us: int, found: bool) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest", "over"], "sell", "limit")
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        assert frames[0]["expireAt"] == format_time(END_US)
        frames[-1]["at"] = format_time(END_US + us)
        assert broken(examine(order_id, resealed(stream, frames))) == ({(3, "lifecycle")} if found else set())

    run(scenario())


def test_a_time_that_is_none_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["rest"], "sell", "limit")
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        frames[-1]["at"] = "noon"
        assert broken(examine(order_id, resealed(stream, frames))) == {(2, "readable")}

    run(scenario())


@pytest.mark.parametrize("score", [None, 0])
@pytest.mark.parametrize("life", ["rests", "snipes too dear and rests again"])
def test_a_resting_order_without_its_entry_is_found_whatever_task_it_has(life: str, score: int | None) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(LIVES[life][1], "sell", LIVES[life][0])
        assert isinstance(trader.store, MemoryEventStore)
        part = trader.store._parts[partition_in(order_id)]
        (index,) = [name for name in part.indexes if name.startswith("resting:") and part.indexes[name]]
        assert await rules(trader) == set()
        if score is None:
            del part.indexes[index][order_id]
        else:
            part.indexes[index][order_id] = score
        part.add_task(order_id, "attempt")
        assert await rules(trader) == await rules(trader, order_id) == {"obligation"}

    run(scenario())


@pytest.mark.parametrize("plot", [["accepted", "over"], ["rest", "accepted", "over"], ["no_quote", "accepted", "over"]])
def test_an_order_without_the_timer_of_its_end_is_found(plot: Sequence[str]) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot, "sell", "limit" if plot[0] == "rest" else "market")
        assert isinstance(trader.store, MemoryEventStore)
        part = trader.store._parts[partition_in(order_id)]
        assert await rules(trader) == set()
        del part.indexes["due"][f"expire {order_id}"]
        assert await rules(trader) == {"obligation"}
        part.add_task(order_id, "expire")
        assert await rules(trader) == set()

    run(scenario())


def test_a_task_that_waits_for_its_lanes_turn_is_a_task() -> None:
    async def scenario() -> None:
        trader = desk()
        orders = [await trader.live(["accepted"]) for _ in range(DIRECT_MAX + 3)]
        assert isinstance(trader.store, MemoryEventStore)
        waiting = trader.store._parts[partition_in(orders[0])].indexes[WAITING]
        assert set(waiting) == {f"attempt {order_id}" for order_id in orders[DIRECT_MAX:]}
        assert await rules(trader) == set()
        del waiting[f"attempt {orders[-1]}"]
        assert await rules(trader) == {"obligation"}
        waiting[f"attempt {stream_id('owner')}"] = 9
        assert await rules(trader) == {"obligation", "unknown_order"}

    run(scenario())
