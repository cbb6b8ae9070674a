"""The worker: takes tasks, claims those of dead workers, fires timers, and drains when it is told to stop."""

import asyncio
import logging
import traceback
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from app.clock import Clock
from app.dex.errors import ChainError
from app.execution.process import OrderProcess
from eventstore.errors import (
    ERROR_CHARACTERS_MAX,
    DamagedEntryError,
    EventStoreError,
    NotCanonicalError,
    WrongVersionError,
)
from eventstore.store import EventStore, Task

log = logging.getLogger(__name__)

TAKE_MAX: Final = 128
"""Most tasks taken per partition at once."""
TAKE_WAIT_SECONDS: Final = 1.0
CLAIM_SECONDS: Final = 0.5
CLAIM_MAX: Final = 64
TIMERS_MAX: Final = 256
"""Most timers fired per partition at once."""
TIMER_SECONDS_MAX: Final = 0.25
OUTAGE_SECONDS: Final = 0.5
CONFLICT_TRIES: Final = 3
PARK_AFTER: Final = 4
"""A task that cannot be worked on is parked when it has been handed out this often: once, and three times again."""
DROP_SECONDS: Final = 30.0
"""Time between two looks for the consumers of dead workers."""
DEAD_IDLE_MS_MIN: Final = 60_000
_HEAD_CHARACTERS_MAX: Final = 1_000


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """How one worker process takes part."""

    consumer: str
    """Unique per process start, so that a dead process's tasks are known as such."""
    concurrency: int
    claim_idle_ms: int
    """Above the time that a task may take; below it two workers would work on one order."""


class Worker:
    """Runs the order process for every task it can get. The caller owns its lifetime."""

    def __init__(self, store: EventStore, process: OrderProcess, clock: Clock, settings: WorkerSettings) -> None:
        self._store = store
        self._process = process
        self._clock = clock
        self._settings = settings
        self._busy: set[Task] = set()
        self._slot_freed = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; then take nothing more, end what was begun, and return."""
        # No loop is cancelled: a task that the server has just handed out would then wait to be claimed.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(group, stopping))
            group.create_task(self._claim(group, stopping))
            group.create_task(self._fire(stopping))

    async def _take(self, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            free = self._settings.concurrency - len(self._busy)
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            limit = min(TAKE_MAX, max(1, free // self._store.partitions))
            try:
                tasks = await self._store.take_tasks(self._settings.consumer, limit, TAKE_WAIT_SECONDS)
            except EventStoreError as error:
                await self._outage("tasks_not_taken", error)
                continue
            self._begin(group, tasks)

    async def _claim(self, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        drop_at_us = self._clock.now_us()
        while not stopping.is_set():
            try:
                tasks = await self._store.claim_tasks(self._settings.consumer, self._settings.claim_idle_ms, CLAIM_MAX)
            except EventStoreError as error:
                await self._outage("tasks_not_claimed", error)
                continue
            for task in tasks:
                log.warning("task_claimed", extra={"order_id": task.stream, "kind": task.kind})
            self._begin(group, tasks)
            if self._clock.now_us() >= drop_at_us:
                drop_at_us = self._clock.now_us() + int(DROP_SECONDS * 1_000_000)
                await self._drop_dead_consumers()
            await self._clock.sleep(CLAIM_SECONDS)

    async def _drop_dead_consumers(self) -> None:
        try:
            names = await self._store.drop_dead_consumers(max(DEAD_IDLE_MS_MIN, 2 * self._settings.claim_idle_ms))
        except EventStoreError as error:
            await self._outage("consumers_not_dropped", error)
            return
        if names:
            log.info("consumers_dropped", extra={"consumers": list(names)})

    async def _fire(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                wait_ms = await self._store.fire_timers(TIMERS_MAX)
            except EventStoreError as error:
                await self._outage("timers_not_fired", error)
                continue
            seconds = TIMER_SECONDS_MAX if wait_ms is None else wait_ms / 1_000
            await self._clock.sleep(min(TIMER_SECONDS_MAX, seconds))

    async def _outage(self, event: str, error: EventStoreError) -> None:
        log.warning(event, extra={"reason": str(error)})
        await self._clock.sleep(OUTAGE_SECONDS)

    def _begin(self, group: asyncio.TaskGroup, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task not in self._busy:
                self._busy.add(task)
                group.create_task(self._work(task))

    async def _work(self, task: Task) -> None:
        try:
            await self._advance(task)
        except (DamagedEntryError, NotCanonicalError) as error:
            # The store itself works: it is this order's stream that cannot be read, or gone on with.
            await self._broken(task, error)
        except (EventStoreError, ChainError) as error:
            # The task stays held; it is claimed when its idle time is over, here or elsewhere.
            log.warning("task_left", extra={"order_id": task.stream, "reason": f"{type(error).__name__}: {error}"})
        except Exception as error:
            await self._broken(task, error)
        finally:
            self._busy.discard(task)
            self._slot_freed.set()

    async def _broken(self, task: Task, error: Exception) -> None:
        """Leave the task to be claimed, or park it when it has been handed out :data:`PARK_AFTER` times."""
        facts = {"order_id": task.stream, "kind": task.kind}
        log.error("task_broken", exc_info=error, extra=facts)
        try:
            deliveries = await self._store.deliveries(task)
            if deliveries < PARK_AFTER:
                return
            text = error_text(error)
            await self._store.park_task(task, text)
        except EventStoreError as outage:
            log.warning("task_not_parked", extra={**facts, "reason": f"{type(outage).__name__}: {outage}"})
            return
        log.error("task_parked", extra={**facts, "deliveries": deliveries, "reason": text.partition("\n")[0]})

    async def _advance(self, task: Task) -> None:
        for tries_left in reversed(range(CONFLICT_TRIES)):
            try:
                await self._process.advance(task)
                return
            except WrongVersionError:
                if tries_left == 0:
                    raise


def error_text(error: BaseException) -> str:
    """Return ``type: message`` and as many of the traceback's last lines as a parked task's error may have."""
    # A task group wraps what went wrong in it, also a single error.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    head = f"{type(error).__name__}: {error}"[:_HEAD_CHARACTERS_MAX]
    lines = "".join(traceback.format_tb(error.__traceback__)).splitlines(keepends=True)
    room = ERROR_CHARACTERS_MAX - len(head) - 1
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line)
        if room < 0:
            break
        kept.insert(0, line)
    return f"{head}\n{''.join(kept)}".rstrip()
