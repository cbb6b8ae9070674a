"""The witness: an answer is worth ``witnessed`` once PostgreSQL has that very event; nothing is sent before that."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from app.clock import SystemClock
from app.dex.chain import Blockhash, Observation, SimulatedChain
from app.dex.profile import Profile
from app.dex.tokens import Token
from app.main import build_streams, build_worker, open_chain
from app.orders.commands import PlaceOrder
from app.orders.state import Confirmed, Submitted
from app.settings import Settings
from eventstore.errors import (
    IdempotencyConflictError,
    LevelNotReachedError,
    StoreEmptyError,
    StoreUnavailableError,
    WrongVersionError,
)
from eventstore.ids import Cursor, partition_in
from eventstore.levels import FSYNC, MEMORY, WITNESSED
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, Appended, Duplicate, Existing, IdempotencyKey
from projections.archive.witness import Witness
from tests.builders import stream_id
from tests.conftest import accepted, appends, market_life, running
from tests.integration.rewinding import Rewindable, append_all, histories, obliged, outage, run, until

OWNER = "owner"
PARTITION = partition_in(stream_id(OWNER))
CALM = Profile(venue_error_ppm=0, venue_timeout_ppm=0, drop_ppm=0, fork_ppm=0)


def life() -> list[Append]:
    return obliged(appends(stream_id(OWNER), market_life()))


def request(key: str, *, amount: str = "1.5", fingerprint: str = "f" * 32) -> Append:
    """The append of a new order under an idempotency key."""
    order = obliged(appends(stream_id(OWNER), [[accepted(amount=amount, idempotency_key=key)]]))[0]
    return replace(order, idempotency=IdempotencyKey("client-1", key, fingerprint))


def test_a_witnessed_append_returns_once_postgresql_has_it(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a", WITNESSED)
        commits = life()
        appending = asyncio.create_task(store.append(commits[0]))

        async def appended() -> bool:
            return (await store.log_ends())[PARTITION].position == 1

        await until(appended)
        assert not appending.done()
        async with running(database_url, store):
            assert await appending == Appended(1, 1, 1, WITNESSED)
            assert await store.append(commits[0]) == Duplicate(1, 1, 1, WITNESSED)
            assert await store.append(replace(commits[1], level=MEMORY)) == Appended(2, 1, 2, FSYNC)

    run(redis_url, database_url, scenario)


def test_an_append_that_postgresql_does_not_get_is_not_worth_witnessed(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a", WITNESSED)
        commit = life()[0]
        for _ in range(2):
            with pytest.raises(LevelNotReachedError) as unreached:
                await store.append(commit)
            assert (unreached.value.commit_id, unreached.value.wanted) == (commit.commit_id, WITNESSED)
        with pytest.raises(LevelNotReachedError):
            await store.confirm(commit.stream, 1, commit.events[-1].hash, WITNESSED)
        await on.project(store)
        assert await store.append(commit) == Duplicate(1, 1, 1, WITNESSED)
        assert await store.confirm(commit.stream, 1, commit.events[-1].hash, WITNESSED) == WITNESSED

    run(redis_url, database_url, scenario)


def test_another_event_at_that_place_is_not_what_was_witnessed(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        order = stream_id(OWNER)
        sell, buy = (appends(order, market_life(side))[0] for side in ("sell", "buy"))
        await store.append(sell)
        await on.project(store)
        assert await store.confirm(order, 1, sell.events[0].hash, WITNESSED) == WITNESSED
        with pytest.raises(LevelNotReachedError):
            await store.confirm(order, 1, buy.events[0].hash, WITNESSED)
        with pytest.raises(WrongVersionError):
            await store.confirm(order, 1, buy.events[0].hash, MEMORY)
        with pytest.raises(WrongVersionError):
            await store.confirm(order, 2, sell.events[0].hash, MEMORY)

    run(redis_url, database_url, scenario)


def test_those_who_wait_for_one_event_wait_each_as_long_as_they_want(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commit = life()[0]
        await store.append(commit)
        event = (commit.stream, 1, commit.events[0].hash)
        witness = Witness(on.engine)
        patient = asyncio.create_task(witness.seen(*event, 20))
        cancelled = asyncio.create_task(witness.seen(*event, 20))
        assert not await witness.seen(*event, 0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not patient.done()
        await on.project(store)
        assert await patient
        await witness.close()

    run(redis_url, database_url, scenario)


@pytest.mark.parametrize("ending", ["timeout", "cancellation", "close"])
def test_nobody_asks_postgresql_when_nobody_waits(redis_url: str, database_url: str, ending: str) -> None:
    async def scenario(on: Rewindable) -> None:
        looks = 0

        async def sleep(seconds: float) -> None:
            nonlocal looks
            looks += 1
            await asyncio.sleep(seconds)

        async def asked() -> bool:
            return looks > 1

        async def quiet() -> bool:
            return len(asyncio.all_tasks()) == before

        await on.open("a")
        before = len(asyncio.all_tasks())
        witness = Witness(on.engine, sleep)
        waiting = asyncio.create_task(witness.seen(stream_id(OWNER), 1, "", 0.1 if ending == "timeout" else 20))
        await until(asked)
        match ending:
            case "timeout":
                assert not await waiting
            case "cancellation":
                waiting.cancel()
            case _:
                await witness.close()
                waiting.cancel()
        await until(quiet)
        assert witness._waiting == {}

    run(redis_url, database_url, scenario)


def test_an_outage_of_postgresql_is_survived_by_those_who_wait(
    redis_url: str, database_url: str, postgres_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        outages = 0

        async def sleep(seconds: float) -> None:
            nonlocal outages
            outages += seconds > 0.1
            await asyncio.sleep(seconds)

        async def noticed() -> bool:
            return outages > 0

        store = await on.open("a")
        commit = life()[0]
        await store.append(commit)
        witness = Witness(on.engine, sleep)
        waiting = asyncio.create_task(witness.seen(commit.stream, 1, commit.events[0].hash, 20))
        with outage(postgres_url, database_url):
            await until(noticed)
        await on.project(store)
        assert await waiting

    run(redis_url, database_url, scenario)


def test_a_key_that_only_postgresql_knows_answers_with_its_order(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        first = request("key")
        await store.append(first)
        await on.project(store)
        await on.rob("idempotency")
        whole = await histories(store)
        again = request("key")
        assert await store.append(again) == Existing(first.stream, WITNESSED)
        with pytest.raises(IdempotencyConflictError) as conflict:
            await store.append(request("key", amount="2", fingerprint="e" * 32))
        assert conflict.value.stream == first.stream
        assert isinstance(await store.append(first), Duplicate)
        assert await histories(store) == whole

    run(redis_url, database_url, scenario)


def test_a_key_that_redis_knows_is_witnessed_with_its_order(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a", WITNESSED)
        first = request("key")
        await store.append(replace(first, level=MEMORY))
        with pytest.raises(LevelNotReachedError):
            await store.append(request("key"))
        async with running(database_url, store):
            assert await store.append(request("key")) == Existing(first.stream, WITNESSED)

    run(redis_url, database_url, scenario)


def test_a_key_is_not_taken_for_new_while_postgresql_does_not_answer(
    redis_url: str, database_url: str, postgres_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        before = await on.snapshot()
        with outage(postgres_url, database_url):
            with pytest.raises(StoreUnavailableError, match="idempotency key"):
                await store.append(request("key"))
            assert await on.snapshot() == before
            await append_all(store, life())

    run(redis_url, database_url, scenario)


def test_an_append_that_is_sent_again_after_a_total_loss_happens_once_though_its_order_has_ended(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = life()
        await append_all(store, commits)
        await on.project(store)
        await on.flush()
        reopened = await on.open_after_loss("b")
        assert isinstance(await reopened.append(commits[0]), Duplicate)

    run(redis_url, database_url, scenario)


def test_an_empty_redis_beside_a_full_archive_is_not_taken_for_a_new_store(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        await append_all(store, life())
        await on.project(store)
        await on.flush()
        for start in (on.start, on.open):
            with pytest.raises(StoreEmptyError) as empty:
                await start("a")
            assert (empty.value.store_id, empty.value.events) == (on.namespace, 6)
        assert await on.snapshot() == {}

    run(redis_url, database_url, scenario)


def test_open_partitions_are_served_while_postgresql_is_down(
    redis_url: str, database_url: str, postgres_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        await on.open("a")
        with outage(postgres_url, database_url):
            store = await on.start("a")
            await append_all(store, life())

    run(redis_url, database_url, scenario)


class FirstStarter(RedisEventStore):
    """Creates the first partition, then lets another one overtake it."""

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        await super().open_epoch(partition, store_id, epoch, end)
        self.created.set()
        await self.overtaken.wait()

    def prepare(self) -> None:
        self.created, self.overtaken = asyncio.Event(), asyncio.Event()


class SecondStarter(RedisEventStore):
    """Finds nothing, and then that another one has begun to create the store."""

    first: FirstStarter

    async def open_epoch(self, partition: int, store_id: str, epoch: int, end: Cursor) -> None:
        await self.first.created.wait()
        await super().open_epoch(partition, store_id, epoch, end)


def test_concurrent_starters_create_one_store(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        first, second = await on.hot_of(FirstStarter, "a"), await on.hot_of(SecondStarter, "a")
        first.prepare()
        second.first = first
        starting = asyncio.create_task(on.start_as("first", first))
        await on.start_as("second", second)
        first.overtaken.set()
        await starting
        others = await asyncio.gather(*(on.start_as(f"other {number}") for number in range(4)))
        records = [await second.partition_record(number) for number in range(4)]
        assert {(record.store_id, record.epoch) for record in records} == {("first", 1)}
        assert {first.store_id, second.store_id, *(store.store_id for store in others)} == {"first"}

    run(redis_url, database_url, scenario)


class RecordingChain:
    """The simulated chain, and what it was sent."""

    def __init__(self, chain: SimulatedChain) -> None:
        self._chain = chain
        self.sent: list[bytes] = []

    async def slot(self) -> int:
        return await self._chain.slot()

    async def latest_blockhash(self) -> Blockhash:
        return await self._chain.latest_blockhash()

    async def send(self, message: bytes, signature: bytes) -> None:
        self.sent.append(message)
        await self._chain.send(message, signature)

    async def observe(self, signatures: Sequence[str]) -> Observation:
        return await self._chain.observe(signatures)

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        return await self._chain.launch_slots(tokens)


def test_a_swap_is_not_sent_before_its_intent_is_witnessed_whoever_recorded_it(
    redis_url: str, database_url: str
) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        settings = Settings(namespace=on.namespace, speed_ppm=0, quote_timeout_ms=400, task_ms=500, claim_idle_ms=600)
        chain, connection = open_chain(settings, redis_url, CALM)
        recording = RecordingChain(chain)
        streams = build_streams(store, SystemClock(), "test")
        order = streams.new_order_id(OWNER, None)
        place = PlaceOrder(
            side="sell",
            base_asset="SOL",
            quote_asset="USDC",
            base_decimals=9,
            quote_decimals=6,
            amount=10**9,
            slippage_bps=100,
        )
        await streams.place(order, OWNER, place)

        def die(point: str, _: str) -> None:
            if point == "K8":
                raise StoreUnavailableError("the worker has died")

        stopping = asyncio.Event()
        weak = replace(settings, intent_level=MEMORY)
        dead = build_worker(weak, store, recording, SystemClock(), profile=CALM, reach=die)

        async def submitted() -> bool:
            return isinstance((await streams.load(order)).state, Submitted)

        async with asyncio.TaskGroup() as group:
            group.create_task(dead.run(stopping))
            await until(submitted)
            stopping.set()
        assert recording.sent == []
        head = await streams.load(order)
        with pytest.raises(LevelNotReachedError):
            await streams.confirm(head, WITNESSED)

        stopping = asyncio.Event()
        strict = replace(settings, intent_level=WITNESSED)
        worker = build_worker(strict, store, recording, SystemClock(), profile=CALM)

        async def tried_twice() -> bool:
            return any([await store.deliveries(task) >= 3 for task in await store.list_tasks(PARTITION)])

        async def ended() -> bool:
            return isinstance((await streams.load(order)).state, Confirmed)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stopping))
            await until(tried_twice)
            assert recording.sent == []
            async with running(database_url, store):
                await until(ended)
            stopping.set()
        assert len(set(recording.sent)) == 1
        assert Counter(entry.order_id for entry in await chain.ledger()) == {order: 1}
        await connection.close()

    run(redis_url, database_url, scenario)
