"""What a PostgreSQL database says of itself: plain facts for others to judge, and which orders it holds as open."""

from collections.abc import Callable, Collection
from typing import Final

from msgspec import Struct
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.database import create_database_engine, reading
from projections.models.orders import orders
from projections.projector.standing import Trouble, read_trouble
from projections.schema.migrations import known_versions
from projections.schema.tables import compatibility, store

_SERVER: Final = text(
    "SELECT current_setting('server_version'), current_setting('server_version_num')::int, "
    "current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit'), "
    "to_regclass('alembic_version') IS NOT NULL, to_regclass('compatibility') IS NOT NULL, "
    "to_regclass('store') IS NOT NULL"
)
_CLOCK: Final = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")


class DatabaseFacts(Struct, frozen=True, kw_only=True):
    """A database and its server."""

    version: str
    version_number: int
    """10,000 times the major version, plus the minor one."""
    encoding: str
    fsync: str
    synchronous_commit: str
    """Both as the server spells them, in a connection of ours."""
    schema: str | None
    """None: none of ours."""
    schemas_known: tuple[str, ...]
    """The schemas that this code knows, newest first."""
    oldest: str | None = None
    """The oldest schema whose code still works on this one; None: it does not say."""
    store: tuple[str, int] | None
    """Id and partitions of the event store whose read model this is; None before the first projector."""
    skew_us: int
    """The server's clock less this host's, in microseconds, taking both ways of the round trip to be equally long."""
    round_trip_us: int

    @property
    def is_later(self) -> bool:
        """Whether the schema is a later one, which says that this code still works on it."""
        known = self.schemas_known
        return self.schema is not None and self.schema not in known and self.oldest in known


async def inspect_database(url: str, now_us: Callable[[], int]) -> DatabaseFacts:
    """Return what the database at ``url`` tells. Only reads.

    Args:
        url: as :func:`projections.database.create_database_engine` takes it.
        now_us: this host's clock, in microseconds since 1970.

    Raises:
        EncodingError: the database does not store UTF-8; nothing else of it can be told.
        DatabaseUrlError: not a URL of PostgreSQL.
    """
    engine = create_database_engine(url, application_name="ordertape doctor", connections_max=1)
    try:
        async with reading(engine) as connection:
            return await _facts(connection, now_us)
    finally:
        await engine.dispose()


async def open_orders(url: str, terminal: Collection[str], limit: int) -> list[str]:
    """Return the ids of at most ``limit`` orders whose projected status is not in ``terminal``, oldest first."""
    engine: AsyncEngine = create_database_engine(url, application_name="ordertape doctor", connections_max=1)
    query = select(orders.c.id).where(orders.c.status.not_in(list(terminal))).order_by(orders.c.created_at, orders.c.id)
    try:
        async with reading(engine) as connection:
            return list(await connection.scalars(query.limit(limit)))
    finally:
        await engine.dispose()


async def projection_trouble(url: str) -> Trouble:
    """Return what stands still of the read model at ``url``, whose schema must be one that this code works on.

    Only reads.
    """
    engine = create_database_engine(url, application_name="ordertape doctor", connections_max=1)
    try:
        async with reading(engine) as connection:
            return await read_trouble(connection)
    finally:
        await engine.dispose()


async def _facts(connection: AsyncConnection, now_us: Callable[[], int]) -> DatabaseFacts:
    version, number, encoding, fsync, commit, has_schema, says_oldest, has_store = (
        await connection.execute(_SERVER)
    ).one()
    schema = await connection.scalar(text("SELECT version_num FROM alembic_version")) if has_schema else None
    oldest = await connection.scalar(select(compatibility.c.oldest)) if says_oldest else None
    owner = None
    if has_store:
        owner = (await connection.execute(select(store.c.store_id, store.c.partitions))).one_or_none()
    sent = now_us()
    theirs: int = (await connection.execute(_CLOCK)).scalar_one()
    round_trip = now_us() - sent
    return DatabaseFacts(
        version=version,
        version_number=number,
        encoding=encoding,
        fsync=fsync,
        synchronous_commit=commit,
        schema=schema,
        schemas_known=tuple(known_versions()),
        oldest=oldest,
        store=(owner[0], owner[1]) if owner is not None else None,
        skew_us=theirs - sent - round_trip // 2,
        round_trip_us=round_trip,
    )
