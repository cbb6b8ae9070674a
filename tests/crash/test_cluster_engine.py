"""The whole engine on a Redis Cluster that loses a master and moves a slot while orders run."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest

from app.audit.verify import verify
from app.cli.demo import free_port
from app.cli.up import address, engine
from app.client import Client, UnreachableError
from app.clock import SystemClock
from app.embedded import Servers
from app.main import attach_store, open_chain, open_database
from app.settings import Settings
from eventstore.ids import partition_in
from eventstore.levels import replicated
from eventstore.redis.opening import StoreSettings
from projections.checkpoints import wait_for
from projections.diff import diff
from tests.servers.cluster import Cluster, redis_cluster

pytestmark = pytest.mark.slow

END_SECONDS = 90
PARTITIONS = 6
ORDER = {"side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1.5", "slippageBps": 500}


class Traders:
    """Clients that repeat an order with its key until it is accepted, and follow it to its end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._submitted = 0
        self.accepted: dict[str, str] = {}
        self.endings: dict[str, str] = {}

    async def trade(self, count: int) -> None:
        """Submit ``count`` orders at once, and return when all of them have ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                self._submitted += 1
                group.create_task(self._trade(f"key-{self._submitted}", f"client-{self._submitted % 11}"))

    async def trade_during(self, fault: Awaitable[None]) -> None:
        """Trade on and on until ``fault`` is over, and a little longer."""
        over = asyncio.ensure_future(fault)
        while not over.done():
            await self.trade(12)
        await over
        await self.trade(12)

    async def _trade(self, key: str, client: str) -> None:
        order_id = await self._accepted(key, client)
        self.accepted[key] = order_id
        async for frame in self._client.events(order_id):
            self.endings[order_id] = frame["status"]

    async def _accepted(self, key: str, client: str) -> str:
        async with asyncio.timeout(END_SECONDS):
            while True:
                try:
                    answer: dict[str, Any] = await self._client.submit(
                        {**ORDER, "clientId": client}, idempotency_key=key
                    )
                    return str(answer["orderId"])
                except UnreachableError:
                    continue


@asynccontextmanager
async def trading(settings: Settings) -> AsyncIterator[Traders]:
    async with engine(settings), Client(address(settings), tries=60) as client:
        yield Traders(client)


def roles() -> list[psutil.Process]:
    """The processes of the engine that this test started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            # Some are gone by now.
            if "app.cli.roles" in child.cmdline():
                found.append(child)
    return found


def connections(process: psutil.Process, cluster: Cluster) -> int:
    ports = {node.port for node in cluster.nodes}
    found = process.net_connections(kind="tcp")
    return sum(bool(line.raddr) and line.raddr.port in ports and line.status == "ESTABLISHED" for line in found)


def slot_of(cluster: Cluster, partition: int) -> int:
    return cluster.slot_of(StoreSettings(partitions=PARTITIONS).key_prefix(partition))


async def lose_a_master(cluster: Cluster) -> None:
    """Kill the master of partition 0, for good as its clients see it; it comes back as a replica."""
    slot = slot_of(cluster, 0)
    lost = cluster.owner(slot)
    await asyncio.to_thread(cluster.kill, lost)
    await asyncio.to_thread(cluster.wait_failed_over, slot)
    await asyncio.to_thread(cluster.restart, lost)
    await asyncio.to_thread(cluster.wait_healthy)


async def move_a_partition(cluster: Cluster) -> None:
    """Move the keys of partition 1 to another master, one by one."""
    slot = slot_of(cluster, 1)
    target = next(node for node in cluster.masters() if node is not cluster.owner(slot))
    await asyncio.to_thread(cluster.move_slot, slot, target)
    assert cluster.owner(slot) is target


async def require_whole(settings: Settings, servers: Servers, traders: Traders) -> None:
    """Every accepted order ended, both copies agree, and the chain's own ledger has one swap per confirmed order."""
    database = open_database(servers, "test")
    store = await attach_store(settings, servers, database)
    chain, connection = open_chain(settings, servers.redis_url)
    for number, end in (await store.log_ends()).items():
        await wait_for(database, number, end.position, END_SECONDS)
    assert (await verify(store, database, SystemClock().now_us)).findings == ()
    assert await diff(store, database) == []
    executed = Counter(entry.order_id for entry in await chain.ledger() if entry.outcome == "executed")
    confirmed = [order_id for order_id, status in traders.endings.items() if status == "confirmed"]
    assert executed == Counter(confirmed)
    assert sorted(traders.endings) == sorted(traders.accepted.values())
    assert {partition_in(order_id) for order_id in traders.endings} >= {0, 1}
    await connection.close()
    await store.close()
    await database.dispose()


def test_orders_end_while_a_master_is_lost_and_a_partition_moves(redis_url: str, database_url: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        settings = Settings(
            redis_url=cluster.url,
            database_url=database_url,
            # The ledger is the oracle: it must not share the faults.
            chain_redis_url=redis_url,
            namespace="ot",
            seed="cluster",
            partitions=PARTITIONS,
            ack_level=replicated(1),
            speed_ppm=0,
            task_ms=4_000,
            claim_idle_ms=6_000,
            port=free_port(),
            log_level="error",
        )
        async with asyncio.timeout(3 * END_SECONDS), trading(settings) as traders:
            await traders.trade(40)
            await traders.trade_during(lose_a_master(cluster))
            await traders.trade_during(move_a_partition(cluster))
            counts = {process.cmdline()[-1]: connections(process, cluster) for process in roles()}
            assert counts.keys() == {"serve", "worker", "project"}
            assert max(counts.values()) <= PARTITIONS + 8, counts
            await require_whole(settings, Servers(cluster.url, database_url), traders)

    with redis_cluster() as cluster:
        asyncio.run(scenario(cluster))
