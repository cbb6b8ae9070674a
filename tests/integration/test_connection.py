"""The connection to Redis: nothing is sent twice by itself, and a lost reply is an unknown outcome, not a failure."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from eventstore.errors import DamagedEntryError, OutcomeUnknownError, StoreUnavailableError
from eventstore.ids import partition_in
from eventstore.redis.connection import Pipeline, connect
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Duplicate
from tests.builders import first_append, stream_id


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
        pipeline = Pipeline(connect(redis_url))
        names = [f"p{secrets.token_hex(4)}:{n}" for n in range(500)]
        await asyncio.gather(*(pipeline.execute("SET", name, n, "EX", 60) for n, name in enumerate(names)))
        answers = await asyncio.gather(*(pipeline.execute("GET", name) for name in names))
        assert answers == [str(n).encode() for n in range(500)]
        await pipeline.close()

    asyncio.run(scenario())


def test_one_refused_command_does_not_disturb_its_neighbours(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(connect(redis_url))
        answers = await asyncio.gather(
            pipeline.execute("NOSUCHCOMMAND"), pipeline.execute("ECHO", "x"), return_exceptions=True
        )
        assert isinstance(answers[0], StoreUnavailableError)
        assert answers[1] == b"x"
        await pipeline.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_other_callers_their_own_answers(redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(connect(redis_url))
        for turn in range(50):
            callers = [asyncio.create_task(pipeline.execute("ECHO", str(n))) for n in range(10)]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            callers[3].cancel()
            answers = await asyncio.gather(*callers, return_exceptions=True)
            assert [a for n, a in enumerate(answers) if n != 3] == [str(n).encode() for n in range(10) if n != 3]
        await pipeline.close()

    asyncio.run(scenario())


def test_an_entry_that_somebody_else_wrote_is_named(redis_url: str) -> None:
    async def scenario() -> None:
        settings = StoreSettings(namespace=f"c{secrets.token_hex(5)}")
        store = await RedisEventStore.open(redis_url, settings, new_store_id="s")
        stream = stream_id()
        foreign = Pipeline(connect(redis_url))
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
