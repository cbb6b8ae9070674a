"""Open orders have what moves them on: the task or the timer that their state obliges the store to hold."""

from collections.abc import Collection, Iterable

from app.audit.examine import examine, read_order
from app.audit.findings import Fault, Finding, of_order
from app.execution.streams import TIMERS
from app.orders.obligations import Obligation, obligations
from app.orders.times import format_time
from eventstore.errors import BadIdError
from eventstore.store import EventStore


async def unmet_obligations(store: EventStore, partition: int, order_ids: Collection[str]) -> list[Finding]:
    """Return the orders of ``partition`` that need a task or timer and have none, or one that is due at another time.

    A parked task is a task: it waits for a person, but it is not lost.

    Safe while workers work: an order that is being worked on may be between two states at the first look, so it counts
    only if a second look finds the same and the order stood still meanwhile.
    """
    lacking = await _look(store, partition, order_ids)
    if lacking:
        lacking = await _look(store, partition, lacking)
    found: list[Finding] = []
    for order_id, (version, fault) in lacking.items():
        if not await store.read_stream(order_id, version, 1):
            found.append(of_order(order_id, fault))
    return found


async def _look(store: EventStore, partition: int, order_ids: Iterable[str]) -> dict[str, tuple[int, Fault]]:
    """Return which of ``order_ids`` lack something, at which version."""
    owed: dict[str, tuple[int, tuple[Obligation, ...]]] = {}
    for order_id in order_ids:
        events = await read_order(store, order_id)
        state = examine(order_id, events).state
        if state is not None and events:
            owed[order_id] = (events[-1].version, obligations(state))
    # Timers before tasks: a timer that fires in between has become a task.
    timers = {entry.member: entry.score for entry in await store.read_index(partition, TIMERS)}
    busy = {task.stream for task in await store.list_tasks(partition)}
    parked = {task.stream: task.kind for task in await store.list_parked()}
    lacking: dict[str, tuple[int, Fault]] = {}
    for order_id, (version, duties) in owed.items():
        for duty in duties:
            if order_id in busy or _covers(parked.get(order_id), duty):
                continue
            fault = _timer_fault(duty, timers.get(f"{duty.kind} {order_id}"))
            if fault is not None:
                lacking[order_id] = (version, fault)
    return lacking


def _covers(parked_kind: str | None, duty: Obligation) -> bool:
    """Return whether a parked task of this kind does ``duty`` once it is retried."""
    # One task covers an attempt and, without a timer between them, the resolve that ends it.
    return parked_kind is not None and parked_kind in (duty.kind, "attempt")


def _timer_fault(duty: Obligation, due_ms: int | None) -> Fault | None:
    if duty.due_ms is None:
        return Fault("obligation", f"a task for its {duty.kind}", "none")
    if due_ms == duty.due_ms:
        return None
    expected = f"a timer for its {duty.kind} due at {format_time(duty.due_ms * 1000)}, or a task"
    return Fault("obligation", expected, "neither" if due_ms is None else f"a timer due {_due(due_ms)}")


def _due(ms: int) -> str:
    try:
        return f"at {format_time(ms * 1000)}"
    except OverflowError:
        return f"{ms} ms after 1970"


async def named_orders(store: EventStore, partition: int) -> dict[str, str]:
    """Return the orders that the tasks and timers of ``partition`` name, each with one of these in words."""
    timers = [entry.member for entry in await store.read_index(partition, TIMERS)]
    named = {member.partition(" ")[2]: f"timer `{member}`" for member in timers}
    for task in await store.list_tasks(partition):
        named[task.stream] = f"task {task.id}, {task.kind} {task.stream}"
    return named


async def count_parked(store: EventStore, order_ids: Collection[str]) -> int:
    """Return how many of ``order_ids``, or of all orders when there are none, have a parked task."""
    return sum(not order_ids or task.stream in order_ids for task in await store.list_parked())


async def is_known(store: EventStore, order_id: str) -> bool:
    """Return whether the store holds an event of this order; False for what is no order id."""
    try:
        return bool(await store.read_stream(order_id, 0, 1))
    except BadIdError:
        return False
