"""What follows a crash: another worker ends the orders, and the chain's own ledger says whether all is well."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Generic

import msgspec
import psutil
from msgspec import Struct

from app.clock import SystemClock
from app.dex.chain import BLOCKHASH_LIFETIME
from app.execution.streams import OrderStreams
from app.main import build_streams, build_worker, open_hot_store
from app.orders.state import Confirmed, Terminal
from app.settings import Settings
from eventstore.canonical import chain_fault
from eventstore.redis.store import RedisEventStore
from tests.crash.matrix.fates import AMOUNTS, CALM, C, Fate, FatedChain, fated_order, open_fated
from tests.crash.matrix.process import CLIENT, STORE_ID, Plan
from tests.servers.single import guard, wait_until

END_SECONDS: Final = 60
SLOTS_BETWEEN: Final = 10
"""A swap that is signed anew after so many slots has another blockhash, so another signature: it would be a second."""
ATTEMPTS: Final[dict[Fate, int]] = {"lands": 1, "dropped": 2, "late": 1, "fails": 3}
SWAPS: Final[dict[Fate, int]] = {"lands": 1, "dropped": 1, "late": 1, "fails": 0}
PROOFS: Final[dict[Fate, list[str]]] = {
    "lands": [],
    "dropped": ["expired"],
    "late": [],
    "fails": ["failed_on_chain"] * 3,
}

OrderIds = Mapping[Fate, str]


class Ended(Struct):
    """How a world stands in the end: each order's stream, and what the chain has of it."""

    frames: dict[str, list[dict[str, Any]]]
    executed: dict[str, int]
    signatures: set[str]


class Scene(Generic[C]):
    """An event store and a chain of a test's own, and a healthy worker for them."""

    def __init__(self, settings: Settings, store: RedisEventStore, chain: C) -> None:
        self.settings = settings
        self.store = store
        self.chain = chain
        self.streams: OrderStreams = build_streams(store, SystemClock(), "test")

    async def place(self, fates: Sequence[Fate] = tuple(AMOUNTS)) -> dict[Fate, str]:
        """Accept an order of each fate; their ids."""
        placed: dict[Fate, str] = {}
        for fate in fates:
            order_id = self.streams.new_order_id(CLIENT, None)
            await self.streams.place(order_id, CLIENT, fated_order(fate))
            placed[fate] = order_id
        return placed

    async def finish(self, order_ids: Sequence[str]) -> None:
        """Let a healthy worker bring the orders to their end."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            worker = build_worker(self.settings, self.store, self.chain, SystemClock(), profile=CALM)
            group.create_task(worker.run(stopping))
            async with asyncio.timeout(END_SECONDS):
                for order_id in order_ids:
                    await self.ended(order_id)
            stopping.set()

    async def ended(self, order_id: str) -> None:
        """Return when an order is at its end."""
        while not isinstance((await self.streams.load(order_id)).state, Terminal):
            await self.store.read_log(await self.store.log_ends(), 10, 0.1)

    async def look(self, order_ids: Sequence[str]) -> Ended:
        """Return how everything stands when nothing that was ever sent can land any more."""
        await self.chain.pass_slots(BLOCKHASH_LIFETIME + SLOTS_BETWEEN)
        executed = Counter(entry.order_id for entry in await self.chain.ledger() if entry.outcome == "executed")
        frames = {order_id: await self._frames(order_id) for order_id in order_ids}
        left = [part for part in await self.store.status() if part.tasks or part.timers or part.waiting or part.parked]
        assert left == [], "something is still to be done"
        return Ended(frames, dict(executed), await self.chain.signatures())

    async def _frames(self, order_id: str) -> list[dict[str, Any]]:
        prev, frames = "", []
        for event in await self.store.read_stream(order_id):
            assert chain_fault(event.data, prev) is None
            prev = event.hash
            frames.append(msgspec.json.decode(event.data))
        ended = isinstance((await self.streams.load(order_id)).state, Confirmed)
        assert ended == (frames[-1]["status"] == "confirmed")
        return frames


@asynccontextmanager
async def scene_of(settings: Settings, redis_url: str, kind: type[C]) -> AsyncIterator[Scene[C]]:
    """A scene with a chain of its own kind, closed with the context."""
    store = await open_hot_store(settings, redis_url, STORE_ID)
    chain, connection = open_fated(settings, redis_url, kind)
    try:
        yield Scene(settings, store, chain)
    finally:
        await connection.close()
        await store.close()


def scene(settings: Settings, redis_url: str) -> AbstractAsyncContextManager[Scene[FatedChain]]:
    """A scene, closed with the context."""
    return scene_of(settings, redis_url, FatedChain)


def quick() -> Settings:
    """Settings of a world of its own, without waiting, in which a dead worker's tasks are soon taken over."""
    return Settings(
        namespace=f"crash{secrets.token_hex(4)}", speed_ppm=0, quote_timeout_ms=200, task_ms=500, claim_idle_ms=600
    )


@contextmanager
def process(plan: Plan) -> Iterator["subprocess.Popen[bytes]"]:
    """A running process of ``plan``; with the context, or with this process, it is gone."""
    command = [sys.executable, "-m", "tests.crash.matrix.process"]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    leash = guard(started.pid)
    try:
        assert started.stdin is not None
        started.stdin.write(msgspec.json.encode(plan))
        started.stdin.close()
        yield started
    finally:
        leash.kill()
        leash.communicate()
        started.kill()
        started.wait()


def killed(plan: Plan) -> list[str]:
    """Run ``plan`` until it has killed itself; the ids of the orders that were at its point then."""
    with process(plan) as started:
        assert started.wait(END_SECONDS) == -signal.SIGKILL
    died_with: list[str] = marked(plan)
    return died_with


def stopped(started: "subprocess.Popen[bytes]") -> None:
    """Return when a process stands still."""
    state = psutil.Process(started.pid)
    wait_until(lambda: state.status() == psutil.STATUS_STOPPED or started.poll() is not None, END_SECONDS)
    assert started.poll() is None, "it ended instead"


def marked(plan: Plan) -> Any:
    """What the process of ``plan`` told in its marker file."""
    return msgspec.json.decode(Path(plan.marker).read_bytes())


def require_right(orders: OrderIds, ended: Ended) -> None:
    """Every order has the end of its fate, each signed swap has an outcome or a proof, and nothing is done twice."""
    assert ended.executed == {orders[fate]: swaps for fate, swaps in SWAPS.items() if swaps and fate in orders}
    intents: set[str] = set()
    for fate, order_id in orders.items():
        frames = ended.frames[order_id]
        statuses = [frame["status"] for frame in frames]
        attempts = [frame["attempt"] for frame in frames if frame["event"] == "routing"]
        signed = [frame["txId"] for frame in frames if frame["event"] == "submitted"]
        proofs = [frame["proof"] for frame in frames if "proof" in frame]
        confirmed = [frame["txId"] for frame in frames if frame["event"] == "confirmed"]
        assert statuses[-1] == ("confirmed" if SWAPS[fate] else "failed")
        assert attempts == list(range(1, ATTEMPTS[fate] + 1)), "an attempt was used up by the crash"
        assert [proof["kind"] for proof in proofs] == PROOFS[fate]
        assert all(proof["height"] > proof["lastValidHeight"] for proof in proofs if proof["kind"] == "expired")
        assert signed == [proof["txId"] for proof in proofs] + confirmed
        assert len(confirmed) == SWAPS[fate]
        intents.update(signed)
    assert ended.signatures <= intents, "something was sent that no intent names"
