"""A process that projects, rebuilds or rolls back, and is killed when it passes a point for the nth time."""

import asyncio
import os
import signal
import sys
from typing import Final, Literal

import msgspec

from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from projections.models.registry import PROJECTIONS
from projections.projector.batches import Batch
from projections.projector.runner import Projector
from projections.rebuild import histories
from projections.rebuild.rebuilding import Wanted, rebuild
from projections.rebuild.swapping import roll_back
from tests.conftest import database

PAGE_EVENTS: Final = 40
"""Of the archive, so that a small one has several pages."""


class Doom(msgspec.Struct, frozen=True, kw_only=True):
    """What the process does, and where it ends."""

    does: Literal["project", "orders", "volumes"]
    """Project, or rebuild that projection."""
    back: bool = False
    """Bring its old table back instead."""
    point: str
    passes: int = 1
    keep_old: bool = False
    redis_url: str
    database_url: str
    namespace: str


async def run(doom: Doom) -> None:
    """Do it."""
    passed = 0

    def reach(point: str) -> None:
        nonlocal passed
        passed += point == doom.point
        if passed == doom.passes:
            os.kill(os.getpid(), signal.SIGKILL)

    def reach_batch(point: str, _: Batch) -> None:
        reach(point)

    async with database(doom.database_url) as engine:
        if doom.back:
            await roll_back(engine, PROJECTIONS[doom.does], reach=reach)
            return
        if doom.does != "project":
            await rebuild(engine, PROJECTIONS[doom.does], Wanted(keep_old=doom.keep_old), reach=reach)
            return
        settings = StoreSettings(namespace=doom.namespace)
        store = await RedisEventStore.open(doom.redis_url, settings, new_store_id=doom.namespace)
        await Projector(store, engine, batch_commits_max=16, reach=reach_batch).project_available()


if __name__ == "__main__":
    histories.PAGE_EVENTS = PAGE_EVENTS  # type: ignore[misc]  # Final for everybody else
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Doom)))
