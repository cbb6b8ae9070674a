"""Events as the command line shows them: every one in words, with its numbers in a unit that people know."""

import re
from typing import Any

import msgspec
import pytest

from app.cli.orders.lines import event_line
from app.orders.codec import Origin, to_frame
from app.orders.events import (
    CancelRejected,
    CancelRequested,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderRested,
    PriceProtectionTripped,
    Trigger,
    TriggerFired,
)
from app.orders.times import format_time
from tests.builders import EVERY_EVENT, stream_id
from tests.clocks import START_US

ORIGIN = Origin(actor="test", client="client", command="c")
RISE = Trigger(pair="SOL/USDC", when="rises_to", level=-17_000)
FALL = Trigger(pair="BONK/SOL", when="falls_to", level=-60_000)
LAUNCH = Trigger(pair="NEW7/SOL", when="launched", level=0, number=7)
LATER = Trigger(pair="NEW7/SOL", when="launched", level=35, number=7)


def line(event: Event) -> str:
    frame: dict[str, Any] = to_frame(event, order_id=stream_id(), seq=3, at=format_time(START_US), origin=ORIGIN)
    shown = event_line(msgspec.json.decode(msgspec.json.encode(frame)))
    return re.sub(r"\[/?[a-z]*\]", "", shown)


def words(event: Event) -> str:
    return line(event).partition("08:00:00.000  ")[2][18:]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_every_event_is_shown_in_words(event: Event) -> None:
    assert words(event) or not event.quotes  # type: ignore[union-attr]


def accepted(**fields: Any) -> OrderAccepted:
    common = {"side": "buy", "base_asset": "SOL", "quote_asset": "USDC", "amount": "1.5", "decimals": (9, 6)}
    return OrderAccepted(**{"order_type": "market", "slippage_bps": 50, **common, **fields})


SHOWN: list[tuple[Event, str]] = [
    (accepted(), "buy 1.5 SOL/USDC"),
    (accepted(order_type="limit", limit_price="150"), "buy 1.5 SOL/USDC, at most 150, GTC"),
    (accepted(order_type="limit", limit_price="150", side="sell", time_in_force="FOK"),
     "sell 1.5 SOL/USDC, at least 150, FOK"),
    (accepted(order_type="sniper", max_fee_bps=900, expire_at="2027-01-16T08:00:00.000000Z"),
     "buy 1.5 SOL/USDC, sniper, fee at most 900 bps, until 2027-01-16T08:00:00.000000Z"),
    (OrderRested(trigger=RISE, slot=7), "waits for SOL/USDC to rise to about 182.699"),
    (OrderRested(trigger=FALL, slot=7), "waits for BONK/SOL to fall to about 0.000000247950"),
    (OrderRested(trigger=LAUNCH, slot=7), "waits for the launch of NEW7/SOL"),
    (OrderRested(trigger=LATER, slot=7), "waits for the launch of NEW7/SOL, 35 slots after it"),
    (TriggerFired(trigger=RISE, slot=8, observed=-16_990, venue="meteora"),
     "SOL/USDC is at about 182.882 on meteora, slot 8"),
    (TriggerFired(trigger=LATER, slot=10_085, observed=35, launch_slot=10_050),
     "NEW7/SOL launched at slot 10050; it is slot 10085"),
    (PriceProtectionTripped(guard="limit", unit="USDC", limit="300", observed="299", guards="guards/1"),
     "the guard limit refuses 299 USDC; its limit is 300 USDC"),
    (CancelRequested(by="client"), "asked for by client; the outcome of the swap decides"),
    (CancelRejected(reason="the swap was executed"), "too late: the swap was executed"),
    (OrderCancelled(by="client", code="requested", message="cancelled on request"), "by client: cancelled on request"),
    (OrderExpired(expire_at="2027-01-16T08:00:00.000000Z"), "its time ended at 2027-01-16T08:00:00.000000Z"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "text"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_an_event_says(event: Event, text: str) -> None:
    assert words(event) == text


def test_a_pair_that_this_version_does_not_know_is_shown_by_its_tick() -> None:
    unknown = Trigger(pair="XYZ/USDC", when="rises_to", level=5)
    assert words(OrderRested(trigger=unknown, slot=7)) == "waits for XYZ/USDC to rise to 1.0001^5"
