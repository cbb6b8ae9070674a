"""Where a process dies or stands still: orders at its crash point touch nothing any more until all are there."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from app.dex.chain import BLOCKHASH_LIFETIME, Blockhash, Observation
from app.dex.tokens import Token
from app.dex.transaction import decode, tx_id
from app.orders.lifecycle import TERMINAL
from eventstore.errors import WrongVersionError
from eventstore.levels import MEMORY, Level
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, AppendResult, Existing, Task
from tests.crash.matrix.fates import FatedChain

End = Literal["kill", "stop"]

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
TURNS_TO_WRITE: Final = 5
"""Turns of the loop after which the bytes of a request that was just made are in the socket."""


class Gate:
    """Holds orders at a crash point until ``orders`` of them are there, then ends or stops this process.

    To the world an order that is held is one whose process is gone: what it does next in the store or on the chain
    waits for ever, or until the process, which was only stopped, goes on. ``late`` counts what is begun after that.

    Args:
        point: one of :data:`app.execution.failpoints.POINTS`; "" holds nobody.
        orders: how many to wait for.
        end: ``kill`` for SIGKILL, ``stop`` for SIGSTOP.
        marker: a file that proves that the point was reached: it then holds the ids of the orders.
    """

    def __init__(self, point: str, orders: int, end: End, marker: Path) -> None:
        self.point = point
        self.late: Counter[str] = Counter()
        self.opened = asyncio.Event()
        self._orders = orders
        self._end = end
        self._marker = marker
        self._held: set[str] = set()

    def reach(self, point: str, order_id: str) -> None:
        """See :data:`app.execution.failpoints.Reach`."""
        if point != self.point or order_id in self._held:
            return
        self._held.add(order_id)
        if len(self._held) == self._orders:
            self._marker.write_bytes(msgspec.json.encode(sorted(self._held)))
            self.end()

    def end(self) -> None:
        """Kill or stop this process; a stopped one goes on here."""
        os.kill(os.getpid(), _SIGNALS[self._end])
        self.opened.set()

    async def passed(self, order_id: str) -> None:
        """Return at once for an order that is not held; for one that is, when the process goes on."""
        if order_id in self._held:
            await self.opened.wait()


class GatedStore(RedisEventStore):
    """The store of a process with a gate, which also tells an append from its durability."""

    gate: Gate

    async def append(self, commit: Append) -> AppendResult:
        """See :meth:`EventStore.append`."""
        await self.gate.passed(commit.stream)
        late = self.gate.opened.is_set()
        try:
            result = await self._append(commit)
        except WrongVersionError:
            self.gate.late["refused"] += late
            raise
        self.gate.late["appended"] += late
        if _status(commit) in TERMINAL:
            self.gate.reach("K14", commit.stream)
        return result

    async def _append(self, commit: Append) -> AppendResult:
        if self.gate.point != "K7" or _status(commit) != "submitted" or commit.level is None:
            return await super().append(commit)
        result = await super().append(replace(commit, level=MEMORY))
        assert not isinstance(result, Existing)
        self.gate.reach("K7", commit.stream)
        await self.gate.passed(commit.stream)
        level = await super().confirm(commit.stream, result.version, commit.events[-1].hash, commit.level)
        return replace(result, level=level)

    async def confirm(self, stream: str, version: int, event_hash: str, level: Level) -> Level:
        """See :meth:`EventStore.confirm`."""
        await self.gate.passed(stream)
        return await super().confirm(stream, version, event_hash, level)

    async def finish_task(self, task: Task) -> None:
        """See :meth:`EventStore.finish_task`."""
        await self.gate.passed(task.stream)
        await super().finish_task(task)


def _status(commit: Append) -> str:
    return str(msgspec.json.decode(commit.events[-1].data)["status"])


class GatedChain:
    """The chain of a process with a gate, with the two points that lie inside its calls."""

    def __init__(self, chain: FatedChain, watcher: FatedChain, gate: Gate, orders: int) -> None:
        self._chain = chain
        self._watcher = watcher
        self._gate = gate
        self._orders = orders
        self._sent: dict[str, str] = {}
        self._all_sent = asyncio.Event()

    async def slot(self) -> int:
        """See :meth:`SimulatedChain.slot`."""
        await self._reached("K3")
        return await self._chain.slot()

    async def latest_blockhash(self) -> Blockhash:
        """See :meth:`SimulatedChain.latest_blockhash`."""
        await self._reached("K5")
        return await self._chain.latest_blockhash()

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        """See :meth:`SimulatedChain.launch_slots`."""
        return await self._chain.launch_slots(tokens)

    async def send(self, message: bytes, signature: bytes) -> None:
        """See :meth:`SimulatedChain.send`. K9 is where the bytes of all are under way and no answer is back."""
        order_id = decode(message).swap.order_id
        await self._gate.passed(order_id)
        self._gate.late["sent"] += self._gate.opened.is_set()
        self._sent.setdefault(tx_id(signature), order_id)
        if len(self._sent) == self._orders:
            self._all_sent.set()
        if self._gate.point != "K9":
            await self._chain.send(message, signature)
            return
        await self._all_sent.wait()
        sending = asyncio.create_task(self._chain.send(message, signature))
        for _ in range(TURNS_TO_WRITE):
            await asyncio.sleep(0)
        self._gate.reach("K9", order_id)
        await self._gate.passed(order_id)
        await sending

    async def observe(self, signatures: Sequence[str]) -> Observation:
        """See :meth:`SimulatedChain.observe`. K11 is where swaps have landed that nobody here has looked at."""
        await self._reached("K9", "K10")
        if self._gate.point == "K11" and not self._gate.opened.is_set():
            await self._all_sent.wait()
            for _ in range(2 * BLOCKHASH_LIFETIME):
                for signature in (await self._watcher.observe(list(self._sent))).statuses:
                    self._gate.reach("K11", self._sent[signature])
                if self._gate.opened.is_set():
                    break
        return await self._chain.observe(signatures)

    async def _reached(self, *before: str) -> None:
        """Return when all orders are at the point, if that lies before this call: nothing is under way then."""
        if self._gate.point in before:
            await self._gate.opened.wait()
