"""The one schedule that swaps twice where an intent is only flushed: recorded, sent, and lost with its server."""

import asyncio
from pathlib import Path

import httpx

from app.main import open_chain
from eventstore.ids import partition_in
from eventstore.levels import FSYNC, Level
from tests.conftest import execute
from tests.nemesis import checks
from tests.nemesis.load import Answer, Load
from tests.nemesis.plans import Fault, Plan
from tests.nemesis.run import READY_SECONDS, full_ledger, settled, until
from tests.nemesis.world import Postgres, World, world

SLOTS_BETWEEN = 10
STEP_SECONDS = 30
ORDER = {"clientId": "client", "side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "3"}


async def lost_intent(intent_level: Level, postgres: Postgres, base: Path) -> list[str]:
    """Let a master record an intent that neither its replica nor PostgreSQL receives, then promote the replica.

    Return what the checker finds after the order has ended; logs stay in ``base``, under ``lost-intent-<level>``.
    """
    failover = Fault(at_ms=0, kind="failover", for_ms=0, number=0)
    plan = Plan(seed=0, replicas=1, ack_level=FSYNC, intent_level=intent_level, faults=(failover,))
    logs = base / f"lost-intent-{intent_level}"
    logs.mkdir()
    async with world(plan, postgres, logs) as made:
        made.start_engine(("project", "worker", "serve"))
        await until(READY_SECONDS, made.ready, "the engine became ready")
        (projector,), (worker,) = made.named("project"), made.named("worker")
        load = Load(made.url, plan.seed)
        # Both work: one that were frozen while it still begins might hold a lock that others begin with.
        await _placed(made, load, "confirmed")
        worker.freeze()
        order_id = await _placed(made, load, "pending")
        await asyncio.to_thread(made.group.wait_caught_up, made.group.replicas[0])
        await asyncio.to_thread(made.group.pause_replication, made.group.replicas[0])
        projector.freeze()
        worker.thaw()
        await _sent_or_refused(made, order_id)
        worker.freeze()
        await asyncio.to_thread(made.group.failover_with_loss)
        await _advance(made)
        epoch = await asyncio.to_thread(_epoch, made, order_id)
        worker.thaw()
        await until(STEP_SECONDS, lambda: _opened(made, order_id, epoch), "the next epoch was opened")
        # Only now: what it may have read from the old server must not reach PostgreSQL before.
        projector.thaw()
        load.calm.set()
        problems = await settled(made, load)
        ledger = await full_ledger(made)
        async with made.opened() as (store, database):
            return problems + await checks.findings(plan, store, database, ledger, load)


async def _placed(made: World, load: Load, status: str) -> str:
    """Place an order, and wait until its row has that status."""
    async with httpx.AsyncClient(base_url=made.url, timeout=STEP_SECONDS) as http:
        response = await http.post("/api/orders", json=ORDER)
    order_id = str(response.json()["orderId"])
    load.answers.append(Answer(order_id, response.status_code, None))

    async def projected() -> bool:
        row = "SELECT 1 FROM orders WHERE id = %s AND status = %s"
        return bool(await asyncio.to_thread(execute, made.database_url, row, order_id, status))

    await until(STEP_SECONDS, projected, "the order was projected")
    return order_id


async def _sent_or_refused(made: World, order_id: str) -> None:
    """Wait until the swap has landed, or the worker has given up because the intent is not worth enough."""
    (worker,) = made.named("worker")
    chain, connection = open_chain(made.settings, made.redis.url)

    async def happened() -> bool:
        # Only looked at: each observation lets the chain go on, and a blockhash is not valid for ever.
        landed = any(entry.order_id == order_id for entry in await chain.ledger())
        return landed or "LevelNotReachedError" in worker.log()

    try:
        await until(STEP_SECONDS, happened, "the swap landed, or was not sent")
    finally:
        await connection.close()


async def _advance(made: World) -> None:
    """Let the chain go on: a swap that is signed anew has another blockhash, so it is another swap."""
    chain, connection = open_chain(made.settings, made.redis.url)
    try:
        for _ in range(SLOTS_BETWEEN):
            await chain.observe([])
    finally:
        await connection.close()


def _epoch(made: World, order_id: str) -> int:
    key = f"{{{made.settings.namespace}:{partition_in(order_id):02d}}}:meta"
    return int(made.redis.command("HGET", key, "epoch") or 0)


async def _opened(made: World, order_id: str, before: int) -> bool:
    return await asyncio.to_thread(_epoch, made, order_id) > before
