"""What an auditor sees in a forged history whose chain was sealed anew: each fact that does not follow."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.audit.examine import examine
from app.audit.findings import KEPT_MAX, Findings, of_partition
from app.dex.router import choose
from app.orders.codec import Origin, from_frame, to_frame
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Chosen,
    Event,
    OrderConfirmed,
    OrderFailed,
    PriceProtectionTripped,
    Proof,
    Retry,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
)
from app.orders.lifecycle import failure_of
from app.orders.money import format_units, parse_units
from app.orders.times import format_time
from eventstore.canonical import canonical
from eventstore.store import StoredEvent
from tests.builders import stream_id
from tests.clocks import START_US
from tests.desk import HEIGHT, Plot, broken, desk, resealed, stream_in


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


Forge = Callable[[Any], Event]


def _attempt_failed(_: RouteSelected) -> AttemptFailed:
    retry = Retry(attempt=2, delay_ms=250, due_at=format_time(START_US))
    return AttemptFailed(attempt=1, error=failure_of("no_quote"), retry=retry)


def _selected(_: AttemptFailed) -> RouteSelected:
    chosen = Chosen(venue="raydium", amount="300")
    return RouteSelected(
        policy="best-net/1",
        guards="guards/1",
        steps=("swap", "memo"),
        chosen=chosen,
        decision="0" * 16,
        min_out="299",
    )


def _received(event: OrderConfirmed, **changes: Any) -> OrderConfirmed:
    return replace(event, receipt=replace(event.receipt, **changes))


def _proven(event: AttemptFailed, **changes: Any) -> AttemptFailed:
    assert event.proof is not None
    return replace(event, proof=replace(event.proof, **changes))


FORGERIES: Final[dict[str, tuple[Plot, type[Event], Forge, str]]] = {
    "another venue": (
        ["confirmed"],
        RouteSelected,
        lambda e: replace(e, chosen=replace(e.chosen, venue="orca")),
        "routing",
    ),
    "a better amount": (
        ["confirmed"],
        RouteSelected,
        lambda e: replace(e, chosen=replace(e.chosen, amount="999")),
        "routing",
    ),
    "another policy": (["confirmed"], RouteSelected, lambda e: replace(e, policy="worst/1"), "routing"),
    "another decision": (["confirmed"], RouteSelected, lambda e: replace(e, decision="0" * 16), "routing"),
    "another runner-up": (["confirmed"], RouteSelected, lambda e: replace(e, runner_up="orca"), "routing"),
    "another edge": (["confirmed"], RouteSelected, lambda e: replace(e, edge_bps=4_999), "routing"),
    "another guard policy": (["confirmed"], RouteSelected, lambda e: replace(e, guards="guards/0"), "protection"),
    "a step left out": (["confirmed"], RouteSelected, lambda e: replace(e, steps=e.steps[1:]), "routing"),
    "a weaker limit": (["confirmed"], RouteSelected, lambda e: replace(e, min_out="1"), "protection"),
    "a limit of the other side": (["confirmed"], RouteSelected, lambda e: replace(e, max_in="1"), "protection"),
    "no route in spite of quotes": (
        ["expired"],
        RouteSelected,
        _attempt_failed,
        "routing",
    ),
    "a route without a quote": (["no_quote"], AttemptFailed, _selected, "routing"),
    "another reason for having no route": (
        ["no_quote"],
        AttemptFailed,
        lambda e: replace(e, error=failure_of("swap_rejected")),
        "routing",
    ),
    "another reason for a route past the limit": (
        ["expired", "guarded"],
        AttemptFailed,
        lambda e: replace(e, error=failure_of("swap_rejected")),
        "protection",
    ),
    "a guard without a cause": (
        ["expired"],
        RouteSelected,
        lambda e: PriceProtectionTripped(guard="anchor", unit="USDC", limit="1", observed="0.5", guards="guards/1"),
        "protection",
    ),
    "a guard's other limit": (
        ["expired", "guarded"],
        PriceProtectionTripped,
        lambda e: replace(e, limit="299"),
        "protection",
    ),
    "a guard's other observation": (
        ["expired", "guarded"],
        PriceProtectionTripped,
        lambda e: replace(e, observed="1"),
        "protection",
    ),
    "a guard that was not the first": (
        ["expired", "guarded"],
        PriceProtectionTripped,
        lambda e: replace(e, guard="limit"),
        "protection",
    ),
    "a guard passed over": (
        ["expired", "guarded"],
        PriceProtectionTripped,
        lambda e: replace(e, passed=e.passed[1:]),
        "protection",
    ),
    "another unit": (["expired", "guarded"], PriceProtectionTripped, lambda e: replace(e, unit="bps"), "protection"),
    "fees that do not add up": (
        ["confirmed"],
        OrderConfirmed,
        lambda e: _received(e, fees=replace(e.receipt.fees, lp="0.002")),
        "receipt",
    ),
    "another error than the proof's": (
        ["slippage"],
        AttemptFailed,
        lambda e: replace(e, error=failure_of("blockhash_expired")),
        "proof",
    ),
    "a longer delay than any draw gives": (
        ["expired"],
        AttemptFailed,
        lambda e: replace(e, retry=replace(e.retry, delay_ms=501)),
        "attempts",
    ),
    "no retry although attempts are left": (["expired"], AttemptFailed, lambda e: replace(e, retry=None), "attempts"),
    "a skipped check": (["unknown"], SubmissionUnknown, lambda e: replace(e, checks=2), "attempts"),
    "less than the limit": (["confirmed"], OrderConfirmed, lambda e: _received(e, amount_out="1"), "protection"),
    "not what was sold": (["confirmed"], OrderConfirmed, lambda e: _received(e, amount_in="1.4"), "receipt"),
    "another venue's receipt": (["confirmed"], OrderConfirmed, lambda e: _received(e, venue="orca"), "receipt"),
    "another swap's receipt": (["confirmed"], OrderConfirmed, lambda e: replace(e, tx_id="tx"), "receipt"),
    "no proof": (["expired"], AttemptFailed, lambda e: replace(e, proof=None), "proof"),
    "another swap's proof": (["expired"], AttemptFailed, lambda e: _proven(e, tx_id="tx"), "proof"),
    "a proof before expiry": (["expired"], AttemptFailed, lambda e: _proven(e, height=HEIGHT), "proof"),
    "a proof without height": (["expired"], AttemptFailed, lambda e: _proven(e, height=None), "proof"),
    "another last valid height": (["expired"], AttemptFailed, lambda e: _proven(e, last_valid_height=1), "proof"),
    "a failure without error": (["slippage"], AttemptFailed, lambda e: _proven(e, error=None), "proof"),
    "a failure without error that says so": (
        ["slippage"],
        AttemptFailed,
        lambda e: _proven(replace(e, error=failure_of("swap_rejected")), error=None),
        "proof",
    ),
    "a proof for nothing": (
        ["no_quote"],
        AttemptFailed,
        lambda e: replace(e, proof=Proof(kind="expired", tx_id="tx", slot=1)),
        "proof",
    ),
    "a skipped attempt": (["routing"], AttemptStarted, lambda e: replace(e, attempt=2), "attempts"),
    "a skipped second attempt": (["expired", "routing"], AttemptStarted, lambda e: replace(e, attempt=3), "attempts"),
    "a fourth attempt": (
        ["expired"] * 3,
        AttemptFailed,
        lambda e: replace(e, retry=Retry(attempt=4, delay_ms=1, due_at=format_time(START_US))),
        "attempts",
    ),
    "another attempt's failure": (["expired"], AttemptFailed, lambda e: replace(e, attempt=2), "attempts"),
    "a skipped retry": (
        ["expired"],
        AttemptFailed,
        lambda e: replace(e, retry=replace(e.retry, attempt=3)),
        "attempts",
    ),
    "more attempts than there were": (
        ["expired"] * 3,
        OrderFailed,
        lambda e: replace(e, attempts=4),
        "attempts",
    ),
    "another reason": (
        ["expired"] * 3,
        OrderFailed,
        lambda e: replace(e, error=replace(e.error, code="no_quote")),
        "lifecycle",
    ),
    "an impossible amount": (
        ["confirmed"],
        OrderConfirmed,
        lambda e: _received(e, amount_out="1.0000001"),
        "readable",
    ),
    "an impossible time": (
        ["expired"],
        AttemptFailed,
        lambda e: replace(e, retry=replace(e.retry, due_at="tomorrow")),
        "readable",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_fact_in_a_chain_that_was_sealed_anew_is_found(name: str) -> None:
    plot, kind, forge, rule = FORGERIES[name]

    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(plot)
        stream = stream_in(trader.store, order_id)
        events = [from_frame(event.data) for event in stream]
        index = max(i for i, event in enumerate(events) if isinstance(event, kind))
        frames = [msgspec.json.decode(event.data) for event in stream]
        origin = Origin(actor="test", client=None, command="c")
        frames[index] = to_frame(
            forge(events[index]), order_id=order_id, seq=index + 1, at=frames[index]["at"], origin=origin
        )
        faults = broken(examine(order_id, resealed(stream, frames)))
        assert (index + 1, rule) in faults
        assert {fault for _, fault in faults}.isdisjoint({"chain", "density", "identity", "names"})

    run(scenario())


def test_a_route_past_the_limit_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["expired", "guarded"])
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        index = next(index for index, frame in enumerate(frames) if frame["event"] == "price_protected")
        best = choose(
            "sell", {quote["venue"]: parse_units(quote["amount"], 6) for quote in frames[index - 1]["quotes"]}
        )
        assert best is not None
        route = RouteSelected(
            policy=best.policy,
            guards="guards/1",
            steps=("create_wsol", "transfer", "sync_native", "swap", "close_wsol", "memo"),
            chosen=Chosen(venue=best.venue, amount=format_units(best.amount, 6)),
            decision=best.decision,
            runner_up=best.runner_up,
            edge_bps=best.edge_bps,
            min_out=next(frame["minOut"] for frame in frames if frame["event"] == "building"),
        )
        origin = Origin(actor="test", client=None, command="c")
        forged = to_frame(route, order_id=order_id, seq=index + 1, at=frames[index]["at"], origin=origin)
        assert (index + 1, "protection") in broken(examine(order_id, resealed(stream, [*frames[:index], forged])))

    run(scenario())


@pytest.mark.parametrize(
    "part,field,value,rule",
    [
        ("receipt", "amountOut", "1.4", "receipt"),
        ("receipt", "amountIn", "999", "protection"),
        (None, "maxIn", "999", "protection"),
        (None, "minOut", "1", "protection"),
    ],
)
def test_a_forged_amount_of_a_buy_is_found(part: str | None, field: str, value: str, rule: str) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["confirmed"], "buy")
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        index = len(frames) - 1 if part else next(i for i, frame in enumerate(frames) if frame["event"] == "building")
        (frames[index][part] if part else frames[index])[field] = value
        assert (index + 1, rule) in broken(examine(order_id, resealed(stream, frames)))

    run(scenario())


def test_a_limit_that_moves_with_the_second_quote_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["expired", "expired"])
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        routes = [index for index, frame in enumerate(frames) if frame["event"] == "building"]
        frames[routes[1]]["minOut"] = "290"
        assert (routes[1] + 1, "protection") in broken(examine(order_id, resealed(stream, frames)))

    run(scenario())


def test_a_signature_that_two_attempts_share_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["expired", "submitted"])
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        intents = [i for i, event in enumerate(stream) if isinstance(from_frame(event.data), SubmitIntentRecorded)]
        frames[intents[1]]["txId"] = frames[intents[0]]["txId"]
        assert broken(examine(order_id, resealed(stream, frames))) == {(intents[1] + 1, "proof")}

    run(scenario())


@pytest.mark.parametrize(
    "field,value,rule",
    [
        ("event", "confirmed", "names"),
        ("status", "failed", "names"),
        ("orderId", "01J0000000000000000000000A-00", "identity"),
        ("seq", 9, "identity"),
        ("type", "OrderTeleported", "readable"),
        ("attempt", "one", "readable"),
    ],
)
def test_a_forged_envelope_in_a_chain_that_was_sealed_anew_is_found(field: str, value: object, rule: str) -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["routing"])
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        (frames[1]["meta"] if field == "type" else frames[1])[field] = value
        assert broken(examine(order_id, resealed(stream, frames))) == {(2, rule)}

    run(scenario())


def test_an_event_after_the_end_of_an_order_is_found() -> None:
    async def scenario() -> None:
        trader = desk()
        order_id = await trader.live(["confirmed"])
        stream = stream_in(trader.store, order_id)
        frames = [msgspec.json.decode(event.data) for event in stream]
        more = {**frames[1], "seq": len(frames) + 1}
        assert broken(examine(order_id, resealed(stream, [*frames, more]))) == {(len(frames) + 1, "lifecycle")}

    run(scenario())


@given(st.binary(max_size=200) | st.just(b"[" * 5000) | st.just(canonical({"meta": {"hash": 1, "prev": None}})))
def test_bytes_that_are_no_event_are_findings_not_failures(data: bytes) -> None:
    examined = examine(stream_id(), [StoredEvent(1, 1, 1, "c", "h", data)])
    assert {rule for _, rule in broken(examined)} >= {"chain", "readable"}
    assert (examined.state, examined.readable) == (None, False)


def test_findings_beyond_the_bound_are_counted_only() -> None:
    findings = Findings()
    examined = examine(stream_id(), [StoredEvent(2, 1, 1, "c", "h", b"")])
    fault = examined.steps[0].faults[0]
    findings.extend([of_partition(0, fault)] * (KEPT_MAX + 5))
    assert (len(findings.kept), findings.total) == (KEPT_MAX, KEPT_MAX + 5)
