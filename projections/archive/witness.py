"""Whether PostgreSQL has committed an event: asked for all who wait at once, by the event's own hash."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.errors import StoreUnavailableError
from projections.archive import events
from projections.database import archive_reading

POLL_SECONDS: Final = 0.01
OUTAGE_SECONDS: Final = 0.2

_Event = tuple[str, int, str]


class Witness:
    """Waits for events to be archived; one question at a time to the database, for everybody who waits.

    The hash is compared, not a checkpoint's position: after an unnoticed loss another event may have that position.

    Args:
        engine: disposed of by the caller.
        sleep: waits between two questions.
    """

    def __init__(self, engine: AsyncEngine, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self._waiting: dict[_Event, set[asyncio.Future[None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def seen(self, stream: str, version: int, event_hash: str, timeout_seconds: float) -> bool:
        """Return whether the event is archived, waiting for it up to ``timeout_seconds``."""
        wanted = (stream, version, event_hash)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wanted, set()).add(future)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return False
        finally:
            futures = self._waiting.get(wanted, set())
            futures.discard(future)
            if not futures:
                self._waiting.pop(wanted, None)
        return True

    async def _ask(self) -> None:
        try:
            while self._waiting:
                await self._sleep(await self._look())
        finally:
            self._asking = None

    async def _look(self) -> float:
        """Tell those whose events are there; return how long to wait before the next look."""
        wanted = list(self._waiting)
        try:
            async with archive_reading(self._engine, "what is archived cannot be known") as connection:
                found = await events.hashes(connection, [(stream, version) for stream, version, _ in wanted])
        except StoreUnavailableError:
            return OUTAGE_SECONDS
        for event in wanted:
            if found.get(event[:2]) == event[2]:
                for future in self._waiting.pop(event, set()):
                    if not future.done():
                        future.set_result(None)
        return POLL_SECONDS

    async def close(self) -> None:
        """Stop asking. Idempotent."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
