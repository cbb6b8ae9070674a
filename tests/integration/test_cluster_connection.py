"""The connection to a Redis Cluster: commands find their slots while these move and masters die; none runs twice."""

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from eventstore.errors import ConnectionLostError, StoreUnavailableError
from eventstore.redis.connection import Durability, Pipeline, RefusedError
from eventstore.redis.scripts import script_of
from tests.servers.cluster import Cluster, redis_cluster

WAIT_SECONDS = 60
INCREASE = script_of("return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}")
ECHO = script_of("redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters with a replica each; the tests that use it leave all alive."""
    with redis_cluster(3, 1) as found:
        yield found


def tags(number: int) -> list[str]:
    """Texts of different slots, fresh in every test."""
    return [f"{{{secrets.token_hex(6)}}}" for _ in range(number)]


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, WAIT_SECONDS))


def clients(cluster: Cluster) -> int:
    """How many connections the nodes have, but for those between them."""
    return sum(int(node.server.command("INFO", "clients")["connected_clients"]) for node in cluster.nodes)


def test_every_key_finds_its_master_over_two_connections_to_each_at_most(cluster: Cluster) -> None:
    async def scenario() -> None:
        before = clients(cluster)
        pipeline = Pipeline(cluster.url)
        keys = [f"{tag}:k" for tag in tags(100)]
        assert await pipeline.clustered()
        await asyncio.gather(*(pipeline.execute("SET", key, n) for n, key in enumerate(keys)))
        assert await asyncio.gather(*(pipeline.execute("GET", key) for key in keys)) == [b"%d" % n for n in range(100)]
        durability = Durability(flushed=True, replicas=1, timeout_ms=5_000)
        written = await asyncio.gather(*(pipeline.run_durably(ECHO, [key], [key], durability) for key in keys))
        assert [(w.reply, w.replicas, w.flushed) for w in written] == [(key.encode(), 1, True) for key in keys]
        await pipeline.read_streams("XREAD", 1, 0, {f"{key}:s": "0-0" for key in keys})
        assert clients(cluster) - before == 6
        await pipeline.close()

    run(scenario())


def test_any_node_leads_into_the_cluster(cluster: Cluster) -> None:
    async def scenario() -> None:
        (tag,) = tags(1)
        for node in cluster.nodes:
            pipeline = Pipeline(node.url)
            assert await pipeline.execute("SET", f"{tag}:k", "v") == b"OK"
            assert await pipeline.execute("PING") == b"PONG"
            await pipeline.close()

    run(scenario())


def test_each_master_answers_once_with_its_address(cluster: Cluster) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        answers = await pipeline.each_master("CONFIG", "GET", "port")
        assert {address.rpartition(":")[2] for address, _ in answers} == {str(node.port) for node in cluster.masters()}
        assert all(reply == [b"port", address.rpartition(":")[2].encode()] for address, reply in answers)
        await pipeline.close()

    run(scenario())


def test_keys_of_several_slots_are_refused_not_retried(cluster: Cluster) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        with pytest.raises(RefusedError) as refused:
            await pipeline.run(INCREASE, tags(2), [])
        assert refused.value.code == "CROSSSLOT"
        await pipeline.close()

    run(scenario())


def test_streams_of_several_masters_are_read_together_as_soon_as_one_has_entries(cluster: Cluster) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        streams = {f"{tag}:s": "0-0" for tag in tags(12)}
        first, second, *_ = streams
        assert await pipeline.read_streams("XREAD", 10, 0.1, streams) == []
        reading = asyncio.create_task(pipeline.read_streams("XREAD", 10, 30, streams))
        await pipeline.execute("XADD", first, "1-1", "f", "v")
        assert await reading == [[first.encode(), [[b"1-1", [b"f", b"v"]]]]]
        await pipeline.execute("XADD", second, "1-1", "f", "v")
        found = await pipeline.read_streams("XREAD", 10, 30, streams)
        assert {stream for stream, _ in found} == {first.encode(), second.encode()}
        await pipeline.close()

    run(scenario())


def test_tasks_of_one_master_are_given_though_another_refuses(cluster: Cluster) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        streams = {f"{tag}:s": ">" for tag in tags(6)}
        first, *others = streams
        group = ("GROUP", "g", "c")
        with pytest.raises(RefusedError) as refused:
            await pipeline.read_streams("XREADGROUP", 10, 5, streams, *group)
        assert refused.value.code == "NOGROUP"
        for stream in (first, *others[1:]):
            await pipeline.execute("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM", key=stream)
        await pipeline.execute("XADD", first, "1-1", "f", "v")
        found = await pipeline.read_streams("XREADGROUP", 10, 5, streams, *group)
        assert [stream for stream, _ in found] == [first.encode()]
        await pipeline.close()

    run(scenario())


