"""Tasks and timers of all partitions: one stream and one sorted index each, shared by competing workers."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from eventstore.errors import DamagedEntryError, StoreUnavailableError, storable_error
from eventstore.redis.connection import Pipeline, RefusedError
from eventstore.redis.entries import LANES, fields_of, task_of
from eventstore.redis.scripts import ADMIT, DELIVERIES, DROP_CONSUMERS, FINISH, FIRE, PARK, RETRY, SKIP
from eventstore.store import DIRECT_MAX, WAITING, ParkedTask, Task

GROUP: Final = "workers"
"""Named in the scripts too."""
_LIST_PAGE: Final = 1000


class _Record(msgspec.Struct):
    """What the hash of parked tasks holds under a stream's id, as JSON."""

    kind: str
    error: str
    deliveries: int
    parked_ms: int
    skipped_reason: str | None


_record: Final = msgspec.json.Decoder(_Record).decode


class Tasks:
    """The tasks and timers of a store; see the methods of :class:`eventstore.store.EventStore`."""

    def __init__(self, pipeline: Pipeline, keys: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._keys = keys

    async def take(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""
        streams = {f"{prefix}:tasks": ">" for prefix in self._keys}
        numbers = {f"{prefix}:tasks".encode(): number for number, prefix in enumerate(self._keys)}
        try:
            replies = await self._pipeline.read_streams(
                "XREADGROUP", limit, wait_seconds, streams, "GROUP", GROUP, consumer
            )
        except RefusedError as error:
            if error.code not in ("NOGROUP", "UNBLOCKED"):
                raise
            for key in streams:
                await create_group(self._pipeline, key)
            return ()
        tasks = [task_of(numbers[key], entry) for key, entries in replies for entry in entries]
        # What was given must reach the worker, whatever comes of this; the next one who looks admits as well.
        with suppress(StoreUnavailableError):
            await asyncio.gather(*(self._admit(number) for number in {task.partition for task in tasks}))
        return tasks

    async def _admit(self, partition: int) -> None:
        await self._pipeline.run(ADMIT, self._queue(partition), (DIRECT_MAX,))

    def _queue(self, partition: int) -> tuple[str, str, str]:
        prefix = self._keys[partition]
        return f"{prefix}:tasks", f"{prefix}:{WAITING}", f"{prefix}:{LANES}"

    async def claim(self, consumer: str, idle_ms: int, limit: int) -> Sequence[Task]:
        """See :meth:`EventStore.claim_tasks`."""
        tasks: list[Task] = []
        for number, prefix in enumerate(self._keys):
            reply = await self._pipeline.execute(
                "XAUTOCLAIM", f"{prefix}:tasks", GROUP, consumer, idle_ms, "0-0", "COUNT", limit
            )
            # Servers before 7.0 report entries that were deleted meanwhile as nil.
            tasks += [task_of(number, entry) for entry in reply[1] if entry and entry[0] and entry[1]]
        return tasks

    async def finish(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        await self._pipeline.run(FINISH, (f"{self._keys[task.partition]}:tasks",), (task.id,))

    async def unfinished(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        key = f"{self._keys[partition]}:tasks"
        tasks: list[Task] = []
        start = "-"
        while page := await self._pipeline.execute("XRANGE", key, start, "+", "COUNT", _LIST_PAGE):
            tasks += [task_of(partition, entry) for entry in page]
            start = f"({tasks[-1].id}"
        return tasks

    async def deliveries(self, task: Task) -> int:
        """See :meth:`EventStore.deliveries`."""
        return int(await self._pipeline.run(DELIVERIES, (f"{self._keys[task.partition]}:tasks",), (task.id,)))

    async def park(self, task: Task, error: str) -> None:
        """See :meth:`EventStore.park_task`."""
        prefix = self._keys[task.partition]
        record = msgspec.json.encode({"error": storable_error(error), "kind": task.kind, "skipped_reason": None})
        await self._pipeline.run(PARK, (f"{prefix}:tasks", f"{prefix}:parked"), (task.id, task.stream, record))

    async def parked(self) -> Sequence[ParkedTask]:
        """See :meth:`EventStore.list_parked`."""
        found = await asyncio.gather(*(self._pipeline.execute("HGETALL", f"{key}:parked") for key in self._keys))
        return [task for number, records in enumerate(found) for task in _parked_tasks(number, fields_of(records))]

    async def retry(self, partition: int, stream: str) -> bool:
        """See :meth:`EventStore.retry_parked`."""
        prefix = self._keys[partition]
        return bool(await self._pipeline.run(RETRY, (f"{prefix}:tasks", f"{prefix}:parked"), (stream,)))

    async def skip(self, partition: int, stream: str, reason: str) -> bool:
        """See :meth:`EventStore.skip_parked`."""
        keys = (f"{self._keys[partition]}:parked",)
        return bool(await self._pipeline.run(SKIP, keys, (stream, storable_error(reason))))

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        """See :meth:`EventStore.drop_dead_consumers`."""
        scripts = (self._pipeline.run(DROP_CONSUMERS, (f"{prefix}:tasks",), (idle_ms,)) for prefix in self._keys)
        return sorted({name.decode() for names in await asyncio.gather(*scripts) for name in names})

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        waits = [
            await self._pipeline.run(FIRE, (f"{prefix}:due", *self._queue(number)), (limit, DIRECT_MAX))
            for number, prefix in enumerate(self._keys)
        ]
        known = [int(wait) for wait in waits if wait is not None]
        return min(known) if known else None


def _parked_tasks(partition: int, records: dict[bytes, bytes]) -> list[ParkedTask]:
    tasks: list[ParkedTask] = []
    for stream, text in records.items():
        try:
            record = _record(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedEntryError(f"parked {stream.decode()}", error) from error
        facts = msgspec.structs.asdict(record)
        tasks.append(ParkedTask(stream=stream.decode(), partition=partition, **facts))
    return sorted(tasks, key=lambda task: (task.parked_ms, task.stream))


async def create_group(pipeline: Pipeline, key: str) -> None:
    """Create the group of workers on a tasks stream. Idempotent."""
    try:
        await pipeline.execute("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM", key=key)
    except RefusedError as error:
        if error.code != "BUSYGROUP":
            raise
