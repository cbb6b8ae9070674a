"""When events were appended that only their streams know, where the log has left Redis: the archive stays in order."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from eventstore.ids import created_ms
from eventstore.memory import MemoryEventStore
from tests.builders import stream_id
from tests.conftest import appends, execute, fill, filled, market_life, project
from tests.integration.archives import COMMIT, archive, complete, in_order, lives, trim, without_times
from tests.poison import poisoned


@pytest.mark.parametrize("seed", range(3))
def test_where_only_the_streams_know_an_event_the_log_of_the_archive_stays_in_order(
    database_url: str, seed: int
) -> None:
    store = lives()
    project(database_url, store)
    whole = archive(database_url)
    asyncio.run(trim(store))
    chance = random.Random(seed)
    commits = sorted({str(row[COMMIT]) for row in whole})
    execute(
        database_url, "DELETE FROM order_events WHERE commit_id = ANY(%s)", chance.sample(commits, len(commits) // 3)
    )
    complete(database_url, store)
    assert without_times(archive(database_url)) == without_times(whole)
    assert in_order(archive(database_url))


EARLY, LATE = "2027-01-15T07:59:59Z", "2027-01-15T08:00:01Z"


@pytest.mark.parametrize(
    ("log", "missing", "others", "expected"),
    [
        (LATE, "version = 2", {1: EARLY, 3: LATE}, "2027-01-15T08:00:00.002Z"),
        (LATE, "version = 2", {1: LATE}, LATE),
        (LATE, "version = 2", {1: EARLY, 3: EARLY}, EARLY),
        (LATE, "version <> 6", {}, "2027-01-15T08:00:00.002Z"),
        (EARLY, "version > 0", {}, EARLY),
    ],
)
def test_an_event_that_only_its_stream_knows_was_appended_between_those_around_it(
    database_url: str, log: str, missing: str, others: dict[int, str], expected: str
) -> None:
    order = stream_id()
    now_us = int(datetime.fromisoformat(log).timestamp()) * 1_000_000
    store = MemoryEventStore(partitions=4, store_id="memory", now_us=lambda: now_us)
    project(database_url, fill(store, appends(order, market_life())))
    asyncio.run(trim(store))
    for version, time in others.items():
        execute(database_url, "UPDATE order_events SET recorded_at = %s WHERE version = %s", time, version)
    execute(database_url, f"DELETE FROM order_events WHERE {missing}")
    complete(database_url, store)
    found = execute(database_url, "SELECT recorded_at FROM order_events WHERE version = 2")
    assert found == [(datetime.fromisoformat(expected),)]


def test_an_event_whose_commit_was_damaged_keeps_the_time_at_which_it_was_appended(database_url: str) -> None:
    store = filled(appends(stream_id(), market_life()))
    project(database_url, store)
    whole = archive(database_url)
    asyncio.run(trim(store))
    execute(database_url, "UPDATE order_events SET commit_id = 'x' WHERE version = 2")
    assert complete(database_url, store).damaged == 1
    assert archive(database_url) == whole


def test_an_unreadable_event_that_only_its_stream_knows_was_appended_when_its_order_began(database_url: str) -> None:
    order = stream_id()
    store = filled(poisoned(appends(order, market_life()), 1, {"at": "yesterday"}))
    project(database_url, store)
    asyncio.run(trim(store))
    execute(database_url, "UPDATE order_events SET recorded_at = '2027-01-15T08:00:01Z'")
    execute(database_url, "DELETE FROM order_events WHERE version = 1")
    complete(database_url, store)
    found = execute(database_url, "SELECT recorded_at FROM order_events WHERE version = 1")
    assert found == [(datetime.fromtimestamp(created_ms(order) / 1000, UTC),)]
