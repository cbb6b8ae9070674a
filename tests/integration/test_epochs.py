"""Epochs: opened once, by one opener; whoever is behind writes nothing, reads nothing wrong and projects nothing."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from eventstore.errors import (
    EpochStaleError,
    ForkError,
    PartitionForkedError,
    PartitionOpenError,
    SeamError,
    StoreUnavailableError,
)
from eventstore.hot import Restored
from eventstore.ids import LOG_START, Cursor, partition_in
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, StoredCommit
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import read_checkpoints, wait_for
from tests.builders import stream_id
from tests.conftest import WAIT_SECONDS, appends, execute, market_life, running
from tests.integration.rewinding import (
    Rewindable,
    append_all,
    history,
    obliged,
    outage,
    run,
    until,
)

OWNER, OTHER = "owner", "other"
PARTITION = partition_in(stream_id(OWNER))
ELSEWHERE = partition_in(stream_id(OTHER))


def life(owner: str = OWNER) -> list[Append]:
    return obliged(appends(stream_id(owner), market_life()))


async def half_lost(on: Rewindable) -> tuple[list[Append], list[StoredCommit]]:
    """A projected life whose last three commits Redis has lost; returns it and its history."""
    assert PARTITION != ELSEWHERE
    store = await on.open("a")
    commits = life()
    await append_all(store, commits[:2])
    snapshot = await on.snapshot()
    await append_all(store, commits[2:])
    await on.project(store)
    before = await history(store, PARTITION)
    await on.set_back(snapshot)
    return commits, before


def test_concurrent_openers_open_one_epoch(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        _, before = await half_lost(on)
        stores = [await on.start_closed("b") for _ in range(5)]
        opened = await asyncio.gather(*(store.open_partition(PARTITION) for store in stores for _ in range(2)))
        assert {one.epoch for one in opened} == {2}
        assert await on.epochs(PARTITION) == [(1, 0, "a", 0), (2, 6, "b", 4)]
        assert await history(stores[0], PARTITION) == before

    run(redis_url, database_url, scenario)


def test_a_writer_of_another_incarnation_or_an_earlier_epoch_writes_nothing(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        await half_lost(on)
        earlier, former = await on.hot("b"), await on.hot("a")
        await (await on.start_closed("b")).open_partition(PARTITION)
        await former.partition_record(PARTITION)
        whole = await on.snapshot()
        for store in (earlier, former):
            with pytest.raises(EpochStaleError) as stale:
                await store.append(life()[0])
            assert (stale.value.partition, stale.value.epoch) == (PARTITION, 2)
            with pytest.raises(EpochStaleError):
                await store.confirm(life()[0].stream, 1, "", store.level)
        assert await on.snapshot() == whole

    run(redis_url, database_url, scenario)


class MovingStore(RedisEventStore):
    """Its server is replaced by one with the same data when ``moves`` is called."""

    moves = ""

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        self._move("restore")
        await super().restore(partition, restored)

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        self._move("open_epoch")
        await super().open_epoch(partition, store_id, epoch, end)

    def _move(self, method: str) -> None:
        if method == self.moves:
            self._fixed = "c"


@pytest.mark.parametrize("moves,told", [("restore", "was replaced"), ("open_epoch", "incarnation c")])
def test_an_epoch_is_opened_on_the_server_that_was_healed(
    redis_url: str, database_url: str, moves: str, told: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        _, before = await half_lost(on)
        hot = await on.hot_of(MovingStore, "b")
        hot.moves = moves
        with pytest.raises(StoreUnavailableError, match=told):
            await on.archived(hot).open_partition(PARTITION)
        record = await hot.partition_record(PARTITION)
        assert (record.epoch, record.is_open) == (1, False)
        hot.moves = ""
        store = on.archived(hot)
        await store.open_partition(PARTITION)
        assert await history(store, PARTITION) == before

    run(redis_url, database_url, scenario)


@pytest.mark.parametrize("epoch,end", [(1, LOG_START), (2, Cursor(1, 7))])
def test_an_epoch_is_not_opened_twice_nor_at_another_end(
    redis_url: str, database_url: str, epoch: int, end: Cursor
) -> None:
    async def scenario(on: Rewindable) -> None:
        await on.open("a")
        hot = await on.hot("a")
        whole = await on.snapshot()
        with pytest.raises(SeamError):
            await hot.open_epoch(PARTITION, on.namespace, epoch, end)
        assert await on.snapshot() == whole

    run(redis_url, database_url, scenario)


class FreezingStore(RedisEventStore):
    """Stops before its third piece until ``thaw`` is set."""

    restored = 0

    async def restore(self, partition: int, restored: Sequence[Restored]) -> None:
        for piece in restored:
            self.restored += 1
            if self.restored == 3:
                self.frozen.set()
                await self.thaw.wait()
            await super().restore(partition, [piece])

    def prepare(self) -> None:
        self.frozen, self.thaw = asyncio.Event(), asyncio.Event()


def test_a_frozen_opener_that_wakes_up_writes_nothing_more(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        _, before = await half_lost(on)
        hot = await on.hot_of(FreezingStore, "b")
        hot.prepare()
        frozen = asyncio.create_task(on.archived(hot).open_partition(PARTITION))
        await hot.frozen.wait()
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        store = await on.open("b")
        assert await history(store, PARTITION) == before
        whole, known = await on.snapshot(), await on.epochs(PARTITION)
        hot.thaw.set()
        with pytest.raises(StoreUnavailableError):
            await frozen
        assert await on.snapshot() == whole
        assert await on.epochs(PARTITION) == known

    run(redis_url, database_url, scenario)


def test_nothing_is_restored_into_an_open_partition_nor_where_it_does_not_fit(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        commits, before = await half_lost(on)
        hot = await on.hot("a")
        events = await hot.read_stream(commits[0].stream)
        piece = Restored(stream=commits[0].stream, entry=before[3])
        with pytest.raises(PartitionOpenError):
            await hot.restore(PARTITION, [piece])
        other = await on.hot("b")
        whole = await on.snapshot()
        with pytest.raises(SeamError):
            await other.restore(PARTITION, [piece])
        for version, prev in ((3, "0" * 64), (4, events[1].hash)):
            event = replace(events[1], version=version)
            with pytest.raises(SeamError):
                await other.restore(PARTITION, [Restored(stream=commits[0].stream, events=(event,), prev=prev)])
        assert await on.snapshot() == whole

    run(redis_url, database_url, scenario)


@pytest.mark.parametrize("appended", [2, 5])
def test_a_forked_partition_stays_closed_says_why_and_leaves_the_others_alone(
    redis_url: str, database_url: str, appended: int
) -> None:
    async def scenario(on: Rewindable) -> None:
        await half_lost(on)
        unnoticed = await on.hot("a")
        await append_all(unnoticed, life()[:appended])
        whole = await on.snapshot()
        store = await on.start("b")
        with pytest.raises(PartitionForkedError) as forked:
            await store.append(life()[0])
        end = (await unnoticed.log_ends())[PARTITION]
        for place in (str(end) if appended == 2 else "another event", "PostgreSQL"):
            assert place in forked.value.report
        now = await on.snapshot()
        mine = {key for key in whole if key.startswith(on.key(PARTITION, "").encode())}
        assert {key: now[key] for key in mine} == {key: whole[key] for key in mine}
        commits = life(OTHER)
        await append_all(store, commits)
        async with on.engine.connect() as connection:
            cursors = {number: at.end for number, at in (await read_checkpoints(connection)).items()}
        read = await store.read_log(cursors, 100)
        assert [commit.stream for commit in read] == [commit.stream for commit in commits]
        with pytest.raises(PartitionForkedError):
            await store.read_log({PARTITION: cursors[PARTITION]}, 100)
        async with running(database_url, store) as engine:
            await wait_for(engine, ELSEWHERE, read[-1].position, WAIT_SECONDS)

    run(redis_url, database_url, scenario)


class LateStore(ArchivedEventStore):
    """Hands its reader once what was read before."""

    late: Sequence[StoredCommit] = ()

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        if limit > 1 and self.late:
            late, self.late = self.late, ()
            return late
        return await super().read_log(after, limit, wait_seconds)


def test_what_was_read_from_a_lost_server_is_not_projected(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = life()
        await append_all(store, commits[:2])
        await on.project(store)
        snapshot = await on.snapshot()
        await append_all(store, commits[2:])
        late = (await history(store, PARTITION))[2:]
        await on.set_back(snapshot)
        reopened = await on.open("b")
        await append_all(reopened, life())
        reader = LateStore(reopened.hot, on.engine, reopened._epochs, reopened.level)
        reader.late = late
        assert await on.project(reader) == 6
        async with on.engine.connect() as connection:
            assert (await read_checkpoints(connection))[PARTITION].end == (await reopened.log_ends())[PARTITION]
        assert execute(
            database_url, "SELECT max(version) FROM order_events WHERE order_id = %s", commits[0].stream
        ) == [(2,)]

    run(redis_url, database_url, scenario)


def test_a_cursor_of_a_lost_event_is_a_fork_and_one_of_a_healed_event_goes_on(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits, more = life(), life()
        await append_all(store, commits[:2])
        snapshot = await on.snapshot()
        await append_all(store, commits[2:])
        await on.project(store)
        await append_all(store, more[:1])
        whole = await history(store, PARTITION)
        await on.set_back(snapshot)
        reopened = await on.open("b")
        for commit in whole[:-1]:
            assert await reopened.read_log({PARTITION: commit.end}, 100) == [
                later for later in whole[:-1] if later.position > commit.position
            ]
        with pytest.raises(ForkError) as fork:
            await reopened.read_log({PARTITION: whole[-1].end}, 100)
        assert fork.value.cursor == whole[-1].end
        await append_all(reopened, life()[:1])
        with pytest.raises(ForkError):
            await reopened.read_log({PARTITION: whole[-1].end}, 100)

    run(redis_url, database_url, scenario)


def test_a_process_with_an_older_setting_or_none_opens_nothing(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        first = await on.open("setting:9")
        await append_all(first, life()[:1])
        second = await on.open("setting:10")
        await append_all(second, life()[:1])
        without = await on.start(None)
        known = await on.epochs(PARTITION)
        whole = await on.snapshot()
        assert [epoch[:3] for epoch in known] == [(1, 0, "setting:9"), (2, 1, "setting:10")]
        for store in (first, without):
            with pytest.raises(StoreUnavailableError, match="ORDERTAPE_STORE_EPOCH=10"):
                await store.append(life()[0])
        assert await on.snapshot() == whole
        assert await on.epochs(PARTITION) == known
        await append_all(second, life()[:1])

    run(redis_url, database_url, scenario)


def test_a_server_that_was_replaced_opens_nothing_though_it_thinks_that_it_is_open(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        await on.open("a")
        isolated = await on.snapshot()
        await on.open("b")
        await on.set_back(isolated)
        with pytest.raises(StoreUnavailableError, match="was replaced"):
            await (await on.start_closed("a")).open_partition(PARTITION)
        assert [epoch[0] for epoch in await on.epochs(PARTITION)] == [1, 2]

    run(redis_url, database_url, scenario)


def test_an_epoch_that_was_registered_and_never_opened_loses_nothing(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = life()
        await append_all(store, commits[:2])
        execute(
            database_url,
            "INSERT INTO epochs (partition, epoch, position, incarnation, healed) VALUES (%s, 2, 2, 'a', 0)",
            PARTITION,
        )
        await append_all(store, commits[2:])
        reopened = await on.open("a")
        assert await on.project(reopened) == 6
        assert [epoch[:2] for epoch in await on.epochs(PARTITION)] == [(1, 0), (2, 6), (3, 6)]

    run(redis_url, database_url, scenario)


def test_a_server_that_was_set_back_under_its_old_identity_is_healed_under_another(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        snapshot = await on.snapshot()
        await on.rob("meta")
        store = await on.open_after_loss("a")
        await append_all(store, life())
        await on.project(store)
        before = await history(store, PARTITION)
        await on.set_back(snapshot)
        with pytest.raises(StoreUnavailableError, match="greater ORDERTAPE_STORE_EPOCH"):
            await (await on.start_closed("a")).open_partition(PARTITION)
        assert await history(await on.open_after_loss("b"), PARTITION) == before

    run(redis_url, database_url, scenario)


def test_closed_partitions_wait_for_postgresql(redis_url: str, database_url: str, postgres_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        commits, before = await half_lost(on)
        with outage(postgres_url, database_url):
            store = await on.start("b")
            with pytest.raises(StoreUnavailableError, match="PostgreSQL"):
                await store.append(life()[0])

        async def appended() -> bool:
            try:
                await store.append(next_commit)
            except StoreUnavailableError:
                return False
            return True

        next_commit = life()[0]
        await until(appended)
        assert (await history(store, PARTITION))[:-1] == before
        assert (await store.read_stream(commits[0].stream))[-1].version == 6

    run(redis_url, database_url, scenario)
