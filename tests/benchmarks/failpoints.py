"""Does every order end rightly while workers die at random crash points all the time?

Workload: ``--orders`` market, limit, IOC, FOK and sniper orders at speed 0, ``--in-flight`` of them open at once, some
of them cancelled; ``--workers`` processes, each of which kills itself at a drawn crash point passed for a drawn number
of times, or is killed after a drawn time, and is started again; dropped, forked and refused swaps; embedded servers,
the chain on its own. One JSON line every few seconds, then one with the verdict. Exit status 1 unless, at the end,
every order has ended, the chain's ledger has one swap for each confirmed order and none for any other, `audit verify`
and `diff` find nothing, and nothing is left to be done. ``--seed`` repeats the draws; what they meet depends on the
machine.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.verify import verify
from app.clock import SystemClock
from app.dex.chain import BLOCKHASH_LIFETIME, SimulatedChain
from app.dex.tokens import SOL, USDC
from app.dex.venue import Swap, reference_amount
from app.embedded import Servers, embedded_servers
from app.execution.streams import OrderStreams
from app.main import build_streams, open_chain, open_database, opened, run_projector
from app.orders.commands import PlaceOrder
from app.orders.lifecycle import TERMINAL
from app.orders.money import format_units
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.errors import WrongVersionError
from eventstore.ids import LOG_START
from eventstore.levels import FSYNC
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import wait_for
from projections.diff import diff
from projections.models.orders import orders as table
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.failing_worker import REACHABLE, STORM, Plan
from tests.benchmarks.orders import commit
from tests.benchmarks.soak import show
from tests.servers.single import redis_server

CLIENTS: Final = 40
SAMPLE_SECONDS: Final = 10
PASSES_MAX: Final = 100
"""Most often that a worker's crash point is passed before it dies; few passes are as likely as many."""
RARE: Final = "K16"
"""What is sent again and again hardly ever expires, unless its worker died."""
LIFE_SECONDS: Final = (1.0, 6.0)
"""How long a worker lives at most, its start included, if its crash point is not passed so often: then it is killed."""
ANYWHERE: Final = "anywhere"
END_SECONDS_MAX: Final = 180
"""After the last order was placed; the longest life that an order is given is far below it."""
PROJECTED_SECONDS_MAX: Final = 120
LIVES_US: Final = (2_000_000, 12_000_000)
LIMIT_PPM: Final = (990_000, 1_004_000)
"""Limit prices of sells, compared with the reference price; those of buys are its mirror image."""
CANCELLED: Final = 0.12
FINDINGS_SHOWN: Final = 20
UNIT: Final = 1_000_000_000


