"""Connections to PostgreSQL: one engine per process, made here and closed by whoever made it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import psycopg
from psycopg import sql
from psycopg.errors import UndefinedTable
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from eventstore.errors import StoreUnavailableError
from projections.errors import DatabaseUrlError, EncodingError

DRIVER: Final = "postgresql+psycopg"
CONNECT_TIMEOUT_SECONDS: Final = 5
POOL_TIMEOUT_SECONDS: Final = 10

DATABASE_OUTAGES: Final = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)
"""What a database that is down, starting, full or overloaded raises: nothing was committed; back off and retry."""


def create_database_engine(url: str, *, application_name: str, connections_max: int = 5) -> AsyncEngine:
    """Return an engine for the database at ``url``; it connects at first use. Dispose of it at the end.

    Its connections use UTC and refuse, with :class:`~projections.errors.EncodingError`, a database that is not UTF-8.

    Args:
        url: ``postgresql://…``; ``postgres://`` and ``postgresql+psycopg://`` mean the same.
        application_name: how operators see the connections in ``pg_stat_activity``.
        connections_max: above it, callers wait up to 10 s for a free connection. A rebuild needs 3.

    Raises:
        DatabaseUrlError: not a URL of PostgreSQL.
    """
    try:
        target = make_url(url)
    except ArgumentError:
        raise DatabaseUrlError("the database URL is not a URL: expected postgresql://user@host/database") from None
    if target.drivername not in ("postgres", "postgresql", DRIVER):
        raise DatabaseUrlError(f"the database URL names {target.drivername}: expected postgresql://")
    options = target.query.get("options", "")
    engine = create_async_engine(
        target.set(drivername=DRIVER).difference_update_query(["options"]),
        pool_size=connections_max,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        # Parameters hold whole batches, and clients' data: neither belongs in a log.
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "options": f"{options} -c timezone=UTC".strip(),
        },
    )
    # First of all: SQLAlchemy's own questions already fail where text comes as bytes.
    event.listen(engine.sync_engine, "connect", _require_utf8, insert=True)
    return engine


def is_outage(error: DBAPIError | PoolTimeoutError | psycopg.Error) -> bool:
    """Whether an error says that the database cannot answer now; one without our tables is still being set up."""
    return isinstance(error, DATABASE_OUTAGES) or isinstance(getattr(error, "orig", None), UndefinedTable)


@asynccontextmanager
async def archive_reading(engine: AsyncEngine, consequence: str) -> AsyncIterator[AsyncConnection]:
    """As :func:`reading`, for the event store's second copy.

    Raises:
        StoreUnavailableError: the database cannot answer now; ``consequence`` says what cannot be known.
    """
    try:
        async with reading(engine) as connection:
            yield connection
    except (DBAPIError, PoolTimeoutError, psycopg.Error) as error:
        if not is_outage(error):
            raise
        problem = str(error).partition("\n")[0]
        raise StoreUnavailableError(f"{consequence} without PostgreSQL, which does not answer: {problem}") from error


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection for single reads: each statement sees the latest commit and needs one round trip."""
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def snapshot(engine: AsyncEngine, *tables: str) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements all see the commits of one moment, in which ``tables`` are what their names mean.

    A rebuilt table that is swapped in after that moment would be met by its new name, and seen as it was then: behind.
    So the tables are locked against swaps, and nothing else, before the moment is taken; keep it short.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        # No SELECT: the snapshot is that of the first statement after it.
        await connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE"))
        yield connection


async def driver_connection(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """Return the driver's connection, for COPY; it is in the transaction that ``connection`` is in."""
    return cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)


async def copy_rows(
    connection: AsyncConnection, table: str, columns: Sequence[str], lines: Iterable[tuple[object, ...]]
) -> None:
    """Add ``lines`` to a table with COPY, in the caller's transaction; a line that is refused fails it."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    raw = await driver_connection(connection)
    async with raw.cursor() as cursor, cursor.copy(statement) as copy:
        for line in lines:
            await copy.write_row(line)


def _require_utf8(adapted: DBAPIConnection, _record: object) -> None:
    encoding = cast(Any, adapted).driver_connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        adapted.close()
        raise EncodingError(encoding)
