"""Each safeguard of the event store, taken out of a copy of the source: a test fails there."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventstore.errors import (
    EpochStaleError,
    ForkError,
    LevelNotReachedError,
    PartitionOpenError,
    PositionMissingError,
    SeamError,
    StreamExpiredError,
    WrongVersionError,
)
from eventstore.hot import ClosedStream, Restored
from eventstore.ids import LOG_START, Cursor, new_stream_id, new_ulid, partition_in
from eventstore.levels import MEMORY, replicated
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append, IdempotencyKey, StoredCommit, StoredEvent
from tests.builders import events, first_append, keyed, stream_id, with_task
from tests.crash.safeguards import SAFEGUARDS, Safeguard
from tests.servers.single import RedisServer, redis_server, unstarted_servers, wait_until

ROOT = Path(__file__).parents[2]
COPIED = ("eventstore", "projections", "app", "tests", "alembic", "alembic.ini", "pyproject.toml")
CHECK_SECONDS_MAX = 180

Scenario = Callable[[RedisEventStore], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendonly="no") as running:
        yield running


def on_store(server: RedisServer, scenario: Scenario) -> None:
    """Run ``scenario`` on a new store, which has the server for itself."""

    async def run() -> None:
        server.command("FLUSHALL")
        store = await RedisEventStore.open(server.url, StoreSettings(level=MEMORY), new_store_id="first")
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


def key(stream: str, name: str) -> str:
    return f"{StoreSettings().key_prefix(partition_in(stream))}:{name}"


def after_first(stream: str, version: int = 1, head: str = "") -> Append:
    """The append of one event after ``first_append(stream)``."""
    head = head or events(1)[0].hash
    following = events(1, prev=head, first=version + 1)
    return Append(stream=stream, expected_version=version, expected_hash=head, commit_id="c2", events=following)


@pytest.mark.parametrize("version,head", [(2, ""), (1, "0" * 64)])
def test_an_append_at_another_version_or_head_is_refused(server: RedisServer, version: int, head: str) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream))
        with pytest.raises(WrongVersionError):
            await store.append(after_first(stream, version, head))

    on_store(server, scenario)


def test_an_append_of_another_epoch_is_refused(server: RedisServer) -> None:
    refused_after(server, "epoch", "2")


def test_an_append_to_a_server_with_other_data_is_refused(server: RedisServer) -> None:
    refused_after(server, "incarnation", "another")


def refused_after(server: RedisServer, field: str, value: str) -> None:
    """Require that a store that is open does not append once ``field`` of the partition's record has changed."""

    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        server.command("HSET", key(stream, "meta"), field, value)
        with pytest.raises(EpochStaleError):
            await store.append(first_append(stream))

    on_store(server, scenario)


