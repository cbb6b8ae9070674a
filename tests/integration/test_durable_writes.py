"""Writes that wait for replicas or the disk, on the connection that they were sent over."""

import asyncio
from typing import Any

from eventstore.errors import (
    ConnectionLostError,
)
from eventstore.redis.connection import Durability, Pipeline
from eventstore.redis.scripts import script_of
from tests.servers.replicas import master_with_replicas
from tests.servers.single import redis_server

WAIT_SECONDS = 20
ECHO = script_of("redis.call('SET', KEYS[1], ARGV[1], 'EX', 60) return ARGV[1]")
FLUSHED = Durability(flushed=True)


def test_a_durable_write_says_how_many_replicas_have_it_and_that_it_is_flushed() -> None:
    async def scenario() -> None:
        with master_with_replicas() as servers:
            pipeline = Pipeline(servers.url)
            durability = Durability(replicas=1, flushed=True, timeout_ms=5_000)
            written = await pipeline.run_durably(ECHO, ["k"], ["x"], durability)
            assert (written.reply, written.replicas, written.flushed) == (b"x", 1, True)
            servers.pause_replication(servers.replicas[0])
            written = await pipeline.run_durably(ECHO, ["k"], ["y"], Durability(replicas=1, timeout_ms=200))
            assert (written.reply, written.replicas, written.flushed) == (b"y", 0, False)
            await pipeline.close()

    asyncio.run(scenario())


def test_writes_of_different_durability_at_once_each_wait_for_their_own() -> None:
    async def scenario() -> None:
        with redis_server() as server:
            pipeline = Pipeline(server.url, timeout_seconds=0.4)
            # Longer than a command may take: the server's answer is no time-out.
            replicated = Durability(replicas=1, timeout_ms=600)
            kinds = (FLUSHED, replicated, Durability(), FLUSHED)
            written = await asyncio.gather(
                *(pipeline.run_durably(ECHO, [f"k{n}"], [n], kind) for n, kind in enumerate(kinds))
            )
            assert [(w.reply, w.replicas, w.flushed) for w in written] == [
                (b"0", 0, True),
                (b"1", 0, False),
                (b"2", 0, False),
                (b"3", 0, True),
            ]
            await pipeline.close()

    asyncio.run(scenario())


def test_concurrent_durable_writes_share_one_wait_and_plain_commands_do_not_wait_for_it() -> None:
    async def scenario() -> None:
        with redis_server() as server:
            pipeline = Pipeline(server.url)
            await pipeline.run_durably(ECHO, ["k"], ["x"], Durability(replicas=1, timeout_ms=1))
            server.command("CONFIG", "RESETSTAT")
            durability = Durability(replicas=1, timeout_ms=60_000)
            writers = [asyncio.create_task(pipeline.run_durably(ECHO, [f"k{n}"], [n], durability)) for n in range(100)]
            while await pipeline.execute("EXISTS", "k99") == 0:
                pass
            assert not any(writer.done() for writer in writers)
            await pipeline.close()
            answers: list[Any] = await asyncio.gather(*writers, return_exceptions=True)
            assert {type(answer) for answer in answers} == {ConnectionLostError}
            assert server.command("INFO", "commandstats")["cmdstat_wait"]["calls"] == 1

    asyncio.run(asyncio.wait_for(scenario(), 2 * WAIT_SECONDS))


def test_a_server_without_waitaof_flushes_nothing_that_is_known(system_redis_url: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(system_redis_url)
        written = await pipeline.run_durably(ECHO, ["k"], ["x"], FLUSHED)
        assert written.reply == b"x"
        known = await pipeline.execute("COMMAND", "INFO", "WAITAOF", key="")
        assert written.flushed == (known[0] is not None)
        await pipeline.close()

    asyncio.run(scenario())
