"""A real worker process that kills itself with SIGKILL when execution reaches a named point.

Run as ``python -m tests.crash.crashing_worker`` with a :class:`Plan` as JSON on standard input. The points are those of
the submission protocol: K2 task taken, K3 attempt started, K4 quotes collected, K5 route selected, K6 signed, K8 intent
durable, K9 bytes being sent, K10 sent, K11 landed but not looked at, K12 seen as landed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.clock import SystemClock
from app.dex.chain import Blockhash, Observation
from app.dex.profile import Profile
from app.execution.submission import Chain
from app.main import build_worker, open_chain, open_hot_store
from app.settings import Settings

IN_EXECUTION = ("K2", "K3", "K4", "K5", "K6", "K8", "K10", "K12")
POINTS = ("K2", "K3", "K4", "K5", "K6", "K8", "K9", "K10", "K11", "K12")


class Plan(msgspec.Struct):
    """Where to die, and the file that proves it; without a point, the worker runs until SIGTERM."""

    settings: Settings
    redis_url: str
    point: str = ""
    marker: str = ""
    profile: Profile = Profile()


class DyingChain:
    """The chain, but for the two points that lie inside its calls."""

    def __init__(self, chain: Chain, watcher: Chain, plan: Plan) -> None:
        self._chain = chain
        self._watcher = watcher
        self._plan = plan

    async def slot(self) -> int:
        return await self._chain.slot()

    async def latest_blockhash(self) -> Blockhash:
        return await self._chain.latest_blockhash()

    async def send(self, message: bytes, signature: bytes) -> None:
        if self._plan.point != "K9":
            await self._chain.send(message, signature)
            return
        sending = asyncio.create_task(self._chain.send(message, signature))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not sending.done()
        die(self._plan)

    async def observe(self, signatures: Sequence[str]) -> Observation:
        while self._plan.point == "K11":
            if (await self._watcher.observe(signatures)).statuses:
                die(self._plan)
        return await self._chain.observe(signatures)


def die(plan: Plan) -> None:
    """Leave the proof of having been here, then end without any chance to tidy up."""
    Path(plan.marker).write_text(plan.point)
    os.kill(os.getpid(), signal.SIGKILL)


async def work(plan: Plan) -> None:
    """Work until killed, or told to stop."""

    def reach(point: str, order_id: str) -> None:
        if point == plan.point:
            die(plan)

    store = await open_hot_store(plan.settings, plan.redis_url, "test")
    chain, connection = open_chain(plan.settings, plan.redis_url, plan.profile)
    watcher, watching = open_chain(plan.settings, plan.redis_url, plan.profile)
    dying = DyingChain(chain, watcher, plan)
    worker = build_worker(plan.settings, store, dying, SystemClock(), profile=plan.profile, reach=reach)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await worker.run(stopping)
    for resource in (connection, watching, store):
        await resource.close()


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
