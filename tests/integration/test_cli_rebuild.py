"""`rebuild` as an operator uses it: gate, remedy, interruption, rollback, and what programs are told."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.redis.store import RedisEventStore
from projections.models.orders import PROJECTION as ORDERS
from projections.models.registry import PROJECTIONS
from projections.rebuild.rebuilding import rebuild as rebuild_projection
from projections.rebuild.state import REBUILD_LOCK
from tests.builders import stream_id
from tests.conftest import WAIT_SECONDS, contents, driver_url, execute, interleaved
from tests.integration.projected import NOWHERE, Engine, engine_here

pytestmark = pytest.mark.slow

COMMITS = interleaved(seed=41, orders=12)
EVENTS = sum(len(commit.events) for commit in COMMITS)


@pytest.fixture
def engine(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Engine:
    here = engine_here(redis_url, database_url, monkeypatch, tmp_path, capsys)
    here.project(COMMITS)
    return here


@pytest.fixture
def bare(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Engine:
    """An engine whose PostgreSQL is away."""
    return engine_here(redis_url, NOWHERE, monkeypatch, tmp_path, capsys)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(("name", "source"), [("", "archive"), *((name, "redis") for name in PROJECTIONS)])
def test_every_projection_is_rebuilt_by_its_name_and_orders_without_any(engine: Engine, name: str, source: str) -> None:
    before = contents(engine.database_url)
    *progress, result = lines(engine.run("rebuild", *name.split(), "--from", source, "--json"))
    assert progress[0] == {
        "type": "progress",
        "stage": "filling",
        "events": EVENTS,
        "total": EVENTS,
        "eventsPerSecond": None,
        "etaSeconds": None,
    }
    assert result.pop("seconds") > 0
    assert result == {
        "type": "result",
        "projection": name or "orders",
        "orders": 12,
        "events": EVENTS,
        "resumed": False,
        "swapped": True,
        "kept": False,
        "compared": {"rows": 0, "columns": {}, "samples": []},
    }
    assert contents(engine.database_url) == before


def test_a_person_is_told_what_was_rebuilt(engine: Engine) -> None:
    told = engine.run("rebuild")
    assert told.startswith(f"rebuilt orders: 12 orders from {EVENTS} events in ")
    assert told.endswith("it equals the live table at one identical position\n")


def test_verify_only_finds_what_differs_and_changes_nothing(engine: Engine) -> None:
    assert engine.run("rebuild", "--verify-only").endswith("nothing was swapped\n")
    order = _damage(engine)
    wrong = contents(engine.database_url)
    told = engine.run("rebuild", "orders", "--verify-only", status=1)
    assert "it differed from the live table in 1 rows: venue (1)" in told
    assert f"venue   {order}  or�[31mca" in told
    assert "\x1b" not in told
    *_, result = lines(engine.both("rebuild", "--verify-only", "--json", status=1)[0])
    assert (result["swapped"], result["compared"]["columns"]) == (False, {"venue": 1})
    (sample,) = result["compared"]["samples"]
    assert (sample["key"], sample["column"], sample["live"]) == (order, "venue", "or\x1b[31mca")
    assert contents(engine.database_url) == wrong
    assert execute(engine.database_url, "SELECT to_regclass('orders_next')") == [(None,)]


def test_a_refused_rebuild_names_its_remedies_and_each_of_them_works(engine: Engine) -> None:
    right = contents(engine.database_url)
    order = _damage(engine)
    told = engine.run("rebuild", status=2)
    assert f"venue   {order}  or�[31mca" in told
    assert "ordertape: the rebuilt orders differs from the live one in venue (1)" in told
    *_, refused = lines(engine.both("rebuild", "--json", status=2)[0])
    assert (refused["type"], refused["projection"], refused["columns"]) == ("refused", "orders", {"venue": 1})
    assert refused["samples"][0]["key"] == order
    assert engine.run("rebuild", "drop") == "what a rebuild of orders had made is removed\n"
    assert "orders has no rebuild" in engine.run("rebuild", "drop", status=1)
    engine.run("rebuild", status=2)
    assert "it differed from the live table in 1 rows: venue (1)" in engine.run("rebuild", "--changed", "venue")
    assert contents(engine.database_url) == right
    _damage(engine)
    engine.run("rebuild", status=2)
    assert engine.run("rebuild", "--order", order) == f"{order} is mended, at version 6: venue\n"
    assert "going on where an earlier one was\nit equals the live table" in engine.run("rebuild")
    assert contents(engine.database_url) == right


def test_an_interrupted_rebuild_is_gone_on_with(engine: Engine) -> None:
    async def interrupt(_store: RedisEventStore, database: AsyncEngine) -> None:
        def reach(point: str) -> None:
            if point == "indexed":
                raise KeyError(point)

        with pytest.raises(KeyError):
            await rebuild_projection(database, ORDERS, reach=reach)

    engine.on_data(interrupt)
    engine.project(interleaved(seed=42, orders=3))
    before = contents(engine.database_url)
    *_, result = lines(engine.run("rebuild", "--json"))
    assert (result["resumed"], result["swapped"], result["compared"]["rows"]) == (True, True, 0)
    assert contents(engine.database_url) == before


def test_a_rebuild_that_was_killed_is_gone_on_with(engine: Engine) -> None:
    before = contents(engine.database_url)
    command = [sys.executable, "-m", "app.cli.main", "rebuild", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with psycopg.connect(driver_url(engine.database_url)) as reader:
        # Nothing is swapped while somebody reads.
        reader.execute("SELECT count(*) FROM orders")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        until(lambda: execute(engine.database_url, "SELECT 1 FROM rebuilds WHERE state = 'following'") != [])
        process.kill()
        process.wait(WAIT_SECONDS)
    held = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'ordertape cli' AND datname = current_database()"
    until(lambda: execute(engine.database_url, held) == [])
    *_, result = lines(engine.run("rebuild", "--json"))
    assert (result["resumed"], result["swapped"], result["events"]) == (True, True, EVENTS)
    assert contents(engine.database_url) == before


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_old_table_is_kept_brought_back_and_dropped(engine: Engine) -> None:
    right = contents(engine.database_url)
    _damage(engine)
    wrong = contents(engine.database_url)
    kept = engine.run("rebuild", "--keep-old", "--changed", "venue")
    assert "the old table is kept: `ordertape rebuild rollback orders`" in kept
    assert contents(engine.database_url) == right
    assert "is kept: `ordertape rebuild rollback orders` brings it back" in engine.run("rebuild", status=2)
    assert "the old table of orders is back" in engine.run("rebuild", "rollback")
    assert contents(engine.database_url) == wrong
    assert lines(engine.run("rebuild", "rollback", "orders", "--json")) == [
        {"type": "result", "projection": "orders", "done": "rolled back"}
    ]
    assert contents(engine.database_url) == right
    assert lines(engine.run("rebuild", "drop", "--json")) == [
        {"type": "result", "projection": "orders", "done": "dropped"}
    ]
    assert "orders has no old table to bring back" in engine.run("rebuild", "rollback", status=1)
    assert contents(engine.database_url) == right


def test_a_rolled_back_table_has_what_was_projected_meanwhile(engine: Engine) -> None:
    engine.run("rebuild", "volumes", "--keep-old")
    engine.project(interleaved(seed=43, orders=5))
    before = contents(engine.database_url)
    engine.run("rebuild", "rollback", "volumes")
    assert contents(engine.database_url) == before


def test_one_order_is_folded_anew_in_place(engine: Engine) -> None:
    order = _damage(engine)
    assert lines(engine.run("rebuild", "orders", "--order", order, "--json")) == [
        {"type": "result", "orderId": order, "outcome": "mended", "columns": ["venue"], "version": 6, "reason": None}
    ]
    nobody = stream_id("nobody")
    assert f"order {nobody} is not in the read model" in engine.run("rebuild", "--order", nobody, status=1)
    assert "order-1" in engine.run("rebuild", "--order", "order-1", status=2)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nothing"], "No such command"),
        (["rollback", "nothing"], "nothing is no projection: name one of orders, volumes"),
        (["drop", "nothing"], "nothing is no projection"),
        (["--changed", "no_such"], "orders has no column no_such"),
        (["volumes", "--changed", "status"], "volumes has no column status"),
        (["--verify-only", "--keep-old"], "swaps nothing"),
        (["--order", "x", "--verify-only"], "folds one row in place"),
        (["--order", "x", "--from", "redis"], "folds one row in place"),
        (["volumes", "--order", "x"], "No such option"),
        (["--from", "tape"], "'tape' is not one of"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(bare: Engine, command: list[str], says: str) -> None:
    assert says in bare.run("rebuild", *command, status=2)


def test_what_stands_in_the_way_is_named(engine: Engine) -> None:
    with psycopg.connect(driver_url(engine.database_url)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [REBUILD_LOCK])
        assert "another rebuild" in engine.run("rebuild", status=2)
        assert "another rebuild" in engine.run("rebuild", "drop", status=2)
    execute(engine.database_url, "DELETE FROM order_events WHERE version = 3")
    (refused,) = lines(engine.both("rebuild", "--json", status=2)[0])
    assert "ordertape rebuild order_events" in refused["reason"]


def test_without_postgresql_nothing_is_rebuilt(bare: Engine) -> None:
    assert "PostgreSQL cannot be used" in bare.run("rebuild", status=2)


@pytest.mark.parametrize("command", ["", *PROJECTIONS, "rollback", "drop"])
def test_every_command_has_help(bare: Engine, command: str) -> None:
    assert len(bare.run("rebuild", *command.split(), "--help").splitlines()) > 4


def _damage(engine: Engine) -> str:
    """Write a wrong venue, with what a terminal would obey, into one row; return its order."""
    statement = (
        "UPDATE orders SET venue = E'or\\x1b[31mca' WHERE id = "
        "(SELECT min(id) FROM orders WHERE status = 'confirmed' AND version = 6) RETURNING id"
    )
    return str(execute(engine.database_url, statement)[0][0])
