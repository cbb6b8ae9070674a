"""Completing the archive from Redis: what it lacks comes back as it was, and nothing that it has is lost."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from eventstore.canonical import event_hash
from eventstore.ids import event_id
from eventstore.memory import MemoryEventStore
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import StoredEvent
from projections.projector.runner import Projector
from projections.rebuild import completing
from projections.rebuild.building import Progress
from projections.rebuild.completing import complete_archive
from tests.builders import stream_id
from tests.clocks import StepClock
from tests.conftest import (
    append_all,
    appends,
    database,
    differences,
    execute,
    fill,
    filled,
    interleaved,
    market_life,
    project,
    total,
)
from tests.integration.archives import archive, complete, nothing_is_left_of_it, parts_of_archive
from tests.integration.test_rebuild import schema_differences
from tests.poison import poisoned

OTHERS = interleaved(seed=51, orders=6)


class Altered(MemoryEventStore):
    """Hands out streams that ``change`` was applied to."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=StepClock().now_us)
        self.change: Callable[[StoredEvent], StoredEvent] = lambda event: event

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        return [self.change(event) for event in await super().read_stream(stream, after, limit)]


@pytest.fixture
def order() -> str:
    return stream_id("owner-3")


@pytest.fixture
def store(database_url: str, order: str) -> MemoryEventStore:
    """Some orders, and one of six events, projected."""
    store = filled([*OTHERS, *appends(order, market_life())])
    project(database_url, store)
    return store


@pytest.mark.parametrize(("which", "missing"), [("version = 3", 1), ("version > 3", 3), ("true", 6)])
def test_events_that_the_archive_lacks_come_back_as_they_were(
    database_url: str, store: MemoryEventStore, order: str, which: str, missing: int
) -> None:
    whole, parts = archive(database_url), parts_of_archive(database_url)
    execute(database_url, f"DELETE FROM order_events WHERE order_id = %s AND {which}", order)
    done = complete(database_url, store)
    assert (done.missing, done.damaged, done.conflicts, done.events) == (missing, 0, [], total(store))
    assert done.swapped
    assert archive(database_url) == whole
    assert parts_of_archive(database_url) == parts
    assert schema_differences(database_url) == []
    assert nothing_is_left_of_it(database_url)
    project(database_url, fill(store, interleaved(seed=52, orders=3)))
    assert differences(database_url, store) == []


def test_an_archive_that_was_emptied_comes_back_whole_from_redis(
    database_url: str, store: MemoryEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "COPY_POSITIONS", 7)
    whole = archive(database_url)
    execute(database_url, "DELETE FROM order_events")
    assert complete(database_url, store).missing == total(store)
    assert archive(database_url) == whole
    assert complete(database_url, store).missing == 0
    assert archive(database_url) == whole


def test_what_is_missing_comes_back_from_a_real_server(database_url: str, redis_url: str) -> None:
    async def scenario() -> None:
        store = await RedisEventStore.open(redis_url, StoreSettings(namespace=stream_id()), new_store_id="real")
        try:
            async with database(database_url) as engine:
                await append_all(store, OTHERS)
                await Projector(store, engine).project_available()
                whole = archive(database_url)
                execute(database_url, "DELETE FROM order_events WHERE version IN (1, 4)")
                execute(database_url, "UPDATE order_events SET payload = '{}' WHERE version = 3")
                await complete_archive(engine, store)
                assert archive(database_url) == whole
        finally:
            await store.close()

    asyncio.run(scenario())


def test_a_payload_that_was_damaged_under_the_same_hash_is_replaced(
    database_url: str, store: MemoryEventStore, order: str
) -> None:
    whole = archive(database_url)
    execute(database_url, """UPDATE order_events SET payload = payload || '{"event": "x"}' WHERE version = 2""")
    assert complete(database_url, store).damaged == sum(row[1] == 2 for row in whole)
    assert archive(database_url) == whole


def test_an_event_that_the_archive_could_not_read_comes_back_with_its_whole_hash(
    database_url: str, store: MemoryEventStore, order: str
) -> None:
    whole = archive(database_url)
    unread = "hash = left(hash, 8), payload = 'null', data = 'x', event = '', status = '', type = ''"
    execute(database_url, f"UPDATE order_events SET {unread} WHERE order_id = %s AND version = 2", order)
    assert complete(database_url, store).damaged == 1
    assert archive(database_url) == whole


def test_when_an_event_was_appended_the_archive_tells_where_the_log_is_trimmed(
    database_url: str, store: MemoryEventStore, order: str
) -> None:
    whole = archive(database_url)
    execute(database_url, "UPDATE order_events SET payload = '{}' WHERE version IN (2, 3)")
    execute(database_url, "DELETE FROM order_events WHERE version = 4 AND order_id = %s", order)

    async def trim() -> None:
        for number, end in (await store.log_ends()).items():
            if end.position:
                await store.trim_log(number, end)

    asyncio.run(trim())
    complete(database_url, store)
    assert archive(database_url) == whole


@pytest.mark.parametrize("change", [f"hash = '{'0' * 64}'", "position = position + 1"])
def test_another_event_of_the_archive_stays_and_is_reported(
    database_url: str, store: MemoryEventStore, order: str, change: str
) -> None:
    places = execute(database_url, "SELECT max(position) FROM order_events")
    execute(database_url, "UPDATE checkpoints SET position = %s", int(str(places[0][0])) + 1)
    execute(database_url, f"UPDATE order_events SET {change} WHERE version = 6 AND order_id = %s", order)
    before = archive(database_url)
    assert complete(database_url, store).conflicts == [event_id(order, 6)]
    assert archive(database_url) == before


