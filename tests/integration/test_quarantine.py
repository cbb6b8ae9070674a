"""An event that cannot be applied: its order stands still, its later events wait in order, everything else goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.ids import event_id
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredCommit
from projections import parking
from projections.archive import events as archive
from projections.errors import NotParkedError, SkipError
from projections.models.registry import PROJECTIONS
from projections.rebuild import mending
from projections.rebuild.mending import Mended
from projections.rebuild.rebuilding import rebuild
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import (
    accepted,
    appends,
    contents,
    database,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    project,
    second,
    total,
)
from tests.poison import POISON, RECEIPT, poisoned

GOOD = interleaved(seed=31, orders=12)


def parked(url: str) -> list[tuple[object, ...]]:
    """Order, version and reason of each parked event."""
    return execute(url, "SELECT order_id, version, reason FROM parked_events ORDER BY order_id, version")


def quality(url: str, order: str) -> tuple[object, ...]:
    """Version, status, quality and its reason of an order's row."""
    return execute(url, "SELECT version, status, quality, quality_reason FROM orders WHERE id = %s", order)[0]


def everything_else_is_as_without(url: str, order: str) -> None:
    """Require that all other orders are projected as if the poisoned one were not there."""
    rows = execute(url, "SELECT count(*) FROM orders WHERE id <> %s", order)
    assert rows == [(12,)]
    assert execute(url, "SELECT count(*) FROM orders WHERE quality <> 'ok' AND id <> %s", order) == [(0,)]


def on_database(url: str, act: Callable[[Any], Awaitable[Any]]) -> Any:
    async def scenario() -> Any:
        async with database(url) as engine:
            return await act(engine)

    return asyncio.run(scenario())


@pytest.mark.parametrize(("version", "change", "reason"), POISON)
@pytest.mark.parametrize("batch", [5000, 4])
def test_a_poisoned_order_stands_still_before_the_event_and_nothing_else_does(
    database_url: str, version: int, change: dict[str, Any], reason: str, batch: int
) -> None:
    order = stream_id("owner-3")
    store = filled([*GOOD[:20], *poisoned(appends(order, market_life()), version, change), *GOOD[20:]])
    assert project(database_url, store, batch) == total(store)
    at, _, found, why = quality(database_url, order)
    assert (at, found) == (version - 1, "quarantined")
    assert reason in str(why)
    assert [(row[0], row[1]) for row in parked(database_url)] == [(order, n) for n in range(version, 7)]
    assert [row[2] for row in parked(database_url)] == [why, *[None] * (6 - version)]
    everything_else_is_as_without(database_url, order)
    assert execute(database_url, "SELECT count(*) FROM order_events") == [(total(store),)]


@pytest.mark.parametrize(("version", "change", "_"), POISON)
def test_every_event_is_archived_byte_for_byte_whatever_it_is(
    database_url: str, version: int, change: dict[str, Any], _: str
) -> None:
    order = stream_id()
    commits = poisoned(appends(order, market_life()), version, change)
    project(database_url, filled(commits))

    async def read(engine: Any) -> list[bytes]:
        async with engine.connect() as connection:
            return [event.data for event in await archive.read_stream(connection, order)]

    assert on_database(database_url, read) == [event.data for commit in commits for event in commit.events]


def test_a_poisoned_first_event_leaves_no_row_and_parks_the_whole_life(database_url: str) -> None:
    order = stream_id()
    commits = poisoned(appends(order, market_life()), 1, {"amount": "NaN"})
    project(database_url, filled([*GOOD, *commits[:2]]))
    project(database_url, filled([*GOOD, *commits]))
    assert [row[1] for row in parked(database_url)] == [1, 2, 3, 4, 5, 6]
    assert execute(database_url, "SELECT 1 FROM orders WHERE id = %s", order) == []
    everything_else_is_as_without(database_url, order)


