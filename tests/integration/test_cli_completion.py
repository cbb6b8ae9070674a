"""`rebuild order_events` as an operator uses it: what it tells, its exit status, and giving up an unfinished one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.ids import event_id
from eventstore.redis.store import RedisEventStore
from projections.rebuild.building import Progress
from projections.rebuild.completing import complete_archive
from projections.rebuild.state import REBUILD_LOCK
from tests.builders import stream_id
from tests.conftest import appends, contents, driver_url, execute, interleaved, market_life
from tests.integration.archives import archive, nothing_is_left_of_it
from tests.integration.projected import NOWHERE, Engine, engine_here

pytestmark = pytest.mark.slow

ORDER = stream_id("owner-3")
COMMITS = [*interleaved(seed=61, orders=4), *appends(ORDER, market_life())]
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


def told(engine: Engine, *options: str, status: int = 0) -> list[dict[str, Any]]:
    out = engine.both("rebuild", "order_events", "--json", *options, status=status)[0]
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1].pop("seconds", 1) > 0
    return lines


def damage(engine: Engine, version: int, change: str) -> None:
    execute(engine.database_url, f"{change} WHERE order_id = %s AND version = %s", ORDER, version)


def test_a_rebuild_that_the_archive_was_too_incomplete_for_works_once_it_is_completed(engine: Engine) -> None:
    whole = contents(engine.database_url)
    damage(engine, 3, "DELETE FROM order_events")
    assert "ordertape rebuild order_events" in engine.run("rebuild", status=2)
    text = engine.run("rebuild", "order_events")
    assert text.startswith(f"completed order_events: {EVENTS} events in ")
    assert text.endswith("missing: 1 events, now there\n")
    engine.run("rebuild")
    assert contents(engine.database_url) == whole
    assert engine.run("rebuild", "order_events").endswith("it has everything that Redis has\n")


def test_programs_are_told_the_progress_and_what_was_found(engine: Engine) -> None:
    damage(engine, 3, "DELETE FROM order_events")
    damage(engine, 4, "UPDATE order_events SET payload = '{}'")
    first, *_, result = told(engine)
    assert (first["type"], first["stage"], first["total"]) == ("progress", "filling", EVENTS)
    assert result == {
        "type": "result",
        "projection": "order_events",
        "missing": 1,
        "damaged": 1,
        "conflicts": [],
        "events": EVENTS,
        "swapped": True,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DELETE FROM order_events", "missing: 1 events\nnothing was changed\n"),
        ("UPDATE order_events SET payload = '{}'", "damaged: 1 events\nnothing was changed\n"),
    ],
)
def test_verify_only_changes_nothing_and_exits_with_1_if_something_is_lacking(
    engine: Engine, change: str, says: str
) -> None:
    assert engine.run("rebuild", "order_events", "--verify-only").endswith("Redis has\nnothing was changed\n")
    damage(engine, 6, change)
    before = archive(engine.database_url)
    assert engine.run("rebuild", "order_events", "--verify-only", status=1).endswith(says)
    assert told(engine, "--verify-only", status=1)[-1]["swapped"] is False
    assert archive(engine.database_url) == before
    assert nothing_is_left_of_it(engine.database_url)


@pytest.mark.parametrize("options", [[], ["--verify-only"]])
def test_conflicts_stay_and_are_named_with_exit_status_1(engine: Engine, options: list[str]) -> None:
    damage(engine, 6, "UPDATE order_events SET hash = 'other'")
    before = archive(engine.database_url)
    text = engine.run("rebuild", "order_events", *options, status=1)
    assert f"conflicts, in which the archive was left as it is: {event_id(ORDER, 6)}\n" in text
    assert "ordertape audit verify" in text
    assert told(engine, *options, status=1)[-1]["conflicts"] == [event_id(ORDER, 6)]
    assert archive(engine.database_url) == before


def test_an_unfinished_one_is_given_up(engine: Engine) -> None:
    before = archive(engine.database_url)

    async def interrupt(store: RedisEventStore, database: AsyncEngine) -> None:
        def report(at: Progress) -> None:
            if at.stage == "swapping":
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await complete_archive(database, store, report=report)

    engine.on_data(interrupt)
    assert "order_events" in engine.run("projections", "status")
    assert engine.run("rebuild", "drop", "order_events") == "what a rebuild of order_events had made is removed\n"
    assert nothing_is_left_of_it(engine.database_url)
    assert "order_events has no rebuild" in engine.run("rebuild", "drop", "order_events", status=1)
    assert archive(engine.database_url) == before


def test_what_stands_in_the_way_is_named(engine: Engine) -> None:
    with psycopg.connect(driver_url(engine.database_url)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [REBUILD_LOCK])
        assert "another rebuild" in engine.run("rebuild", "order_events", status=2)
        assert "another rebuild" in engine.run("rebuild", "drop", "order_events", status=2)
        assert told(engine, status=2)[-1]["type"] == "refused"


def test_without_postgresql_nothing_is_completed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = engine_here(redis_url, NOWHERE, monkeypatch, tmp_path, capsys)
    assert "PostgreSQL cannot be used" in bare.run("rebuild", "order_events", status=2)


def test_the_command_has_help(engine: Engine) -> None:
    assert "Complete the archive from Redis" in engine.run("rebuild", "order_events", "--help")
