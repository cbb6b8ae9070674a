"""The worker: takes tasks, claims those of dead workers, fires timers, and drains when it is told to stop."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from app.clock import Clock
from app.dex.errors import ChainError
from app.execution.process import OrderProcess
from eventstore.errors import EventStoreError, WrongVersionError
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
        while not stopping.is_set():
            try:
                tasks = await self._store.claim_tasks(self._settings.consumer, self._settings.claim_idle_ms, CLAIM_MAX)
            except EventStoreError as error:
                await self._outage("tasks_not_claimed", error)
                continue
            for task in tasks:
                log.warning("task_claimed", extra={"order_id": task.stream, "kind": task.kind})
            self._begin(group, tasks)
            await self._clock.sleep(CLAIM_SECONDS)

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
        except (EventStoreError, ChainError) as error:
            # The task stays held; it is claimed when its idle time is over, here or elsewhere.
            log.warning("task_left", extra={"order_id": task.stream, "reason": f"{type(error).__name__}: {error}"})
        except Exception:
            log.exception("task_broken", extra={"order_id": task.stream, "kind": task.kind})
        finally:
            self._busy.discard(task)
            self._slot_freed.set()

    async def _advance(self, task: Task) -> None:
        for tries_left in reversed(range(CONFLICT_TRIES)):
            try:
                await self._process.advance(task)
                return
            except WrongVersionError:
                if tries_left == 0:
                    raise
