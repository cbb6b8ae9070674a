"""`ordertape restore`: an empty Redis, and a forked partition, filled again from PostgreSQL."""

import asyncio
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from app.audit.verify import verify
from app.clock import SystemClock
from app.main import build_worker, open_chain
from app.orders.state import Terminal
from app.settings import Settings
from eventstore.errors import PartitionForkedError
from eventstore.ids import Cursor, partition_in
from eventstore.store import StoredEvent
from projections.database import create_database_engine, reading
from projections.diff import diff
from tests.conftest import driver_url, execute
from tests.integration.commands import command_here
from tests.integration.copies import Copies, finish, on_copies, placing

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 60
POLL_SECONDS = 0.02


class Command:
    """``ordertape restore`` as an operator types it."""

    def __init__(self, redis_url: str, database_url: str, copies: Copies) -> None:
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        urls = {"REDIS_URL": redis_url, "DATABASE_URL": driver_url(database_url)}
        self._environment = {**kept, **urls, "ORDERTAPE_NAMESPACE": copies.namespace}

    async def run(self, *options: object, status: int = 0) -> str:
        """Return what it prints; its error text where it is meant to refuse."""
        command = ("restore", *map(str, options))
        out, errors = await asyncio.to_thread(command_here, self._environment, ROOT, *command, status=status)
        return out if status == 0 else errors


async def lose_everything(copies: Copies) -> None:
    keys = [key async for key in copies.redis.scan_iter(f"{{{copies.namespace}:*")]
    await copies.redis.delete(*keys)


async def work(copies: Copies, redis_url: str, order_ids: Sequence[str]) -> None:
    """Let a worker end these orders."""
    settings = replace(Settings(), speed_ppm=0, namespace=copies.namespace)
    chain, connection = open_chain(settings, redis_url)
    stopping = asyncio.Event()
    worker = asyncio.create_task(build_worker(settings, copies.store, chain, SystemClock()).run(stopping))
    try:
        async with asyncio.timeout(RUN_SECONDS):
            while not await all_ended(copies, order_ids):
                assert not worker.done(), worker
                await asyncio.sleep(POLL_SECONDS)
    finally:
        stopping.set()
        await worker
        await connection.close()


async def all_ended(copies: Copies, order_ids: Sequence[str]) -> bool:
    states = [(await copies.desk.streams.load(order_id)).state for order_id in order_ids]
    return all(isinstance(state, Terminal) for state in states)


async def is_clean(copies: Copies) -> bool:
    await copies.project()
    report = await verify(copies.store, copies.engine, SystemClock().now_us)
    return not report.findings and await diff(copies.store, copies.engine) == []


