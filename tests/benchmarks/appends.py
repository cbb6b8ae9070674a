"""How many appends per second does one process make at each acknowledgement level, alone and 64 at once?

Workload: one event of about 300 bytes per append, each to a stream of its own, with a task; 1 and 64 callers, each
sending its next append when the last one is acknowledged. Unit: appends per second. Servers: embedded Valkey without
an append-only file for ``memory``, with ``appendfsync always`` for the others, with one replica for ``replicated:1``,
with PostgreSQL and a projector in a process of its own for ``witnessed``. One JSON line per level and number of
callers, and one with the ratio of ``fsync`` to ``memory`` at 64 callers; each beside the time that the disk's own
fdatasync takes.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import uvloop
from msgspec.structs import replace

from app.cli.roles import Launch
from app.cli.up import Supervisor
from app.embedded import Servers, embedded_servers
from app.embedded.processes import within
from app.main import open_database, opened
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.canonical import seal
from eventstore.errors import OutcomeUnknownError
from eventstore.ids import new_stream_id, new_ulid
from eventstore.levels import FSYNC, MEMORY, WITNESSED, Level, replicated
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, EventStore
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.orders import commit, machine
from tests.servers.single import redis_server

CALLERS: Final = (1, 64)
PER_SECOND_MAX: Final = 30_000
"""Appends that are made ready for a second: more than one process can send."""
FLUSHES: Final = 200
START_SECONDS: Final = 20
FLUSH_BYTES: Final = 4096


def append_of(number: int) -> Append:
    """Return an append that begins a stream, of the size of a usual event."""
    stream = new_stream_id(new_ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10)), None, 4)
    frame: dict[str, Any] = {
        "event": "pending",
        "status": "pending",
        "orderId": stream,
        "seq": 1,
        "at": "2026-01-01T00:00:00.000000Z",
        "side": "sell",
        "baseAsset": "SOL",
        "quoteAsset": "USDC",
        "amount": str(number),
        "decimals": [9, 6],
        "orderType": "market",
        "slippageBps": 50,
        "meta": {"actor": "bench", "command": f"c{number}", "type": "OrderAccepted"},
    }
    events = (seal(frame, ""),)
    return Append(
        stream=stream, expected_version=0, expected_hash="", commit_id=f"c{number}", events=events, add_task="attempt"
    )


async def rate(store: EventStore, level: Level, callers: int, seconds: float) -> dict[str, Any]:
    """Append for ``seconds`` and return the figures."""
    prepared = [replace(append_of(number), level=level) for number in range(round(PER_SECOND_MAX * seconds))]
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    async def call() -> None:
        while prepared and (begun := time.perf_counter()) < ends:
            await store.append(prepared.pop())
            latencies.append(time.perf_counter() - begun)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    took = time.perf_counter() - started
    latencies.sort()
    return {
        "bench": "appends",
        "commit": commit(),
        "machine": machine(),
        "level": str(level),
        "callers": callers,
        "n": len(latencies),
        "per_second": round(len(latencies) / took),
        "ms": {
            "p50": round(1000 * latencies[len(latencies) // 2], 3),
            "p99": round(1000 * latencies[len(latencies) * 99 // 100], 3),
        },
    }


@asynccontextmanager
async def on_redis(url: str, level: Level) -> AsyncIterator[EventStore]:
    """A store on Redis alone."""
    store = await RedisEventStore.open(url, StoreSettings(level=level), new_store_id="bench")
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def on_both(servers: Servers, data_dir: str) -> AsyncIterator[EventStore]:
    """A store with its archive, and a projector in a process of its own."""
    settings = Settings(data_dir=data_dir, log_level="error")
    database = open_database(servers, "bench")
    await upgrade_schema(database)
    await database.dispose()
    supervisor = Supervisor("project", Launch(settings, servers))
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        async with opened(settings, servers, "bench") as (store, _):
            await projecting(store)
            yield store
        await supervisor.stop()


async def projecting(store: EventStore) -> None:
    """Return once the projector works."""
    first = replace(append_of(0), level=WITNESSED)
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                await store.append(first)
                return
            except OutcomeUnknownError:
                continue


@contextmanager
def flushing_disk() -> Iterator[Path]:
    """A file on the disk that the servers write to."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        yield Path(directory) / "flushed"


def flush_ms() -> float:
    """Return the median time of one fdatasync of :data:`FLUSH_BYTES`, in milliseconds."""
    took: list[float] = []
    with flushing_disk() as path, path.open("wb", buffering=0) as file:
        for _ in range(FLUSHES):
            file.write(b"x" * FLUSH_BYTES)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(took), 3)


async def measure(
    opened_store: Callable[[], AbstractAsyncContextManager[EventStore]], level: Level, options: argparse.Namespace
) -> dict[int, int]:
    """Print the figures of one level, and return its rate by number of callers."""
    rates: dict[int, int] = {}
    async with opened_store() as store:
        await rate(store, level, max(CALLERS), options.seconds / 4)
        for callers in CALLERS:
            runs = [await rate(store, level, callers, options.seconds) for _ in range(options.runs)]
            middle = sorted(runs, key=lambda run: run["per_second"])[options.runs // 2]
            say({**middle, "fdatasync_ms": flush_ms()})
            rates[callers] = middle["per_second"]
    return rates


def say(figures: dict[str, Any]) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


async def main_async(options: argparse.Namespace) -> None:
    """Measure every level."""
    flushed = {"appendonly": "yes", "appendfsync": "always"}
    with redis_server(appendonly="no") as server:
        memory = await measure(lambda: on_redis(server.url, MEMORY), MEMORY, options)
    with redis_server(**flushed) as server:
        fsync = await measure(lambda: on_redis(server.url, FSYNC), FSYNC, options)
    with redis_server(**flushed) as server, redis_server(replicaof=f"127.0.0.1 {server.port}", **flushed) as replica:
        assert await within(START_SECONDS, lambda: replica.command("INFO", "replication")["master_link_status"] == "up")
        await measure(lambda: on_redis(server.url, replicated(1)), replicated(1), options)
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        async with embedded_servers(Path(directory) / "data") as both:
            await measure(lambda: on_both(both, directory), WITNESSED, options)
    most = max(CALLERS)
    say({"bench": "appends", "callers": most, "fsync_to_memory": round(fsync[most] / memory[most], 3)})


def main() -> None:
    """Measure as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="of which the median is printed")
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_async(options))


if __name__ == "__main__":
    main()