def test_later_events_of_a_quarantined_order_wait_behind_it(database_url: str) -> None:
    order = stream_id()
    commits = poisoned(appends(order, market_life()), 2, {"attempt": None})
    store = filled(commits[:2])
    project(database_url, store)
    before = quality(database_url, order)
    for commit in commits[2:]:
        project(database_url, fill(store, [commit]))
        assert quality(database_url, order) == before
    assert [row[1] for row in parked(database_url)] == [2, 3, 4, 5, 6]


class Relabelled(MemoryEventStore):
    """Hands its readers commits that ``change`` was applied to."""

    def __init__(self, change: Callable[[StoredCommit], StoredCommit]) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=StepClock().now_us)
        self.change = change

    async def read_log(self, *arguments: Any, **options: Any) -> list[StoredCommit]:
        return [self.change(commit) for commit in await super().read_log(*arguments, **options)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"seq": 3}, "says it is"), ({"orderId": stream_id(number=3)}, "says it is"), ({"at": None}, "Expected `str`")],
)
def test_an_event_that_is_not_what_the_log_says_is_not_applied(
    database_url: str, change: dict[str, object], problem: str
) -> None:
    order = stream_id()
    first = appends(order, [[accepted()]])[0]
    project(database_url, filled([first, second(order, first.events[0].hash, change)]))
    assert problem in str(parked(database_url)[0][2])
    assert quality(database_url, order)[:3] == (1, "pending", "quarantined")


def test_an_event_whose_log_entry_has_another_hash_is_not_applied(database_url: str) -> None:
    order = stream_id()
    store = Relabelled(lambda commit: replace(commit, anchors=("00000000",)))
    project(database_url, fill(store, appends(order, [[accepted()]])))
    assert "its log entry 00000000" in str(parked(database_url)[0][2])


def test_an_event_that_is_not_json_is_archived_as_it_is(database_url: str) -> None:
    order = stream_id()
    store = Relabelled(lambda commit: replace(commit, events=(b"\xff{",)) if commit.version == 2 else commit)
    first = appends(order, [[accepted()]])[0]
    project(database_url, fill(store, [first, second(order, first.events[0].hash, {})]))
    assert execute(database_url, "SELECT payload::text, data FROM order_events WHERE version = 2") == [
        ("null", b"\xff{")
    ]
    assert quality(database_url, order)[2] == "quarantined"


def test_an_event_that_continues_another_history_is_not_applied(database_url: str) -> None:
    order = stream_id()
    first = appends(order, [[accepted()]])[0]
    project(database_url, filled([first, second(order, first.events[0].hash, {}, prev="0" * 64)]))
    assert "continues another history" in str(quality(database_url, order)[3])


@pytest.mark.parametrize("damage", ["version = 3", "head_hash = 'other'"])
def test_a_row_that_is_not_where_its_stream_was_is_not_written_over(database_url: str, damage: str) -> None:
    order = stream_id()
    commits = appends(order, market_life())
    store = filled(commits[:2])
    project(database_url, store)
    execute(database_url, f"UPDATE orders SET {damage}")
    before = execute(database_url, "SELECT version, head_hash, status, attempts, venue FROM orders")
    project(database_url, fill(store, commits[2:]))
    assert execute(database_url, "SELECT version, head_hash, status, attempts, venue FROM orders") == before
    assert quality(database_url, order)[2] == "quarantined"
    assert on_database(database_url, lambda engine: mending.repair(engine, order)).outcome == "mended"
    assert quality(database_url, order) == (6, "confirmed", "ok", None)


def test_a_deleted_row_is_not_begun_in_the_middle_and_repair_brings_it_back(database_url: str) -> None:
    order = stream_id()
    commits = appends(order, market_life())
    store = filled(commits[:2])
    project(database_url, store)
    execute(database_url, "DELETE FROM orders")
    project(database_url, fill(store, commits[2:]))
    assert [row[1] for row in parked(database_url)] == [3, 4, 5, 6]
    assert on_database(database_url, lambda engine: mending.retry(engine, order)).outcome == "added"
    assert contents(database_url)["parked_events"] == []
    assert quality(database_url, order) == (6, "confirmed", "ok", None)
    assert execute(database_url, "SELECT orders, base_units FROM volumes") == [(1, 1_500_000_000)]


