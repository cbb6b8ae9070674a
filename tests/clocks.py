"""Clocks for tests: they advance when asked, or by a step at each look; nothing really waits."""

import asyncio
import heapq
from itertools import count

START_US = 1_800_000_000_000_000


class StepClock:
    """Advances by ``step_us`` at each look."""

    def __init__(self, start_us: int = START_US, step_us: int = 1) -> None:
        self._now_us = start_us
        self._step_us = step_us

    def now_us(self) -> int:
        self._now_us += self._step_us
        return self._now_us

    async def sleep(self, seconds: float) -> None:
        self._now_us += int(seconds * 1_000_000)
        await asyncio.sleep(0)


class VirtualClock:
    """Time stands still while any task can run, then jumps to the next sleeper."""

    def __init__(self, start_us: int = START_US) -> None:
        self._now_us = start_us
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_us(self) -> int:
        return self._now_us

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._now_us + max(0, int(seconds * 1_000_000))
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        await future

    async def run_until(self, done: "asyncio.Future[object] | asyncio.Task[object]") -> None:
        """Advance until ``done`` is done; the tasks must wait for nothing but this clock and each other."""
        while not done.done():
            for _ in range(50):
                await asyncio.sleep(0)
            if done.done():
                return
            if self._sleepers:
                due, _, future = heapq.heappop(self._sleepers)
                self._now_us = max(self._now_us, due)
                if not future.done():
                    future.set_result(None)
