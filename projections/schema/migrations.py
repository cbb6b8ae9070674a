"""The database's schema: brought to this code's version, or checked against it."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import reading
from projections.errors import SchemaError

MIGRATION_LOCK: Final = 0x6F72646572_01
"""Key of the advisory lock that makes two starters take turns."""

_INI: Final = Path(__file__).parents[2] / "alembic.ini"


async def upgrade_schema(engine: AsyncEngine) -> None:
    """Bring the schema to this code's version, all of it or nothing. Idempotent, and safe in several processes.

    Raises:
        SchemaError: the schema is newer than this code; nothing was changed.
    """
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        await connection.run_sync(_upgrade)


async def require_schema(engine: AsyncEngine) -> None:
    """Return if the schema is the one of this code.

    Raises:
        SchemaError: it is older, newer or missing. Call :func:`upgrade_schema`, or use the newer code.
    """
    head = known_versions()[0]
    async with reading(engine) as connection:
        current = await connection.run_sync(_current)
    if current != head:
        raise SchemaError(current, head)


def _upgrade(connection: Connection) -> None:
    config = Config(_INI)
    versions = known_versions()
    current = _current(connection)
    if current is not None and current not in versions:
        raise SchemaError(current, versions[0])
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def known_versions() -> list[str]:
    """Return the versions that this code knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(Config(_INI)).walk_revisions()]
