"""Everything that is stored, checked against itself: log, streams, tasks and timers, and PostgreSQL's copy."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit import archive
from app.audit.copies import LogView, compare
from app.audit.duties import count_parked, is_known, named_orders, unmet_obligations
from app.audit.errors import OrderNotFoundError
from app.audit.examine import Examined, examine, read_order
from app.audit.findings import Fault, Finding, Findings, of_partition
from app.audit.log import Span, entry_faults, events_of, scan, span_of
from app.orders.lifecycle import TERMINAL
from app.orders.obligations import obligations
from eventstore.ids import partition_in
from eventstore.store import EventStore, StoredCommit
from projections.checkpoints import Checkpoint

ORDERS_AT_ONCE: Final = 100
"""Closed orders that wait to be compared together: PostgreSQL is asked once for all of them."""

_MICROSECONDS_PER_MS: Final = 1000


class Report(Struct, frozen=True, rename="camel"):
    """What a verification covered and found."""

    orders: int
    events: int
    both_copies: bool
    """Whether PostgreSQL was compared too."""
    parked: int
    """Orders whose task is parked; no finding by itself."""
    finding_count: int
    findings: tuple[Finding, ...]
    """The first 1,000 of them, in the order they were found."""
    duration_ms: int


class _Checked(Struct, frozen=True):
    order_id: str
    events: int
    owes: bool
    """Whether a task or timer must exist for it."""


class _Status(Struct):
    status: str = ""


_status_of: Final = msgspec.json.Decoder(_Status).decode


async def verify(
    store: EventStore,
    engine: AsyncEngine | None,
    now_us: Callable[[], int],
    order_ids: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check ``order_ids``, or everything that is stored when there are none; read-only, safe while the engine runs.

    Memory grows with the orders that are open, not with the log. What is appended after the start is left to the next
    verification.

    Args:
        engine: where the second copy is; None leaves it out.
        now_us: a clock, microseconds.
        progress: told, after each page, how many events are checked and how many there are.

    Raises:
        BadIdError: one of ``order_ids`` is not an order id.
        OrderNotFoundError: the store does not know one of ``order_ids``.
        ReadModelMismatchError: the database belongs to another store.
    """
    started_us = now_us()
    verification = _Verification(store, engine, progress)
    if order_ids:
        await verification.check_named(dict.fromkeys(order_ids))
    else:
        await verification.check_all()
    return Report(
        orders=verification.orders,
        events=verification.events,
        both_copies=engine is not None,
        parked=await count_parked(store, order_ids),
        finding_count=verification.findings.total,
        findings=tuple(verification.findings.kept),
        duration_ms=(now_us() - started_us) // _MICROSECONDS_PER_MS,
    )


