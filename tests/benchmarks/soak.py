"""Does memory stay flat while orders come and go, and how many bytes of Redis does a hot order take?

Workload: ``--orders`` market orders at speed 0 over ``--sockets`` sockets, ``--in-flight`` of them open at once on
each, at most ``--per-second`` of them begun in a second (0: no limit); embedded servers with ``appendfsync always``;
closed orders stay hot for 90 s, and ``--log-window`` positions of each log. Unit: bytes. One JSON line per sample, then
one with the verdict. Warm-up ends when the first closed orders have left and every log has been trimmed; of the samples
after it, the median of the last quarter may be at most 1.15 times that of the second. Exit status 1 if Redis' memory
or a process's is not flat, if a hot order of six events takes more than 6 KB, or if the run was too short to tell.
PostgreSQL's memory is shown, not judged: its processes count pages of the shared buffers that each touched. So is that
of the simulated chain, on a server of its own: a ledger forgets nothing.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any, Final

import psutil
import uvloop
from msgspec import Struct
from msgspec.structs import asdict, replace
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import connect

from app.cli.demo import free_port
from app.cli.up import address, engine
from app.client import Client
from app.execution.streams import CLOSED
from app.main import opened
from app.settings import ARCHIVE_SECONDS_MIN, Settings
from app.telemetry import set_up_logging
from projections.archive.archiver import SWEEP_SECONDS
from projections.archive.store import ArchivedEventStore
from tests.benchmarks.orders import ORDER, commit, part
from tests.servers.single import RedisServer, redis_server

SAMPLE_SECONDS: Final = 10
GROWTH_MAX: Final = 1.15
ORDER_BYTES_MAX: Final = 6 * 1024
SAMPLES_MIN: Final = 8
SAMPLED_ORDERS: Final = 100
JUDGED: Final = ("api", "worker", "projector", "valkey")


class Pace:
    """Lets at most ``per_second`` through; everybody at once when it is 0."""

    def __init__(self, per_second: int) -> None:
        self._step = 1 / per_second if per_second else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        now = time.perf_counter()
        self._next = max(self._next + self._step, now)
        if self._next > now:
            await asyncio.sleep(self._next - now)


class Load:
    """One socket's share of the orders; counts how they end."""

    def __init__(self, url: str, client: str, orders: int, in_flight: int, pace: Pace) -> None:
        self._url = url
        self._message = json.dumps({**ORDER, "clientId": client})
        self._left = orders
        self._in_flight = min(in_flight, orders)
        self._pace = pace
        self.ended = 0

    async def run(self) -> None:
        """Keep orders in flight until all have ended."""
        async with connect(self._url, compression=None, max_queue=None) as socket:
            open_orders = self._in_flight
            for _ in range(self._in_flight):
                await self._pace.turn()
                await socket.send(self._message)
            self._left -= self._in_flight
            async for received in socket:
                if json.loads(received)["status"] not in ("confirmed", "failed"):
                    continue
                self.ended += 1
                open_orders -= 1
                if self._left:
                    self._left -= 1
                    open_orders += 1
                    await self._pace.turn()
                    await socket.send(self._message)
                elif not open_orders:
                    return


class Sample(Struct, frozen=True, kw_only=True):
    """What the engine held at one time; sizes in bytes."""

    seconds: float
    ended: int
    used_memory: int
    keys: int
    hot_orders: int
    log_entries: int
    logs_trimmed: bool
    rss: dict[str, int]
    postgres_size: int
    chain_memory: int

    @property
    def warm(self) -> bool:
        """Whether orders have begun to leave, and logs to be trimmed."""
        return self.logs_trimmed and self.seconds > ARCHIVE_SECONDS_MIN + 2 * SWEEP_SECONDS


