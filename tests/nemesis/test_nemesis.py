"""Under every kind of fault, alone and together, the engine keeps what it promised; and the checker bites."""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from eventstore.levels import FSYNC, WITNESSED
from tests.nemesis.lost_intent import lost_intent
from tests.nemesis.plans import KINDS, plan_of
from tests.nemesis.run import Outcome, run
from tests.nemesis.world import Postgres

pytestmark = pytest.mark.slow

SEEDS = (302, 608, 696, 1330)

T = TypeVar("T")


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Where PostgreSQL's data and the logs are; kept when a test has left logs."""
    path = Path(tempfile.mkdtemp(prefix="ot-nemesis-"))
    yield path
    shutil.rmtree(path / "servers", ignore_errors=True)
    if not list(path.iterdir()):
        path.rmdir()


def on_postgres(base: Path, scenario: Callable[[Postgres], Awaitable[T]]) -> T:
    """Run ``scenario`` with a running PostgreSQL."""

    async def main() -> T:
        postgres = Postgres(base / "servers")
        await postgres.start()
        try:
            return await scenario(postgres)
        finally:
            await postgres.stop()

    return asyncio.run(main())


def require_clean(outcome: Outcome) -> None:
    assert not outcome.findings, f"\n{outcome}"
    shutil.rmtree(outcome.logs)
    missed = {fault.kind for fault in outcome.plan.faults} - {kind for kind, times in outcome.done.items() if times}
    assert not missed, f"\n{outcome}"


def test_the_seeds_draw_every_kind_of_fault() -> None:
    assert {fault.kind for seed in SEEDS for fault in plan_of(seed).faults} == set(KINDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_under_faults_every_promise_is_kept(seed: int, base: Path) -> None:
    require_clean(on_postgres(base, lambda postgres: run(plan_of(seed), postgres, base)))


def test_under_faults_never_drawn_before_every_promise_is_kept(base: Path) -> None:
    plan = plan_of(random.SystemRandom().randrange(10**6))
    require_clean(on_postgres(base, lambda postgres: run(plan, postgres, base)))


def test_an_intent_that_is_only_flushed_and_then_lost_is_swapped_twice_and_found(base: Path) -> None:
    (finding,) = on_postgres(base, lambda postgres: lost_intent(FSYNC, postgres, base))
    assert finding.startswith("swapped 2 times")
    shutil.rmtree(base / "lost-intent-fsync")


def test_a_witnessed_intent_is_swapped_once_whatever_the_servers_lose(base: Path) -> None:
    assert on_postgres(base, lambda postgres: lost_intent(WITNESSED, postgres, base)) == []
    shutil.rmtree(base / "lost-intent-witnessed")
