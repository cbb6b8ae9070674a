"""How many events per second does one projector project, and one rebuild fold, beside a plain COPY of the same rows?

Workload: ``--events`` events of orders' lives of every kind (see ``tests/benchmarks/lives.py``) in 4 partitions of an
embedded Valkey, and an embedded PostgreSQL. Unit: events per second, and MB of canonical event bytes per second;
medians of ``--runs``. Lines: ``project`` is one projector on an empty database; ``copy`` puts the same rows, ready in
memory as tuples and cut as the projector cuts them, into an empty table of the same definition, with and without its
indexes, and once more as text that the server wrote (the server's own limit); ``rebuild`` is each projection from each
source, with the time of each stage; ``visible`` is the time from an append to its row, in a system that is idle. Each
line has the CPU time of each process per event, in microseconds. ``ratio`` is what the others come to.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop
from psycopg import AsyncConnection, sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection as SqlConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded import Servers, embedded_servers
from app.telemetry import set_up_logging
from eventstore.levels import MEMORY
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.archive.lines import EVENT_COLUMNS, EventLine
from projections.checkpoints import Checkpoint
from projections.database import create_database_engine, reading
from projections.models.projection import Projection
from projections.models.registry import PROJECTIONS
from projections.projector.batches import batch_of
from projections.projector.runner import BATCH_COMMITS_MAX, Projector
from projections.rebuild.rebuilding import rebuild
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.lives import PARTITIONS, Filled, fill, lives
from tests.benchmarks.orders import commit, cpu_seconds, machine
from tests.conftest import database_at, driver_url, execute

VISIBLE_TIMES: Final = 200
VISIBLE_SECONDS_MAX: Final = 5
IDLE_SECONDS: Final = 0.05
POLL_SECONDS: Final = 0.0005
PLAIN: Final = "plain"
COPY: Final = sql.SQL("COPY {} ({}) FROM STDIN").format(
    sql.Identifier(PLAIN), sql.SQL(", ").join(map(sql.Identifier, EVENT_COLUMNS))
)
STAGES: Final = {
    "begun": "beginning",
    "filled": "filling",
    "indexed": "indexing",
    "caught_up": "following",
    "compared": "comparing",
    "swapped": "swapping",
}
"""What is over at the last of each point."""

Measured = dict[str, Any]


class Bench:
    """One filled log, and what is measured on it."""

    def __init__(self, servers: Servers, store: RedisEventStore, filled: Filled, runs: int) -> None:
        assert servers.database_url is not None
        self.url: Final = servers.database_url
        self.store: Final = store
        self.filled: Final = filled
        self.runs: Final = runs

    async def timed(self, work: Callable[[], Awaitable[Measured]]) -> Measured:
        """Return the figures of one run of ``work``, which go over all events once."""
        gc.collect()
        before, started = cpu_seconds(), time.perf_counter()
        own = await work()
        seconds, after = time.perf_counter() - started, cpu_seconds()
        used = {name: used - before.get(name, 0.0) for name, used in after.items()}
        return {
            "seconds": round(seconds, 2),
            "events_per_second": round(self.filled.events / seconds),
            "mb_per_second": round(self.filled.size / seconds / 1e6, 1),
            "cpu_us_per_event": {
                "client" if name == "load" else name: round(1e6 * spent / self.filled.events, 2)
                for name, spent in sorted(used.items())
            },
            **own,
        }

    async def median(self, work: Callable[[], Awaitable[Measured]]) -> Measured:
        """Return the run of the median time."""
        runs = sorted([await work() for _ in range(self.runs)], key=lambda run: float(run["seconds"]))
        return {"runs": self.runs, **runs[len(runs) // 2]}

    @asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncEngine]:
        """A migrated database of its own, gone at the end."""
        name = f"bench_{time.monotonic_ns()}"
        execute(self.url, f"CREATE DATABASE {name}")
        engine = create_database_engine(database_at(self.url, name), application_name="bench")
        try:
            await upgrade_schema(engine)
            yield engine
        finally:
            await engine.dispose()
            execute(self.url, f"DROP DATABASE {name} WITH (FORCE)")

    async def project(self) -> Measured:
        """Project everything into an empty database."""
        async with self.database() as engine:

            async def work() -> Measured:
                assert await Projector(self.store, engine).project_available() == self.filled.events
                return {}

            return await self.timed(work)

    async def lines(self) -> list[list[EventLine]]:
        """Return every row of the archive, in the batches of a projector under load."""
        at = {number: Checkpoint(number, 0, 0, "") for number in range(PARTITIONS)}
        batches: list[list[EventLine]] = []
        limit = BATCH_COMMITS_MAX // PARTITIONS
        while commits := await self.store.read_log({n: each.end for n, each in at.items()}, limit):
            batch = batch_of(commits, at)
            at.update(batch.ends)
            batches.append(batch.lines)
        gc.freeze()
        return batches

    @asynccontextmanager
    async def plain(self, *, indexed: bool) -> AsyncIterator[AsyncConnection[Any]]:
        """An empty table like ``order_events`` in a database of its own."""
        async with self.database() as engine:
            url = driver_url(engine.url.render_as_string(hide_password=False))
            async with await AsyncConnection.connect(url, autocommit=True) as connection:
                including = sql.SQL("INCLUDING ALL" if indexed else "INCLUDING ALL EXCLUDING INDEXES")
                create = sql.SQL("CREATE TABLE {} (LIKE order_events {})").format(sql.Identifier(PLAIN), including)
                await connection.execute(create)
                yield connection

    async def copy(self, batches: Sequence[Sequence[EventLine]], *, indexed: bool) -> Measured:
        """Copy the rows, a transaction for each batch."""
        async with self.plain(indexed=indexed) as connection:

            async def work() -> Measured:
                for batch in batches:
                    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                        for line in batch:
                            await copy.write_row(line)
                return {}

            return await self.timed(work)

    async def copy_text(self, batches: Sequence[Sequence[EventLine]]) -> Measured:
        """Copy the rows as text that is ready in memory."""
        blocks: list[bytes] = []
        async with self.plain(indexed=False) as connection:
            for batch in batches:
                async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                    for line in batch:
                        await copy.write_row(line)
                names = sql.SQL(", ").join(map(sql.Identifier, EVENT_COLUMNS))
                out = sql.SQL("COPY {} ({}) TO STDOUT").format(sql.Identifier(PLAIN), names)
                async with connection.cursor() as cursor, cursor.copy(out) as copy:
                    blocks.append(b"".join([bytes(part) async for part in copy]))
                await connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(PLAIN)))
        async with self.plain(indexed=True) as connection:

            async def work() -> Measured:
                for block in blocks:
                    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                        await copy.write(block)
                return {}

            return await self.timed(work)

    async def rebuild(self, engine: AsyncEngine, projection: Projection, hot: RedisEventStore | None) -> Measured:
        """Build a projection anew, prove it equal and swap it in."""
        reached: dict[str, float] = {}

        def reach(point: str) -> None:
            # It is reached after each page, and once more after the indexes.
            if point != "filled" or "indexed" not in reached:
                reached[point] = time.perf_counter()

        async def work() -> Measured:
            last = time.perf_counter()
            done = await rebuild(engine, projection, hot=hot, reach=reach)
            assert done.swapped and done.compared is not None and done.compared.rows == 0
            spent: dict[str, float] = {}
            for point, stage in STAGES.items():
                spent[stage], last = round(reached[point] - last, 2), reached[point]
            return {"stage_seconds": spent}

        return await self.timed(work)

    async def visible(self, engine: AsyncEngine) -> Measured:
        """Return how long events of an idle system take from their append to their row."""
        stopping = asyncio.Event()
        took: list[float] = []
        async with asyncio.TaskGroup() as group, reading(engine) as looking:
            group.create_task(Projector(self.store, engine).run(stopping))
            for life in lives(VISIBLE_TIMES, seed=1):
                await asyncio.sleep(IDLE_SECONDS)
                begun = time.perf_counter()
                await self.store.append(life[0])
                async with asyncio.timeout(VISIBLE_SECONDS_MAX):
                    await seen(looking, life[0].stream)
                took.append(1000 * (time.perf_counter() - begun))
            stopping.set()
        # The first ones also wait for the projector's start.
        took = sorted(took[5:])
        return {
            "n": len(took),
            "ms": {
                "p50": round(statistics.median(took), 2),
                "p99": round(took[len(took) * 99 // 100], 2),
                "max": round(took[-1], 2),
            },
        }


async def seen(connection: SqlConnection, order_id: str) -> None:
    """Return once the order has a row."""
    found = text("SELECT version FROM orders WHERE id = :id")
    while True:
        if await connection.scalar(found, {"id": order_id}) is not None:
            return
        await asyncio.sleep(POLL_SECONDS)


async def measure(options: argparse.Namespace) -> None:
    """Measure everything on one log."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        async with embedded_servers(Path(directory) / "data") as servers:
            store = await RedisEventStore.open(
                servers.redis_url, StoreSettings(partitions=PARTITIONS, level=MEMORY), new_store_id="bench"
            )
            try:
                started = time.perf_counter()
                filled = await fill(store, options.events)
                seconds = time.perf_counter() - started
                say(
                    {"what": "append", "orders": filled.orders, "events": filled.events}, filled.size, round(seconds, 1)
                )
                await measure_all(Bench(servers, store, filled, options.runs))
            finally:
                await store.close()


