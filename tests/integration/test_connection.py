"""The connection to Redis: nothing is sent twice by itself, and a lost reply is an unknown outcome, not a failure."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from eventstore.errors import (
    ConnectionLostError,
    DamagedEntryError,
    EpochStaleError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from eventstore.ids import partition_in
from eventstore.redis.connection import Durability, Pipeline, RefusedError
from eventstore.redis.opening import StoreSettings
from eventstore.redis.scripts import script_of
from eventstore.redis.store import RedisEventStore
from eventstore.redis.wire.sender import MAX_PIPELINE
from eventstore.store import Duplicate
from tests.builders import first_append, stream_id
from tests.servers.proxy import Proxy
from tests.servers.single import redis_server

WAIT_SECONDS = 20
ECHO = script_of("redis.call('SET', KEYS[1], ARGV[1], 'EX', 60) return ARGV[1]")
FLUSHED = Durability(flushed=True)


class ReplyDropper:
    """A server between client and Redis that, when told to, passes a script on and cuts the line at its reply."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self.dropping = False
        self.commands = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket_path)
        try:
            scripts = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._commands(reader, up_writer, scripts))
                group.create_task(self._replies(up_reader, writer, scripts))
        except* ConnectionError:
            pass
        finally:
            writer.close()
            up_writer.close()

    async def _commands(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, scripts: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if b"EVALSHA" in data:
                self.commands += data.count(b"EVALSHA")
                scripts.set()
            upstream.write(data)
        raise ConnectionResetError

    async def _replies(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, scripts: asyncio.Event
    ) -> None:
        while data := await upstream.read(65536):
            if self.dropping and scripts.is_set():
                raise ConnectionResetError
            writer.write(data)
        raise ConnectionResetError


@asynccontextmanager
async def dropper(redis_url: str) -> AsyncIterator[tuple[ReplyDropper, str]]:
    proxy = ReplyDropper(urlsplit(redis_url).path)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy, f"redis://127.0.0.1:{port}/0"


def test_a_lost_reply_is_an_unknown_outcome_and_the_same_append_again_a_duplicate(redis_url: str) -> None:
    async def scenario() -> None:
        settings = StoreSettings(namespace=f"c{secrets.token_hex(5)}")
        async with dropper(redis_url) as (proxy, url):
            store = await RedisEventStore.open(url, settings, new_store_id="s")
            await store.append(first_append(stream_id()))
            stream = stream_id()
            commit = first_append(stream)
            sent = proxy.commands
            proxy.dropping = True
            with pytest.raises(OutcomeUnknownError) as unknown:
                await store.append(commit)
            assert unknown.value.commit_id == commit.commit_id
            assert proxy.commands == sent + 1
            proxy.dropping = False
            assert isinstance(await store.append(commit), Duplicate)
            assert len(await store.read_stream(stream)) == 1
            await store.close()

    asyncio.run(scenario())


def test_concurrent_commands_share_round_trips_and_keep_their_answers(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        names = [f"p{secrets.token_hex(4)}:{n}" for n in range(500)]
        await asyncio.gather(*(pipeline.execute("SET", name, n, "EX", 60) for n, name in enumerate(names)))
        answers = await asyncio.gather(*(pipeline.execute("GET", name) for name in names))
        assert answers == [str(n).encode() for n in range(500)]
        await pipeline.close()

    asyncio.run(scenario())


def test_one_refused_command_does_not_disturb_its_neighbours(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        answers = await asyncio.gather(
            pipeline.execute("NOSUCHCOMMAND"), pipeline.execute("ECHO", "x"), return_exceptions=True
        )
        assert isinstance(answers[0], StoreUnavailableError)
        assert answers[1] == b"x"
        await pipeline.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_other_callers_their_own_answers(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        for turn in range(50):
            callers = [asyncio.create_task(pipeline.execute("ECHO", str(n))) for n in range(10)]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            callers[3].cancel()
            answers = await asyncio.gather(*callers, return_exceptions=True)
            assert [a for n, a in enumerate(answers) if n != 3] == [str(n).encode() for n in range(10) if n != 3]
        await pipeline.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_callers_of_every_kind_leave_others_their_own_answers(redis_url: str, seed: int) -> None:
    chance = random.Random(seed)

    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        prefix = f"{{x{secrets.token_hex(4)}}}"
        await pipeline.execute("XADD", f"{prefix}:s", "1-1", "field", "value")

        async def caller(number: int) -> bytes | None:
            text = str(number)
            match number % 4:
                case 0:
                    reply = await pipeline.execute("ECHO", text)
                case 1:
                    reply = await pipeline.run(ECHO, [f"{prefix}:{number}"], [text])
                case 2:
                    written = await pipeline.run_durably(ECHO, [f"{prefix}:{number}"], [text], FLUSHED)
                    reply = written.reply
                case _:
                    # Nothing comes: the connection is given up while the server waits.
                    assert await pipeline.read_streams("XREAD", 10, 0.02, {f"{prefix}:s": "1-1"}) == []
                    return None
            assert reply == text.encode()
            return None

        for _ in range(40):
            callers = [asyncio.create_task(caller(number)) for number in range(chance.randint(2, 24))]
            for _ in range(chance.randint(0, 12)):
                await asyncio.sleep(0)
            cancelled = [task for task in callers if chance.random() < 0.5 and task.cancel()]
            await asyncio.wait(callers)
            assert [task.exception() for task in callers if task not in cancelled] == [None] * (
                len(callers) - len(cancelled)
            )
        await pipeline.close()

    asyncio.run(asyncio.wait_for(scenario(), 3 * WAIT_SECONDS))


def test_an_entry_that_somebody_else_wrote_is_named(redis_url: str) -> None:
    async def scenario() -> None:
        settings = StoreSettings(namespace=f"c{secrets.token_hex(5)}")
        store = await RedisEventStore.open(redis_url, settings, new_store_id="s")
        stream = stream_id()
        foreign = Pipeline(redis_url)
        prefix = settings.key_prefix(partition_in(stream))
        await foreign.execute("XADD", f"{prefix}:stream:{stream}", "1-1", "event", "{}")
        with pytest.raises(DamagedEntryError) as damaged:
            await store.read_stream(stream)
        assert damaged.value.entry_id == "1-1"
        await foreign.close()
        await store.close()

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_named_unavailable() -> None:
    async def scenario() -> None:
        with pytest.raises(StoreUnavailableError):
            await RedisEventStore.open("redis://127.0.0.1:1/0", StoreSettings(), new_store_id="s")

    asyncio.run(scenario())


def test_an_argument_that_cannot_be_sent_fails_its_own_caller_only(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        answers = await asyncio.gather(
            pipeline.execute("SET", "x", None),
            pipeline.execute("ECHO", "x"),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [TypeError, bytes]
        await pipeline.close()

    asyncio.run(scenario())


def test_an_idle_connection_that_was_cut_costs_no_command_and_counts_as_a_new_generation(redis_url: str) -> None:
    async def scenario() -> None:
        async with Proxy(redis_url) as proxy:
            pipeline = Pipeline(proxy.url)
            await pipeline.execute("PING")
            before = pipeline.generation
            proxy.cut_all()
            assert await pipeline.execute("ECHO", "x") == b"x"
            assert pipeline.generation > before
            await pipeline.close()

    asyncio.run(scenario())


def test_a_reply_that_does_not_come_in_time_drops_the_connection_and_is_never_given_to_another(redis_url: str) -> None:
    async def scenario() -> None:
        async with Proxy(redis_url) as proxy:
            pipeline = Pipeline(proxy.url, timeout_seconds=0.3)
            await pipeline.execute("PING")
            before = pipeline.generation
            proxy.stall()
            with pytest.raises(ConnectionLostError):
                await pipeline.execute("ECHO", "late")
            assert pipeline.generation > before
            proxy.flow()
            assert await pipeline.execute("ECHO", "x") == b"x"
            await pipeline.close()

    asyncio.run(scenario())


def test_what_was_sent_when_the_line_is_cut_is_unknown_and_what_was_not_is_unavailable(redis_url: str) -> None:
    async def scenario() -> None:
        async with Proxy(redis_url) as proxy:
            pipeline = Pipeline(proxy.url)
            await pipeline.execute("PING")
            proxy.drop_reply(1, containing=b"ECHO")
            proxy.refuse()
            commands = (pipeline.execute("ECHO", n) for n in range(MAX_PIPELINE + 1))
            answers = await asyncio.gather(*commands, return_exceptions=True)
            assert [type(answer) for answer in answers] == [ConnectionLostError] * MAX_PIPELINE + [
                StoreUnavailableError
            ]
            await pipeline.close()

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))


def test_a_script_that_the_server_has_forgotten_is_sent_whole(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url)
        script = script_of(f"return '{secrets.token_hex(8)}'")
        first = await pipeline.run(script, ["k"], [])
        assert await pipeline.run(script, ["k"], []) == first
        assert (await pipeline.run_durably(script_of(f"{script.text} "), ["k"], [], FLUSHED)).reply == first
        await pipeline.close()

    asyncio.run(scenario())


def test_a_demoted_server_is_left_until_it_is_a_master_again() -> None:
    async def scenario() -> None:
        with redis_server() as server:
            pipeline = Pipeline(server.url)
            await pipeline.execute("SET", "k", "v")
            server.command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(RefusedError) as refused:
                await pipeline.execute("SET", "k", "v")
            assert refused.value.code == "READONLY"
            with pytest.raises(StoreUnavailableError, match="is a replica"):
                await pipeline.execute("GET", "k")
            server.command("REPLICAOF", "NO", "ONE")
            assert await pipeline.execute("GET", "k") == b"v"
            await pipeline.close()

    asyncio.run(scenario())


def test_a_server_that_was_demoted_and_promoted_under_a_live_connection_is_closed_to_appends() -> None:
    async def scenario() -> None:
        with redis_server(appendonly="yes", appendfsync="always") as server:
            store = await RedisEventStore.open(server.url, StoreSettings(), new_store_id="s")
            await store.append(first_append(stream_id()))
            server.command("REPLICAOF", "127.0.0.1", "1")
            server.command("REPLICAOF", "NO", "ONE")
            with pytest.raises(EpochStaleError):
                await store.append(first_append(stream_id()))
            await store.close()

    asyncio.run(scenario())


def test_readers_wait_longer_than_commands_may_take_and_not_for_each_other(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(redis_url, timeout_seconds=0.2)
        one, other = f"s{secrets.token_hex(4)}", f"s{secrets.token_hex(4)}"
        patient = asyncio.create_task(pipeline.read_streams("XREAD", 10, 30, {one: "0-0"}))
        assert await pipeline.read_streams("XREAD", 10, 0.5, {other: "0-0"}) == []
        await pipeline.execute("XADD", other, "1-1", "f", "v")
        assert await pipeline.read_streams("XREAD", 10, 30, {other: "0-0"}) == [
            [other.encode(), [[b"1-1", [b"f", b"v"]]]]
        ]
        assert not patient.done()
        await pipeline.execute("XADD", one, "1-1", "f", "v")
        assert [stream for stream, _ in await patient] == [one.encode()]
        await pipeline.close()

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))


def test_a_closed_pipeline_answers_those_who_wait_and_refuses_new_commands(redis_url: str) -> None:
    async def scenario() -> None:
        async with Proxy(redis_url) as proxy:
            pipeline = Pipeline(proxy.url, timeout_seconds=2 * WAIT_SECONDS)
            await pipeline.execute("PING")
            proxy.stall()
            waiting = [asyncio.create_task(pipeline.execute("PING")) for _ in range(200)]
            waiting.append(asyncio.create_task(pipeline.read_streams("XREAD", 1, 30, {"none": "0-0"})))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await pipeline.close()
            await pipeline.close()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
            with pytest.raises(StoreUnavailableError):
                await pipeline.execute("PING")
            unused = Pipeline(proxy.url)
            await unused.close()
            with pytest.raises(StoreUnavailableError):
                await unused.execute("PING")

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))
