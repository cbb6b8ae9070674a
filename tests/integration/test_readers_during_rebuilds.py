"""Readers over HTTP, a projector and a load, while the table under them is rebuilt and swapped again and again."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from eventstore.store import Append
from projections.models.orders import PROJECTION as ORDERS
from projections.models.volumes import PROJECTION as VOLUMES
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import drop, roll_back
from tests.conftest import caught_up, database, differences, interleaved, memory_store, running
from tests.integration import api

READS: Final = 1000
READERS: Final = 4
ORDERS_COUNT: Final = 150


class Watch:
    """What the readers have seen so far: no order may go missing, and none may become older."""

    def __init__(self) -> None:
        self.reads = 0
        self.moved = asyncio.Event()
        self.seqs: dict[str, int] = {}

    async def read(self, client: api.Api) -> None:
        before = dict(self.seqs)
        answer = await client.http.get("/api/orders", params={"limit": 1000})
        assert answer.status_code == 200, answer.text
        found = {order["orderId"]: order["seq"] for order in answer.json()["orders"]}
        assert not before.keys() - found.keys()
        assert not [each for each, seq in before.items() if found[each] < seq]
        # Another reader may have seen more meanwhile.
        self.seqs |= {each: max(seq, self.seqs.get(each, 0)) for each, seq in found.items()}
        self.reads += 1
        self.moved.set()


@pytest.mark.slow
def test_readers_see_no_error_no_gap_and_no_older_version_while_tables_are_swapped(database_url: str) -> None:
    store, watch = memory_store(), Watch()
    commits = interleaved(seed=41, orders=ORDERS_COUNT)
    swaps: list[int] = []

    async def read(client: api.Api) -> None:
        while watch.reads < READS:
            await watch.read(client)

    async def load(pending: Sequence[Append]) -> None:
        for number, commit in enumerate(pending):
            # Spread over the reads, so that rows move while tables are swapped.
            while watch.reads * len(pending) < number * READS:
                watch.moved.clear()
                await watch.moved.wait()
            await store.append(commit)

    async def swap() -> None:
        async with database(database_url) as engine:
            while watch.reads < READS:
                for projection in (ORDERS, VOLUMES):
                    await rebuild(engine, projection, Wanted(keep_old=True))
                    await roll_back(engine, projection)
                    await drop(engine, projection)
                swaps.append(watch.reads)

    async def scenario() -> None:
        async with running(database_url, store) as engine:
            for commit in commits[:200]:
                await store.append(commit)
            await caught_up(engine, store)
            async with api.running(store, database_url) as client, asyncio.TaskGroup() as group:
                group.create_task(load(commits[200:]))
                group.create_task(swap())
                for _ in range(READERS):
                    group.create_task(read(client))
            await caught_up(engine, store)

    asyncio.run(scenario())
    assert watch.reads >= READS
    # Each entry is two swaps, there and back, of either table; the last may have ended with the reads.
    assert [reads for reads in swaps if 0 < reads < READS]
    assert len(watch.seqs) == ORDERS_COUNT
    assert differences(database_url, store) == []