def test_an_event_whose_place_another_one_has_is_a_conflict(
    database_url: str, store: MemoryEventStore, order: str
) -> None:
    (position,) = execute(database_url, "SELECT position FROM order_events WHERE order_id = %s AND version = 6", order)[
        0
    ]
    execute(database_url, "DELETE FROM order_events WHERE order_id = %s AND version = 6", order)
    execute(
        database_url,
        "UPDATE order_events SET position = %s WHERE id = (SELECT min(id) FROM order_events WHERE partition = "
        "(SELECT partition FROM order_events WHERE order_id = %s LIMIT 1) AND order_id <> %s)",
        position,
        order,
        order,
    )
    before = archive(database_url)
    for verify_only in (True, False):
        done = complete(database_url, store, verify_only=verify_only)
        assert event_id(order, 6) in done.conflicts
        assert done.missing == 0
    assert archive(database_url) == before


def respelled(event: StoredEvent) -> StoredEvent:
    """An event in a spelling of its own, with the hash of that."""
    spaced = event.data.replace(b"{", b"{ ", 1)
    digest = event_hash(spaced.replace(f'"hash":"{event.hash}",'.encode(), b""))
    return replace(event, hash=digest, data=spaced.replace(event.hash.encode(), digest.encode()))


@pytest.mark.parametrize(
    "change",
    [
        respelled,
        lambda event: replace(event, data=event.data.replace(b"routing", b"rooting")),
        lambda event: replace(event, hash="0" * 64),
        lambda event: replace(event, version=event.version + 1),
        lambda event: replace(event, data=b"\xff{"),
    ],
)
def test_what_does_not_verify_in_redis_is_not_taken_nor_is_what_follows_it(
    database_url: str, order: str, change: Callable[[StoredEvent], StoredEvent]
) -> None:
    store = Altered()
    project(database_url, fill(store, appends(order, market_life())))
    execute(database_url, "DELETE FROM order_events WHERE version IN (1, 2, 4)")
    store.change = lambda event: change(event) if event.version == 2 else event
    done = complete(database_url, store)
    assert (done.missing, done.damaged, done.conflicts) == (1, 0, [])
    assert execute(database_url, "SELECT version FROM order_events ORDER BY 1") == [(1,), (3,), (5,), (6,)]


def test_the_stream_of_another_order_is_not_taken(database_url: str, order: str) -> None:
    other = stream_id("owner-3")
    store = Altered()
    project(database_url, fill(store, [*appends(order, market_life()), *appends(other, market_life())]))
    execute(database_url, "DELETE FROM order_events")
    foreign = {event.version: event for event in asyncio.run(store.read_stream(other))}
    ours = {event.data for event in asyncio.run(store.read_stream(order))}
    store.change = lambda event: foreign[event.version] if event.data in ours else event
    complete(database_url, store)
    assert execute(database_url, "SELECT DISTINCT order_id FROM order_events") == [(other,)]


def test_what_is_not_projected_yet_does_not_count(database_url: str, store: MemoryEventStore) -> None:
    before = archive(database_url)
    fill(store, interleaved(seed=54, orders=3))
    assert complete(database_url, store).missing == 0
    assert archive(database_url) == before
    project(database_url, store)
    assert differences(database_url, store) == []


def test_orders_that_have_left_redis_stay(database_url: str, store: MemoryEventStore) -> None:
    before = archive(database_url)
    store.lose()
    done = complete(database_url, store)
    assert (done.missing, done.events) == (0, len(before))
    assert archive(database_url) == before


@pytest.mark.parametrize("change", [{"at": "yesterday"}, {"at": "2027-13-45T08:00:01.000000Z"}])
@pytest.mark.parametrize("damage", ["", "DELETE FROM order_events", "UPDATE order_events SET data = 'x'"])
def test_events_that_are_archived_as_bytes_survive_and_come_back_as_bytes(
    database_url: str, order: str, change: dict[str, object], damage: str
) -> None:
    store = filled(poisoned(appends(order, market_life()), 3, change))
    project(database_url, store)
    whole = archive(database_url)
    assert whole[2][-1] is not None
    if damage:
        execute(database_url, f"{damage} WHERE version = 3")
    done = complete(database_url, store)
    assert (done.missing, done.damaged, done.conflicts) == (damage.startswith("D"), damage.startswith("U"), [])
    assert archive(database_url) == whole


def test_an_event_that_is_mended_before_it_was_copied_is_not_copied_over_that(
    database_url: str, store: MemoryEventStore, order: str
) -> None:
    whole = archive(database_url)
    execute(database_url, "UPDATE order_events SET payload = '{}' WHERE order_id = %s", order)
    execute(database_url, "CREATE TABLE places AS SELECT * FROM checkpoints")
    execute(database_url, "UPDATE checkpoints SET position = 0")

    def project_after_copying(at: Progress) -> None:
        if at.stage == "filling":
            places = "projection = p.projection AND c.partition = p.partition"
            execute(database_url, f"UPDATE checkpoints c SET position = p.position FROM places p WHERE c.{places}")

    complete(database_url, store, report=project_after_copying)
    assert archive(database_url) == whole


def test_verify_only_tells_and_changes_nothing(database_url: str, store: MemoryEventStore, order: str) -> None:
    execute(database_url, "DELETE FROM order_events WHERE order_id = %s AND version > 4", order)
    execute(database_url, "UPDATE order_events SET payload = '{}' WHERE order_id = %s AND version = 1", order)
    execute(database_url, "UPDATE order_events SET hash = 'other' WHERE order_id = %s AND version = 2", order)
    before = archive(database_url)
    done = complete(database_url, store, verify_only=True)
    assert (done.missing, done.damaged, done.conflicts) == (2, 1, [event_id(order, 2)])
    assert (done.events, done.swapped) == (len(before), False)
    assert archive(database_url) == before
    assert nothing_is_left_of_it(database_url)
