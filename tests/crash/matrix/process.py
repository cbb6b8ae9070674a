"""A real process of the engine with a gate in it: ``python -m tests.crash.matrix.process`` with a :class:`Plan`.

The plan comes as JSON on standard input. A worker and a projector run until SIGTERM, if nothing ends them before; what
placed orders is told in the marker file.
"""

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

import msgspec

from app.clock import SystemClock
from app.execution.server_clock import ServerClock
from app.execution.streams import OrderStreams
from app.main import build_worker
from app.settings import Settings
from eventstore.redis.opening import StoreSettings
from projections.database import create_database_engine
from projections.projector.batches import Batch
from projections.projector.runner import Projector
from tests.crash.matrix.fates import AMOUNTS, CALM, FatedChain, fated_order, open_fated
from tests.crash.matrix.gates import End, Gate, GatedChain, GatedStore

CLIENT: Final = "client"
STORE_ID: Final = "test"

Role = Literal["worker", "place", "project"]


class Plan(msgspec.Struct, kw_only=True):
    """What a process does, and at which crash point it ends."""

    settings: Settings
    redis_url: str
    marker: str
    role: Role = "worker"
    point: str = ""
    """A crash point, or one of a projector's batches; "": it does not end by itself."""
    orders: int = len(AMOUNTS)
    """How many orders must be at the point; they are held there until then."""
    end: End = "kill"
    ahead_us: int = 0
    """By how much the clock of the process's host is ahead."""
    database_url: str = ""


def at_points(gate: Gate) -> Callable[[str, Batch], None]:
    """Return a watcher of a projector's batches that reaches their points, and K15 when outcomes are committed."""

    def reach(point: str, batch: Batch) -> None:
        gate.reach(point, batch.entries[0].order_id)
        for entry in batch.entries:
            if point == "committed" and entry.frame is not None and entry.frame.event in ("confirmed", "failed"):
                gate.reach("K15", entry.order_id)

    return reach


async def open_gated(plan: Plan, gate: Gate) -> GatedStore:
    """Return the store of the plan's settings, behind ``gate``. Close it at the end."""
    settings = plan.settings
    store_settings = StoreSettings(
        partitions=settings.partitions, level=settings.ack_level, namespace=settings.namespace
    )
    store = await GatedStore.open(plan.redis_url, store_settings, new_store_id=STORE_ID)
    store.gate = gate
    return store


async def work(plan: Plan, store: GatedStore, gate: Gate) -> None:
    """Execute orders; then tell what was done after the gate had opened."""
    async with AsyncExitStack() as stack:
        chain, connection = open_fated(plan.settings, plan.redis_url, FatedChain)
        stack.push_async_callback(connection.close)
        watcher, watching = open_fated(plan.settings, plan.redis_url, FatedChain)
        stack.push_async_callback(watching.close)
        gated = GatedChain(chain, watcher, gate, len(AMOUNTS))
        clock = await ServerClock.agreed(lambda: store.now_ms(0))
        worker = build_worker(plan.settings, store, gated, clock, profile=CALM, reach=gate.reach)
        await worker.run(until_told())
        tell(plan, +gate.late)


async def place(plan: Plan, store: GatedStore, gate: Gate) -> None:
    """Place an order of each fate under a key of its own, all at once; tell their ids and whether they were known."""
    streams = OrderStreams(store, SystemClock(), secrets.token_bytes, "api", reach=gate.reach)
    placing = {
        fate: streams.place(
            streams.new_order_id(CLIENT, fate), CLIENT, fated_order(fate, idempotency_key=f"key {fate}")
        )
        for fate in AMOUNTS
    }
    placed = dict(zip(placing, await asyncio.gather(*placing.values()), strict=True))
    told = {fate: (answer.order_id, answer.repeated) for fate, answer in placed.items()}
    tell(plan, told)


async def project(plan: Plan, store: GatedStore, gate: Gate) -> None:
    """Project the log."""
    engine = create_database_engine(plan.database_url, application_name="crash matrix")
    try:
        await Projector(store, engine, reach=at_points(gate)).run(until_told())
    finally:
        await engine.dispose()


def tell(plan: Plan, facts: object) -> None:
    """Write ``facts`` to the marker file, as JSON."""
    Path(plan.marker).write_bytes(msgspec.json.encode(facts))


def until_told() -> asyncio.Event:
    """Return an event that SIGTERM sets."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    return stopping


ROLES: Final[dict[Role, Callable[[Plan, GatedStore, Gate], Awaitable[None]]]] = {
    "worker": work,
    "place": place,
    "project": project,
}


def set_clock(ahead_us: int) -> None:
    """Set the clock of this process wrong; the monotonic one counts on, as it does on a host."""
    right_ns = time.time_ns
    time.time_ns = lambda: right_ns() + ahead_us * 1000
    time.time = lambda: time.time_ns() / 1_000_000_000


async def main(plan: Plan) -> None:
    """Run the plan's role."""
    set_clock(plan.ahead_us)
    gate = Gate(plan.point, plan.orders, plan.end, Path(plan.marker))
    store = await open_gated(plan, gate)
    try:
        await ROLES[plan.role](plan, store, gate)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
