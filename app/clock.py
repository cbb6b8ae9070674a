"""Time as an argument: the system's clock here, a virtual one in the tests."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine gets the time from and how it waits."""

    def now_us(self) -> int:
        """Return microseconds since 1970, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less gives other tasks a turn."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """See :meth:`Clock.now_us`."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """See :meth:`Clock.sleep`."""
        await asyncio.sleep(max(0.0, seconds))
