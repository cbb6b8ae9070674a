"""API keys and tickets: made, listed, revoked, used up. Only hashes are known here."""

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.database import archive_reading, reading
from projections.models.orders import time_text
from projections.schema.tables import api_keys, api_tickets


class ActiveKey(Struct, frozen=True, kw_only=True):
    """A key that opens something."""

    id: str
    hash: bytes
    """SHA-256 of the whole key, 32 bytes."""
    client: str | None
    roles: frozenset[str]
    """One or more of trader, auditor and admin."""


class ListedKey(Struct, frozen=True, kw_only=True):
    """A key as operators see it; times as events have them."""

    id: str
    client: str | None
    roles: tuple[str, ...]
    name: str
    created_at: str
    revoked_at: str | None


async def add_key(engine: AsyncEngine, key: ActiveKey, name: str) -> None:
    """Add a key; it is known to every process as soon as that reads the keys again.

    Raises:
        IntegrityError: there is a key of that id, or the roles and the client do not fit together.
    """
    row = {"id": key.id, "hash": key.hash, "client_id": key.client, "roles": sorted(key.roles), "name": name}
    async with engine.begin() as connection:
        await connection.execute(insert(api_keys).values(row))


async def list_keys(engine: AsyncEngine) -> list[ListedKey]:
    """Return every key there ever was, oldest first."""
    columns = (api_keys.c.id, api_keys.c.client_id, api_keys.c.roles, api_keys.c.name)
    times = (time_text(api_keys.c.created_at), time_text(api_keys.c.revoked_at))
    query = select(*columns, *times).order_by(api_keys.c.created_at, api_keys.c.id)
    async with reading(engine) as connection:
        return [
            ListedKey(id=key_id, client=client, roles=tuple(roles), name=name, created_at=created, revoked_at=revoked)
            for key_id, client, roles, name, created, revoked in await connection.execute(query)
        ]


async def active_keys(engine: AsyncEngine, limit: int) -> Sequence[ActiveKey]:
    """Return at most ``limit`` keys that are not revoked, oldest first.

    Raises:
        StoreUnavailableError: the database does not answer, or has no such table yet. Ask again.
    """
    query = select(api_keys.c.id, api_keys.c.hash, api_keys.c.client_id, api_keys.c.roles)
    query = query.where(api_keys.c.revoked_at.is_(None)).order_by(api_keys.c.created_at, api_keys.c.id).limit(limit)
    async with archive_reading(engine, "which keys are good cannot be known") as connection:
        return [
            ActiveKey(id=key_id, hash=bytes(digest), client=client, roles=frozenset(roles))
            for key_id, digest, client, roles in await connection.execute(query)
        ]


async def revoke_key(engine: AsyncEngine, key_id: str) -> bool | None:
    """Revoke a key for ever; return False if it was before, None if there is none of that id."""
    change = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    async with engine.begin() as connection:
        if (await connection.execute(change.values(revoked_at=func.now()))).rowcount:
            return True
        return False if await connection.scalar(select(api_keys.c.id).where(api_keys.c.id == key_id)) else None


async def add_ticket(engine: AsyncEngine, digest: bytes, key_id: str, seconds: int) -> str:
    """Add a ticket for a key, good once and for so long; return its end, by the database's clock.

    Tickets that nobody used in time are removed on the way, so that there are never more than were asked for lately.
    """
    until = func.now() + text(f"interval '{int(seconds)} seconds'")
    row = insert(api_tickets).values(hash=digest, key_id=key_id, expires_at=until)
    async with engine.begin() as connection:
        await connection.execute(delete(api_tickets).where(api_tickets.c.expires_at <= func.now()))
        ends: str = (await connection.execute(row.returning(time_text(api_tickets.c.expires_at)))).scalar_one()
    return ends


async def use_ticket(engine: AsyncEngine, digest: bytes) -> str | None:
    """Use a ticket up and return its key's id; None if there is no such ticket, or no longer.

    One statement, so that of several processes that are shown the same ticket one alone is told of a key.
    """
    used = delete(api_tickets).where(api_tickets.c.hash == digest, api_tickets.c.expires_at > func.now())
    async with engine.begin() as connection:
        found: str | None = await connection.scalar(used.returning(api_tickets.c.key_id))
    return found
