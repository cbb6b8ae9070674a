"""A real worker and scanner that kill themselves at a crash point that is passed for the so-many-eth time.

``python -m tests.benchmarks.failing_worker`` with a :class:`Plan` as the first line of standard input; it works until
that input ends.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from app.clock import SystemClock
from app.dex.chain import Blockhash, Observation, SimulatedChain
from app.dex.profile import Profile
from app.dex.tokens import Token
from app.execution.failpoints import POINTS
from app.main import build_scanner, build_worker, open_chain
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.redis.opening import StoreSettings
from tests.crash.matrix.gates import TURNS_TO_WRITE, Gate, GatedStore

STORM: Final = Profile(
    venue_error_ppm=30_000,
    venue_timeout_ppm=30_000,
    landing_ppm=(0, 0, 300_000),
    drop_ppm=150_000,
    fork_ppm=150_000,
    program_error_ppm=60_000,
    stale_ppm=50_000,
)
"""A world in which swaps are dropped, forked away and refused all the time."""
REACHABLE: Final = tuple(point for point in POINTS if point not in {"K1", "K2", "K15", "K17", "K18", "K19", "K20"})
"""The crash points of a worker."""


class Plan(msgspec.Struct, kw_only=True):
    """Where the worker works, and where it dies."""

    settings: Settings
    redis_url: str
    point: str = ""
    """"": nowhere."""
    passes: int = 1


class Fuse(Gate):
    """Kills this process when its point is passed for the ``passes``-th time; nobody is held."""

    def __init__(self, point: str, passes: int) -> None:
        super().__init__(point, passes, "kill", Path(os.devnull))
        self._left = passes

    def reach(self, point: str, order_id: str) -> None:
        """See :data:`app.execution.failpoints.Reach`."""
        if point == self.point:
            self._left -= 1
            if self._left == 0:
                self.end()

    async def passed(self, order_id: str) -> None:
        """Return at once."""


class FailingChain:
    """The chain with the two crash points that lie inside its calls."""

    def __init__(self, chain: SimulatedChain, fuse: Fuse) -> None:
        self._chain = chain
        self._fuse = fuse

    async def slot(self) -> int:
        """See :meth:`SimulatedChain.slot`."""
        return await self._chain.slot()

    async def latest_blockhash(self) -> Blockhash:
        """See :meth:`SimulatedChain.latest_blockhash`."""
        return await self._chain.latest_blockhash()

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        """See :meth:`SimulatedChain.launch_slots`."""
        return await self._chain.launch_slots(tokens)

    async def send(self, message: bytes, signature: bytes) -> None:
        """See :meth:`SimulatedChain.send`. At K9 the bytes are under way."""
        sending = asyncio.create_task(self._chain.send(message, signature))
        for _ in range(TURNS_TO_WRITE if self._fuse.point == "K9" else 0):
            await asyncio.sleep(0)
        self._fuse.reach("K9", "")
        await sending

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """See :meth:`SimulatedChain.observe`. At K11 a swap has landed, and nobody learns what was seen."""
        seen = await self._chain.observe(signatures)
        for _ in seen.statuses:
            self._fuse.reach("K11", "")
        return seen


async def work(plan: Plan) -> None:
    """Work until killed, or until standard input ends."""
    settings, fuse, stopping = plan.settings, Fuse(plan.point, plan.passes), asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        loop.remove_reader(0)
        stopping.set()

    loop.add_reader(0, told)
    store_settings = StoreSettings(
        partitions=settings.partitions, level=settings.ack_level, namespace=settings.namespace
    )
    store = await GatedStore.open(plan.redis_url, store_settings, new_store_id=None)
    store.gate = fuse
    chain, connection = open_chain(settings, plan.redis_url, STORM)
    failing, clock = FailingChain(chain, fuse), SystemClock()
    async with asyncio.TaskGroup() as group:
        group.create_task(build_scanner(settings, store, failing, clock, profile=STORM).run(stopping))
        await build_worker(settings, store, failing, clock, profile=STORM, reach=fuse.reach).run(stopping)
    await connection.close()
    await store.close()


def main() -> None:
    """Run the plan."""
    plan = msgspec.json.decode(os.read(0, 65_536), type=Plan)
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(plan))


if __name__ == "__main__":
    main()