def test_a_skipped_event_is_passed_over_and_the_row_says_so(database_url: str) -> None:
    order = stream_id()
    store = filled(poisoned(appends(order, market_life()), 4, {"chosen": None}))
    project(database_url, store)
    mended: Mended = on_database(database_url, lambda engine: mending.skip(engine, order, "venue known otherwise"))
    assert (mended.outcome, mended.version) == ("mended", 6)
    assert quality(database_url, order) == (6, "confirmed", "incomplete", "event 4 was skipped: venue known otherwise")
    assert parked(database_url) == []
    assert execute(database_url, "SELECT orders FROM volumes") == [(1,)]


@pytest.mark.parametrize("change", [{"receipt": None}, {"receipt": {**RECEIPT, "amountIn": "99999999999999999"}}])
def test_what_a_skipped_confirmation_says_is_counted_nowhere(database_url: str, change: dict[str, Any]) -> None:
    order = stream_id()
    store = filled([*GOOD, *poisoned(appends(order, market_life()), 6, change)])
    project(database_url, store)
    before = contents(database_url)["volumes"]
    mended: Mended = on_database(database_url, lambda engine: mending.skip(engine, order, "counted by hand"))
    assert (mended.outcome, mended.version, mended.reason) == ("mended", 6, "event 6 was skipped: counted by hand")
    assert quality(database_url, order)[:3] == (6, "confirmed", "incomplete")
    assert contents(database_url)["volumes"] == before
    assert contents(database_url)["parked_events"] == []
    for projection in PROJECTIONS.values():
        compared = on_database(database_url, partial(rebuild, projection=projection)).compared
        assert (compared.rows, compared.columns) == (0, {})


def test_what_cannot_be_applied_yet_stays_parked_when_it_is_retried(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(poisoned(appends(order, market_life()), 2, {"attempt": None})))
    before = contents(database_url)
    assert on_database(database_url, lambda engine: mending.retry(engine, order)).outcome == "quarantined"
    assert contents(database_url) == before


def test_an_order_without_parked_events_is_neither_retried_nor_skipped(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, market_life())))
    with pytest.raises(NotParkedError):
        on_database(database_url, lambda engine: mending.retry(engine, order))
    with pytest.raises(NotParkedError):
        on_database(database_url, lambda engine: mending.skip(engine, order, "why"))


def test_the_first_event_of_an_order_cannot_be_skipped(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(poisoned(appends(order, market_life()), 1, {"amount": "NaN"})))
    with pytest.raises(SkipError):
        on_database(database_url, lambda engine: mending.skip(engine, order, "why"))


def test_quarantined_orders_are_listed_with_their_reason_and_how_many_events_wait(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled([*GOOD, *poisoned(appends(order, market_life()), 2, {"attempt": None})]))

    async def listed(engine: Any) -> list[parking.Quarantine]:
        async with engine.connect() as connection:
            return await parking.list_quarantined(connection, "orders")

    (found,) = on_database(database_url, listed)
    assert (found.order_id, found.version, found.parked) == (order, 2, 5)
    assert found.reason == f"event {event_id(order, 2)}: AttemptStarted lacks attempt"


def test_a_row_that_the_database_refuses_still_stands_still_when_it_is_folded_anew(database_url: str) -> None:
    order = stream_id()
    version, change, reason = POISON[-1]
    project(database_url, filled(poisoned(appends(order, market_life()), version, change)))
    before = contents(database_url)
    assert reason in str(quality(database_url, order)[3])
    for mend in (mending.repair, mending.retry):
        act = partial(mend, order_id=order)
        assert on_database(database_url, act).outcome == "quarantined"
        assert contents(database_url) == before