def test_every_open_order_goes_on_after_redis_lost_everything(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        streams = copies.desk.streams
        first, gone = (streams.new_order_id("owner", key) for key in ("open", "gone"))
        await streams.place(gone, "client", placing("gone"))
        await finish(copies, [gone])
        assert (await copies.sweep()).removed == 1
        closed = await copies.confirmed(1)
        await streams.place(first, "client", placing("open"))
        plots = (["accepted"], ["routing"], ["building"], ["no_quote", "accepted"], ["expired", "building"])
        open_orders = [first, *[await copies.desk.live(plot) for plot in plots]]
        await copies.project()
        before = {order: await copies.store.read_stream(order) for order in (*open_orders, *closed, gone)}
        ends = await copies.store.log_ends()
        await lose_everything(copies)

        printed = await Command(redis_url, database_url, copies).run()

        number = partition_in(first)
        # Those that ended a moment ago too: their first append may still be sent again.
        written = sum(len(events) for events in before.values())
        assert printed.splitlines()[number] == f"partition {number}: {written} events written back, epoch 2 is open"
        assert len(printed.splitlines()) == copies.store.partitions
        for order, events in before.items():
            assert await copies.store.read_stream(order) == events
        assert await copies.store.log_ends() == ends
        for order, key in ((first, "open"), (gone, "gone")):
            again = await streams.place(streams.new_order_id("owner", key), "client", placing(key))
            assert (again.order_id, again.repeated) == (order, True)
        assert await is_clean(copies)
        await work(copies, redis_url, open_orders)
        assert await is_clean(copies)
        assert [status.epoch for status in await copies.store.status()] == [2] * copies.store.partitions
        await lose_everything(copies)
        assert "epoch 3 is open" in await Command(redis_url, database_url, copies).run()

    on_copies(redis_url, database_url, scenario)


def test_a_redis_that_holds_something_is_left_as_it_is(redis_url: str, database_url: str, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.project()
        command = Command(redis_url, database_url, copies)

        assert "Redis is not empty, so there is nothing to restore" in await command.run(status=2)
        number, file = partition_in(order), tmp_path / "discarded"
        refusal = await command.run("--partition", number, "--discard", file, status=2)
        assert f"partition {number} is not forked" in refusal
        assert "partitions 0 to 3" in await command.run("--partition", 4, "--discard", file, status=2)
        assert "go together" in await command.run("--partition", number, status=2)
        assert not file.exists()
        assert len(await copies.hot.read_stream(order)) == 6

    on_copies(redis_url, database_url, scenario)


def test_two_empty_copies_are_not_restored(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        await lose_everything(copies)
        async with copies.engine.begin() as connection:
            await connection.execute(text("TRUNCATE store, checkpoints, epochs"))

        refusal = await Command(redis_url, database_url, copies).run(status=2)

        assert "PostgreSQL has no event store either" in refusal

    on_copies(redis_url, database_url, scenario)


def test_nothing_is_restored_while_an_engine_runs(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        await lose_everything(copies)
        engine = create_database_engine(database_url, application_name="ordertape worker")
        async with reading(engine) as connection:
            await connection.scalar(text("SELECT 1"))

            refusal = await Command(redis_url, database_url, copies).run(status=2)

        assert "an engine is running (ordertape worker is connected to PostgreSQL): stop it first" in refusal
        assert [key async for key in copies.redis.scan_iter(f"{{{copies.namespace}:*")] == []
        await engine.dispose()

    on_copies(redis_url, database_url, scenario)


class Fork:
    """A partition that was rewound, and went on with other events in the same epoch."""

    def __init__(self, order: str, ours: Sequence[StoredEvent], others: Sequence[StoredEvent], other: str) -> None:
        self.order = order
        self.number = partition_in(order)
        self.ours = ours
        """PostgreSQL's history of the order."""
        self.others = others
        """Redis' events that PostgreSQL does not have: the order's, and those of ``other``."""
        self.other = other


async def forked(copies: Copies) -> Fork:
    order = await copies.desk.live(["building"])
    await copies.project()
    pattern = f"{copies.key(order, '')[: len(copies.namespace) + 6]}*"
    dumped = {key: await copies.redis.dump(key) async for key in copies.redis.scan_iter(pattern)}
    common = len(await copies.store.read_stream(order))
    await copies.desk.attempt(order, "submitted")
    await copies.desk.live(["accepted"])
    await copies.project()
    ours = await copies.store.read_stream(order)
    keys = [key async for key in copies.redis.scan_iter(pattern)]
    await copies.redis.delete(*keys)
    for key, value in dumped.items():
        await copies.redis.restore(key, 0, value)
    other = await copies.desk.live(["confirmed"])
    await copies.desk.attempt(order, "unknown")
    others = [*await copies.hot.read_stream(order, common), *await copies.hot.read_stream(other)]
    assert len(others) == 8
    # The server started again meanwhile: its data is another.
    await copies.redis.hset(copies.key(order, "meta"), "incarnation", "before")
    return Fork(order, ours, others, other)


def test_a_forked_partition_is_refused_until_postgresqls_history_is_chosen(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async def scenario(copies: Copies) -> None:
        fork = await forked(copies)
        file, command = tmp_path / "discarded.jsonl", Command(redis_url, database_url, copies)
        options = ("--partition", fork.number, "--discard", file)
        told = rf"stop the engine and run `ordertape restore --partition {fork.number} --discard FILE`"
        with pytest.raises(PartitionForkedError, match=told):
            await copies.store.open_partition(fork.number)

        printed = await command.run(*options)

        assert f"partition {fork.number}: 8 events that only Redis had are in {file}" in printed
        assert "epoch 2 is open" in printed
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        saved = {(line["orderId"], line["version"]): line for line in lines}
        wanted = {json.loads(event.data)["orderId"] + f"/{event.version}": event for event in fork.others}
        assert {f"{order}/{version}" for order, version in saved} == wanted.keys()
        for line in lines:
            event = wanted[f"{line['orderId']}/{line['version']}"]
            assert (line["event"].encode(), line["hash"]) == (event.data, event.hash)
            assert Cursor(line["epoch"], line["position"], line["hash"][:8]) == event.cursor
            assert line["commitId"] == event.commit_id
        assert await copies.store.read_stream(fork.order) == fork.ours
        assert await copies.store.read_stream(fork.other) == []
        assert await is_clean(copies)
        assert "is not forked" in await command.run(*options, status=2)

    on_copies(redis_url, database_url, scenario)


def test_a_fork_under_an_open_partition_is_found_and_resolved_too(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async def scenario(copies: Copies) -> None:
        fork = await forked(copies)
        found = (await copies.hot.partition_record(fork.number)).found
        await copies.redis.hset(copies.key(fork.order, "meta"), "incarnation", found)

        options = ("--partition", fork.number, "--discard", tmp_path / "file")
        assert "8 events" in await Command(redis_url, database_url, copies).run(*options)

        assert await copies.store.read_stream(fork.order) == fork.ours

    on_copies(redis_url, database_url, scenario)


def test_nothing_is_discarded_that_cannot_be_saved_or_replaced(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async def scenario(copies: Copies) -> None:
        fork = await forked(copies)
        held = await copies.redis.xrange(copies.key(fork.order))
        file, command = tmp_path / "taken", Command(redis_url, database_url, copies)
        file.write_text("mine")

        refusal = await command.run("--partition", fork.number, "--discard", file, status=2)
        assert "cannot be written, so nothing was removed" in refusal
        assert file.read_text() == "mine"

        damage = 'UPDATE order_events SET payload = payload || \'{"at": "never"}\' WHERE order_id = %s AND version = 1'
        execute(database_url, damage, fork.order)
        refusal = await command.run("--partition", fork.number, "--discard", tmp_path / "new", status=2)
        assert f"PostgreSQL's copy of event {fork.order}/1 is damaged" in refusal
        assert not (tmp_path / "new").exists()
        assert await copies.redis.xrange(copies.key(fork.order)) == held

    on_copies(redis_url, database_url, scenario)
