"""One order's stream by itself: chain, names and numbers of each event, and the fold with every rule on the way."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from app.audit.findings import Fault, Finding, of_order
from app.audit.rules.comparing import Moment
from app.audit.rules.transition import rule_faults
from app.orders.codec import from_frame
from app.orders.errors import OrderError
from app.orders.events import Event, SubmitIntentRecorded
from app.orders.evolve import evolve
from app.orders.lifecycle import public_names
from app.orders.obligations import obligations
from app.orders.state import Absent, State
from app.orders.times import parse_time
from eventstore.canonical import chain_fault
from eventstore.store import EventStore, StoredEvent

PAGE: Final = 1000
_TIMES: Final = "times as YYYY-MM-DDThh:mm:ss.ffffffZ"


class _EnvelopeMeta(Struct):
    hash: str


class Envelope(Struct, rename="camel"):
    """The part of a stored frame that every event has."""

    event: str
    status: str
    order_id: str
    seq: int
    at: str
    meta: _EnvelopeMeta


class Step(Struct, frozen=True, kw_only=True):
    """One event and what its examination gave."""

    stored: StoredEvent
    envelope: Envelope | None
    """None for bytes that are no frame."""
    event: Event | None
    """None for bytes that are no event known to this code."""
    state: State | None
    """The order's state after it; None from the first event on that cannot be folded."""
    faults: tuple[Fault, ...]


class Examined(Struct, frozen=True):
    """A stream, or the beginning of one, event by event."""

    order_id: str
    steps: tuple[Step, ...]

    @property
    def state(self) -> State | None:
        """The state after the last event; Absent without any, None where the events cannot be folded."""
        return self.steps[-1].state if self.steps else Absent()

    @property
    def readable(self) -> bool:
        """Whether every event could be decoded."""
        return all(step.event is not None for step in self.steps)

    def findings(self) -> Iterator[Finding]:
        """Yield all faults of all events."""
        for step in self.steps:
            for fault in step.faults:
                yield of_order(self.order_id, fault, step.stored.version)


async def read_order(store: EventStore, order_id: str) -> list[StoredEvent]:
    """Return the whole stream of an order; empty for an unknown one.

    Raises:
        BadIdError: ``order_id`` is not an order id.
    """
    events: list[StoredEvent] = []
    while page := await store.read_stream(order_id, events[-1].version if events else 0, PAGE):
        events += page
        if len(page) < PAGE:
            break
    return events


def examine(order_id: str, events: Sequence[StoredEvent]) -> Examined:
    """Examine the first ``events`` of an order; pure, and never raises, whatever the bytes hold."""
    steps: list[Step] = []
    for stored in events:
        steps.append(_step(order_id, stored, steps))
    return Examined(order_id, tuple(steps))


def _step(order_id: str, stored: StoredEvent, before: Sequence[Step]) -> Step:
    last = before[-1] if before else None
    faults = [*_order_faults(stored, last), *_chain_faults(stored, last.stored.hash if last else "")]
    envelope = _envelope(stored.data)
    if envelope is not None:
        faults += _identity_faults(order_id, stored, envelope)
    state = last.state if last else Absent()
    event: Event | None = None
    try:
        # The decoder skips what it does not know, undecodable text too.
        stored.data.decode()
        event = from_frame(stored.data)
        if envelope is not None:
            faults += _name_faults(event, envelope)
    except (UnicodeDecodeError, msgspec.DecodeError, OrderError) as error:
        faults.append(Fault("readable", "an event that this version of OrderTape knows", str(error)))
        state = None
    if state is not None and event is not None:
        moment = _moment(envelope, before, faults)
        faults += [*rule_faults(state, event, moment), *_repetition_faults(event, before)]
        state = _fold(state, event, faults)
    return Step(stored=stored, envelope=envelope, event=event, state=state, faults=tuple(faults))


def _moment(envelope: Envelope | None, before: Sequence[Step], faults: list[Fault]) -> Moment:
    at_us: int | None = None
    try:
        at_us = None if envelope is None else parse_time(envelope.at)
    except ValueError as error:
        faults.append(Fault("readable", _TIMES, str(error)))
    earlier = before[-2].state if len(before) > 1 else Absent()
    return Moment(at_us=at_us, last=before[-1].event if before else None, before=earlier)


def _fold(state: State, event: Event, faults: list[Fault]) -> State | None:
    try:
        after = evolve(state, event)
        obligations(after)
    except OrderError as error:
        faults.append(Fault("lifecycle", f"an event that may follow {type(state).__name__}", str(error)))
        return None
    except ValueError as error:
        faults.append(Fault("readable", _TIMES, str(error)))
        return None
    return after


def _order_faults(stored: StoredEvent, last: Step | None) -> Iterator[Fault]:
    version, epoch, position = (last.stored.version, last.stored.epoch, last.stored.position) if last else (0, 0, 0)
    if stored.version != version + 1:
        yield Fault("density", f"version {version + 1}", f"version {stored.version}")
    if stored.position <= position or stored.epoch < epoch:
        yield Fault(
            "density", f"a place in the log after {epoch}-{position}", f"the place {stored.epoch}-{stored.position}"
        )


def _chain_faults(stored: StoredEvent, prev: str) -> Iterator[Fault]:
    expected = f"a whole event that follows {prev[:8] or 'nothing'}"
    fault = chain_fault(stored.data, prev)
    if fault is not None:
        yield Fault("chain", expected, f"it {fault}")


def _envelope(data: bytes) -> Envelope | None:
    try:
        return msgspec.json.decode(data, type=Envelope)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def _identity_faults(order_id: str, stored: StoredEvent, envelope: Envelope) -> Iterator[Fault]:
    expected = {"orderId": order_id, "seq": stored.version, "meta.hash": stored.hash}
    found = {"orderId": envelope.order_id, "seq": envelope.seq, "meta.hash": envelope.meta.hash}
    for field, value in expected.items():
        if found[field] != value:
            yield Fault("identity", f"{field} {value}, as stored", f"{field} {found[field]}")


def _name_faults(event: Event, envelope: Envelope) -> Iterator[Fault]:
    name, status = public_names(event)
    if (envelope.event, envelope.status) != (name, status):
        yield Fault("names", f"event {name}, status {status}", f"event {envelope.event}, status {envelope.status}")


def _repetition_faults(event: Event, before: Sequence[Step]) -> Iterator[Fault]:
    if not isinstance(event, SubmitIntentRecorded):
        return
    used = {step.event.tx_id for step in before if isinstance(step.event, SubmitIntentRecorded)}
    if event.tx_id in used:
        yield Fault("proof", "a signature that no earlier attempt used", f"txId {event.tx_id} again")
