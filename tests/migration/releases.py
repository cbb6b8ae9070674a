"""Databases of other releases than this one: what the last one had no place for is left out."""

import psycopg

from tests.conftest import driver_url, execute


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
