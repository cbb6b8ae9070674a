"""What the keeper of the second copy does to a partition: look at its record, restore, open epochs, remove."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from eventstore.errors import PartitionOpenError, SeamError, StoreMismatchError
from eventstore.hot import ClosedStream, PartitionRecord, Restored
from eventstore.ids import LOG_START, Cursor
from eventstore.redis.connection import Pipeline
from eventstore.redis.entries import restore_arguments, stored_commit
from eventstore.redis.scripts import OPEN_EPOCH, RECORD, REMOVE, RESTORE
from eventstore.store import IndexEntry

SCAN_KEYS: Final = 1000
"""Keys that one step of a scan looks at."""


async def read_record(pipeline: Pipeline, prefix: str, number: int, fixed: str) -> PartitionRecord:
    """See :meth:`HotStore.partition_record`; ``fixed`` stands for the incarnation that the server hides, or is ""."""
    keys = (f"{prefix}:meta", f"{prefix}:log")
    store, epoch, incarnation, position, found, newest = await pipeline.run(RECORD, keys, (fixed,))
    return PartitionRecord(
        partition=number,
        store_id=(store or b"").decode(),
        epoch=int(epoch or 0),
        incarnation=(incarnation or b"").decode(),
        found=found.decode(),
        position=int(position or 0),
        end=stored_commit(number, newest[0]).end if newest else LOG_START,
    )


async def restore(pipeline: Pipeline, prefix: str, number: int, fixed: str, restored: Sequence[Restored]) -> None:
    """See :meth:`HotStore.restore`."""
    for piece in restored:
        keys, args = restore_arguments(prefix, piece)
        reply = await pipeline.run(RESTORE, keys, (fixed, *args))
        match reply:
            case [b"Restored"]:
                continue
            case [b"Open"]:
                raise PartitionOpenError(number)
            case [b"Seam", place, head]:
                expected = piece.prev if place == b"stream" else f"position {_before(piece)}"
                raise SeamError(f"the {place.decode()} of {piece.stream}", expected or "nothing", head.decode())
            case _:
                raise StoreMismatchError(f"the records of partition {number} are damaged: the script says {reply}")


def _before(piece: Restored) -> int:
    return piece.entry.position - len(piece.entry.events) if piece.entry else 0


async def open_epoch(
    pipeline: Pipeline, prefix: str, identity: tuple[str, int], epoch: int, end: Cursor, incarnations: tuple[str, str]
) -> None:
    """See :meth:`HotStore.open_epoch`.

    Args:
        identity: the store's id and number of partitions.
        incarnations: the fixed one, or "", and the one that the record was read with.
    """
    keys = [f"{prefix}:{name}" for name in ("meta", "log", "tasks")]
    args = (*identity, epoch, end.entry_id, end.position, *incarnations)
    reply: Any = await pipeline.run(OPEN_EPOCH, keys, args)
    if reply != [b"Opened"]:
        raise SeamError(f"epoch {epoch} of {prefix}", end.entry_id, reply[1].decode())


async def remove_closed(pipeline: Pipeline, prefix: str, streams: Sequence[ClosedStream], index: str) -> list[str]:
    """See :meth:`HotStore.remove_closed`."""

    async def remove(closed: ClosedStream) -> bool:
        keys = (f"{prefix}:stream:{closed.stream}", f"{prefix}:idempotency", f"{prefix}:{index}")
        key = "\0".join(closed.idempotency) if closed.idempotency else ""
        return bool(await pipeline.run(REMOVE, keys, (closed.stream, closed.version, closed.hash, key)))

    # Sent together: the server flushes once for all of them.
    removed = await asyncio.gather(*(remove(closed) for closed in streams))
    return [closed.stream for closed, gone in zip(streams, removed, strict=True) if gone]


async def ended_before(pipeline: Pipeline, key: str, score: int, page: tuple[int, int]) -> list[IndexEntry]:
    """See :meth:`HotStore.ended_before`; ``page`` is how many to skip and to return."""
    found = await pipeline.execute("ZRANGEBYSCORE", key, "-inf", f"({score}", "WITHSCORES", "LIMIT", *page)
    pairs = zip(found[::2], found[1::2], strict=True)
    index = key.rpartition(":")[2]
    return [IndexEntry(index, member.decode(), int(at)) for member, at in pairs]


async def list_streams(pipeline: Pipeline, prefix: str) -> list[str]:
    """See :meth:`HotStore.list_streams`."""
    start = len(f"{prefix}:stream:")
    # A key may be met twice while the server's table grows.
    return list({key[start:].decode() async for page in _scan(pipeline, f"{prefix}:stream:") for key in page})


async def discard(pipeline: Pipeline, prefix: str) -> int:
    """See :meth:`HotStore.discard_partition`."""
    # The record first: a partition that is half gone must not be open.
    removed = int(await pipeline.execute("UNLINK", f"{prefix}:meta"))
    async for keys in _scan(pipeline, f"{prefix}:"):
        removed += int(await pipeline.execute("UNLINK", *keys, key=prefix))
    return removed


async def _scan(pipeline: Pipeline, start: str) -> AsyncIterator[list[bytes]]:
    """Yield the keys that begin with ``start``, whose braces keep them on one server, a page at a time."""
    # A namespace has letters and digits only, so nothing in it is a pattern.
    cursor = b"0"
    while True:
        cursor, keys = await pipeline.execute("SCAN", cursor, "MATCH", f"{start}*", "COUNT", SCAN_KEYS, key=start)
        if keys:
            yield keys
        if cursor == b"0":
            return
