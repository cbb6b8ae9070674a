"""One run, and the command line that runs seed after seed: ``python -m tests.nemesis.run --seed 7 --seconds 60``."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.dex.chain import BLOCKHASH_LIFETIME, LedgerEntry
from app.main import open_chain
from app.orders.lifecycle import TERMINAL
from eventstore.errors import EventStoreError
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import read_checkpoints
from projections.database import DATABASE_OUTAGES, reading
from tests.nemesis import checks
from tests.nemesis.faults import Nemesis
from tests.nemesis.load import Load
from tests.nemesis.plans import Plan, plan_of
from tests.nemesis.world import Postgres, World, world

READY_SECONDS = 60
SETTLE_SECONDS = 60
RUN_SECONDS_MAX = 240
UNFINISHED = text(f"SELECT count(*) FROM orders WHERE status NOT IN {tuple(sorted(TERMINAL))}")


class Outcome(Struct, frozen=True):
    """What a run came to."""

    plan: Plan
    findings: list[str]
    done: dict[str, int]
    """How often each kind of fault happened."""
    counts: dict[str, int]
    """What clients met."""
    logs: Path

    def __str__(self) -> str:
        lines = [f"  done {self.done}", f"  met {self.counts}"]
        if self.findings:
            lines += [f"  FINDING {finding}" for finding in self.findings[:40]]
            lines += [f"  logs: {self.logs}"]
        return "\n".join(lines)


async def run(plan: Plan, postgres: Postgres, base: Path) -> Outcome:
    """Run one plan on ``postgres``, which runs in ``base``; the logs stay there.

    Raises:
        TimeoutError: the world did not start, or the run took too long; both are printed with the plan.
    """
    sys.stdout.write(f"{plan}\n  repeat: make nemesis SEED={plan.seed} SECONDS=1\n")
    sys.stdout.flush()
    async with asyncio.timeout(RUN_SECONDS_MAX):
        return await _run(plan, postgres, base)


async def _run(plan: Plan, postgres: Postgres, base: Path) -> Outcome:
    logs = base / f"seed-{plan.seed}"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    async with world(plan, postgres, logs) as made:
        made.start_engine()
        await until(READY_SECONDS, made.ready, "the engine became ready")
        load, nemesis = Load(made.url, plan.seed), Nemesis(made)
        problems: list[str] = []
        keepers = [asyncio.create_task(role.keep(made.restore_if_empty)) for role in made.roles]
        try:
            submitting = asyncio.create_task(load.submit_until_closing())
            await nemesis.carry_out(plan)
            load.closing.set()
            await submitting
            await calm(made)
            load.calm.set()
            problems += await settled(made, load)
            ledger = await full_ledger(made)
            async with made.opened() as (store, database):
                problems += await checks.findings(plan, store, database, ledger, load)
            problems += [f"{keeper.exception()}" for keeper in keepers if keeper.done()]
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            (logs / "redis.log").write_text(made.redis.log(), encoding="utf-8")
            shutil.copy(base / "servers" / "postgres.log", logs)
        counts = load.counts + Counter(
            views=len(load.views),
            resumes=sum(view.resumes for view in load.views.values()),
            forks=sum(len(view.lost) for view in load.views.values()),
            deaths=sum(role.own_deaths for role in made.roles),
            restored=made.restored,
            swaps=sum(entry.outcome == "executed" for entry in ledger),
        )
        return Outcome(plan, problems, dict(nemesis.done), dict(counts), logs)


async def calm(made: World) -> None:
    """End everything that still goes wrong."""
    for proxy in (made.proxy, made.database_proxy):
        await asyncio.to_thread(proxy.calm)
    for role in made.roles:
        role.thaw()


async def settled(made: World, load: Load) -> list[str]:
    """Wait until nothing is left to do; return what is not done in time."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                await made.restore_if_empty()
                with suppress(EventStoreError, *DATABASE_OUTAGES):
                    async with made.opened() as (store, database):
                        if await _quiet(store, database):
                            break
                await asyncio.sleep(0.1)
            await load.watched()
    except TimeoutError:
        left = [f"{view.order_id} ({len(view.events)}, {view.lost})" for view in load.views.values() if not view.ended]
        return [f"not settled within {SETTLE_SECONDS} s; views left: {left}"]
    return []


async def _quiet(store: ArchivedEventStore, database: AsyncEngine) -> bool:
    ends = await store.log_ends()
    async with reading(database) as connection:
        reached = await read_checkpoints(connection)
        unfinished = await connection.scalar(UNFINISHED)
    parts = await store.status()
    return (
        all(number in reached and reached[number].end == end for number, end in ends.items())
        and not unfinished
        and not any(part.tasks or part.timers or part.waiting for part in parts)
    )


async def full_ledger(made: World) -> list[LedgerEntry]:
    """The chain's ledger, when everything that was ever sent has landed or never will."""
    chain, connection = open_chain(made.settings, made.redis.url)
    try:
        for _ in range(BLOCKHASH_LIFETIME + 10):
            await chain.observe([])
        return await chain.ledger()
    finally:
        await connection.close()


async def until(seconds: float, condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until ``condition`` is true; raises TimeoutError with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.05)


async def run_seeds(first: int, seconds: float, base: Path) -> int:
    """Run seeds from ``first`` on until ``seconds`` are over, one at least; return how many were not clean."""
    postgres = Postgres(base / "servers")
    await postgres.start()
    failures, seed, ends = 0, first, time.monotonic() + seconds
    try:
        while True:
            started = time.monotonic()
            outcome = await run(plan_of(seed), postgres, base)
            failures += bool(outcome.findings)
            verdict = "FAILED" if outcome.findings else "clean"
            sys.stdout.write(f"{outcome}\n  {verdict} in {time.monotonic() - started:.1f} s\n")
            sys.stdout.flush()
            if not outcome.findings:
                shutil.rmtree(outcome.logs)
            seed += 1
            if time.monotonic() > ends:
                return failures
    finally:
        await postgres.stop()


def main() -> None:
    """Run what the command line asks for; exit 1 when a run was not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="ot-nemesis-"))
    failures = asyncio.run(run_seeds(options.seed, options.seconds, base))
    if not failures:
        shutil.rmtree(base)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
