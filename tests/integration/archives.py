"""The archive as the tests of its completion see it."""

import asyncio
from typing import Any

from eventstore.memory import MemoryEventStore
from projections.rebuild.completing import Completed, complete_archive
from tests.conftest import contents, database, execute


def complete(url: str, store: MemoryEventStore, **options: Any) -> Completed:
    async def scenario() -> Completed:
        async with database(url) as engine:
            return await complete_archive(engine, store, **options)

    return asyncio.run(scenario())


def archive(url: str) -> list[tuple[object, ...]]:
    return contents(url)["order_events"]


def parts_of_archive(url: str) -> list[tuple[object, ...]]:
    """The definition of every constraint and index of the archive."""
    constraints = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'order_events'::regclass"
    )
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'order_events' ORDER BY 1"
    return execute(url, f"{constraints} ORDER BY 1") + execute(url, indexes)


def nothing_is_left_of_it(url: str) -> bool:
    return execute(url, "SELECT to_regclass('order_events_next'), count(*) FROM rebuilds") == [(None, 0)]
