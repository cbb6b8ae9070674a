"""Databases of other releases than this one: what the next migration may do to ours, and what ours did to the last."""

from collections.abc import Iterator

import psycopg

from projections.models.registry import METADATA
from projections.schema.migrations import known_versions
from tests.conftest import driver_url, execute

NEXT = "9999"
_OURS_ALONE = ("store", "compatibility")


def release_next(url: str, *, oldest: str = "") -> None:
    """Do to the database all that the next release's migration may; ``oldest`` is the oldest code for it."""
    for statement in _additions():
        execute(url, statement)
    execute(url, "UPDATE alembic_version SET version_num = %s", NEXT)
    execute(url, "UPDATE compatibility SET oldest = %s", oldest or known_versions()[0])


def _additions() -> Iterator[str]:
    for table in METADATA.tables:
        if table not in _OURS_ALONE:
            yield f"ALTER TABLE {table} ADD COLUMN referrer text, ADD COLUMN tier text NOT NULL DEFAULT 'basic'"
            yield f"CREATE INDEX {table}_tier ON {table} (tier)"
    yield "CREATE TABLE failures (day date, partition smallint, orders bigint NOT NULL)"
    yield (
        "INSERT INTO checkpoints (projection, partition, epoch, position, anchor) "
        "SELECT 'failures', partition, epoch, position, anchor FROM checkpoints WHERE projection = 'orders'"
    )


def copy_rows(source: str, target: str, table: str) -> None:
    """Copy a table's rows to a database whose schema may lack some of its columns."""
    columns = ", ".join(columns_of(target, table))
    with psycopg.connect(driver_url(source)) as here, psycopg.connect(driver_url(target)) as there:
        out, into = f"COPY (SELECT {columns} FROM {table}) TO STDOUT", f"COPY {table} ({columns}) FROM STDIN"
        with here.cursor().copy(out.encode()) as rows, there.cursor().copy(into.encode()) as copy:
            for row in rows:
                copy.write(row)


def columns_of(url: str, table: str) -> list[str]:
    """The names of a table's columns, in order, but for generated ones."""
    names = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_name = %s AND is_generated = 'NEVER' ORDER BY ordinal_position"
    )
    return [str(row[0]) for row in execute(url, names, table)]


def rows_of(url: str, table: str, columns: list[str]) -> list[tuple[object, ...]]:
    """Some columns of every row."""
    return execute(url, f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:2])}")
