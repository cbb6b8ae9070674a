"""A subscriber whose connection is cut at random points while orders run misses nothing and hears nothing twice."""

import asyncio
import json
import random
from collections.abc import Sequence, Set
from contextlib import suppress
from typing import Any

import pytest
from msgspec import Struct, field
from websockets.asyncio.client import ClientConnection, connect

from app.orders.commands import Command, EndSubmission, StartAttempt
from app.orders.events import Proof
from eventstore.ids import event_id
from tests.integration.api import LIFE, NO_WAIT, WAIT_SECONDS, Api, advance, redis_store, running

ORDERS = 12
FOLLOWERS = 3
CUTS_MIN = 100
MIDLIFE_CUTS_MIN = 30
PACE_MAX = 30
STALL_SECONDS = 0.02

RETRIED: tuple[Command, ...] = (
    *LIFE[:3],
    EndSubmission(
        proof=Proof(kind="failed_on_chain", tx_id="5xSignature", slot=9, error="ExceededSlippage"), retry=NO_WAIT
    ),
    StartAttempt(),
    *LIFE[1:],
)
"""A first attempt that fails on chain, then one that is confirmed."""
TERMINAL = frozenset({"confirmed", "failed"})


class Pace:
    """Lets orders run no faster than their followers live: counts what happens to these, and waits for more of it."""

    def __init__(self) -> None:
        self._count = 0
        self._more = asyncio.Event()

    def count(self) -> None:
        self._count += 1
        self._more.set()

    async def wait(self, happenings: int) -> None:
        """Return after so many of them, or when nothing happens because everybody waits for an order."""
        target = self._count + happenings
        with suppress(TimeoutError):
            while self._count < target:
                self._more.clear()
                async with asyncio.timeout(STALL_SECONDS):
                    await self._more.wait()


class Follower(Struct):
    """A client with some orders; what it has heard, over all its connections."""

    chance: random.Random
    order_ids: Sequence[str]
    running: Set[str]
    """Orders whose last event is not written yet."""
    pace: Pace
    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cuts: int = 0
    midlife_cuts: int = 0
    """Cuts between two events of a running order: the first of them was heard, the second was not even written."""

    def open_orders(self) -> list[str]:
        return [
            order_id
            for order_id in self.order_ids
            if not self.frames[order_id] or self.frames[order_id][-1]["status"] not in TERMINAL
        ]

    def position(self, order_id: str) -> int | str:
        if not self.frames[order_id]:
            return 0
        last = self.frames[order_id][-1]
        seq: int = last["seq"]
        spellings: list[int | str] = [seq, str(seq), event_id(order_id, seq), last["cursor"]]
        return self.chance.choice(spellings)

    async def follow(self, url: str) -> None:
        self.frames = {order_id: [] for order_id in self.order_ids}
        while self.open_orders():
            async with connect(url, compression=None) as socket:
                self.pace.count()
                for order_id in self.open_orders():
                    await socket.send(json.dumps({"orderId": order_id, "after": self.position(order_id)}))
                await self._hear_until_cut(socket)

    async def _hear_until_cut(self, socket: ClientConnection) -> None:
        for _ in range(self.chance.randint(0, 12)):
            if not self.open_orders():
                return
            async with asyncio.timeout(WAIT_SECONDS):
                frame = json.loads(await socket.recv())
            assert "event" in frame, frame
            self.frames[frame["orderId"]].append(frame)
            self.pace.count()
        if self.open_orders():
            self.cuts += 1
            self.midlife_cuts += any(self.frames[order_id] for order_id in self.running)
            # Without a closing handshake, as when a network goes away; what is under way is lost.
            socket.transport.abort()


async def run_order(api: Api, order_id: str, chance: random.Random, running: set[str], pace: Pace) -> None:
    order = await api.streams.load(order_id)
    commands = chance.choice([LIFE, RETRIED])
    for number, command in enumerate(commands, 1):
        await pace.wait(chance.randint(0, PACE_MAX))
        if number == len(commands):
            running.remove(order_id)
        order = await advance(api.streams, order, command)


async def run(redis_url: str, seed: int) -> tuple[int, int]:
    chance = random.Random(seed)
    async with (
        redis_store(redis_url) as store,
        running(store, ring_frames_max=chance.choice([1, 8, 1000])) as api,
    ):
        cuts = midlife_cuts = 0
        while cuts < CUTS_MIN or midlife_cuts < MIDLIFE_CUTS_MIN:
            order_ids = [await api.place(clientId=f"client-{number % 7}") for number in range(ORDERS)]
            still, pace = set(order_ids), Pace()
            followers = [
                Follower(random.Random(chance.random()), chance.sample(order_ids, ORDERS), still, pace)
                for _ in range(FOLLOWERS)
            ]
            async with asyncio.TaskGroup() as tasks:
                for follower in followers:
                    tasks.create_task(follower.follow(api.socket_url))
                for order_id in order_ids:
                    tasks.create_task(run_order(api, order_id, random.Random(chance.random()), still, pace))
            for follower in followers:
                for order_id in order_ids:
                    await check_union(api, order_id, follower.frames[order_id])
                cuts += follower.cuts
                midlife_cuts += follower.midlife_cuts
        return cuts, midlife_cuts


async def check_union(api: Api, order_id: str, frames: Sequence[dict[str, Any]]) -> None:
    """What was heard over all connections is the stream: every event, once, in order, unchanged."""
    stored = await api.store.read_stream(order_id)
    assert [frame["cursor"] for frame in frames] == [str(event.cursor) for event in stored]
    for frame, event in zip(frames, stored, strict=True):
        assert {key: frame[key] for key in frame.keys() - {"cursor", "phase"}} == json.loads(event.data)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reconnect_after_random_cuts_loses_nothing_and_repeats_nothing(redis_url: str, seed: int) -> None:
    cuts, midlife_cuts = asyncio.run(run(redis_url, seed))
    assert cuts >= CUTS_MIN
    assert midlife_cuts >= MIDLIFE_CUTS_MIN
