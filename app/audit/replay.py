"""One order told from its stream alone: every event with its check, and the state at the end or at any point before."""

from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import Struct

from app.audit.errors import BeyondEndError, OrderNotFoundError
from app.audit.examine import Examined, Step, examine, read_order
from app.audit.findings import Finding
from app.audit.narrate import narrate
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderFailed,
    OrderRejected,
    RouteSelected,
    SubmitIntentRecorded,
)
from app.orders.lifecycle import Status
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Cancelled,
    CancelPending,
    Confirmed,
    Exhausted,
    Expired,
    Failed,
    Quoted,
    Rejected,
    Resting,
    Routing,
    State,
    Submitted,
    Terminal,
    Triggered,
    Waiting,
)
from eventstore.store import EventStore


class ReplayedEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """One event of the stream; ``frame`` is its stored bytes, or None where they are no JSON: then see ``damaged``."""

    seq: int
    epoch: int
    position: int
    commit_id: str
    hash: str
    at: str
    event: str
    status: str
    says: str
    intact: bool
    """Whether bytes, hash and chain are whole."""
    frame: msgspec.Raw | None
    damaged: str | None = None


class OrderView(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The state of an order at one point; amounts are decimal text, facts that it does not have yet are absent."""

    state: str
    status: Status
    attempt: int = 0
    side: str | None = None
    base_asset: str | None = None
    quote_asset: str | None = None
    amount: str | None = None
    limit_price: str | None = None
    time_in_force: str | None = None
    expire_at: str | None = None
    venue: str | None = None
    min_out: str | None = None
    max_in: str | None = None
    tx_id: str | None = None
    amount_in: str | None = None
    amount_out: str | None = None
    fee: str | None = None
    network_fee: str | None = None
    failure: str | None = None
    due_at: str | None = None
    waits_for: str | None = None
    """The trigger: pair, direction and level."""


class Replay(Struct, frozen=True, rename="camel"):
    """An order up to one of its events; ``state`` is None where the events cannot be folded."""

    order_id: str
    seq: int
    last_seq: int
    head: str
    events: tuple[ReplayedEvent, ...]
    state: OrderView | None
    findings: tuple[Finding, ...]


async def replay(store: EventStore, order_id: str, as_of: int | None = None) -> Replay:
    """Return what an order's stream says, recomputed; read-only.

    Args:
        as_of: the last seq to take, at least 1; None for all.

    Raises:
        BadIdError: ``order_id`` is not an order id.
        OrderNotFoundError: the store does not know it.
        BeyondEndError: it has no event ``as_of`` yet.
    """
    stream = await read_order(store, order_id)
    if not stream:
        raise OrderNotFoundError(order_id)
    last = stream[-1].version
    if as_of is not None and as_of > last:
        raise BeyondEndError(order_id, as_of, last)
    taken = [event for event in stream if as_of is None or event.version <= as_of]
    return retell(examine(order_id, taken), last)


def retell(examined: Examined, last_seq: int) -> Replay:
    """Return an examined stream, at least one event, as a replay; pure."""
    events = [step.event for step in examined.steps if step.event is not None]
    order = next((event for event in events if isinstance(event, OrderAccepted)), None)
    newest = examined.steps[-1].stored
    return Replay(
        order_id=examined.order_id,
        seq=newest.version,
        last_seq=last_seq,
        head=newest.hash,
        events=tuple(_replayed(step, order) for step in examined.steps),
        state=None if examined.state is None else _view(examined.state, events),
        findings=tuple(examined.findings()),
    )


def _replayed(step: Step, order: OrderAccepted | None) -> ReplayedEvent:
    stored, envelope = step.stored, step.envelope
    frame = _as_json(stored.data)
    return ReplayedEvent(
        seq=stored.version,
        epoch=stored.epoch,
        position=stored.position,
        commit_id=stored.commit_id,
        hash=stored.hash,
        at=envelope.at if envelope else "",
        event=envelope.event if envelope else "",
        status=envelope.status if envelope else "",
        says=narrate(step.event, order) if step.event is not None else "cannot be read",
        intact=not any(fault.rule in ("chain", "density", "identity") for fault in step.faults),
        frame=frame,
        damaged=stored.data.decode("utf-8", "backslashreplace") if frame is None else None,
    )


def _as_json(data: bytes) -> msgspec.Raw | None:
    try:
        data.decode()
        msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(data)


def _view(state: State, events: Sequence[Event]) -> OrderView:
    waits_for = None
    if isinstance(state, Resting):
        waits_for = f"{state.trigger.pair} {state.trigger.when} {state.trigger.level}"
    view = OrderView(state=type(state).__name__, status=_status(state), due_at=_due_at(state), waits_for=waits_for)
    facts: dict[str, object] = {}
    for event in events:
        facts |= _facts(event)
    return msgspec.structs.replace(view, **facts)


def _facts(event: Event) -> dict[str, object]:
    """Return what ``event`` changes in the view of its order."""
    match event:
        case OrderAccepted():
            return _terms(event)
        case AttemptStarted(attempt=attempt):
            return {"attempt": attempt, "venue": None, "tx_id": None}
        case RouteSelected():
            return {"venue": event.chosen.venue, "min_out": event.min_out, "max_in": event.max_in}
        case SubmitIntentRecorded(tx_id=tx_id):
            return {"tx_id": tx_id}
        case AttemptFailed(error=error) | OrderFailed(error=error) | OrderRejected(error=error):
            return {"failure": f"{error.code}: {error.message}"}
        case OrderCancelled(code=code, message=message):
            return {"failure": f"{code}: {message}"}
        case OrderConfirmed(receipt=receipt):
            names = ("amount_in", "amount_out", "fee", "network_fee")
            return {"failure": None, **{name: getattr(receipt, name) for name in names}}
        case _:
            return {}


def _terms(order: OrderAccepted) -> dict[str, object]:
    names = ("side", "base_asset", "quote_asset", "amount", "limit_price", "expire_at")
    time_in_force = order.time_in_force if order.order_type == "limit" else None
    return {"time_in_force": time_in_force, **{name: getattr(order, name) for name in names}}


def _status(state: State) -> Status:
    match state:
        case Absent() | Accepted() | Waiting():
            return "pending"
        case Resting():
            return "resting"
        case Triggered() | Routing() | Quoted() | Exhausted():
            return "routing"
        case Building():
            return "building"
        case Submitted():
            return "submitted"
        case CancelPending():
            return "cancel_pending"
        case _:
            return _end_status(state)


def _end_status(state: Terminal) -> Status:
    match state:
        case Confirmed():
            return "confirmed"
        case Cancelled():
            return "cancelled"
        case Expired():
            return "expired"
        case Rejected():
            return "rejected"
        case Failed():
            return "failed"
        case _:
            assert_never(state)


def _due_at(state: State) -> str | None:
    match state:
        case Waiting(due_at=due):
            return due
        case Submitted(next_check_at=due) | CancelPending(submitted=Submitted(next_check_at=due)):
            return due
        case _:
            return None