@pytest.mark.parametrize("key_by_key", [True, False])
def test_scripts_run_exactly_once_while_their_slot_moves(cluster: Cluster, key_by_key: bool) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        (tag,) = tags(1)
        keys = [f"{tag}:a", f"{tag}:b"]
        source = cluster.master_of(tag)
        target = next(node for node in cluster.masters() if node is not source)
        await asyncio.gather(*(pipeline.execute("SET", f"{tag}:{n}", n) for n in range(50)))
        moving = asyncio.create_task(
            asyncio.to_thread(cluster.move_slot, cluster.slot_of(tag), target, key_by_key=key_by_key)
        )
        done = 0
        after = 0
        durability = Durability(replicas=1, timeout_ms=5_000)
        while after < 20:
            after += moving.done()
            await asyncio.gather(pipeline.run(INCREASE, keys, []), pipeline.run_durably(INCREASE, keys, [], durability))
            done += 2
            assert await pipeline.execute("GET", f"{tag}:7") == b"7"
        await moving
        assert await pipeline.execute("MGET", *keys) == [str(done).encode()] * 2
        assert target.server.command("GET", keys[0]) == str(done).encode()
        await pipeline.close()

    run(scenario())


def test_keys_on_their_way_are_asked_for_at_the_receiver(cluster: Cluster) -> None:
    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        (tag,) = tags(1)
        keys = [f"{tag}:a", f"{tag}:b"]
        await asyncio.gather(*(pipeline.execute("SET", key, "v") for key in keys))
        target = next(node for node in cluster.masters() if node is not cluster.master_of(tag))
        loop = asyncio.get_running_loop()
        answers: list[list[Any]] = []

        async def read() -> list[Any]:
            return await asyncio.gather(*(pipeline.execute("GET", key) for key in keys), pipeline.execute("PING"))

        def between(_: list[bytes]) -> None:
            answers.append(asyncio.run_coroutine_threadsafe(read(), loop).result(WAIT_SECONDS))

        await asyncio.to_thread(cluster.move_slot, cluster.slot_of(tag), target, between=between)
        assert answers == [[b"v", b"v", b"PONG"]] * 2
        await pipeline.close()

    run(scenario())


def test_a_script_whose_keys_are_torn_apart_is_unavailable_after_a_bounded_time(cluster: Cluster) -> None:
    class StoppedError(Exception):
        pass

    async def scenario() -> None:
        pipeline = Pipeline(cluster.url)
        (tag,) = tags(1)
        keys = [f"{tag}:a", f"{tag}:b"]
        await pipeline.run(INCREASE, keys, [])
        target = next(node for node in cluster.masters() if node is not cluster.master_of(tag))

        def between(_: list[bytes]) -> None:
            raise StoppedError

        with pytest.raises(StoppedError):
            await asyncio.to_thread(cluster.move_slot, cluster.slot_of(tag), target, between=between)
        async with asyncio.timeout(5):
            with pytest.raises(StoreUnavailableError) as refused:
                await pipeline.run(INCREASE, keys, [])
        assert not isinstance(refused.value, ConnectionLostError)
        await asyncio.to_thread(cluster.move_slot, cluster.slot_of(tag), target)
        assert await pipeline.run(INCREASE, keys, []) == [2, 2]
        await pipeline.close()

    run(scenario())


def test_a_master_that_dies_is_replaced() -> None:
    async def scenario(cluster: Cluster) -> None:
        pipeline = Pipeline(cluster.url)
        (tag,) = tags(1)
        other = next(found for found in tags(100) if cluster.master_of(found) is not cluster.master_of(tag))
        await pipeline.run_durably(ECHO, [tag], ["v"], Durability(replicas=1, timeout_ms=5_000))
        await pipeline.execute("SET", tag, "v")
        generation = pipeline.generation
        cluster.kill(cluster.master_of(tag))
        assert await pipeline.execute("SET", other, "v") == b"OK"
        while True:
            try:
                assert await pipeline.execute("GET", tag) == b"v"
                break
            except StoreUnavailableError:
                continue
        assert pipeline.generation > generation
        await pipeline.close()

    with redis_cluster(3, 1) as cluster:
        run(scenario(cluster))
