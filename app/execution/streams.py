"""An order's stream: load it, decide, append the events with the tasks and timers that the new state obliges to."""

import base64
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.clock import Clock
from app.execution.failpoints import Reach, unwatched
from app.orders.codec import Origin, at_in, client_in, from_frame, to_frame
from app.orders.commands import CancelOrder, Command, PlaceOrder
from app.orders.decide import decide
from app.orders.errors import OrderError
from app.orders.events import Event, OrderAccepted, OrderRested, Trigger
from app.orders.evolve import evolve
from app.orders.obligations import KINDS, Owed, Watching, obligations
from app.orders.state import Absent, State, Terminal
from app.orders.times import format_time, parse_time
from eventstore.canonical import SealedEvent, seal
from eventstore.errors import OutcomeUnknownError, StoreUnavailableError, WrongVersionError
from eventstore.hot import Duties
from eventstore.ids import ENTROPY_BYTES, Cursor, new_stream_id, new_ulid
from eventstore.levels import Level
from eventstore.store import (
    Append,
    Appended,
    AppendResult,
    Duplicate,
    EventStore,
    Existing,
    IdempotencyKey,
    IndexEntry,
    StoredEvent,
    Task,
)

TIMERS: Final = "due"
CLOSED: Final = "closed"
"""Index of the orders that have ended; the score is when, in milliseconds since 1970."""
APPEND_TRIES: Final = 4
APPEND_RETRY_SECONDS: Final = 0.25
CANCEL_TRIES: Final = 16
"""An order that is worked on moves a few times while it is being cancelled."""
_COMMIT_ID_BYTES: Final = 6
_PAGE: Final = 1000

Entropy = Callable[[int], bytes]
"""Returns that many unpredictable bytes."""
_Place = tuple[str, str]
"""Index and member."""


class OrderHead(Struct, frozen=True, kw_only=True):
    """An order as its stream has it: what the next append builds on."""

    order_id: str
    client: str | None
    state: State
    version: int
    hash: str


class Recorded(Struct, frozen=True, kw_only=True):
    """What a command came to; ``finished`` says that the task it was recorded under is acknowledged."""

    order: OrderHead
    finished: bool
    cursor: Cursor | None = None
    """Of the last event that it caused; None: it caused none."""


class CancelAnswer(Struct, frozen=True, kw_only=True):
    """What a request to cancel met: the order as it is now; ``changed`` when this request moved it."""

    order: OrderHead
    changed: bool
    cursor: Cursor | None
    """Of the last event that this request caused."""
    expected: bool = True
    """False: the order was at none of the versions asked for, and nothing was changed."""


class Placed(Struct, frozen=True, kw_only=True):
    """An accepted order; ``repeated`` when an earlier request with the same idempotency key created it."""

    order_id: str
    repeated: bool
    level: Level
    cursor: Cursor | None
    """Of the event that accepted it; None: a repeated one whose stream cannot be read now."""