class Load:
    """Places orders, cancels some, and follows the log to see them end."""

    def __init__(self, options: argparse.Namespace, store: ArchivedEventStore, chain: SimulatedChain) -> None:
        self.streams: OrderStreams = build_streams(store, SystemClock(), "api")
        self.placed: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.cancels: Counter[str] = Counter()
        self._left = options.orders
        self._room = asyncio.Semaphore(options.in_flight)
        self._chance = random.Random(f"{options.seed}/orders")
        self._store = store
        self._chain = chain
        self._seed = str(options.seed)

    @property
    def ended(self) -> int:
        """How many orders are at their end."""
        return self.ends.total()

    async def place_all(self) -> None:
        """Place every order, as soon as there is room for it; cancel some of them a little later."""
        async with asyncio.TaskGroup() as group:
            while self._left:
                await self._room.acquire()
                self._left -= 1
                client = f"client{self._chance.randrange(CLIENTS)}"
                order_id = self.streams.new_order_id(client, None)
                self.placed.add(order_id)
                await self.streams.place(order_id, client, await self._drawn())
                if self._chance.random() < CANCELLED:
                    group.create_task(self._cancel(order_id, self._chance.random()))

    async def _drawn(self) -> PlaceOrder:
        chance = self._chance
        order = PlaceOrder(
            side=chance.choice(["buy", "sell"]),
            base_asset="SOL",
            quote_asset="USDC",
            base_decimals=SOL.decimals,
            quote_decimals=USDC.decimals,
            amount=chance.randint(1, 50) * UNIT // 10,
            slippage_bps=chance.choice([5, 50, 500]),
        )
        kind = chance.random()
        if kind < 0.5:
            return order
        over_us = SystemClock().now_us() + chance.randint(*LIVES_US)
        if kind < 0.55:
            snipe = replace(order, side="buy", base_asset=f"NEW{chance.randint(1, 9)}", quote_asset="SOL")
            snipe = replace(snipe, base_decimals=6, quote_decimals=9, amount=1_000_000, order_type="sniper")
            return replace(snipe, max_fee_bps=chance.choice([200, 5_000]), expire_at_us=over_us)
        limit = replace(order, order_type="limit", limit_price=await self._price(order.side))
        if kind < 0.85:
            return replace(limit, expire_at_us=over_us)
        return replace(limit, time_in_force="IOC" if kind < 0.95 else "FOK")

    async def _price(self, side: str) -> str:
        swap = Swap(order_id="", attempt=1, side="sell", base=SOL, quote=USDC, amount=UNIT)
        amount = reference_amount(swap, await self._chain.slot(), seed=self._seed, profile=STORM)
        assert amount is not None
        part_ppm = self._chance.randint(*LIMIT_PPM)
        return format_units(amount * (part_ppm if side == "sell" else 2_000_000 - part_ppm) // 1_000_000, USDC.decimals)

    async def _cancel(self, order_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            answer = await self.streams.cancel(order_id, "client")
        except WrongVersionError:
            self.cancels["overtaken"] += 1
        else:
            self.cancels["changed" if answer.changed else "too late"] += 1

    async def follow(self) -> None:
        """Count the ends in the log until cancelled."""
        cursors = dict.fromkeys(range(self._store.partitions), LOG_START)
        while True:
            for entry in await self._store.read_log(cursors, 1000, 1.0):
                cursors[entry.partition] = entry.end
                status = msgspec.json.decode(entry.events[-1])["status"]
                if status in TERMINAL:
                    self.ends[status] += 1
                    self._room.release()


class Workers:
    """Worker processes that die and are started again, each time with another crash point, until :meth:`calm`."""

    def __init__(self, options: argparse.Namespace, settings: Settings, redis_url: str) -> None:
        self.deaths: Counter[str] = Counter()
        self.problems: list[str] = []
        self._settings = settings
        self._redis_url = redis_url
        self._chance = random.Random(f"{options.seed}/workers")
        self._calm = False
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def keep(self, number: int) -> None:
        """Keep one process running until the calm has come and it has ended by itself."""
        while True:
            plan, life_seconds = Plan(settings=self._settings, redis_url=self._redis_url), None
            if not self._calm:
                plan.point = self._chance.choice(REACHABLE)
                plan.passes = 1 if plan.point == RARE else round(PASSES_MAX ** self._chance.random())
                life_seconds = self._chance.uniform(*LIFE_SECONDS)
            cause, status = await self._run(number, plan, life_seconds)
            if status == -signal.SIGKILL:
                self.deaths[cause] += 1
            elif self._calm and status == 0:
                return
            else:
                self.problems.append(f"a worker ended with status {status}")
                return

    async def _run(self, number: int, plan: Plan, life_seconds: float | None) -> tuple[str, int]:
        """Return what a process died of, and its status."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.failing_worker", stdin=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(plan))
        self._running[number] = process
        try:
            async with asyncio.timeout(life_seconds):
                return plan.point, await process.wait()
        except TimeoutError:
            # Few pass some points: nobody lives for ever because of that.
            process.kill()
            return ANYWHERE, await process.wait()
        finally:
            process.stdin.close()

    def calm(self) -> None:
        """Draw no crash points any more."""
        self._calm = True

    def stop(self) -> None:
        """Let every process end what it began, and end."""
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load on fresh servers, print samples, and return the verdict."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory, redis_server(appendonly="no") as chain:
        settings = Settings(
            chain_redis_url=chain.url,
            seed=str(options.seed),
            intent_level=FSYNC,
            speed_ppm=0,
            quote_timeout_ms=500,
            task_ms=1_000,
            claim_idle_ms=1_500,
            archive_seconds=10**6,
            log_level="error",
        )
        async with embedded_servers(Path(directory) / "data") as servers:
            return await on_servers(options, settings, servers)


async def on_servers(options: argparse.Namespace, settings: Settings, servers: Servers) -> dict[str, Any]:
    """See :func:`soak`."""
    started, stopping = time.perf_counter(), asyncio.Event()
    await migrate(servers)
    projecting = asyncio.create_task(run_projector(settings, servers, stopping))
    chain, connection = open_chain(settings, servers.redis_url, STORM)
    async with opened(settings, servers, "soak") as (store, database):
        load, workers = Load(options, store, chain), Workers(options, settings, servers.redis_url)
        following = asyncio.create_task(load.follow())
        sampling = asyncio.create_task(sample(started, load, workers))
        keepers = [asyncio.create_task(workers.keep(number)) for number in range(options.workers)]
        await load.place_all()
        workers.calm()
        found = await settled(load, options.orders)
        workers.stop()
        await asyncio.gather(*keepers)
        for task in (following, sampling):
            task.cancel()
        found += workers.problems + await findings(store, database, chain, load.placed)
    stopping.set()
    await projecting
    await connection.close()
    return {
        "bench": "failpoints",
        "commit": commit(),
        "seed": options.seed,
        "orders": options.orders,
        "seconds": round(time.perf_counter() - started, 1),
        "ends": dict(load.ends),
        "cancels": dict(load.cancels),
        "deaths": {point: workers.deaths[point] for point in (*REACHABLE, ANYWHERE)},
        "finding_count": len(found),
        "findings": found[:FINDINGS_SHOWN],
        "ok": not found,
    }


async def migrate(servers: Servers) -> None:
    """Give the new database its tables."""
    database = open_database(servers, "soak")
    try:
        await upgrade_schema(database)
    finally:
        await database.dispose()


async def settled(load: Load, orders: int) -> list[str]:
    """Wait until every order has ended; return what is not so in time."""
    deadline = time.monotonic() + END_SECONDS_MAX
    while load.ended < orders:
        if time.monotonic() > deadline:
            return [f"{orders - load.ended} orders have not ended after {END_SECONDS_MAX} s"]
        await asyncio.sleep(0.1)
    return []


async def sample(started: float, load: Load, workers: Workers) -> None:
    """Print how far everything is, until cancelled."""
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        seconds = round(time.perf_counter() - started, 1)
        show({"seconds": seconds, "placed": len(load.placed), "ended": load.ended, "deaths": workers.deaths.total()})


async def findings(
    store: ArchivedEventStore, database: AsyncEngine, chain: SimulatedChain, placed: set[str]
) -> list[str]:
    """Return everything that is not as it should be, for people."""
    for number, end in (await store.log_ends()).items():
        await wait_for(database, number, end.position, PROJECTED_SECONDS_MAX)
    found = [f"verify: {one}" for one in (await verify(store, database, SystemClock().now_us)).findings]
    found += [f"diff: {one}" for one in await diff(store, database)]
    for part in await store.status():
        if part.tasks or part.timers or part.waiting or part.parked:
            found.append(f"left over: {part}")
    async with database.connect() as connection:
        rows = {row.id: row for row in await connection.execute(select(table.c.id, table.c.status, table.c.tx_id))}
    found += [f"lost: {order_id}" for order_id in placed - rows.keys()]
    found += [f"unfinished: {row.id} is {row.status}" for row in rows.values() if row.status not in TERMINAL]
    return found + await swaps(chain, {row.id: row.tx_id for row in rows.values() if row.status == "confirmed"})


async def swaps(chain: SimulatedChain, confirmed: dict[str, str]) -> list[str]:
    """Compare the chain's ledger, when nothing can land any more, with the transactions of the confirmed orders."""
    for _ in range(BLOCKHASH_LIFETIME + 10):
        await chain.observe(())
    executed: dict[str, list[str]] = {}
    for entry in await chain.ledger():
        if entry.outcome == "executed":
            executed.setdefault(entry.order_id, []).append(entry.signature)
    return [
        f"confirmed by {confirmed.get(order_id, 'nothing')}, executed {executed.get(order_id, 'never')}: {order_id}"
        for order_id in confirmed.keys() | executed.keys()
        if executed.get(order_id) != [confirmed.get(order_id)]
    ]


def main() -> None:
    """Run once; exit with 1 unless everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=400)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    set_up_logging("error")
    show({"bench": "failpoints", "repeat": f"make soak SEED={options.seed} ORDERS={options.orders}"})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(soak(options))
    show(result)
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