class Meter:
    """Takes samples of one engine."""

    def __init__(
        self, store: ArchivedEventStore, database: AsyncEngine, redis: Any, namespace: str, chain: RedisServer
    ) -> None:
        self._store = store
        self._database = database
        self._redis = redis
        self._chain = chain
        self._prefixes = [f"{{{namespace}:{number:02d}}}" for number in range(store.partitions)]
        self._started = time.perf_counter()

    async def sample(self, loads: list[Load]) -> Sample:
        """Return what the engine holds now."""
        async with self._database.connect() as connection:
            size = (await connection.execute(text("SELECT pg_database_size(current_database())"))).scalar_one()
        starts = [await self._store.hot.log_start(number) for number in range(len(self._prefixes))]
        return Sample(
            seconds=round(time.perf_counter() - self._started, 1),
            ended=sum(load.ended for load in loads),
            used_memory=(await self._redis.info("memory"))["used_memory"],
            keys=await self._redis.dbsize(),
            hot_orders=sum([await self._redis.zcard(f"{prefix}:{CLOSED}") for prefix in self._prefixes]),
            log_entries=sum([await self._redis.xlen(f"{prefix}:log") for prefix in self._prefixes]),
            logs_trimmed=min(starts) > 1,
            rss=resident(self._chain.pid),
            postgres_size=size,
            chain_memory=int((await asyncio.to_thread(self._chain.command, "INFO", "memory"))["used_memory"]),
        )

    async def bytes_per_order(self) -> int:
        """Return what a hot order of six events takes in its stream and the index, on average."""
        sizes: list[float] = []
        for prefix in self._prefixes:
            index = f"{prefix}:{CLOSED}"
            hot = await self._redis.zcard(index)
            share = await self._redis.memory_usage(index, samples=0) / hot if hot else 0
            for member in await self._redis.zrange(index, -SAMPLED_ORDERS, -1):
                stream = f"{prefix}:stream:{member.decode()}"
                if await self._redis.xlen(stream) == 6:
                    sizes.append(await self._redis.memory_usage(stream, samples=0) + share)
        return round(statistics.mean(sizes)) if sizes else 0


def resident(chain_pid: int) -> dict[str, int]:
    """Return the resident bytes of each part of the engine below this process; the chain's server is none."""
    found: dict[str, int] = {}
    for process in psutil.Process().children(recursive=True):
        if process.pid == chain_pid:
            continue
        try:
            name, size = part(process.cmdline()), process.memory_info().rss
        except psutil.Error:
            continue
        if name:
            found[name] = found.get(name, 0) + size
    return found


def growth(values: list[int]) -> float:
    """Return the median of the last quarter of ``values`` by that of the second."""
    quarter = len(values) // 4
    return round(statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter]), 3)


def verdict(options: argparse.Namespace, samples: list[Sample], bytes_per_order: int) -> dict[str, Any]:
    """Return what the run came to; ``flat`` is None where it was too short to tell."""
    warm = [sample for sample in samples if sample.warm]
    growths: dict[str, float] = {}
    if len(warm) >= SAMPLES_MIN:
        growths["used_memory"] = growth([sample.used_memory for sample in warm])
        growths |= {name: growth([sample.rss.get(name, 0) for sample in warm]) for name in JUDGED}
    flat = max(growths.values()) <= GROWTH_MAX if growths else None
    return {
        "bench": "soak",
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "orders": options.orders,
        "seconds": samples[-1].seconds,
        "warm_samples": len(warm),
        "growth": growths,
        "flat": flat,
        "bytes_per_hot_order": bytes_per_order,
        "ok": flat is True and 0 < bytes_per_order <= ORDER_BYTES_MAX,
    }


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load on a fresh engine, print samples, and return the verdict."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory, redis_server(appendonly="no") as chain:
        settings = replace(
            Settings(),
            chain_redis_url=chain.url,
            data_dir=f"{directory}/data",
            speed_ppm=0,
            port=free_port(),
            log_level="warning",
            archive_seconds=ARCHIVE_SECONDS_MIN,
            log_window=options.log_window,
        )
        async with (
            engine(settings) as servers,
            opened(settings, servers, "bench") as (store, database),
            Redis.from_url(servers.redis_url) as client,
        ):
            meter = Meter(store, database, client, settings.namespace, chain)
            url, pace = Client(address(settings)).socket_url, Pace(options.per_second)
            share = options.orders // options.sockets
            loads = [Load(url, f"client{n}", share, options.in_flight, pace) for n in range(options.sockets)]
            samples = await run(loads, meter)
            return verdict(options, samples, await meter.bytes_per_order())


async def run(loads: list[Load], meter: Meter) -> list[Sample]:
    """Run the loads, and take a sample every few seconds until they end."""
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        running = {group.create_task(load.run()) for load in loads}
        while running:
            _, running = await asyncio.wait(running, timeout=SAMPLE_SECONDS, return_when=asyncio.ALL_COMPLETED)
            samples.append(await meter.sample(loads))
            show(asdict(samples[-1]))
    return samples


def show(line: dict[str, Any]) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run once; exit with 1 unless memory stayed flat and small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=500_000)
    parser.add_argument("--sockets", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=5)
    parser.add_argument("--per-second", type=int, default=0)
    parser.add_argument("--log-window", type=int, default=20_000)
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(soak(options))
    show(result)
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
