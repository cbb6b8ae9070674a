"""Losses that nothing announced: the projector notices, closes the partition, and never takes what it must not."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from eventstore.errors import PartitionForkedError, StoreUnavailableError
from eventstore.ids import Cursor
from eventstore.store import StoredCommit
from projections.archive.store import ArchivedEventStore
from projections.checkpoints import wait_for
from projections.projector.runner import Projector
from tests.conftest import WAIT_SECONDS
from tests.integration.rewinding import Rewindable, append_all, history, run, until
from tests.integration.test_epochs import ELSEWHERE, OTHER, PARTITION, half_lost, life


class StuckStore(ArchivedEventStore):
    """Hands its reader again and again what was read before."""

    late: Sequence[StoredCommit] = ()

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        return self.late if limit > 1 else await super().read_log(after, limit, wait_seconds)


def test_a_fork_that_only_the_projector_can_see_closes_its_partition(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        await half_lost(on)
        store = on.archived(await on.hot("a"))
        await append_all(store, life())
        assert (await store.hot.partition_record(PARTITION)).is_open
        stopping = asyncio.Event()
        projecting = asyncio.create_task(Projector(store, on.engine, on_fork=store.report_fork).run(stopping))

        async def closed() -> bool:
            return not (await store.hot.partition_record(PARTITION)).is_open

        await until(closed)
        with pytest.raises(PartitionForkedError):
            await store.append(life()[0])
        await append_all(store, life(OTHER))
        end = (await store.log_ends())[ELSEWHERE]
        await wait_for(on.engine, ELSEWHERE, end.position, WAIT_SECONDS)
        stopping.set()
        await projecting

    run(redis_url, database_url, scenario)


def test_a_projector_that_reads_from_a_replaced_server_only_says_so(redis_url: str, database_url: str) -> None:
    async def scenario(on: Rewindable) -> None:
        store = await on.open("a")
        commits = life()
        await append_all(store, commits[:2])
        await on.project(store)
        snapshot = await on.snapshot()
        await append_all(store, commits[2:])
        late = (await history(store, PARTITION))[2:]
        await on.set_back(snapshot)
        reopened = await on.open("b")
        await append_all(reopened, life()[:1])
        reader = StuckStore(reopened.hot, on.engine, reopened._epochs, reopened.level)
        reader.late = late
        with pytest.raises(StoreUnavailableError, match="a server that has been replaced"):
            await on.project(reader)

    run(redis_url, database_url, scenario)
