"""The gate before a swap: two generations of a projection compared, row by row, at one identical position."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import RowMapping, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.checkpoints import lock_projections, read_checkpoints
from projections.errors import PositionsDifferError
from projections.models.projection import Key, Projection
from projections.models.registry import NEXT, table_of
from projections.rebuild.building import Builder

SAMPLES_MAX: Final = 20
EVERYTHING: Final = "*"
"""Declares every column, and rows that come or go, as changed."""
ROW: Final = "row"
"""Stands for a column where a whole row is missing or extra."""
LOCK_TIMEOUT_MS: Final = 5_000
_PAGE_ROWS: Final = 1000


class Difference(Struct, frozen=True):
    """One column of one row, live and rebuilt, as PostgreSQL spells it; None: null, or no such row."""

    key: str
    column: str
    live: str | None
    rebuilt: str | None


class Compared(Struct, frozen=True):
    """What a comparison found."""

    rows: int
    """Rows that differ."""
    columns: dict[str, int]
    """In how many rows each column differs."""
    samples: list[Difference]

    def undeclared(self, changed: Collection[str]) -> dict[str, int]:
        """Return the differing columns that ``changed`` does not name."""
        if EVERYTHING in changed:
            return {}
        return {column: count for column, count in self.columns.items() if column not in changed}


@asynccontextmanager
async def at_one_position(engine: AsyncEngine, builder: Builder) -> AsyncIterator[AsyncConnection]:
    """Yield a snapshot in which both generations are at the same position in every partition.

    The projector stands still only while the new table catches up the little that it is behind, and the snapshot is
    taken; the snapshot itself holds nobody up.

    Raises:
        PositionsDifferError: they are not, which no rebuild does.
    """
    name = builder.projection.name
    async with engine.connect() as snapshot:
        await snapshot.execution_options(isolation_level="REPEATABLE READ")
        async with engine.begin() as holding:
            await holding.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
            live = (await lock_projections(holding, [name]))[name]
            async with engine.begin() as following:
                await builder.follow(following, live)
            # The first statement takes the snapshot.
            found = await read_checkpoints(snapshot, name)
            rebuilt = await read_checkpoints(snapshot, builder.generation)
        if found != rebuilt:
            raise PositionsDifferError(name)
        yield snapshot


async def compare_generations(
    connection: AsyncConnection, projection: Projection, keys: Collection[Key] | None = None
) -> Compared:
    """Return how the next generation differs from the live one; of the rows of ``keys`` only, if given.

    A row that stands still in the live table and goes on in the next one is no difference: the rebuild mended it.
    """
    table = table_of(projection)
    columns: dict[str, int] = {}
    samples: list[Difference] = []
    rows = 0
    statement, parameters = _comparison(table, table_of(projection, NEXT).name, keys)
    found = await connection.stream(statement, parameters)
    async for record in found:
        row = record._mapping
        differing = _differing(table, row)
        rows += bool(differing)
        for difference in differing:
            columns[difference.column] = columns.get(difference.column, 0) + 1
            if len(samples) < SAMPLES_MAX:
                samples.append(difference)
    return Compared(rows, columns, samples)


def _comparison(table: Table, other: str, keys: Collection[Key] | None) -> tuple[Any, dict[str, Any]]:
    key = [column.name for column in table.primary_key]
    values = [column.name for column in table.columns if column.name not in key]
    using, first = ", ".join(key), key[0]
    spelled = ", ".join(f"CAST({side}.{name} AS text) AS {side}_{name}" for name in values for side in ("live", "next"))
    differs = " OR ".join(f"live.{name} IS DISTINCT FROM next.{name}" for name in values)
    chosen, parameters = "", {}
    if keys is not None:
        chosen = f"JOIN json_populate_recordset(CAST(NULL AS {table.name}), CAST(:keys AS json)) AS k USING ({using})"
        parameters = {"keys": _spelled_keys(key, keys)}
    statement = text(
        f"SELECT concat_ws('/', {using}) AS key, live.{first} IS NULL AS extra, next.{first} IS NULL AS missing, "
        f"{spelled} FROM {table.name} live FULL JOIN {other} next USING ({using}) {chosen} "
        f"WHERE {differs} OR live.{first} IS NULL OR next.{first} IS NULL"
    )
    return statement.execution_options(yield_per=_PAGE_ROWS), parameters


def _spelled_keys(names: Collection[str], keys: Collection[Key]) -> str:
    spelled = [
        {name: part.isoformat() if isinstance(part, date) else part for name, part in zip(names, key, strict=True)}
        for key in keys
    ]
    return msgspec.json.encode(spelled).decode()


def _differing(table: Table, row: RowMapping) -> list[Difference]:
    if row["extra"] or row["missing"]:
        return [Difference(row["key"], ROW, *((None, "there") if row["extra"] else ("there", None)))]
    if row.get("live_quality") == "quarantined" and row.get("next_quality") != "quarantined":
        return []
    # SQLAlchemy names columns by a kind of text of its own, which nobody encodes.
    names = [str(column.name) for column in table.columns if f"live_{column.name}" in row]
    sides = [(name, row[f"live_{name}"], row[f"next_{name}"]) for name in names]
    return [Difference(row["key"], name, live, rebuilt) for name, live, rebuilt in sides if live != rebuilt]
