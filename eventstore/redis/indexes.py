"""Sorted indexes of a partition, read by ranges; marks that only grow; rates."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from eventstore.rates import RateTaken, rate_of
from eventstore.redis.connection import Pipeline
from eventstore.redis.scripts import COUNT, MARK, RATE
from eventstore.store import IndexEntry, IndexRange

_MARKS: Final = "marks"


async def read_index(pipeline: Pipeline, prefix: str, index: str) -> list[IndexEntry]:
    """See :meth:`EventStore.read_index`."""
    return _entries(index, await pipeline.execute("ZRANGE", f"{prefix}:{index}", 0, -1, "WITHSCORES"))


async def find_entries(
    pipeline: Pipeline, prefix: str, ranges: Sequence[IndexRange], limit: int
) -> list[list[IndexEntry]]:
    """See :meth:`EventStore.find_entries`."""
    # Commands that are ready together are sent together.
    found = await asyncio.gather(*(_within(pipeline, prefix, bounds, limit) for bounds in ranges))
    return [_entries(bounds.index, flat) for bounds, flat in zip(ranges, found, strict=True)]


async def _within(pipeline: Pipeline, prefix: str, bounds: IndexRange, limit: int) -> Any:
    low = "-inf" if bounds.low is None else bounds.low
    high = "+inf" if bounds.high is None else bounds.high
    page = ("WITHSCORES", "LIMIT", bounds.skip, limit)
    return await pipeline.execute("ZRANGEBYSCORE", f"{prefix}:{bounds.index}", low, high, *page)


def _entries(index: str, flat: Sequence[bytes]) -> list[IndexEntry]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [IndexEntry(index, member.decode(), int(score)) for member, score in pairs]


async def count_entries(pipeline: Pipeline, prefix: str, indexes: Sequence[str]) -> list[int]:
    """See :meth:`EventStore.count_entries`."""
    found: list[int] = await pipeline.run(COUNT, [f"{prefix}:{index}" for index in indexes], ()) if indexes else []
    return found


async def read_mark(pipeline: Pipeline, prefix: str, name: str) -> int | None:
    """See :meth:`EventStore.read_mark`."""
    value = await pipeline.execute("ZSCORE", f"{prefix}:{_MARKS}", name)
    return None if value is None else int(value)


async def advance_mark(
    pipeline: Pipeline, prefix: str, opened: tuple[int, str], name: str, value: int
) -> Sequence[Any]:
    """Return the script's answer; see :meth:`EventStore.advance_mark`. ``opened`` is the epoch and what fixes it."""
    keys = (f"{prefix}:meta", f"{prefix}:{_MARKS}")
    reply: Sequence[Any] = await pipeline.run(MARK, keys, (*opened, name, value))
    return reply


async def take_rate(pipeline: Pipeline, key: str, most: int, period_ms: int) -> RateTaken:
    """See :meth:`EventStore.take_rate`; ``most`` per period."""
    rate = rate_of(most, period_ms)
    return RateTaken(*map(int, await pipeline.run(RATE, (key,), (rate.interval_us, rate.burst_us))))
