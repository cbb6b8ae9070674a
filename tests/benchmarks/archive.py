"""Does ``order_events`` stay fast at 10 million rows without partitioning?

Workload: orders' lives of every kind, projected, then copied on the server under other ids, with dense positions, until
the archive has ``--rows`` rows, a tenth of them first. Unit: milliseconds of each read (``--reads`` of each, of orders
and places all over the table), and rows per second of the COPY of a projector's batch, each at both sizes; the last
line has the ratios. Needs about 1.2 GB of disk for a million rows, in a temporary directory that goes at the end.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.embedded import embedded_servers
from app.telemetry import set_up_logging
from eventstore.memory import MemoryEventStore
from projections.archive import events
from projections.archive.lines import copy_events
from projections.checkpoints import Checkpoint
from projections.database import create_database_engine, reading
from projections.projector.batches import batch_of
from projections.projector.runner import Projector
from projections.queries import orders as queries
from projections.queries.orders import OrderFilter
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.lives import CLIENTS, PARTITIONS, fill
from tests.benchmarks.orders import commit, machine

SEED_EVENTS: Final = 20_000
BYTES_PER_ROW: Final = 1_800
"""Of disk, with indexes, write-ahead log and room for a checkpoint."""
FREE_BYTES_MIN: Final = 5 * 2**30
BATCH_COMMITS: Final = 1250
COPIES_TIMED: Final = 10
PAGE_COMMITS: Final = 100
LIST_LIMIT: Final = 100

_seeded: Final = (
    "CREATE TABLE seed_orders AS SELECT * FROM orders",
    "CREATE TABLE seed_events AS SELECT * FROM order_events",
    "CREATE TABLE seed_ends AS SELECT partition, max(position) AS last FROM order_events GROUP BY partition",
)
# Ids as new ones are: later, and not side by side with those of the same template.
_ID: Final = "lpad(to_hex(CAST(:n AS integer)), 6, '0') || '-' || "
_more_orders: Final = text(
    "INSERT INTO orders SELECT (json_populate_record(s, json_build_object("
    f"'id', {_ID} s.id, 'created_at', s.created_at + :n * interval '1 minute', "
    "'idempotency_key', s.idempotency_key || '-' || :n))).* FROM seed_orders s"
)
_more_events: Final = text(
    "INSERT INTO order_events (order_id, version, event, status, type, payload, created_at, partition, epoch, "
    f"position, commit_id, hash, recorded_at) SELECT {_ID} order_id, version, event, status, type, payload, "
    "created_at, partition, epoch, position + :n * last, commit_id, hash, recorded_at FROM seed_events JOIN seed_ends "
    "USING (partition) ORDER BY partition, position"
)


class Archive(Struct, frozen=True):
    """What the reads choose from."""

    ids: list[str]
    last: int
    """Position that every partition has reached."""
    copies: int


async def filled(engine: AsyncEngine, rows: int, copies: int, seeded: int) -> int:
    """Bring the archive to ``rows`` rows, and return how many copies of the first ``seeded`` rows it holds then."""
    while (copies + 1) * seeded < rows:
        copies += 1
        async with engine.begin() as connection:
            await connection.execute(_more_orders, {"n": copies})
            await connection.execute(_more_events, {"n": copies})
    async with reading(engine) as connection:
        await connection.execute(text("VACUUM ANALYZE orders, order_events"))
        await connection.execute(text("CHECKPOINT"))
    return copies


async def archive_of(engine: AsyncEngine, copies: int) -> Archive:
    """Return what the reads choose from, evenly."""
    async with reading(engine) as connection:
        ids = list(await connection.scalars(text("SELECT id FROM seed_orders")))
        last = (await connection.execute(text("SELECT min(last) FROM seed_ends"))).scalar_one()
    return Archive(ids, last * (copies + 1), copies)


def reads_of(archive: Archive, chance: random.Random) -> dict[str, Callable[[AsyncConnection], Awaitable[object]]]:
    """Return the reads of the archive, each of a place drawn by ``chance``."""

    def order_id() -> str:
        return f"{chance.randint(1, archive.copies):06x}-{chance.choice(archive.ids)}"

    def key() -> tuple[str, str]:
        return f"client-{chance.randrange(CLIENTS)}", f"request-7-{chance.randrange(1000)}-{archive.copies}"

    return {
        "events of an order": lambda connection: events.read_stream(connection, order_id()),
        "page of the log": lambda connection: events.read_log(
            connection, chance.randrange(PARTITIONS), chance.randrange(archive.last), PAGE_COMMITS
        ),
        "idempotency key": lambda connection: events.find_key(connection, *key()),
    }


def lists_of(engine: AsyncEngine, chance: random.Random) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return the lists of the API."""

    def client() -> str:
        return f"client-{chance.randrange(CLIENTS)}"

    return {
        "newest orders": lambda: queries.list_orders(engine, limit=LIST_LIMIT),
        "orders of a client": lambda: queries.list_orders(engine, OrderFilter(client_id=client()), limit=LIST_LIMIT),
        "orders of a status": lambda: queries.list_orders(engine, OrderFilter(statuses=("failed",)), limit=LIST_LIMIT),
        "orders of a client and status": lambda: queries.list_orders(
            engine, OrderFilter(client_id=client(), statuses=("confirmed",)), limit=LIST_LIMIT
        ),
        "orders of four statuses": lambda: queries.list_orders(
            engine, OrderFilter(statuses=("cancelled", "expired", "rejected", "failed")), limit=LIST_LIMIT
        ),
        "orders of a rare asset": lambda: queries.list_orders(engine, OrderFilter(asset="NEW1"), limit=LIST_LIMIT),
    }