class OrderStreams:
    """Reads and appends order streams for one process.

    Args:
        store: where the streams are.
        clock: stamps the events.
        entropy: draws order ids and commit ids, e.g. ``secrets.token_bytes``.
        actor: names this process in the events it writes.
        queue_max: unfinished tasks of a partition from which on no new order is accepted there; None: any number.
        reach: watches the crash points.
    """

    def __init__(
        self,
        store: EventStore,
        clock: Clock,
        entropy: Entropy,
        actor: str,
        *,
        queue_max: int | None = None,
        reach: Reach = unwatched,
    ) -> None:
        self._queue_max = queue_max
        self._reach = reach
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._actor = actor

    def new_order_id(self, client: str | None, idempotency_key: str | None) -> str:
        """Return an id for an order of ``client``, in the partition of its owner."""
        ulid = new_ulid(self._clock.now_us() // 1000, self._entropy(ENTROPY_BYTES))
        return new_stream_id(ulid, client or idempotency_key, self._store.partitions)

    async def place(self, order_id: str, client: str | None, command: PlaceOrder) -> Placed:
        """Append OrderAccepted, its task and its idempotency record in one step: accepted means queued.

        Raises:
            IdempotencyConflictError: the key belongs to an order with another content.
            QueueFullError: too much work is waiting; nothing was written.
            StoreUnavailableError, OutcomeUnknownError, EpochStaleError: not (known to be) accepted.
        """
        empty = OrderHead(order_id=order_id, client=client, state=Absent(), version=0, hash="")
        key = None
        if command.idempotency_key is not None and command.fingerprint is not None:
            key = IdempotencyKey(client or "", command.idempotency_key, command.fingerprint)
        self._reach("K1", order_id)
        commit, _ = self._commit(empty, decide(empty.state, command), None)
        result = await self._append(replace(commit, idempotency=key, lane=client or "", queue_max=self._queue_max))
        self._reach("K2", order_id)
        if isinstance(result, Existing):
            first = await self._first(result.stream)
            return Placed(order_id=result.stream, repeated=True, level=result.level, cursor=first)
        return Placed(order_id=order_id, repeated=False, level=result.level, cursor=_cursor(result, commit))

    async def load(self, order_id: str) -> OrderHead:
        """Return the order's head; version 0 and state Absent for an unknown order.

        Raises:
            UndefinedTransitionError, UnknownEventTypeError: the stream cannot be folded.
        """
        state: State = Absent()
        version, head_hash, client = 0, "", None
        while page := await self._store.read_stream(order_id, version, _PAGE):
            if version == 0:
                client = client_in(page[0].data)
            for stored in page:
                state = evolve(state, from_frame(stored.data))
            version, head_hash = page[-1].version, page[-1].hash
            if len(page) < _PAGE:
                break
        return OrderHead(order_id=order_id, client=client, state=state, version=version, hash=head_hash)

    async def record(
        self, order: OrderHead, command: Command, task: Task | None, *, level: Level | None = None
    ) -> Recorded:
        """Append what ``command`` causes, under ``task``; the same append finishes the task when no work is left now.

        A command that the state has outgrown appends nothing. Without a task, whatever the new state owes beyond the
        old one is added. ``level`` is what the answer must be worth; None: the store's own.

        Raises:
            WrongVersionError: another worker was first. Load the order and look again.
            StoreUnavailableError, OutcomeUnknownError, EpochStaleError: leave the task; it will be claimed.
        """
        events = decide(order.state, command)
        if not events:
            return Recorded(order=order, finished=False)
        commit, after = self._commit(order, events, task)
        result = await self._append(replace(commit, level=level))
        cursor = None if isinstance(result, Existing) else _cursor(result, commit)
        return Recorded(order=after, finished=commit.finish_task is not None, cursor=cursor)

    async def cancel(self, order_id: str, by: str, only_at: Collection[int] | None = None) -> CancelAnswer:
        """End an order, or ask for it while a swap may be on its way; version 0 for an unknown order.

        Args:
            only_at: the versions at which this is wanted; the append itself makes sure of it. None: any.

        Raises:
            WrongVersionError: the order moved again and again meanwhile. Ask again.
            UndefinedTransitionError, UnknownEventTypeError: the stream cannot be folded.
            StoreUnavailableError, OutcomeUnknownError, EpochStaleError: not known to be cancelled. Ask again.
        """
        for tries_left in reversed(range(CANCEL_TRIES)):
            order = await self.load(order_id)
            if only_at is not None and order.version not in only_at:
                return CancelAnswer(order=order, changed=False, cursor=None, expected=False)
            try:
                recorded = await self.record(order, CancelOrder(by=by), None)
            except WrongVersionError:
                if tries_left == 0:
                    raise
            else:
                changed = recorded.order.version > order.version
                return CancelAnswer(order=recorded.order, changed=changed, cursor=recorded.cursor)
        raise AssertionError("unreachable: the last try returns or raises")

    async def confirm(self, order: OrderHead, level: Level) -> None:
        """Return once everything that was recorded of ``order`` is worth ``level``.

        Raises:
            WrongVersionError: the store holds another history. Load the order and look again.
            StoreUnavailableError, OutcomeUnknownError, EpochStaleError: it is not known to be; leave the task.
        """
        await self._store.confirm(order.order_id, order.version, order.hash, level)

    def _commit(
        self,
        order: OrderHead,
        events: tuple[Event, ...],
        task: Task | None,
    ) -> tuple[Append, OrderHead]:
        after = reduce(evolve, events, order.state)
        owed_before, owed_now = _split(obligations(order.state)), _split(obligations(after))
        # What a worker holds goes on under its own task; a cancelled order's task is finished by whoever takes it.
        added = owed_now.task if task is None and owed_before.task is None else None
        entries_before, entries_now = _entries(order.order_id, owed_before), _entries(order.order_id, owed_now)
        commit_id = base64.urlsafe_b64encode(self._entropy(_COMMIT_ID_BYTES)).decode()
        sealed = self._seal(order, events, commit_id)
        commit = Append(
            stream=order.order_id,
            expected_version=order.version,
            expected_hash=order.hash,
            commit_id=commit_id,
            events=sealed,
            add_task=added,
            finish_task=task if owed_now.task is None else None,
            set_entries=(
                *(
                    IndexEntry(*place, score)
                    for place, score in entries_now.items()
                    if entries_before.get(place) != score
                ),
                *_closing(order.order_id, after, self._clock.now_us()),
            ),
            clear_entries=tuple(place for place in entries_before if place not in entries_now),
        )
        head = OrderHead(
            order_id=order.order_id,
            client=order.client,
            state=after,
            version=order.version + len(sealed),
            hash=sealed[-1].hash,
        )
        return commit, head

    def _seal(self, order: OrderHead, events: tuple[Event, ...], commit_id: str) -> tuple[SealedEvent, ...]:
        origin = Origin(actor=self._actor, client=order.client, command=commit_id)
        at = format_time(self._clock.now_us())
        sealed: list[SealedEvent] = []
        prev = order.hash
        for seq, event in enumerate(events, start=order.version + 1):
            sealed.append(seal(to_frame(event, order_id=order.order_id, seq=seq, at=at, origin=origin), prev))
            prev = sealed[-1].hash
        return tuple(sealed)

    async def _append(self, commit: Append) -> AppendResult:
        for tries_left in reversed(range(APPEND_TRIES)):
            try:
                return await self._store.append(commit)
            except OutcomeUnknownError:
                # The same commit id makes the repetition safe: the store answers with the first outcome.
                if tries_left == 0:
                    raise
                await self._clock.sleep(APPEND_RETRY_SECONDS)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _first(self, order_id: str) -> Cursor | None:
        try:
            events = await self._store.read_stream(order_id, 0, 1)
        except StoreUnavailableError:
            return None
        return events[0].cursor if events else None


def _cursor(result: Appended | Duplicate, commit: Append) -> Cursor:
    return Cursor(result.epoch, result.position, commit.events[-1].hash[:8])


class _Owed(Struct, frozen=True):
    task: str | None
    timers: dict[str, int]
    trigger: Trigger | None


def duties(order_id: str, events: Sequence[StoredEvent]) -> Duties:
    """Return what must exist in the store beside ``events``, which are all of an order's, and what must not.

    A stream that cannot be folded is owed an attempt: the worker that fails at it has it parked, with the reason.
    """
    start: State = Absent()
    try:
        history = [from_frame(event.data) for event in events]
        state = reduce(evolve, history, start)
    except (OrderError, msgspec.ValidationError):
        return Duties(add_task="attempt")
    owed = _split(obligations(state))
    entries = _entries(order_id, owed)
    last_ms = parse_time(at_in(events[-1].data)) // 1000
    return Duties(
        add_task=owed.task,
        set_entries=(
            *(IndexEntry(*place, score) for place, score in entries.items()),
            *_closing(order_id, state, last_ms * 1000),
        ),
        clear_entries=tuple(place for place in _places(order_id, history) if place not in entries),
        idempotency=_key(client_in(events[0].data), history[0]),
    )


def _places(order_id: str, history: Sequence[Event]) -> list[_Place]:
    """Return every place that an order with this history may ever have had in an index."""
    indexes = {event.trigger.index for event in history if isinstance(event, OrderRested)}
    return [*((TIMERS, f"{kind} {order_id}") for kind in KINDS), *((index, order_id) for index in sorted(indexes))]


def _key(client: str | None, accepted: Event) -> IdempotencyKey | None:
    match accepted:
        case OrderAccepted(idempotency_key=str(key), fingerprint=str(fingerprint)):
            return IdempotencyKey(client or "", key, fingerprint)
        case _:
            return None


def _entries(order_id: str, owed: _Owed) -> dict[_Place, int]:
    """Return the scores of an order's timers and of its trigger, by their place."""
    entries = {(TIMERS, f"{kind} {order_id}"): due_ms for kind, due_ms in owed.timers.items()}
    if owed.trigger is not None:
        entries[owed.trigger.index, order_id] = owed.trigger.score
    return entries


def _closing(order_id: str, state: State, now_us: int) -> tuple[IndexEntry, ...]:
    """Return the entry by which an ended order is found when its time in the store is over."""
    return (IndexEntry(CLOSED, order_id, now_us // 1000),) if isinstance(state, Terminal) else ()


def _split(owed: tuple[Owed, ...]) -> _Owed:
    task: str | None = None
    timers: dict[str, int] = {}
    trigger: Trigger | None = None
    for one in owed:
        if isinstance(one, Watching):
            trigger = one.trigger
        elif one.due_ms is None:
            task = one.kind
        else:
            timers[one.kind] = one.due_ms
    return _Owed(task, timers, trigger)