def test_every_answer_about_an_earlier_write_is_a_write(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        first = keyed(stream_id(), IdempotencyKey("client", "k", "f"), "c1")
        again = keyed(stream_id(), IdempotencyKey("client", "k", "f"), "c1")
        await store.append(first)
        await store.append(first)
        await store.append(again)
        await store.confirm(first.stream, 1, first.events[0].hash, MEMORY)
        assert server.command("HGET", key(first.stream, "meta"), "touches") == b"3"

    on_store(server, scenario)


def test_a_stream_whose_id_is_old_is_not_begun(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        with pytest.raises(StreamExpiredError):
            await store.append(first_append(new_stream_id(new_ulid(1_600_000_000_000, bytes(10)), "owner", 4)))

    on_store(server, scenario)


def test_a_task_ends_with_the_append_that_finishes_it(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        await store.append(with_task(stream))
        (task,) = await store.take_tasks("worker", 1)
        following = after_first(stream)
        await store.append(
            Append(
                stream=stream,
                expected_version=1,
                expected_hash=following.expected_hash,
                commit_id="c2",
                events=following.events,
                finish_task=task,
            )
        )
        assert list(await store.list_tasks(partition_in(stream))) == []

    on_store(server, scenario)


def test_a_hole_in_the_log_stops_its_reader(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        streams = [stream_id() for _ in range(3)]
        for stream in streams:
            await store.append(first_append(stream))
        server.command("XDEL", key(streams[0], "log"), "1-2")
        with pytest.raises(PositionMissingError):
            await store.read_log({partition_in(streams[0]): LOG_START}, 10)

    on_store(server, scenario)


def test_a_reader_that_saw_another_event_at_its_place_is_told(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream, 2))
        await store.append(first_append(stream_id()))
        with pytest.raises(ForkError):
            await store.read_log({partition_in(stream): Cursor(1, 2, "00000000")}, 10)

    on_store(server, scenario)


def test_an_append_that_no_replica_has_is_not_called_replicated() -> None:
    with unstarted_servers(2) as (master, replica):
        master.start()
        replica.start()
        replica.command("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: replica.command("INFO", "replication")["master_link_status"] == "up", 20)

        async def scenario(store: RedisEventStore) -> None:
            await store.append(first_append(stream_id()))
            written = master.command("INFO", "replication")["master_repl_offset"]
            # The replica has said that it has this one; a wait for it alone is over at once.
            wait_until(lambda: master.command("INFO", "replication")["slave0"]["offset"] >= written, 20)
            replica.freeze()
            with pytest.raises(LevelNotReachedError):
                await store.append(first_append(stream_id()))

        asyncio.run(on_replicated(master, scenario))


async def on_replicated(master: RedisServer, scenario: Scenario) -> None:
    store = await RedisEventStore.open(master.url, StoreSettings(level=replicated(1)), new_store_id="first")
    try:
        await scenario(store)
    finally:
        await store.close()


def test_nothing_is_restored_where_it_does_not_continue(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        number = partition_in(stream)
        await store.append(first_append(stream))
        server.command("HSET", key(stream, "meta"), "incarnation", "lost")
        late = events(1, first=3)[0]
        event = StoredEvent(3, 1, 3, "c3", late.hash, late.data)
        entry = StoredCommit(number, 1, 3, stream, 3, "c3", 1, (late.data,), (late.hash[:8],))
        for piece in (Restored(stream=stream, events=(event,), prev=""), Restored(stream=stream, entry=entry)):
            with pytest.raises(SeamError):
                await store.restore(number, [piece])

    on_store(server, scenario)


def test_nothing_is_restored_into_an_open_partition(server: RedisServer) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        (first,) = events(1)
        event = StoredEvent(1, 1, 1, "c1", first.hash, first.data)
        with pytest.raises(PartitionOpenError):
            await store.restore(partition_in(stream), [Restored(stream=stream, events=(event,))])

    on_store(server, scenario)


@pytest.mark.parametrize("version,head", [(1, "0" * 64), (2, events(1)[0].hash)])
def test_a_stream_that_is_not_what_the_archive_has_is_not_removed(server: RedisServer, version: int, head: str) -> None:
    async def scenario(store: RedisEventStore) -> None:
        stream = stream_id()
        await store.append(first_append(stream))
        closed = ClosedStream(stream, version, head, None)
        assert list(await store.remove_closed(partition_in(stream), [closed], "ended")) == []
        assert len(await store.read_stream(stream)) == 1

    on_store(server, scenario)


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name)
def test_each_safeguard_stands_in_the_source_once(safeguard: Safeguard) -> None:
    assert (ROOT / safeguard.file).read_text(encoding="utf-8").count(safeguard.text) == 1


def copied(base: Path) -> Path:
    """Return a copy of the source tree that belongs to nobody else."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, base / name)
        else:
            base.mkdir(exist_ok=True)
            shutil.copy2(source, base / name)
    return base


def run_in(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy of the source, which hides the installed one."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS_MAX,
        check=False,
    )


def pytest_in(tree: Path, *ids: str) -> subprocess.CompletedProcess[str]:
    return run_in(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *ids)


@pytest.mark.slow
def test_a_test_fails_wherever_a_safeguard_is_taken_out(tmp_path: Path) -> None:
    whole = copied(tmp_path / "whole")
    found = run_in(whole, "-c", "import eventstore, projections; print(eventstore.__file__, projections.__file__)")
    assert found.stdout.split() == [str(whole / name / "__init__.py") for name in ("eventstore", "projections")]
    passed = pytest_in(whole, *dict.fromkeys(safeguard.check for safeguard in SAFEGUARDS))
    assert passed.returncode == 0, passed.stdout

    def fails_without(number: int) -> tuple[str, bool]:
        safeguard = SAFEGUARDS[number]
        tree = copied(tmp_path / str(number))
        file = tree / safeguard.file
        file.write_text(file.read_text(encoding="utf-8").replace(safeguard.text, safeguard.without), encoding="utf-8")
        run = pytest_in(tree, safeguard.check)
        shutil.rmtree(tree)
        # A module that cannot be imported, a server that does not start, or no test at all is no failed test.
        return safeguard.name, run.returncode == 1 and "\nFAILED " in run.stdout

    with ThreadPoolExecutor(2) as pool:
        failing = dict(pool.map(fails_without, range(len(SAFEGUARDS))))
    assert [name for name, fails in failing.items() if not fails] == []
    assert len(failing) == len(SAFEGUARDS)