async def times_of(read: Callable[[], Awaitable[object]], times: int) -> dict[str, float]:
    """Return how long ``read`` takes, in milliseconds."""
    took: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        await read()
        took.append(1000 * (time.perf_counter() - begun))
    took.sort()
    return {"p50": round(took[times // 2], 3), "p99": round(took[times * 99 // 100], 3)}


async def copy_rate(engine: AsyncEngine, archive: Archive) -> int:
    """Return the rows per second of a new batch's COPY, which is rolled back; the median of some."""
    at = {number: Checkpoint(number, 0, 0, "") for number in range(PARTITIONS)}
    store = MemoryEventStore(partitions=PARTITIONS, store_id="more", now_us=lambda: time.time_ns() // 1000)
    await fill(store, SEED_EVENTS, seed=archive.copies)
    commits = await store.read_log({n: each.end for n, each in at.items()}, BATCH_COMMITS)
    lines = batch_of(commits, at).lines
    beyond = 2 * archive.last + SEED_EVENTS
    moved = [(*line[:9], line[9] + beyond, *line[10:]) for line in lines]
    took: list[float] = []
    async with engine.connect() as connection:
        for _ in range(COPIES_TIMED):
            # A COPY alone begins no transaction that could be rolled back.
            await connection.begin()
            begun = time.perf_counter()
            await copy_events(connection, moved)
            took.append(time.perf_counter() - begun)
            await connection.rollback()
    return round(len(lines) / sorted(took)[COPIES_TIMED // 2])


async def measure(engine: AsyncEngine, rows: int, copies: int, times: int) -> dict[str, Any]:
    """Return the figures of one size."""
    chance = random.Random(rows)
    archive = await archive_of(engine, copies)
    found: dict[str, Any] = {"rows": rows, "copy_rows_per_second": await copy_rate(engine, archive)}
    async with reading(engine) as connection:
        for name, read in reads_of(archive, chance).items():
            found[f"{name}, ms"] = await times_of(lambda read=read: read(connection), times)  # type: ignore[misc]
        size = text("SELECT pg_total_relation_size('order_events')")
        found["gb"] = round((await connection.execute(size)).scalar_one() / 1e9, 2)
    for name, listed in lists_of(engine, chance).items():
        found[f"{name}, ms"] = await times_of(listed, times)
    return found


async def main_async(options: argparse.Namespace) -> None:
    """Measure a tenth of the rows, then all."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        needed = options.rows * BYTES_PER_ROW + FREE_BYTES_MIN
        if shutil.disk_usage(directory).free < needed:
            sys.exit(f"needs {needed / 1e9:.0f} GB of free disk: ask for fewer --rows")
        async with embedded_servers(Path(directory) / "data") as servers:
            assert servers.database_url is not None
            engine = create_database_engine(servers.database_url, application_name="bench")
            try:
                small, large = await sizes(engine, options)
            finally:
                await engine.dispose()
    ratios = {
        name: round(large[name]["p50"] / small[name]["p50"], 2) for name in small if isinstance(small[name], dict)
    }
    copied = round(large["copy_rows_per_second"] / small["copy_rows_per_second"], 2)
    say({"ratio": f"{large['rows']} rows to {small['rows']}", "copy_rows_per_second": copied, **ratios})


async def sizes(engine: AsyncEngine, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fill the archive twice, and return the figures of both sizes."""
    await upgrade_schema(engine)
    store = MemoryEventStore(partitions=PARTITIONS, store_id="seed", now_us=lambda: time.time_ns() // 1000)
    await fill(store, min(SEED_EVENTS, options.rows // 20))
    seeded = await Projector(store, engine).project_available()
    async with engine.begin() as connection:
        for statement in _seeded:
            await connection.execute(text(statement))
    found: list[dict[str, Any]] = []
    copies = 0
    for rows in (options.rows // 10, options.rows):
        begun = time.perf_counter()
        copies = await filled(engine, rows, copies, seeded)
        seconds = round(time.perf_counter() - begun, 1)
        found.append(await measure(engine, (copies + 1) * seeded, copies, options.reads))
        say({**found[-1], "fill_seconds": seconds})
    return found


def say(figures: dict[str, Any]) -> None:
    """Print one JSON line."""
    facts = {"bench": "archive", "commit": commit(), "machine": machine(), "load": round(os.getloadavg()[0], 1)}
    sys.stdout.write(json.dumps({**facts, **figures}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--reads", type=int, default=500, help="of each kind, at each size")
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_async(options))


if __name__ == "__main__":
    main()