class _Verification:
    """One run: what it covered and found so far."""

    def __init__(
        self, store: EventStore, engine: AsyncEngine | None, progress: Callable[[int, int], None] | None
    ) -> None:
        self._store = store
        self._engine = engine
        self._progress = progress
        self.findings = Findings()
        self.orders = 0
        self.events = 0

    async def check_all(self) -> None:
        """Check every partition."""
        # Checkpoints and positions before the logs: neither may be ahead of what the logs then hold.
        checkpoints = await archive.checkpoints_of(self._engine, self._store) if self._engine else {}
        positions = await self._positions()
        spans = [await span_of(self._store, number) for number in range(self._store.partitions)]
        total = sum(span.last.position - span.first + 1 for span in spans)
        for span in spans:
            await self._check_ends(span, positions[span.partition])
            await self._check_partition(span, total)
            if self._engine and span.partition in checkpoints:
                await self._check_archive(self._engine, checkpoints[span.partition])

    async def check_named(self, order_ids: Collection[str]) -> None:
        """Check these orders, each by itself."""
        if self._engine:
            await archive.checkpoints_of(self._engine, self._store)
        for order_id in order_ids:
            if not await self._store.read_stream(order_id, 0, 1):
                raise OrderNotFoundError(order_id)
        positions = await self._positions()
        spans: dict[int, Span] = {}
        for order_id in order_ids:
            number = partition_in(order_id)
            if number not in spans:
                spans[number] = await span_of(self._store, number)
                await self._check_ends(spans[number], positions[number])
            for checked in await self._check_orders({order_id: {}}, spans[number]):
                self.orders += 1
                self.events += checked.events
                owing = [order_id] if checked.owes else []
                self.findings.extend(await unmet_obligations(self._store, number, owing))

    async def _positions(self) -> dict[int, int]:
        """Return the last position of each partition as its records have it, apart from the log."""
        return {part.partition: part.position for part in await self._store.status()}

    async def _check_ends(self, span: Span, position: int) -> None:
        if span.last.position < position:
            fault = Fault("log_end", f"a log up to position {position}", f"its end at position {span.last.position}")
            self.findings.add(of_partition(span.partition, fault))
        if span.first > 1:
            archived = await archive.events_before(self._engine, span.partition, span.first) if self._engine else 0
            if archived != span.first - 1:
                expected = f"positions 1 to {span.first - 1} in the log or, all of them, in PostgreSQL"
                fault = Fault("log_start", expected, f"a log from position {span.first}, {archived} events archived")
                self.findings.add(of_partition(span.partition, fault))

    async def _check_partition(self, span: Span, total: int) -> None:
        open_orders: dict[str, LogView] = {}
        closed: dict[str, LogView] = {}
        async for commit in scan(self._store, span, self.findings.add):
            self.events += len(commit.events)
            if self._collect(commit, open_orders) and _is_last(commit):
                closed[commit.stream] = open_orders.pop(commit.stream)
            if len(closed) >= ORDERS_AT_ONCE:
                self.orders += len(await self._check_orders(closed, span))
                closed.clear()
                self._tell(total)
        self.orders += len(await self._check_orders(closed, span))
        checked = await self._check_orders(open_orders, span)
        self.orders += len(checked)
        owing = [order.order_id for order in checked if order.owes]
        self.findings.extend(await unmet_obligations(self._store, span.partition, owing))
        await self._check_unseen(span, open_orders.keys())
        self._tell(total)

    def _tell(self, total: int) -> None:
        if self._progress:
            self._progress(self.events, total)

    async def _check_unseen(self, span: Span, seen: Collection[str]) -> None:
        """Check the orders that tasks and timers name and the log does not, or no longer."""
        unseen: dict[str, LogView] = {}
        for order_id, text in (await named_orders(self._store, span.partition)).items():
            if order_id in seen:
                continue
            if await is_known(self._store, order_id):
                unseen[order_id] = {}
            else:
                fault = Fault("unknown_order", "an order of this store", text)
                self.findings.add(of_partition(span.partition, fault))
        await self._check_orders(unseen, span)

    def _collect(self, commit: StoredCommit, open_orders: dict[str, LogView]) -> bool:
        """Add a commit to its order's view of the log; False where it can belong to no order."""
        faults = list(entry_faults(commit))
        for fault in faults:
            self.findings.add(of_partition(commit.partition, fault, commit.position))
        if faults:
            return False
        view = open_orders.setdefault(commit.stream, {})
        for logged in events_of(commit):
            if logged.version in view:
                fault = Fault("log_entry", f"a version after {max(view)}", f"version {logged.version} again")
                self.findings.add(of_partition(commit.partition, fault, logged.position))
            else:
                view[logged.version] = logged
        return True

    async def _check_orders(self, views: Mapping[str, LogView], span: Span) -> list[_Checked]:
        """Check orders against the log and PostgreSQL."""
        ids = list(views)
        checked: list[_Checked] = []
        for start in range(0, len(ids), ORDERS_AT_ONCE):
            readable: list[str] = []
            for order_id in ids[start : start + ORDERS_AT_ONCE]:
                examined, findings = await self._check_order(order_id, views[order_id], span)
                self.findings.extend(findings)
                checked.append(_Checked(order_id, len(examined.steps), _owes(examined)))
                if examined.readable:
                    readable.append(order_id)
            if self._engine and readable:
                self.findings.extend(await archive.order_findings(self._engine, self._store, readable))
        return checked

    async def _check_order(self, order_id: str, view: LogView, span: Span) -> tuple[Examined, list[Finding]]:
        events = await read_order(self._store, order_id)
        examined = examine(order_id, events)
        return examined, [*examined.findings(), *await compare(self._store, order_id, events, view, span)]

    async def _check_archive(self, engine: AsyncEngine, checkpoint: Checkpoint) -> None:
        self.findings.extend(await archive.partition_findings(engine, self._store, checkpoint))


def _owes(examined: Examined) -> bool:
    return examined.state is not None and bool(obligations(examined.state))


def _is_last(commit: StoredCommit) -> bool:
    """Return whether the order's status after ``commit``, as the log has it, is terminal."""
    try:
        return _status_of(commit.events[-1]).status in TERMINAL
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
