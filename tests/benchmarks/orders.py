"""How many orders per second go from submit to confirmed to projected over reused WebSockets, at speed 0?

Workload: ``--orders`` market orders over ``--sockets`` sockets, ``--in-flight`` of them open at once on each; embedded
servers with ``appendfsync always`` and ``synchronous_commit on``; API, worker and projector as separate processes, the
load from this one. Unit: orders per second, from the first submit until the last order is in PostgreSQL. One JSON
line per run, with the CPU time that each process used per order, in microseconds.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil
import uvloop
from msgspec.structs import replace
from websockets.asyncio.client import connect

from app.cli.demo import free_port
from app.cli.up import address, engine
from app.client import Client
from app.main import opened
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.levels import Level
from projections.checkpoints import wait_for

ORDER = {"side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1.5", "slippageBps": 100}
PROJECTED_SECONDS_MAX = 120


class Load:
    """One socket's share of the load; remembers when each order was submitted and how long it took."""

    def __init__(self, url: str, client: str, orders: int, in_flight: int) -> None:
        self._url = url
        self._client = client
        self._orders = orders
        self._in_flight = min(in_flight, orders)
        self.latencies: list[float] = []
        self.outcomes: dict[str, int] = {}

    async def run(self) -> None:
        """Keep ``in_flight`` orders open until all have ended."""
        sent: list[float] = []
        begun: dict[str, float] = {}
        message = json.dumps({**ORDER, "clientId": self._client})
        async with connect(self._url, compression=None, max_queue=None) as socket:
            for _ in range(self._in_flight):
                sent.append(time.perf_counter())
                await socket.send(message)
            async for text in socket:
                frame = json.loads(text)
                if frame["event"] == "pending":
                    begun[frame["orderId"]] = sent[len(begun)]
                elif frame["status"] in ("confirmed", "failed"):
                    self.latencies.append(time.perf_counter() - begun[frame["orderId"]])
                    self.outcomes[frame["status"]] = self.outcomes.get(frame["status"], 0) + 1
                    if len(sent) < self._orders:
                        sent.append(time.perf_counter())
                        await socket.send(message)
                    elif len(self.latencies) == self._orders:
                        return


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one load on a fresh engine and return its figures."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        settings = replace(
            Settings(),
            data_dir=f"{directory}/data",
            speed_ppm=0,
            port=free_port(),
            log_level="warning",
            intent_level=Level.parse(options.intent_level),
        )
        async with engine(settings) as servers:
            url = Client(address(settings)).socket_url
            before = cpu_seconds()
            started = time.perf_counter()
            share = options.orders // options.sockets
            loads = [Load(url, f"client{n}", share, options.in_flight) for n in range(options.sockets)]
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(load.run())
            confirmed = time.perf_counter()
            async with opened(settings, servers, "bench") as (store, database):
                for partition, end in (await store.log_ends()).items():
                    await wait_for(database, partition, end.position, PROJECTED_SECONDS_MAX)
                projected = time.perf_counter()
                after = cpu_seconds()
    return figures(options, loads, (started, confirmed, projected), (before, after))


def figures(
    options: argparse.Namespace,
    loads: list[Load],
    times: tuple[float, float, float],
    cpu: tuple[dict[str, float], dict[str, float]],
) -> dict[str, Any]:
    """Return what one run came to."""
    started, confirmed, projected = times
    latencies = sorted(latency for load in loads for latency in load.latencies)
    orders = len(latencies)
    outcomes: dict[str, int] = {}
    for load in loads:
        for status, count in load.outcomes.items():
            outcomes[status] = outcomes.get(status, 0) + count
    before, after = cpu
    return {
        "bench": "orders",
        "commit": commit(),
        "machine": machine(),
        "orders": orders,
        "sockets": options.sockets,
        "in_flight_per_socket": options.in_flight,
        "appendfsync": "always",
        "intent_level": options.intent_level,
        "outcomes": outcomes,
        "confirmed_per_second": round(orders / (confirmed - started), 1),
        "projected_per_second": round(orders / (projected - started), 1),
        "submit_to_confirmed_ms": {
            "p50": round(1000 * latencies[orders // 2], 2),
            "p99": round(1000 * latencies[orders * 99 // 100], 2),
        },
        "cpu_us_per_order": {
            name: round(1e6 * (after[name] - before.get(name, 0.0)) / orders) for name in sorted(after)
        },
    }


def cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds used so far by this process and each part of the engine below it."""
    used = {"load": sum(psutil.Process().cpu_times()[:2])}
    for process in psutil.Process().children(recursive=True):
        try:
            line, times = process.cmdline(), process.cpu_times()
        except psutil.Error:
            continue
        name = part(line)
        if name:
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def part(line: list[str]) -> str | None:
    """Return which part of the engine a command line is."""
    if "app.cli.roles" in line:
        return {"serve": "api", "worker": "worker", "project": "projector"}[line[-1]]
    if line and "valkey" in line[0]:
        return "valkey"
    return "postgres" if line and "postgres" in line[0] else None


def machine() -> str:
    """Return what the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit() -> str:
    """Return the commit that is measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure as often as asked, one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=6000)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--in-flight", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--intent-level", default="fsync", help="witnessed: as behind a configured Redis")
    options = parser.parse_args()
    set_up_logging("error")
    for _ in range(options.runs):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.stdout.write(json.dumps(runner.run(measure(options))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
