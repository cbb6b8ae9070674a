"""The store's own time in a worker: what it writes down is measured by one clock, whatever its host's clock says."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Self

from app.clock import SystemClock
from eventstore.errors import EventStoreError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
"""Time between two looks at the server; a host's monotonic clock drifts by a few milliseconds meanwhile."""

ServerTime = Callable[[], Awaitable[int]]
"""Returns the milliseconds since 1970 of the server that fires the timers; raises what the store raises."""


class ServerClock(SystemClock):
    """Tells the time of the server that fires the timers. Open it with :meth:`agreed`.

    A retry that a worker records is due by the server's clock: with its host's own, one that is an hour ahead would let
    its orders wait for an hour, and end others an hour early. Between two looks at the server the host's monotonic
    clock counts on, which nobody sets.
    """

    def __init__(self, server_ms: ServerTime, look_seconds: float) -> None:
        self._server_ms = server_ms
        self._look_seconds = look_seconds
        self._ahead_us = 0

    @classmethod
    async def agreed(cls, server_ms: ServerTime, *, look_seconds: float = LOOK_SECONDS) -> Self:
        """Return a clock that has looked at the server once; raises what ``server_ms`` raises."""
        clock = cls(server_ms, look_seconds)
        await clock.look()
        return clock

    def now_us(self) -> int:
        """See :meth:`Clock.now_us`."""
        return time.monotonic_ns() // 1000 + self._ahead_us

    async def look(self) -> None:
        """Agree with the server again; the answer counts for the middle of the round trip."""
        asked = time.monotonic_ns()
        server_us = await self._server_ms() * 1000
        answered = time.monotonic_ns()
        self._ahead_us = server_us - (asked + answered) // 2000

    async def run(self, stopping: asyncio.Event) -> None:
        """Look again and again until ``stopping`` is set; without an answer the last one counts on."""
        while not stopping.is_set():
            try:
                async with asyncio.timeout(self._look_seconds):
                    await stopping.wait()
            except TimeoutError:
                await self._try()

    async def _try(self) -> None:
        try:
            await self.look()
        except EventStoreError as error:
            log.warning("server_time_unknown", extra={"reason": str(error)})
