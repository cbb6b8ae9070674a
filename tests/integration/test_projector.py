"""The projector on real PostgreSQL: what it writes, and that nothing makes it write that twice, half or not at all."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.orders.events import Side
from eventstore.errors import ForkError, PositionMissingError, StoreUnavailableError
from eventstore.ids import Cursor, partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, StoredCommit
from projections.checkpoints import wait_for
from projections.database import DATABASE_OUTAGES
from projections.errors import (
    NotReachedError,
    ReadModelMismatchError,
)
from projections.projector.runner import GATHER_SECONDS, RETRY_SECONDS_MIN, Projector
from projections.queries.orders import get_order
from tests.builders import stream_id
from tests.clocks import START_US, StepClock
from tests.conftest import (
    EMPTY,
    WAIT_SECONDS,
    accepted,
    appends,
    caught_up,
    contents,
    database,
    differences,
    execute,
    failed_life,
    fill,
    filled,
    interleaved,
    market_life,
    memory_store,
    project,
    running,
    total,
)

START = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_US)

Watch = Callable[[list[StoredCommit]], Awaitable[list[StoredCommit]]]


class WatchedStore(MemoryEventStore):
    """Hands its readers what ``watch`` makes of the commits that they read."""

    watch: Watch | None = None

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        commits = list(await super().read_log(after, limit, wait_seconds))
        return await self.watch(commits) if commits and self.watch is not None else commits


def watched(commits: Sequence[Append]) -> WatchedStore:
    return fill(WatchedStore(partitions=4, store_id="memory", now_us=StepClock().now_us), commits)


def changed(change: Callable[[list[StoredCommit]], list[StoredCommit]]) -> Watch:
    async def watch(commits: list[StoredCommit]) -> list[StoredCommit]:
        return change(commits)

    return watch


def interrupted(event: Callable[[], Awaitable[None]]) -> Watch:
    """Let ``event`` happen once, after commits are read and before they are handed out."""
    pending = [event]

    async def watch(commits: list[StoredCommit]) -> list[StoredCommit]:
        if pending:
            await pending.pop()()
        return commits

    return watch


def test_order_insert_writes_the_terms_of_an_accepted_order(database_url: str) -> None:
    order = stream_id()
    life = [[accepted("buy", amount="0.000000001", idempotency_key="key\t1")]]
    project(database_url, filled(appends(order, life, client="Zoë")))
    terms = "id, client_id, side, type, base_asset, quote_asset, amount, slippage_bps, base_decimals, quote_decimals"
    expected = (order, "Zoë", "buy", "market", "SOL", "USDC", Decimal("0.000000001"), 50, 9, 6)
    assert execute(database_url, f"SELECT {terms} FROM orders") == [expected]
    rest = "status, attempts, version, idempotency_key, fingerprint, amount_in, created_at, updated_at"
    at = START + timedelta(milliseconds=1)
    assert execute(database_url, f"SELECT {rest} FROM orders") == [
        ("pending", 0, 1, "key\t1", "f" * 32, None, at, at),
    ]


@pytest.mark.parametrize(
    ("side", "paid", "received", "fee"),
    [("sell", 1_500_000_000, 301_250_000, 3_750_000), ("buy", 301_250_000, 1_500_000_000, 3750)],
)
def test_order_insert_of_a_confirmed_order_holds_what_the_chain_exchanged(
    database_url: str, side: Side, paid: int, received: int, fee: int
) -> None:
    project(database_url, filled(appends(stream_id(), market_life(side))))
    amounts = execute(database_url, "SELECT amount_in, amount_out, fee, network_fee FROM orders")
    assert amounts == [(paid, received, fee, 5000)]
    columns = "status, venue, tx_id, attempts, version, failure_code, updated_at"
    expected = ("confirmed", "raydium", "5xSignature", 1, 6, None, START + timedelta(milliseconds=6))
    assert execute(database_url, f"SELECT {columns} FROM orders") == [expected]


def test_order_insert_of_a_failed_order_holds_the_reason(database_url: str) -> None:
    project(database_url, filled(appends(stream_id(), failed_life(), client=None)))
    reason = "a tab\there, a line\nthere, a \\ and a “quote”"
    columns = "status, failure_code, failure_message, attempts, venue, client_id"
    assert execute(database_url, f"SELECT {columns} FROM orders") == [("failed", "no_quote", reason, 3, None, None)]


def test_event_insert_archives_every_event_with_its_place_in_the_log(database_url: str) -> None:
    order = stream_id()
    store = filled(appends(order, market_life()))
    project(database_url, store)
    columns = "id, order_id, version, event, status, type, partition, epoch, position, commit_id"
    number = partition_in(order)
    names = [("pending", "pending", "OrderAccepted", 1), ("routing", "routing", "AttemptStarted", 2)]
    names += [("routing:quotes", "routing", "QuotesCollected", 3), ("building", "building", "RouteSelected", 3)]
    names += [("submitted", "submitted", "SubmitIntentRecorded", 4), ("confirmed", "confirmed", "OrderConfirmed", 5)]
    assert execute(database_url, f"SELECT {columns} FROM order_events ORDER BY version") == [
        (f"{order}/{seq}", order, seq, event, status, kind, number, 1, seq, f"{order}:{commit}")
        for seq, (event, status, kind, commit) in enumerate(names, 1)
    ]
    stored = asyncio.run(store.read_stream(order))
    assert execute(database_url, "SELECT hash FROM order_events ORDER BY version") == [(e.hash,) for e in stored]
    times = execute(database_url, "SELECT min(created_at), min(recorded_at) FROM order_events")
    assert times == [(START + timedelta(milliseconds=1), START + timedelta(microseconds=1))]


def test_batches_of_any_size_give_the_same_rows(database_url: str) -> None:
    store = filled(interleaved(seed=7, orders=40))
    found = []
    for batch_commits_max in (1, 7, 500):
        execute(database_url, EMPTY)
        project(database_url, store, batch_commits_max)
        found.append(contents(database_url))
    assert found[0] == found[1] == found[2]
    assert differences(database_url, store) == []


def test_a_projector_restarted_after_every_batch_gives_the_same_rows(database_url: str) -> None:
    commits = interleaved(seed=8, orders=8)
    chance = random.Random(8)
    store = memory_store()
    projected = 0
    while commits:
        batch = [commits.pop(0) for _ in range(min(len(commits), chance.randint(1, 4)))]
        fill(store, batch)
        projected += project(database_url, store, batch_commits_max=4)
    piecewise = contents(database_url)
    execute(database_url, EMPTY)
    assert project(database_url, store) == projected
    assert contents(database_url) == piecewise


def crash_after(url: str, event: str, times: int) -> None:
    """Let the server end the connection that writes, ``times`` times. Sequences do not roll back: they count."""
    execute(
        url,
        f"""
        CREATE SEQUENCE crashes;
        CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('crashes') <= {times} THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER crash AFTER {event} FOR EACH STATEMENT EXECUTE FUNCTION crash();
        """,
    )


@pytest.mark.parametrize("event", ["INSERT ON order_events", "INSERT ON orders", "UPDATE ON checkpoints"])
def test_a_connection_lost_inside_the_transaction_leaves_nothing_half(database_url: str, event: str) -> None:
    store = filled(interleaved(seed=9, orders=10))
    crash_after(database_url, event, times=1)
    with pytest.raises(DATABASE_OUTAGES):
        project(database_url, store)
    left = contents(database_url)
    assert left["orders"] == left["order_events"] == []
    assert {row[2] for row in left["checkpoints"]} == {0}
    assert project(database_url, store) == total(store)
    assert differences(database_url, store) == []


def test_a_running_projector_outlives_outages_and_backs_off(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(interleaved(seed=10, orders=3))
    crash_after(database_url, "UPDATE ON checkpoints", times=3)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds != GATHER_SECONDS:
            pauses.append(seconds)

    async def scenario() -> None:
        async with running(database_url, store, sleep) as engine:
            await caught_up(engine, store)

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        asyncio.run(scenario())
    assert pauses == [RETRY_SECONDS_MIN, RETRY_SECONDS_MIN * 2, RETRY_SECONDS_MIN * 4]
    assert [record.message for record in caplog.records] == ["projector_outage"] * 3
    assert differences(database_url, store) == []


def test_an_event_store_that_is_away_now_and_then_is_waited_for(database_url: str) -> None:
    store = watched([])
    pauses: list[float] = []

    async def outage() -> None:
        raise StoreUnavailableError("connection refused")

    async def sleep(seconds: float) -> None:
        if seconds != GATHER_SECONDS:
            pauses.append(seconds)

    async def scenario() -> None:
        async with running(database_url, store, sleep) as engine:
            for commit in appends(stream_id(), market_life())[:3]:
                store.watch = interrupted(outage)
                await store.append(commit)
                await caught_up(engine, store)

    asyncio.run(scenario())
    assert pauses == [RETRY_SECONDS_MIN] * 3
    assert differences(database_url, store) == []


def test_an_event_appended_to_a_quiet_log_is_projected_and_awaited(database_url: str) -> None:
    order = stream_id()
    store = memory_store()

    async def scenario() -> None:
        async with running(database_url, store) as engine:
            with pytest.raises(NotReachedError, match="is at position 0, not yet at 1"):
                await wait_for(engine, partition_in(order), 1, timeout_seconds=0)
            for position, commit in enumerate(appends(order, [[accepted()], *market_life()[1:]]), 1):
                await store.append(commit)
                await wait_for(engine, partition_in(order), position, WAIT_SECONDS)
                row = await get_order(engine, order)
                assert row is not None and row.version >= position

    asyncio.run(scenario())


def test_a_batch_that_another_projector_applied_first_changes_nothing(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = watched(interleaved(seed=11, orders=5))
    applied: list[int] = []

    async def scenario() -> int:
        async with database(database_url) as engine:
            first = Projector(store, engine)

            async def another() -> None:
                applied.append(await Projector(store, engine).project_available())

            store.watch = interrupted(another)
            return await first.project_available()

    with caplog.at_level(logging.INFO, logger="projections.projector"):
        assert asyncio.run(scenario()) == 0
    assert applied == [total(store)]
    assert [record.message for record in caplog.records] == ["projector_fenced"]
    assert differences(database_url, store) == []


def test_a_database_set_back_under_a_projector_is_projected_from_where_it_is(database_url: str) -> None:
    store = watched(interleaved(seed=12, orders=5))
    project(database_url, store)
    fill(store, interleaved(seed=13, orders=5))

    async def restore() -> None:
        execute(database_url, "TRUNCATE orders, order_events")
        execute(database_url, "UPDATE checkpoints SET epoch = 0, position = 0, anchor = ''")

    async def scenario() -> int:
        async with database(database_url) as engine:
            store.watch = interrupted(restore)
            return await Projector(store, engine).project_available()

    assert asyncio.run(scenario()) == total(store)
    assert differences(database_url, store) == []


def test_two_projectors_at_once_project_each_event_once(database_url: str) -> None:
    store = filled(interleaved(seed=14, orders=30))

    async def scenario() -> list[int]:
        async with database(database_url) as one, database(database_url) as other:
            projectors = [Projector(store, engine, batch_commits_max=8) for engine in (one, other)]
            return list(await asyncio.gather(*(projector.project_available() for projector in projectors)))

    assert sum(asyncio.run(scenario())) == total(store)
    assert differences(database_url, store) == []


def test_a_hole_in_the_log_stops_the_projector_before_it(database_url: str) -> None:
    order = stream_id()
    store = watched(appends(order, market_life()))
    store.watch = changed(lambda commits: [commit for commit in commits if commit.position != 4])
    with pytest.raises(PositionMissingError) as missing:
        project(database_url, store)
    assert (missing.value.partition, missing.value.expected, missing.value.found) == (partition_in(order), 3, 5)
    assert contents(database_url)["orders"] == []


def test_a_log_that_ends_before_it_should_stops_the_projector(database_url: str) -> None:
    store = watched(appends(stream_id(), market_life()))
    store.watch = changed(lambda commits: [])
    with pytest.raises(PositionMissingError):
        project(database_url, store)


def test_a_log_with_another_event_at_the_checkpoint_is_refused(database_url: str) -> None:
    order = stream_id()
    project(database_url, filled(appends(order, market_life())))
    with pytest.raises(ForkError) as refusal:
        project(database_url, filled(appends(order, market_life("buy"))))
    assert refusal.value.partition == partition_in(order)


@pytest.mark.parametrize("kept", [0, 4])
def test_a_log_that_lost_what_was_projected_is_refused(database_url: str, kept: int) -> None:
    commits = appends(stream_id(), market_life())
    project(database_url, filled(commits))
    with pytest.raises(ForkError):
        project(database_url, filled(commits[:kept]))


@pytest.mark.parametrize(("store_id", "partitions"), [("other", 4), ("memory", 8)])
def test_the_database_of_another_event_store_is_refused(database_url: str, store_id: str, partitions: int) -> None:
    project(database_url, memory_store())
    with pytest.raises(ReadModelMismatchError, match="correct REDIS_URL or DATABASE_URL"):
        project(database_url, memory_store(partitions, store_id))
