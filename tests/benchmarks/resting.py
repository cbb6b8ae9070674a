"""How fast do limit orders come to rest, what does a scan cost beside so many, and how much memory do they take?

Workload: ``--orders`` limit orders of 1,000 clients on all pairs, far from their prices, on an embedded Valkey with
``appendfsync always``, placed by 256 callers, then brought to rest by one worker in this process; speed 0. Scans: of
one slot and of a gap of 1,000 slots with no order met, and of the slots that meet ``--triggered`` orders on one pair,
over all partitions. Units: orders per second; milliseconds per look at all partitions; bytes of the server's memory per
resting order with its events, and of its index entry alone. One JSON line.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import time
from typing import Any, Final

import uvloop

from app.clock import SystemClock
from app.dex.tokens import PAIRS, SOL, USDC, pair_of
from app.execution.scanner import Scanner
from app.main import build_scanner, open_hot_store
from app.orders.commands import PlaceOrder
from app.settings import Settings
from app.telemetry import set_up_logging
from tests.benchmarks.orders import commit, machine
from tests.integration.trading import LIVELY, Trading, limit_order
from tests.servers.single import RedisServer, redis_server

CALLERS: Final = 256
CLIENTS: Final = 1_000
FAR_TICKS: Final = 20_000
LOOKS: Final = 21
GAP_SLOTS: Final = 1_000
SOL_USDC: Final = pair_of(SOL, USDC)


def far_orders(trading: Trading, slot: int, count: int) -> list[PlaceOrder]:
    """Return limit orders that no price of the next weeks meets, each with a level of its own for long."""
    kinds = []
    for pair in PAIRS:
        ticks = trading.spots(pair, slot).values()
        kinds.append((pair, "rises_to", max(ticks) + FAR_TICKS, 1))
        kinds.append((pair, "falls_to", min(ticks) - FAR_TICKS, -1))
    found = []
    for number in range(count):
        pair, when, level, sign = kinds[number % len(kinds)]
        found.append(limit_order(pair, when, level + sign * (number // len(kinds) % 5_000)))
    return found


async def place(trading: Trading, orders: list[PlaceOrder]) -> float:
    """Place all orders and return how many seconds it took."""
    left = list(enumerate(orders))
    begun = time.perf_counter()

    async def call() -> None:
        while left:
            number, order = left.pop()
            await trading.order(order, f"client {number % CLIENTS}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
    return time.perf_counter() - begun


async def rest(trading: Trading) -> float:
    """Let a worker bring everything to rest and return how many seconds it took."""
    begun = time.perf_counter()
    async with trading.at_work(seconds_max=None):
        await trading.quiet()
        return time.perf_counter() - begun


async def look(trading: Trading, scanner: Scanner) -> tuple[float, int]:
    """Return the milliseconds of one look at all partitions, and how many orders it fired."""
    slot = await trading.confirmed_slot()
    begun = time.perf_counter()
    fired = 0
    for partition in range(trading.store.partitions):
        fired += await scanner.scan(partition, slot)
    return 1_000 * (time.perf_counter() - begun), fired


async def unmet_looks(trading: Trading, scanner: Scanner, slots: int, looks: int) -> float:
    """Return the median milliseconds of looks that fire nothing, each after so many slots."""
    took = []
    for _ in range(looks):
        await trading.pass_to(await trading.confirmed_slot() + slots)
        milliseconds, fired = await look(trading, scanner)
        assert fired == 0
        took.append(milliseconds)
    return round(statistics.median(took), 2)


async def met_look(trading: Trading, scanner: Scanner, count: int) -> float:
    """Return the milliseconds of a look that fires ``count`` orders."""
    slot = await trading.confirmed_slot()
    highest = max(trading.spots(SOL_USDC, slot).values())
    end = slot
    while (level := max(trading.spots(SOL_USDC, end).values())) <= highest:
        end += 1
    await place(trading, [limit_order(SOL_USDC, "rises_to", level)] * count)
    await rest(trading)
    await trading.pass_to(end)
    milliseconds, fired = await look(trading, scanner)
    assert fired == count
    return round(milliseconds, 2)


def used_bytes(server: RedisServer) -> int:
    """Return what the server's data takes."""
    return int(server.command("INFO", "memory")["used_memory"])


def index_bytes(server: RedisServer) -> int:
    """Return what the indexes of resting orders take."""
    keys = [key for key in server.command("KEYS", "*:resting:*") if not key.endswith(b":launches")]
    return sum(int(server.command("MEMORY", "USAGE", key, "SAMPLES", 0)) for key in keys)


async def measure(options: argparse.Namespace, server: RedisServer) -> dict[str, Any]:
    """Return the figures of one run."""
    settings = Settings(namespace=f"b{secrets.token_hex(5)}", speed_ppm=0)
    store = await open_hot_store(settings, server.url, "bench")
    trading = Trading(settings, store, server.url, LIVELY)
    try:
        slot = await trading.confirmed_slot()
        scanner = build_scanner(settings, store, trading.chain, SystemClock(), profile=LIVELY)
        before = used_bytes(server)
        placing = await place(trading, far_orders(trading, slot, options.orders))
        resting = await rest(trading)
        used, indexed = used_bytes(server) - before, index_bytes(server)
        await look(trading, scanner)
        return {
            "bench": "resting",
            "commit": commit(),
            "machine": machine(),
            "orders": options.orders,
            "placed_per_second": round(options.orders / placing),
            "rested_per_second": round(options.orders / resting),
            "look_ms": {
                "one_slot": await unmet_looks(trading, scanner, 1, LOOKS),
                f"{GAP_SLOTS}_slots": await unmet_looks(trading, scanner, GAP_SLOTS, 1),
                f"{options.triggered}_triggered": await met_look(trading, scanner, options.triggered),
            },
            "bytes_per_order": round(used / options.orders),
            "index_bytes_per_order": round(indexed / options.orders),
        }
    finally:
        await trading.connection.close()
        await store.close()


def main() -> None:
    """Measure as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--triggered", type=int, default=100)
    options = parser.parse_args()
    set_up_logging("error")
    with redis_server() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(measure(options, server))) + "\n")


if __name__ == "__main__":
    main()
