"""Comparing both copies: every difference between streams and database is found, and named by kind."""

import asyncio

import pytest
from msgspec.structs import replace
from psycopg.errors import LockNotAvailable
from sqlalchemy import text

from projections.database import snapshot
from projections.diff import Finding, diff
from tests.builders import stream_id
from tests.conftest import accepted, appends, database, differences, execute, fill, filled, market_life, project
from tests.poison import POISON, poisoned


@pytest.mark.parametrize(
    ("damage", "kind", "field", "expected", "found"),
    [
        ("UPDATE orders SET status = 'failed'", "value", "status", "confirmed", "failed"),
        ("UPDATE orders SET amount_out = NULL", "value", "amount_out", "301250000", ""),
        ("UPDATE orders SET amount = 1.49", "value", "amount", "1.5", "1.49"),
        ("UPDATE orders SET limit_price = 163.4", "value", "limit_price", "163.5", "163.4"),
        ("UPDATE orders SET time_in_force = NULL", "value", "time_in_force", "IOC", ""),
        ("UPDATE orders SET expire_at = NULL", "value", "expire_at", "2027-01-15T09:00:00.000000Z", ""),
        ("UPDATE orders SET created_at = '2026-01-01'", "value", "created_at", None, "2026-01-01T00:00:00.000000Z"),
        ("DELETE FROM orders", "missing", "row", "version 6", ""),
        ("DELETE FROM order_events WHERE version = 6", "missing", "events/6", None, ""),
        ("UPDATE order_events SET hash = 'other' WHERE version = 2", "value", "events/2/hash", None, "other"),
        (
            "UPDATE order_events SET payload = payload - 'side' WHERE version = 1",
            "value",
            "events/1/payload",
            None,
            None,
        ),
        (
            "UPDATE order_events SET payload = payload || '{\"n\": 1.5}' WHERE version = 4",
            "value",
            "events/4/payload",
            None,
            None,
        ),
        ("UPDATE order_events SET position = 99 WHERE version = 6", "value", "events/6/position", "6", "99"),
    ],
)
def test_a_difference_between_the_copies_is_found(
    database_url: str, damage: str, kind: str, field: str, expected: str | None, found: str | None
) -> None:
    order = stream_id()
    terms = {"limit_price": "163.50", "time_in_force": "IOC", "expire_at": "2027-01-15T09:00:00.000000Z"}
    first = replace(accepted(), order_type="limit", **terms)
    store = filled(appends(order, [[first], *market_life()[1:]]))
    project(database_url, store)
    execute(database_url, damage)
    (finding,) = differences(database_url, store)
    assert (finding.kind, finding.order_id, finding.field) == (kind, order, field)
    assert finding.expected == expected if expected is not None else finding.expected
    assert finding.found == found if found is not None else finding.found


def test_what_only_the_database_knows_is_a_difference(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, [[accepted()]])))
    assert [(finding.field, finding.expected) for finding in differences(database_url, filled([]))] == [
        ("row", ""),
        ("events/1", ""),
    ]


def test_what_is_not_projected_yet_is_no_difference(database_url: str) -> None:
    commits = appends(stream_id(), market_life())
    store = filled(commits[:3])
    project(database_url, store)
    assert differences(database_url, fill(store, commits[3:])) == []


def test_a_row_that_fell_behind_is_one_stale_finding(database_url: str) -> None:
    order = stream_id()
    store = filled(appends(order, market_life()))
    project(database_url, store)
    execute(database_url, "UPDATE orders SET version = 4, status = 'building', tx_id = NULL")
    assert differences(database_url, store) == [Finding("stale", order, "version", "6", "4")]


@pytest.mark.parametrize("poison", POISON)
def test_an_order_that_stands_still_is_a_quarantined_finding(
    database_url: str, poison: tuple[int, dict[str, object], str]
) -> None:
    version, change, reason = poison
    order = stream_id()
    store = filled(poisoned(appends(order, market_life()), version, change))
    project(database_url, store)
    (finding,) = differences(database_url, store)
    assert (finding.kind, finding.order_id, finding.field) == ("quarantined", order, "row")
    assert f"stands still before event {version}" in finding.found
    assert reason in finding.found


def test_an_archived_event_that_cannot_be_read_is_compared_byte_for_byte(database_url: str) -> None:
    order = stream_id()
    store = filled(poisoned(appends(order, market_life()), 4, {"chosen": {"venue": 7}}))
    project(database_url, store)
    execute(database_url, "UPDATE order_events SET data = 'other' WHERE version = 4")
    kinds = {(finding.kind, finding.field) for finding in differences(database_url, store)}
    assert kinds == {("quarantined", "row"), ("value", "events/4/payload")}


def test_only_the_orders_asked_for_are_compared(database_url: str) -> None:
    first, other = stream_id(), stream_id()
    store = filled([*appends(first, market_life()), *appends(other, market_life())])
    project(database_url, store)
    execute(database_url, "DELETE FROM orders")

    async def scenario() -> list[Finding]:
        async with database(database_url) as engine:
            return await diff(store, engine, [other])

    assert [finding.order_id for finding in asyncio.run(scenario())] == [other]


def test_tables_that_are_compared_are_not_swapped_meanwhile(database_url: str) -> None:
    project(database_url, filled(appends(stream_id(), market_life())))

    async def scenario() -> None:
        async with database(database_url) as engine, snapshot(engine, "orders", "order_events") as connection:
            for table in ("orders", "order_events"):
                with pytest.raises(LockNotAvailable):
                    execute(database_url, f"SET lock_timeout = 1; ALTER TABLE {table} RENAME TO other")
            # The moment is taken by the first statement, not by the lock.
            execute(database_url, "DELETE FROM orders")
            assert await connection.scalar(text("SELECT count(*) FROM orders")) == 0

    asyncio.run(scenario())
