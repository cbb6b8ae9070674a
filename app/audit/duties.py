"""Open orders have what moves them on: the task, timers and trigger that their state obliges the store to hold."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from app.audit.examine import examine, read_order
from app.audit.findings import Fault, Finding, of_order
from app.execution.streams import TIMERS
from app.orders.obligations import Obligation, Owed, Watching, obligations
from app.orders.times import format_time
from eventstore.errors import BadIdError
from eventstore.store import WAITING, EventStore

_Kinds = dict[str, set[str]]
"""Kinds of the tasks that each order has."""
_WORK: Final = frozenset({"attempt", "resolve"})


async def unmet_obligations(store: EventStore, partition: int, order_ids: Collection[str]) -> list[Finding]:
    """Return the orders of ``partition`` that lack a task, timer or trigger entry, or have one with another score.

    A task that waits for its lane's turn is a task, and so is a parked one: it waits for a person, but it is not lost.

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
    owed: dict[str, tuple[int, tuple[Owed, ...]]] = {}
    for order_id in order_ids:
        events = await read_order(store, order_id)
        state = examine(order_id, events).state
        if state is not None and events:
            owed[order_id] = (events[-1].version, obligations(state))
    triggers = {duty.trigger.index for _, duties in owed.values() for duty in duties if isinstance(duty, Watching)}
    # Timers before tasks: a timer that fires in between has become a task.
    scores = {
        (index, entry.member): entry.score
        for index in (TIMERS, *sorted(triggers))
        for entry in await store.read_index(partition, index)
    }
    kinds = await _kinds(store, partition)
    lacking: dict[str, tuple[int, Fault]] = {}
    for order_id, (version, duties) in owed.items():
        for duty in duties:
            fault = _fault(order_id, duty, scores, kinds.get(order_id, set()))
            if fault is not None:
                lacking[order_id] = (version, fault)
    return lacking


async def _kinds(store: EventStore, partition: int) -> _Kinds:
    found: _Kinds = {}
    # Waiting tasks first: what is admitted in between has become a task like the others.
    for member in [entry.member for entry in await store.read_index(partition, WAITING)]:
        kind, _, order_id = member.partition(" ")
        found.setdefault(order_id, set()).add(kind)
    for task in await store.list_tasks(partition):
        found.setdefault(task.stream, set()).add(task.kind)
    for parked in await store.list_parked():
        found.setdefault(parked.stream, set()).add(parked.kind)
    return found


def _fault(order_id: str, duty: Owed, scores: Mapping[tuple[str, str], int], kinds: Collection[str]) -> Fault | None:
    if isinstance(duty, Watching):
        # A task does not stand in for it: an order that is worked on has left its trigger by an event.
        return _trigger_fault(duty, scores.get((duty.trigger.index, order_id)))
    # A worker goes by the order's state, whatever the task is called; only an order's own end has a task of its own.
    if duty.kind in kinds or (duty.kind in _WORK and not _WORK.isdisjoint(kinds)):
        return None
    return _timer_fault(duty, scores.get((TIMERS, f"{duty.kind} {order_id}")))


def _trigger_fault(duty: Watching, score: int | None) -> Fault | None:
    if score == duty.trigger.score:
        return None
    found = "none" if score is None else f"one with the score {score}"
    return Fault("obligation", f"an entry of {duty.trigger.index} with the score {duty.trigger.score}", found)


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
    named: dict[str, str] = {}
    for index, word in ((TIMERS, "timer"), (WAITING, "waiting task")):
        for member in [entry.member for entry in await store.read_index(partition, index)]:
            named[member.partition(" ")[2]] = f"{word} `{member}`"
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
