"""Builders whose defaults fit together, so that each value a test sets matters to it."""

from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRejected,
    CancelRequested,
    Chosen,
    Event,
    Failure,
    Fees,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    QuotesCollected,
    Receipt,
    Retry,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
    Trigger,
    TriggerFired,
)
from eventstore.canonical import SealedEvent, seal
from eventstore.ids import new_stream_id, new_ulid
from eventstore.store import Append, IdempotencyKey, IndexEntry

_counter = iter(range(1, 1 << 60))


def stream_id(owner: str = "owner", partitions: int = 4, number: int | None = None) -> str:
    """A new stream id, unique in this process; the same for the same ``number``."""
    entropy = (next(_counter) if number is None else number).to_bytes(10, "big")
    return new_stream_id(new_ulid(1_800_000_000_000, entropy), owner, partitions)


def events(count: int = 1, prev: str = "", first: int = 1) -> tuple[SealedEvent, ...]:
    """``count`` chained events, numbered from ``first``."""
    sealed: list[SealedEvent] = []
    for number in range(first, first + count):
        frame = {"seq": number, "meta": {"type": "Counted", "schema": 1}}
        sealed.append(seal(frame, prev))
        prev = sealed[-1].hash
    return tuple(sealed)


def first_append(stream: str, count: int = 1, commit_id: str = "c1") -> Append:
    """The append that creates ``stream``."""
    return Append(stream=stream, expected_version=0, expected_hash="", commit_id=commit_id, events=events(count))


def keyed(stream: str, key: IdempotencyKey, commit_id: str) -> Append:
    """The append that creates ``stream`` for a request with an idempotency key."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id=commit_id,
        events=events(1),
        idempotency=key,
    )


def with_task(stream: str) -> Append:
    """The append that creates ``stream`` with a task."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(1),
        add_task="attempt",
    )


def with_timer(stream: str, due_ms: int) -> Append:
    """The append that creates ``stream`` with a timer."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(1),
        set_entries=(IndexEntry("due", f"resolve {stream}", due_ms),),
    )


_FAILURE = Failure(code="no_quote", message="no venue gave a usable quote")
_RECEIPT = Receipt(venue="raydium", amount_in="1", amount_out="2", fee="0", network_fee="0.000005", slot=1, fees=Fees())
_TRIGGER = Trigger(pair="SOL/USDC", when="rises_to", level=-17_000)
_LATER = "2026-11-21T00:00:00.000000Z"

EVERY_EVENT: tuple[Event, ...] = (
    OrderAccepted(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        amount="1",
        decimals=(9, 6),
        order_type="market",
        slippage_bps=50,
    ),
    OrderRested(trigger=_TRIGGER, slot=1),
    TriggerFired(trigger=_TRIGGER, slot=2, observed=-17_000, venue="raydium"),
    AttemptStarted(attempt=1),
    QuotesCollected(slot=1, quotes=()),
    RouteSelected(
        policy="best-net/1",
        guards="guards/1",
        steps=("swap", "memo"),
        chosen=Chosen(venue="raydium", amount="2"),
        decision="0",
        min_out="2",
    ),
    PriceProtectionTripped(guard="anchor", unit="USDC", limit="2", observed="1", guards="guards/1"),
    SubmitIntentRecorded(tx_id="t", message="", last_valid_height=1),
    SubmissionUnknown(checks=1, next_check_at=_LATER),
    SubmissionUnknown(checks=1, next_check_at=_LATER, cancel_pending=True),
    AttemptFailed(attempt=1, error=_FAILURE, retry=Retry(attempt=2, delay_ms=1, due_at=_LATER)),
    AttemptFailed(attempt=3, error=_FAILURE),
    CancelRequested(by="client"),
    CancelRejected(reason="too late"),
    OrderConfirmed(tx_id="t", receipt=_RECEIPT),
    OrderCancelled(by="client", code="requested", message="cancelled on request"),
    OrderExpired(expire_at=_LATER),
    OrderRejected(error=_FAILURE),
    OrderFailed(error=_FAILURE, attempts=3),
)
"""One event of each type, and of each public name and status."""
