"""A server that asks for keys, and those who have some: two traders, an auditor, an admin."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect

from app.api.access.doors import AccessPolicy
from app.api.access.keys import new_key
from app.api.access.limits import AccessLimits
from eventstore.store import EventStore
from projections.queries.keys import ActiveKey, add_key, revoke_key
from tests.conftest import database
from tests.integration.api import ORDER, WAIT_SECONDS, Api, hear_close, memory_store, running

ANN, SAM = "ann", "sam"
"""Two clients of one partition of four, so that nothing but the owner tells their orders apart."""


class Holder(Struct):
    """Somebody with a key."""

    key_id: str
    key: str
    http: httpx.AsyncClient
    """Shows the key with every request."""

    async def place(self, **fields: object) -> str:
        """Place an order that names no client, and return its id."""
        order = {name: value for name, value in ORDER.items() if name != "clientId"}
        response = await self.http.post("/api/orders", json={**order, **fields})
        assert response.status_code == 202, response.text
        order_id: str = response.json()["orderId"]
        return order_id


class Guarded(Struct):
    """A running server, and whoever may use it."""

    api: Api
    ann: Holder
    sam: Holder
    auditor: Holder
    admin: Holder

    @property
    def holders(self) -> tuple[Holder, ...]:
        return (self.ann, self.sam, self.auditor, self.admin)

    async def revoke(self, holder: Holder) -> None:
        assert await revoke_key(self.api.database, holder.key_id)

    @asynccontextmanager
    async def socket(
        self, holder: Holder | None = None, query: str = "", **headers: str
    ) -> AsyncIterator[ClientConnection]:
        """A socket, of a holder who shows the key on its handshake, or of somebody unknown."""
        shown = {} if holder is None else {"Authorization": f"Bearer {holder.key}"}
        url = self.api.socket_url + query
        async with connect(
            url, compression=None, open_timeout=WAIT_SECONDS, additional_headers={**shown, **headers}
        ) as socket:
            yield socket


def guarded_by(*, origins: frozenset[str] = frozenset(), stale_seconds_max: float = 900, **limits: int) -> AccessPolicy:
    return AccessPolicy(
        mode="keys",
        allowed_origins=origins,
        limits=AccessLimits(**limits),
        refresh_seconds=0.1,
        stale_seconds_max=stale_seconds_max,
    )


@asynccontextmanager
async def guarded(
    database_url: str, store: EventStore | None = None, policy: AccessPolicy | None = None, **options: Any
) -> AsyncIterator[Guarded]:
    """A server on ``store``, memory by default, with a key for each holder."""
    made = {
        "ann": await made_key(database_url, ANN, "trader"),
        "sam": await made_key(database_url, SAM, "trader"),
        "auditor": await made_key(database_url, None, "auditor"),
        "admin": await made_key(database_url, None, "admin"),
    }
    access = policy or guarded_by()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running(store or memory_store(), database_url, access=access, **options))
        holders = {}
        for name, (key_id, key) in made.items():
            client = httpx.AsyncClient(
                base_url=api.url, timeout=WAIT_SECONDS, headers={"Authorization": f"Bearer {key}"}
            )
            holders[name] = Holder(key_id, key, await stack.enter_async_context(client))
        yield Guarded(api, **holders)


async def made_key(database_url: str, client: str | None, *roles: str) -> tuple[str, str]:
    """Make a key and return its id and text."""
    key = new_key(secrets.token_bytes)
    async with database(database_url) as engine:
        await add_key(engine, ActiveKey(id=key.id, hash=key.digest, client=client, roles=frozenset(roles)), "")
    return key.id, key.text


def on_guarded(
    database_url: str,
    scenario: Callable[[Guarded], Awaitable[None]],
    policy: AccessPolicy | None = None,
    **options: Any,
) -> None:
    """Run ``scenario`` on a server whose store is memory."""

    async def main() -> None:
        async with guarded(database_url, policy=policy, **options) as on:
            await scenario(on)

    asyncio.run(main())


async def closed(socket: ClientConnection) -> int:
    """Return the code that the server closes a socket with."""
    return (await hear_close(socket))[0]