async def measure_all(bench: Bench) -> None:
    """Measure in an order in which nothing stands in the way of what follows."""
    rates: dict[str, float] = {}

    def told(name: str, figures: Measured) -> None:
        rates[name] = float(figures["events_per_second"])
        say({"what": name, "events": bench.filled.events, **figures})

    told("project", await bench.median(bench.project))
    batches = await bench.lines()
    told("copy", await bench.median(lambda: bench.copy(batches, indexed=True)))
    told("copy, no index", await bench.median(lambda: bench.copy(batches, indexed=False)))
    told("copy, ready text", await bench.median(lambda: bench.copy_text(batches)))
    batches.clear()
    gc.unfreeze()
    async with bench.database() as engine:
        await Projector(bench.store, engine).project_available()
        async with reading(engine) as connection:
            await connection.execute(text("VACUUM ANALYZE"))
        for name, projection in PROJECTIONS.items():
            for source, hot in (("archive", None), ("redis", bench.store)):
                run = await bench.median(lambda p=projection, h=hot: bench.rebuild(engine, p, h))  # type: ignore[misc]
                told(f"rebuild {name} from {source}", run)
        say({"what": "visible", **await bench.visible(engine)})
    compared = {name: round(rate / rates["copy"], 3) for name, rate in rates.items() if name != "copy"}
    say({"what": "ratio", "to": "copy", **compared})


def say(figures: Measured, size: int | None = None, seconds: float | None = None) -> None:
    """Print one JSON line."""
    more = {} if size is None else {"bytes_per_event": round(size / figures["events"]), "seconds": seconds}
    facts = {"bench": "projections", "commit": commit(), "machine": machine(), "load": round(os.getloadavg()[0], 1)}
    sys.stdout.write(json.dumps({**facts, **figures, **more}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of which the median is printed")
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(options))


if __name__ == "__main__":
    main()
