"""How commands reach the engine's data: configured servers, a running engine's, or embedded ones of their own."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded import Servers
from app.main import attach_store, open_database, servers
from app.settings import Settings, load_settings
from eventstore.errors import StoreUnavailableError
from eventstore.redis.connection import Pipeline
from projections.archive.store import ArchivedEventStore
from projections.schema.migrations import require_schema

_ADDRESSES = "servers.json"


class Connected(msgspec.Struct, frozen=True):
    """The event store and the database of one engine."""

    store: ArchivedEventStore
    database: AsyncEngine
    servers: Servers


def settings_here() -> Settings:
    """Return the settings of this process's environment and of `.env` in the current directory.

    Raises:
        SettingsError: naming what is refused.
    """
    dotenv = Path(".env")
    return load_settings(os.environ, dotenv if dotenv.exists() else None)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connected]:
    """Yield the engine's store and database, also while no engine runs.

    Raises:
        EmbeddedError, EventStoreError, ProjectionError: the servers cannot be used; each message says why.
    """
    async with joined_servers(settings) as joined:
        database = open_database(joined, "cli")
        try:
            await require_schema(database)
            store = await attach_store(settings, joined, database)
            try:
                yield Connected(store, database, joined)
            finally:
                await store.close()
        finally:
            await database.dispose()


@asynccontextmanager
async def joined_servers(settings: Settings) -> AsyncIterator[Servers]:
    """Yield the servers of the engine that runs on the data directory, else as :func:`app.main.servers`."""
    running = await _running(settings)
    if running is not None:
        yield running
        return
    async with servers(settings) as own:
        yield own


@asynccontextmanager
async def announced(settings: Settings, own: Servers) -> AsyncIterator[None]:
    """Let other commands find ``own`` while the context is open."""
    path = Path(settings.data_dir) / _ADDRESSES
    if settings.redis_url is not None and settings.database_url is not None:
        yield
        return
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(own))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _running(settings: Settings) -> Servers | None:
    try:
        found = msgspec.json.decode((Path(settings.data_dir) / _ADDRESSES).read_bytes(), type=Servers)
    except (OSError, msgspec.DecodeError):
        return None
    # A crashed engine leaves the file behind; what answers is alive.
    connection = Pipeline(found.redis_url)
    try:
        await connection.execute("PING")
    except StoreUnavailableError:
        return None
    finally:
        await connection.close()
    return found
