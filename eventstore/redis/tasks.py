"""Tasks and timers of all partitions: one stream and one sorted index each, shared by competing workers."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from eventstore.errors import StoreUnavailableError
from eventstore.redis.connection import Pipeline, read_streams
from eventstore.redis.entries import task_of
from eventstore.redis.scripts import FIRE
from eventstore.store import Task

GROUP: Final = "workers"
_LIST_PAGE: Final = 1000


class Tasks:
    """The tasks and timers of a store; see the methods of :class:`eventstore.store.EventStore`."""

    def __init__(self, pipeline: Pipeline, waiting: Redis, keys: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._waiting = waiting
        self._keys = keys

    async def take(self, consumer: str, limit: int, wait_seconds: float = 0) -> Sequence[Task]:
        """See :meth:`EventStore.take_tasks`."""
        streams = {f"{prefix}:tasks": ">" for prefix in self._keys}
        numbers = {f"{prefix}:tasks".encode(): number for number, prefix in enumerate(self._keys)}
        try:
            replies = await read_streams(
                self._waiting, "XREADGROUP", limit, wait_seconds, streams, "GROUP", GROUP, consumer
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise StoreUnavailableError(f"the Redis server refused to give tasks: {error}") from error
            for key in streams:
                await create_group(self._waiting, key)
            return ()
        return [task_of(numbers[key], entry) for key, entries in replies for entry in entries]

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
        key = f"{self._keys[task.partition]}:tasks"
        await self._pipeline.execute("XACK", key, GROUP, task.id)
        await self._pipeline.execute("XDEL", key, task.id)

    async def unfinished(self, partition: int) -> Sequence[Task]:
        """See :meth:`EventStore.list_tasks`."""
        key = f"{self._keys[partition]}:tasks"
        tasks: list[Task] = []
        start = "-"
        while page := await self._pipeline.execute("XRANGE", key, start, "+", "COUNT", _LIST_PAGE):
            tasks += [task_of(partition, entry) for entry in page]
            start = f"({tasks[-1].id}"
        return tasks

    async def fire_timers(self, limit: int) -> int | None:
        """See :meth:`EventStore.fire_timers`."""
        waits = [
            await self._pipeline.run(FIRE, (f"{prefix}:due", f"{prefix}:tasks"), (limit,)) for prefix in self._keys
        ]
        known = [int(wait) for wait in waits if wait is not None]
        return min(known) if known else None


async def create_group(client: Any, key: str) -> None:
    """Create the group of workers on a tasks stream. Idempotent."""
    try:
        await client.execute_command("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
