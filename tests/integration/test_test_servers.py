"""The servers for fault tests really have the faults that they promise."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from app.embedded.processes import command_line
from tests.conftest import driver_url
from tests.servers.cluster import Cluster, redis_cluster
from tests.servers.proxy import Proxy
from tests.servers.replicas import master_with_replicas
from tests.servers.resp import Frames
from tests.servers.single import RedisServer, redis_server, unused_port, wait_until

pytestmark = pytest.mark.slow

WAIT_SECONDS = 20


def client(url: str, timeout: float = WAIT_SECONDS) -> redis.Redis:
    """A client that sends each command once, and nothing before the first."""
    return redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=timeout, driver_info=None)


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module", params=[None, "redis-server"], ids=["embedded", "system"])
def program(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    if found is not None and shutil.which(found) is None:
        pytest.skip(f"no {found} on PATH")
    return found


@pytest.fixture(scope="module")
def cluster(program: str | None) -> Iterator[Cluster]:
    with redis_cluster(program=program) as found:
        yield found


def test_a_killed_server_comes_back_at_its_port_with_its_data() -> None:
    with redis_server() as server:
        url, pid = server.url, server.pid
        server.command("SET", "key", "value")
        server.kill()
        assert command_line(pid) == "" and not server.answers()
        with pytest.raises(RuntimeError, match="not running"):
            server.freeze()
        server.restart()
        assert (server.url, server.command("GET", "key")) == (url, b"value")
        server.stop()
        server.start()
        assert server.command("GET", "key") == b"value"
        with pytest.raises(RuntimeError, match="already running"):
            server.start()


def test_a_server_that_ended_by_itself_can_be_started_again() -> None:
    with redis_server() as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.responsive, WAIT_SECONDS)
        server.restart()
        assert server.answers()


def test_a_frozen_server_keeps_connections_and_answers_when_it_is_thawed() -> None:
    with redis_server() as server, client(server.url, timeout=0.2) as user:
        user.ping()
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            user.ping()
        server.thaw()
        assert server.answers()


def test_a_server_runs_on_the_data_of_another_time() -> None:
    with redis_server() as server:
        server.command("SET", "key", "old")
        saved = server.data_dir.parent / "saved"
        shutil.copytree(server.data_dir, saved)
        server.command("SET", "key", "new")
        server.replace_data(saved)
        assert server.command("GET", "key") == b"old"


def test_settings_reach_the_server_and_a_wrong_one_is_told() -> None:
    with redis_server(appendfsync="everysec") as server:
        assert server.command("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"everysec"]
    with pytest.raises(RuntimeError, match="nonsense"), redis_server(nonsense="yes"):
        pass


def test_nothing_is_left_when_the_body_raises() -> None:
    with pytest.raises(ZeroDivisionError), redis_server() as server:
        pid, data_dir = server.pid, server.data_dir
        server.freeze()
        raise ZeroDivisionError
    assert command_line(pid) == ""
    assert not data_dir.exists()


def test_a_server_ends_when_the_test_process_is_killed() -> None:
    code = (
        "from tests.servers.single import redis_server\n"
        "with redis_server() as server:\n"
        "    print(server.pid, server.data_dir.parent, flush=True)\n"
        "    input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, base = process.stdout.readline().split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: command_line(int(pid)) == "", WAIT_SECONDS)
    shutil.rmtree(base)


@given(
    st.lists(st.sampled_from([b"+OK\r\n", b"$-1\r\n", b"$2\r\n\r\n\r\n", b"*-1\r\n", b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n"]))
)
def test_frames_end_where_values_end_however_the_bytes_arrive(values: list[bytes]) -> None:
    frames = Frames()
    assert [frame for byte in b"".join(values) for frame in frames.fed(bytes([byte]))] == values
    assert Frames().fed(b"".join(values)) == values


def test_a_dropped_reply_leaves_a_command_executed_once(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        proxy.drop_reply(1, containing=b"reply-count")
        with pytest.raises(redis.ConnectionError):
            user.incr("reply-count")
        assert shared.command("GET", "reply-count") == b"1"
        assert proxy.done == {"drop_reply": 1}
        proxy.drop_reply(0)
        assert user.incr("reply-count") == 2


def test_a_dropped_request_is_not_executed(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        proxy.drop_request(1, containing=b"request-count")
        with pytest.raises(redis.ConnectionError):
            user.incr("request-count")
        assert shared.command("GET", "request-count") is None
        proxy.calm()
        assert user.incr("request-count") == 1


def test_a_fault_in_a_pipeline_cuts_between_its_commands(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        proxy.drop_request(1, containing=b"second")
        pipeline = user.pipeline(transaction=False).incr("first").incr("second").incr("third")
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
        wait_until(lambda: shared.command("GET", "first") == b"1", WAIT_SECONDS)
        assert shared.command("MGET", "second", "third") == [None, None]


def test_a_duplicated_request_is_executed_twice(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        proxy.duplicate_request(1, containing=b"INCR")
        with pytest.raises(redis.ConnectionError):
            user.incr("twice")
        wait_until(lambda: proxy.done["duplicate_request"] == 1, WAIT_SECONDS)
        assert shared.command("GET", "twice") == b"2"


def test_a_seed_repeats_its_faults(shared: RedisServer) -> None:
    def survivors(seed: int) -> list[bool]:
        found = []
        with Proxy(shared.url, seed=seed) as proxy:
            proxy.drop_request(0.5, containing=b"seeded")
            for _ in range(20):
                with client(proxy.url) as user:
                    try:
                        user.incr("seeded")
                        found.append(True)
                    except redis.ConnectionError:
                        found.append(False)
        return found

    assert survivors(1) == survivors(1) != survivors(2)


def test_a_delay_holds_a_request_for_at_least_its_minimum(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url, timeout=0.2) as user:
        user.ping()
        proxy.delay(60_000, 60_000)
        with pytest.raises(redis.TimeoutError):
            user.ping()
        proxy.delay(1, 2)
        assert user.ping()


def test_a_stalled_connection_stays_open_and_delivers_later(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        user.ping()
        proxy.stall()
        thread = Thread(target=user.incr, args=["stalled"])
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert shared.command("GET", "stalled") is None
        proxy.flow()
        thread.join(WAIT_SECONDS)
        assert shared.command("GET", "stalled") == b"1"


def test_a_refusing_proxy_keeps_connections_until_they_are_cut(shared: RedisServer) -> None:
    with Proxy(shared.url) as proxy, client(proxy.url) as user:
        user.ping()
        proxy.refuse()
        with client(proxy.url) as other, pytest.raises(redis.ConnectionError):
            other.ping()
        assert user.ping()
        proxy.cut_all()
        with pytest.raises(redis.ConnectionError):
            user.ping()
        proxy.accept()
        assert user.ping()


def test_a_proxy_serves_the_loop_that_opened_it_and_unix_sockets(redis_url: str) -> None:
    async def scenario() -> bool:
        async with Proxy(redis_url) as proxy:
            user = redis.asyncio.Redis.from_url(proxy.url, protocol=2)
            try:
                return bool(await user.ping())
            finally:
                await user.aclose()

    assert asyncio.run(scenario())


def test_a_proxy_to_nowhere_cuts_its_clients() -> None:
    target = f"redis://127.0.0.1:{unused_port()}"
    with Proxy(target) as proxy, client(proxy.url) as user, pytest.raises(redis.ConnectionError):
        user.ping()


def test_postgresql_is_reached_and_cut_through_the_proxy(database_url: str) -> None:
    with Proxy(database_url) as proxy, psycopg.connect(driver_url(proxy.url)) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
        proxy.cut_all()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_lossy_failover_loses_what_the_replica_lacked_and_keeps_the_address(program: str | None) -> None:
    with master_with_replicas(2, program=program) as group, client(group.url) as user:
        chosen, other = group.replicas
        user.set("kept", "1")
        group.wait_caught_up(chosen)
        replid = user.info("replication")["master_replid"]
        group.pause_replication(chosen)
        user.set("lost", "1")
        assert user.wait(1, WAIT_SECONDS * 1000) == 1
        group.failover_with_loss(chosen)
        with client(group.url) as later:
            assert later.mget("kept", "lost") == [b"1", None]
            assert later.set("new", "1")
            assert later.info("replication")["master_replid"] != replid
        group.wait_caught_up(other)
        assert other.server.command("MGET", "kept", "lost", "new") == [b"1", None, b"1"]


def test_a_failover_without_loss_keeps_every_write(program: str | None) -> None:
    with master_with_replicas(program=program) as group, client(group.url) as user:
        group.pause_replication(group.replicas[0])
        group.master.command("SET", "long", b"x" * 8_000_000)
        user.set("key", "1")
        assert group.replicas[0].server.command("GET", "key") is None
        group.failover_without_loss()
        with client(group.url) as later:
            assert later.get("key") == b"1"
            assert later.set("key", "2")


def test_a_failover_without_loss_keeps_what_is_acknowledged_meanwhile() -> None:
    acknowledged: list[int] = []

    def count(user: redis.Redis) -> None:
        with suppress(redis.ConnectionError):
            while True:
                acknowledged.append(int(user.incr("count")))

    with master_with_replicas() as group, client(group.url) as user:
        thread = Thread(target=count, args=[user])
        thread.start()
        wait_until(lambda: len(acknowledged) > 100, WAIT_SECONDS)
        group.failover_without_loss()
        thread.join(WAIT_SECONDS)
        assert int(group.master.command("GET", "count")) >= acknowledged[-1]


def test_a_slot_moves_key_by_key_while_a_client_reads(cluster: Cluster) -> None:
    keys = [f"{{moving}}:{number}" for number in range(5)]
    slot = cluster.slot_of(keys[0])
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters() if node is not source)
    steps: list[list[bytes | None]] = []
    with RedisCluster.from_url(cluster.url, protocol=2) as user:
        for key in keys:
            user.set(key, key)

        def read_and_write(moved: list[bytes]) -> None:
            assert len(moved) == 1
            user.append(moved[0], "+")
            steps.append([user.get(key) for key in keys])

        cluster.move_slot(slot, target, between=read_and_write)
        assert len(steps) == 5
        assert all(None not in step for step in steps)
        assert [user.get(key) for key in keys] == [f"{key}+".encode() for key in keys]
    assert cluster.owner(slot) is target
    assert target.server.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 5


def test_an_interrupted_move_leaves_the_slot_with_both_and_can_be_finished(cluster: Cluster) -> None:
    def interrupt(moved: list[bytes]) -> None:
        raise InterruptedError

    slot = cluster.slot_of("{half}")
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters() if node is not source)
    source.server.command("MSET", "{half}:1", "1", "{half}:2", "2")
    with pytest.raises(InterruptedError):
        cluster.move_slot(slot, target, between=interrupt)
    counts = [node.server.command("CLUSTER", "COUNTKEYSINSLOT", slot) for node in (source, target)]
    assert (counts, cluster.owner(slot)) == ([1, 1], source)
    cluster.move_slot(slot, target, key_by_key=False)
    assert target.server.command("MGET", "{half}:1", "{half}:2") == [b"1", b"2"]


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_replica_takes_the_place_of_a_master_that_is_gone(cluster: Cluster, fault: str) -> None:
    key = f"{{failing}}:{fault}"
    slot, master = cluster.slot_of(key), cluster.master_of(key)
    (replica,) = cluster.replicas_of(master)
    master.server.command("SET", key, "1")
    wait_until(lambda: replica.server.command("DBSIZE") == master.server.command("DBSIZE"), WAIT_SECONDS)
    if fault == "kill":
        cluster.kill(master)
    else:
        cluster.freeze(master)
    assert cluster.wait_failed_over(slot) is replica
    assert replica.server.command("GET", key) == b"1"
    with RedisCluster.from_url(cluster.url, protocol=2) as user:
        assert user.set(key, "2")
    if fault == "kill":
        cluster.restart(master)
    else:
        cluster.thaw(master)
    wait_until(lambda: cluster.replicas_of(replica) == [master], WAIT_SECONDS)
    cluster.wait_healthy()
