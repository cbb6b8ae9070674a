"""The clock that a worker shares with its server: it follows the server, not its host, also without an answer."""

import asyncio
from collections.abc import Callable

from app.embedded.processes import within
from app.execution.server_clock import ServerClock
from eventstore.errors import StoreUnavailableError

WAIT_SECONDS = 10
HOUR_MS = 3_600_000
SECOND_US = 1_000_000


class Server:
    """A server whose time a test sets; it gives no answer while it is None."""

    def __init__(self, ms: int) -> None:
        self.ms: int | None = ms
        self.asked = 0

    async def now_ms(self) -> int:
        """Return the time that was set."""
        self.asked += 1
        if self.ms is None:
            raise StoreUnavailableError("no answer")
        return self.ms


def near(clock: ServerClock, ms: int) -> bool:
    return abs(clock.now_us() - ms * 1000) < SECOND_US


def test_a_worker_has_the_time_of_its_server_whatever_its_host_says() -> None:
    async def scenario() -> None:
        for ms in (HOUR_MS, 1_800_000_000_000, 4_000_000_000_000):
            assert near(await ServerClock.agreed(Server(ms).now_ms), ms)

    asyncio.run(scenario())


def test_a_worker_follows_a_server_whose_clock_is_set_and_goes_on_without_an_answer() -> None:
    async def scenario() -> None:
        server, stopping = Server(HOUR_MS), asyncio.Event()
        clock = await ServerClock.agreed(server.now_ms, look_seconds=0.001)
        running = asyncio.create_task(clock.run(stopping))
        server.ms = 2 * HOUR_MS
        await until(lambda: near(clock, 2 * HOUR_MS))
        server.ms, server.asked = None, 0
        await until(lambda: server.asked >= 2)
        assert near(clock, 2 * HOUR_MS)
        stopping.set()
        await running

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    assert await within(WAIT_SECONDS, condition)
