"""How long does a store refuse appends after its Redis restarted and lost nothing?

Workload: ``--orders`` open orders in four partitions, projected; the server is killed and started again ``--restarts``
times while one caller appends without a pause. Unit: milliseconds from the server's first answer to the first append
that every partition acknowledges, which includes opening the next epoch of each. One JSON line.
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from app.embedded import Servers, embedded_servers
from app.main import opened
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.errors import EventStoreError
from eventstore.store import EventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.appends import append_of
from tests.benchmarks.orders import commit, machine
from tests.servers.single import RedisServer, redis_server

PARTITIONS: Final = 4


async def first_appends(store: EventStore) -> float:
    """Return how long it takes until every partition has acknowledged an append, in milliseconds."""
    begun = time.perf_counter()
    missing = set(range(PARTITIONS))
    while missing:
        append = append_of(secrets.randbelow(10**6))
        number = int(append.stream[-2:])
        if number not in missing:
            continue
        try:
            await store.append(append)
        except EventStoreError:
            continue
        missing.discard(number)
    return 1000 * (time.perf_counter() - begun)


async def measure(server: RedisServer, servers: Servers, options: argparse.Namespace) -> list[float]:
    """Return what each restart cost."""
    settings = Settings(redis_url=server.url, database_url=servers.database_url, log_level="error")
    engine = create_database_engine(servers.database_url or "", application_name="bench")
    await upgrade_schema(engine)
    took: list[float] = []
    async with opened(settings, Servers(server.url, servers.database_url), "bench") as (store, database):
        for number in range(options.orders):
            await store.append(append_of(number))
        await Projector(store, database).project_available()
        for _ in range(options.restarts):
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            took.append(await first_appends(store))
    await engine.dispose()
    return took


async def main_async(options: argparse.Namespace) -> dict[str, Any]:
    """Measure on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        async with embedded_servers(Path(directory) / "data") as servers:
            with redis_server(appendonly="yes", appendfsync="always") as server:
                took = sorted(await measure(server, servers, options))
    return {
        "bench": "restarts",
        "commit": commit(),
        "machine": machine(),
        "orders": options.orders,
        "n": len(took),
        "ms": {"p50": round(took[len(took) // 2], 1), "max": round(took[-1], 1)},
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--restarts", type=int, default=10)
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(main_async(options))) + "\n")


if __name__ == "__main__":
    main()
