"""The archive as the tests of its completion see it."""

import asyncio
from itertools import pairwise
from typing import Any

from eventstore.memory import MemoryEventStore
from projections.rebuild.completing import Completed, complete_archive
from tests.builders import stream_id
from tests.conftest import appends, contents, database, execute, filled, interleaved, market_life
from tests.poison import POISON, poisoned

Rows = list[tuple[Any, ...]]

CREATED, PARTITION, EPOCH, POSITION, COMMIT, RECORDED = 7, 8, 9, 10, 11, 13
"""Places of columns in the archive's rows."""


def complete(url: str, store: MemoryEventStore, **options: Any) -> Completed:
    async def scenario() -> Completed:
        async with database(url) as engine:
            return await complete_archive(engine, store, **options)

    return asyncio.run(scenario())


def lives() -> MemoryEventStore:
    """Random lives, and one for each way in which an event cannot be applied."""
    bad = [
        commit
        for version, change, _ in POISON
        for commit in poisoned(appends(stream_id("owner-3"), market_life()), version, change)
    ]
    return filled([*interleaved(seed=57, orders=8), *bad])


def archive(url: str) -> Rows:
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


async def trim(store: MemoryEventStore) -> None:
    """Let each log begin at its end."""
    for number, end in (await store.log_ends()).items():
        if end.position:
            await store.trim_log(number, end)


def without_times(rows: Rows) -> Rows:
    # Of an event that cannot be read, the time at which it was appended stands for its own.
    unread = (CREATED, RECORDED)
    return [
        tuple(value for place, value in enumerate(row) if place not in (unread if row[-1] is not None else (RECORDED,)))
        for row in rows
    ]


def in_order(rows: Rows) -> bool:
    """Whether no event was appended before one that stands before it in the log."""
    placed = sorted((row[PARTITION], row[POSITION], row[RECORDED]) for row in rows)
    return all(one[0] != following[0] or one[2] <= following[2] for one, following in pairwise(placed))
