"""Healing: what Redis lost and PostgreSQL has comes back with its numbers, its bytes and its duties."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.clock import SystemClock
from app.execution.streams import CLOSED
from eventstore.errors import (
    ConnectionLostError,
    ForkError,
    PartitionForkedError,
    StoreMismatchError,
    StoreUnavailableError,
    StreamExpiredError,
    TruncatedError,
)
from eventstore.hot import ClosedStream, Restored
from eventstore.ids import LOG_START, Cursor, new_stream_id, new_ulid, partition_in
from eventstore.redis.store import RedisEventStore
from eventstore.store import NEW_STREAM_SECONDS_MAX, Append, EventStore, StoredCommit
from projections.diff import diff
from tests.builders import stream_id
from tests.clocks import START_US
from tests.conftest import accepted, appends, attempt_failed, execute, interleaved, market_life, routed, submitted
from tests.integration.rewinding import (
    TABLES,
    Rewindable,
    Snapshot,
    append_all,
    histories,
    history,
    obliged,
    run,
    streams_of,
)

OWNER = "owner"
NUMBER = partition_in(stream_id(OWNER))


def lives(prefix: str, owner: str = OWNER) -> list[Append]:
    """Orders of one partition in every state that owes something else, each with an idempotency key."""
    stages = [
        [],
        routed()[:1],
        routed(),
        [*routed(), [submitted()]],
        [*routed(), [submitted()], [attempt_failed()]],
        market_life()[1:],
    ]
    found: list[Append] = []
    for number, stage in enumerate(stages):
        life = [[accepted(idempotency_key=f"{prefix}{number}")], *stage]
        found += appends(stream_id(owner), life, start_us=START_US)
    return obliged(found)


def whole_life() -> list[Append]:
    return obliged(appends(stream_id(OWNER), market_life()))


def streams_in(commits: list[Append]) -> list[str]:
    return list(dict.fromkeys(commit.stream for commit in commits))


@pytest.mark.parametrize("kept", ["nothing", "the record", "some", "almost everything"])
def test_what_postgresql_has_comes_back_with_its_numbers_bytes_and_duties(
    redis_url: str, database_url: str, kept: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        empty = await on.snapshot()
        commits = lives("first")
        await append_all(store, commits[:9])
        some = await on.snapshot()
        await append_all(store, commits[9:-1])
        almost = await on.snapshot()
        await append_all(store, commits[-1:])
        await on.project(store)
        orders = streams_in(commits)
        before, streams = await histories(store), await streams_of(store, orders)
        await on.set_back({"nothing": {}, "the record": empty, "some": some, "almost everything": almost}[kept])
        reopened = await on.open_after_loss("b")
        assert await histories(reopened) == before
        assert await streams_of(reopened, orders) == streams
        await on.require_duties(reopened, orders)
        number = partition_in(orders[0])
        end = before[number][-1].position
        had = sum(len(commit.events) for commit in commits[:9])
        healed = {"nothing": end, "the record": end, "some": end - had, "almost everything": 1}[kept]
        assert await on.epochs(number) == [(1, 0, "a", 0), (2, end, "b", healed)]
        result = await reopened.append(lives("second")[0])
        assert (result.epoch, result.position) == (2, end + 1)  # type: ignore[union-attr]
        assert await on.findings(reopened) == ()

    run(redis_url, database_url, scenario)


LOST = {"rewind", "flush", "meta", "records"}


class Model:
    """What a store must hold: the longer of what its server kept and what was projected, of each partition."""

    def __init__(self, commits: list[Append]) -> None:
        self.left = commits

    def next(self, versions: dict[str, int], count: int) -> list[Append]:
        """Up to ``count`` commits that continue the streams, in a lawful order."""
        found: list[Append] = []
        for commit in self.left:
            if len(found) < count and commit.expected_version == versions.get(commit.stream, 0):
                versions[commit.stream] = commit.expected_version + len(commit.events)
                found.append(commit)
        return found


def versions_in(logs: list[list[StoredCommit]]) -> dict[str, int]:
    return {commit.stream: commit.version for log in logs for commit in log}


def longer(one: list[list[StoredCommit]], other: list[list[StoredCommit]]) -> list[list[StoredCommit]]:
    return [max(pair, key=len) for pair in zip(one, other, strict=True)]


Round = tuple[int, int, int, bool, str]
"""Commits before the snapshot, before the projection and after it; whether it happens; what is lost then."""

rounds = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.booleans(), st.sampled_from(sorted(LOST))),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=6,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1 << 32), plan=rounds)
def test_after_any_losses_the_history_is_the_longer_of_both_copies(
    redis_url: str, database_url: str, seed: int, plan: list[Round]
) -> None:
    execute(database_url, f"TRUNCATE {TABLES}")

    async def scenario(on: Rewindable) -> None:
        model = Model(obliged(interleaved(seed, 12)))
        store = await on.open("0")
        projected = expected = await histories(store)
        for number, (before, between, after, projects, loss) in enumerate(plan, start=1):
            versions = versions_in(expected)
            await append_all(store, model.next(versions, before))
            snapshot, kept = await on.snapshot(), await histories(store)
            await append_all(store, model.next(versions, between))
            if projects:
                await on.project(store)
                projected = await histories(store)
            await append_all(store, model.next(versions, after))
            expected = await lose(on, loss, store, snapshot, kept, projected)
            store = await on.open_after_loss(str(number))
            assert await histories(store) == expected
            await on.require_duties(store, versions_in(expected))
            assert await on.findings(store) == ()
            assert await diff(store, on.engine) == []
        await append_all(store, model.next(versions_in(expected), 100))
        await on.project(store)
        assert await diff(store, on.engine) == []
        assert await on.findings(store) == ()

    run(redis_url, database_url, scenario)


async def lose(
    on: Rewindable,
    loss: str,
    store: EventStore,
    snapshot: Snapshot,
    kept: list[list[StoredCommit]],
    projected: list[list[StoredCommit]],
) -> list[list[StoredCommit]]:
    """Lose something, and return what must be there in the end."""
    whole = await histories(store)
    match loss:
        case "rewind":
            await on.set_back(snapshot)
            return longer(kept, projected)
        case "flush":
            await on.flush()
            return projected
        case "meta":
            await on.rob("meta")
        case _:
            await on.rob("meta", "tasks", "due")
    return whole


class DyingStore(RedisEventStore):
    """Dies once it has restored ``pieces_left`` more pieces."""

    pieces_left = 0

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        for piece in restored:
            if not self.pieces_left:
                raise ConnectionLostError("the opener has died")
            self.pieces_left -= 1
            await super().restore(partition, [piece])


@pytest.mark.parametrize("kept", ["nothing", "the record", "some", "the log"])
def test_whoever_opens_next_finishes_what_a_dead_opener_began(redis_url: str, database_url: str, kept: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        empty = await on.snapshot()
        commits = lives("dead")
        chosen = [streams_in(commits)[number] for number in (1, 4, 5)]
        commits = [commit for commit in commits if commit.stream in chosen]
        await append_all(store, commits[:3])
        some = await on.snapshot()
        await append_all(store, commits[3:])
        await on.project(store)
        orders = streams_in(commits)
        before, streams = await histories(store), await streams_of(store, orders)
        whole = await on.snapshot()
        lost = [on.key(number, name).encode() for number in range(4) for name in ("meta", "tasks", "due")]
        log = {key: value for key, value in whole.items() if key not in lost}
        number = partition_in(orders[0])
        for pieces in range(100):
            await on.set_back({"nothing": {}, "the record": empty, "some": some, "the log": log}[kept])
            dying = await on.hot_of(DyingStore, f"dying {pieces}")
            dying.pieces_left = pieces
            died = False
            try:
                await on.archived(dying).open_partition(number)
            except ConnectionLostError:
                died = True
            reopened = await on.open_after_loss(f"dying {pieces}")
            assert await histories(reopened) == before
            assert await streams_of(reopened, orders) == streams
            await on.require_duties(reopened, orders)
            if not died:
                assert pieces >= 3
                return

    run(redis_url, database_url, scenario)


DAMAGES = [
    "payload = jsonb_set(payload, '{side}', '\"buy\"') WHERE version = 1",
    "payload = jsonb_set(payload, '{amount}', '1.5') WHERE version = 1",
    "payload = jsonb_set(payload, '{meta,prev}', '7') WHERE version = 2",
    "payload = jsonb_set(payload, '{meta}', '7') WHERE version = 2",
    "hash = repeat('f', 64) WHERE version = 2",
    "hash = repeat('f', 64) WHERE version = 6",
    "version = version + 100 WHERE version = 2",
    "version = version + 100 WHERE version = 6",
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kept", ["nothing", "some"])
def test_a_damaged_archive_restores_nothing(redis_url: str, database_url: str, damage: str, kept: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = whole_life()
        await append_all(store, commits[:1])
        snapshot = await on.snapshot() if kept == "some" else {}
        await append_all(store, commits[1:])
        await on.project(store)
        execute(database_url, f"UPDATE order_events SET {damage}")
        await on.set_back(snapshot)
        hot = await on.hot("b")
        with pytest.raises(PartitionForkedError):
            await on.archived(hot).open_partition(partition_in(commits[0].stream))
        assert await on.snapshot() == snapshot

    run(redis_url, database_url, scenario)


def test_more_partitions_than_connections_are_opened_at_once(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        orders = [stream_id(str(number), 16) for number in range(60)]
        commits = [obliged(appends(order, market_life())) for order in orders]
        for life in commits:
            await append_all(store, life[:2])
        await on.project(store)
        snapshot = await on.snapshot()
        await on.set_back(snapshot)
        reopened = await on.start_closed("b")
        await asyncio.gather(*(reopened.append(life[2]) for life in commits))
        assert {(await on.epochs(number))[-1][0] for number in range(16)} == {2}

    run(redis_url, database_url, scenario, partitions=16)


def test_a_database_of_another_store_heals_nothing(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = whole_life()
        await append_all(store, commits)
        await on.project(store)
        execute(database_url, "UPDATE store SET store_id = 'other'")
        reopened = await on.start_closed("b")
        with pytest.raises(StoreMismatchError):
            await reopened.append(obliged(appends(stream_id(OWNER), market_life()))[0])

    run(redis_url, database_url, scenario)


def test_a_stream_that_has_moved_on_or_is_another_is_not_removed(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = lives("closed")
        await append_all(store, commits)
        order = commits[-1].stream
        number, events = partition_in(order), await store.read_stream(order)
        whole = await on.snapshot()
        for closed in (ClosedStream(order, 5, events[4].hash, None), ClosedStream(order, 6, "0" * 64, None)):
            assert await store.hot.remove_closed(number, [closed], CLOSED) == []
        assert await on.snapshot() == whole
        other = ClosedStream(commits[0].stream, 1, commits[0].events[0].hash, ("client-1", "closed5"))
        assert await store.hot.remove_closed(number, [other], CLOSED) == [commits[0].stream]
        record = await on.redis.hget(on.key(number, "idempotency"), "client-1\0closed5")
        assert record == f"{order} {'f' * 32}".encode()
        closed = ClosedStream(order, 6, events[5].hash, ("client-1", "closed5"))
        for _ in range(2):
            assert await store.hot.remove_closed(number, [closed], CLOSED) == [order]
        assert await on.redis.hget(on.key(number, "idempotency"), "client-1\0closed5") is None
        assert await store.read_index(number, CLOSED) == []

    run(redis_url, database_url, scenario)


@pytest.mark.parametrize("age,begins", [(NEW_STREAM_SECONDS_MAX - 30, True), (NEW_STREAM_SECONDS_MAX + 30, False)])
def test_an_old_id_begins_no_stream(redis_url: str, database_url: str, age: int, begins: bool) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        ulid = new_ulid(SystemClock().now_us() // 1000 - age * 1000, bytes(10))
        commits = appends(new_stream_id(ulid, OWNER, 4), market_life())
        if begins:
            await append_all(store, commits)
            return
        whole = await on.snapshot()
        with pytest.raises(StreamExpiredError):
            await store.append(commits[0])
        assert await on.snapshot() == whole

    run(redis_url, database_url, scenario)


def test_what_has_left_redis_is_read_from_postgresql_from_any_cursor(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        await append_all(store, [*whole_life(), *whole_life()])
        await on.project(store)
        whole = await history(store, NUMBER)
        cursors = [LOG_START] + [
            Cursor(commit.epoch, commit.position - len(commit.events) + 1 + index, anchor)
            for commit in whole
            for index, anchor in enumerate(commit.anchors)
        ]
        read = [await store.read_log({NUMBER: cursor}, 100) for cursor in cursors]
        assert [len(commits) for commits in read] == [10, 9, 8, 8, 7, 6, 5, 4, 3, 3, 2, 1, 0]
        await store.hot.trim_log(NUMBER, whole[6].end)
        assert [await store.read_log({NUMBER: cursor}, 100) for cursor in cursors] == read
        assert await history(store, NUMBER) == whole
        with pytest.raises(ForkError):
            await store.read_log({NUMBER: Cursor(1, 2, "00000000")}, 100)
        execute(database_url, "DELETE FROM order_events WHERE position <= 2")
        for cursor in cursors[:2]:
            with pytest.raises(TruncatedError):
                await store.read_log({NUMBER: cursor}, 100)

    run(redis_url, database_url, scenario)


@pytest.mark.parametrize("keep", [Cursor(1, 9), Cursor(1, 2, "00000000"), Cursor(2, 2)])
def test_a_log_is_not_trimmed_to_an_event_that_it_does_not_hold(
    redis_url: str, database_url: str, keep: Cursor
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        await append_all(store, whole_life())
        with pytest.raises(StoreUnavailableError):
            await store.hot.trim_log(NUMBER, keep)
        assert await store.hot.log_start(NUMBER) == 1

    run(redis_url, database_url, scenario)
