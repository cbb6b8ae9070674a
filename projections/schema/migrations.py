"""The database's schema: brought to this code's version, or checked against it."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.database import reading
from projections.errors import SchemaError
from projections.schema.tables import compatibility

MIGRATION_LOCK: Final = 0x6F72646572_01
"""Key of the advisory lock that makes two starters take turns."""

_INI: Final = Path(__file__).parents[2] / "alembic.ini"


async def upgrade_schema(engine: AsyncEngine) -> None:
    """Bring the schema to this code's version, all of it or nothing. Idempotent, and safe in several processes.

    A later schema that this code still works on is left as it is.

    Raises:
        SchemaError: the schema is newer than this code, and does not say that; nothing was changed.
    """
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        await connection.run_sync(_upgrade)


async def require_schema(engine: AsyncEngine) -> None:
    """Return if the schema is the one of this code, or a later one that says that this code still works on it.

    Raises:
        SchemaError: it is older, newer or missing. Call :func:`upgrade_schema`, or use the newer code.
    """
    head = known_versions()[0]
    async with reading(engine) as connection:
        current = await connection.run_sync(_current)
        if current != head and not await connection.run_sync(_works_on):
            raise SchemaError(current, head)


async def require_own_schema(engine: AsyncEngine) -> None:
    """Return if the schema is this code's own, and not a later one that it only works on.

    Raises:
        SchemaError: it is not. Use the newer code.
    """
    async with reading(engine) as connection:
        await require_own_version(connection)


async def keep_migrations_out(connection: AsyncConnection) -> None:
    """Let no starter change the schema until the transaction ends.

    Raises:
        OperationalError: one was at it for longer than the transaction's ``lock_timeout``.
    """
    await connection.execute(select(func.pg_advisory_xact_lock_shared(MIGRATION_LOCK)))


async def require_own_version(connection: AsyncConnection) -> None:
    """Return if the transaction sees this code's own schema; before a commit, when every lock is held, it will stay so.

    Raises:
        SchemaError: a migration came first, also one that heeds no lock of ours. Commit nothing; use the newer code.
    """
    current, head = await connection.run_sync(_current), known_versions()[0]
    if current != head:
        raise SchemaError(current, head)


def _upgrade(connection: Connection) -> None:
    config = Config(_INI)
    versions = known_versions()
    current = _current(connection)
    if current is not None and current not in versions:
        if _works_on(connection):
            return
        raise SchemaError(current, versions[0])
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _works_on(connection: Connection) -> bool:
    """Whether the schema is a later one that names this code's, or an older one, as the oldest that works on it."""
    versions = known_versions()
    current = _current(connection)
    if current is None or current in versions or not inspect(connection).has_table(str(compatibility.name)):
        return False
    oldest = connection.scalar(select(compatibility.c.oldest))
    return oldest in versions


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def known_versions() -> list[str]:
    """Return the versions that this code knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(Config(_INI)).walk_revisions()]
