"""One request for many askers: concurrent calls share what is asked of the chain."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from app.clock import Clock
from app.dex.chain import Landed, LandedFailed, Observation

OBSERVE_MAX: Final = 256
"""Most signatures in one request, as getSignatureStatuses has it."""

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """Rounds of one request: whoever asks while a round is under way shares the next one.

    Args:
        request: makes the request; it reads what was asked before its first await.
        pause: waited for before each round, so that callers gather; at least one turn of the loop.
    """

    def __init__(self, request: Callable[[], Coroutine[Any, Any, _T]], pause: Callable[[], Awaitable[None]]) -> None:
        self._request = request
        self._pause = pause
        self._running: asyncio.Task[_T] | None = None
        self._next: asyncio.Task[_T] | None = None

    async def get(self) -> _T:
        """Return the result of a request that starts after this call; raises what the request raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._round())
        return await asyncio.shield(self._next)

    async def _round(self) -> _T:
        if self._running is not None:
            await asyncio.wait([self._running])
        await self._pause()
        self._running, self._next = self._next, None
        return await self._request()


class Seen(Struct, frozen=True):
    """What one look at the chain showed of one signature; the height was read before the status."""

    height: int
    slot: int
    status: Landed | LandedFailed | None


class Observer:
    """Looks at the chain for all submitted swaps of a process together, once per ``poll_seconds``."""

    def __init__(
        self, observe: Callable[[Sequence[str]], Awaitable[Observation]], clock: Clock, poll_seconds: float
    ) -> None:
        self._observe = observe
        self._asked: list[str] = []
        self._rounds: Shared[dict[str, Seen]] = Shared(self._look, lambda: clock.sleep(poll_seconds))

    async def look(self, tx_id: str) -> Seen:
        """Return a view of ``tx_id`` taken after this call; raises what the chain raises."""
        self._asked.append(tx_id)
        return (await self._rounds.get())[tx_id]

    async def _look(self) -> dict[str, Seen]:
        asked, self._asked = self._asked, []
        seen: dict[str, Seen] = {}
        for start in range(0, len(asked), OBSERVE_MAX):
            page = asked[start : start + OBSERVE_MAX]
            view = await self._observe(page)
            seen.update((tx_id, Seen(view.height, view.slot, view.statuses.get(tx_id))) for tx_id in page)
        return seen
