"""What the database refuses of one order's life, narrowed down to the event after which it does."""

from collections.abc import Sequence

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.fold.histories import Entry, Followed
from projections.models.projection import Projection, Step
from projections.projector.refusals import REFUSALS, reason_of
from projections.rebuild.histories import Bounds, follow_life


async def storable(
    connection: AsyncConnection, projection: Projection, table: str, entries: Sequence[Entry], bounds: Bounds
) -> list[Entry]:
    """Return the events of one order, with a fault in each after which ``table`` does not take what they come to.

    Only looks: whatever it tries is rolled back.

    Args:
        entries: of one order from its first, not empty.
    """
    found = list(entries)
    for _ in entries:
        for number, entry in enumerate(found):
            life = follow_life(entry.order_id, found[: number + 1], bounds)
            refusal = await _refused(connection, projection, table, life)
            if refusal is not None:
                found[number] = replace(entry, fault=reason_of(refusal))
                break
        else:
            return found
    return found


async def _refused(connection: AsyncConnection, projection: Projection, table: str, life: Followed) -> Exception | None:
    attempt = await connection.begin_nested()
    try:
        rows = [] if life.row is None else [life.row]
        await projection.apply(connection, table, Step(rows, life.changes))
    except REFUSALS as error:
        return error
    finally:
        await attempt.rollback()
    return None
