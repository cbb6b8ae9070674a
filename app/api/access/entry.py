"""Who is at the other end of one request or socket, as far as it has said; what handlers ask of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, cast

from starlette.requests import HTTPConnection

from app.api.access.connections import Connections, Endable
from app.api.access.limits import ACK_COST, BURST_SECONDS, REFUSED_MESSAGES_MAX, AccessLimits, Bucket
from app.api.access.principal import Principal
from app.api.problems import FOREIGN_KEY, UNAUTHENTICATED, Closing, ProblemError, unavailable
from eventstore.errors import StoreUnavailableError

ENTRY: Final = "ordertape.entry"
"""Where the ASGI scope of a request has its :class:`Entry`."""
TOO_FAST: Final = Closing(4429, "messages went on after rate_limited")

Recognize = Callable[[str, str], Awaitable[Principal]]
"""Returns whom a key, sent from an address, belongs to; raises ``unauthenticated``, ``rate_limited`` or
``unavailable``."""


class Entry:
    """The other end.

    Args:
        known: who it is; None: it must still say so, see :meth:`introduce`.
        closing: why a socket is closed at once.
    """

    def __init__(
        self,
        address: str,
        known: Principal | None,
        connections: Connections,
        limits: AccessLimits,
        recognize: Recognize,
        closing: Closing | None = None,
    ) -> None:
        self.known = known
        self.closing: Final = closing
        self._address = address
        self._connections = connections
        self._recognize = recognize
        per_second = limits.messages_per_second
        now = asyncio.get_running_loop().time()
        self._messages = Bucket(per_second, per_second * BURST_SECONDS, now) if per_second else None
        self._refused = 0
        self._held = ExitStack()
        self._connection: Endable | None = None

    @property
    def principal(self) -> Principal:
        """Who it is.

        Raises:
            ProblemError: ``unauthenticated``: that is not known.
        """
        if self.known is None:
            raise ProblemError("unauthenticated", UNAUTHENTICATED.reason)
        return self.known

    @contextmanager
    def held_open(self, connection: Endable) -> Iterator[None]:
        """Count a connection that stays open until the context closes; it is ended when its key is.

        Raises:
            ProblemError: ``too_many_connections``; ``unauthenticated``: its key was revoked meanwhile.
        """
        with ExitStack() as outer:
            outer.enter_context(self._connections.from_address(self._address))
            self._held = outer.enter_context(ExitStack())
            self._connection = connection
            self._count(connection)
            yield

    async def introduce(self, token: str) -> Closing | None:
        """Take note of who it says it is; return why it is sent away for that, if it is.

        Raises:
            ProblemError: see :data:`Recognize`; ``too_many_connections``.
        """
        found = await self._recognize(token, self._address)
        if self.known is not None:
            return None if self.known.grant.key_id in (None, found.grant.key_id) else FOREIGN_KEY
        self.known = found
        if self._connection is not None:
            self._count(self._connection)
        return None

    def take_message(self, *, ack: bool = False) -> Closing | None:
        """Count a message; return why the socket is closed for it, if it is.

        Raises:
            ProblemError: ``rate_limited``: too many came; do nothing about this one.
        """
        if self._messages is None:
            return None
        wait = self._messages.take(asyncio.get_running_loop().time(), ACK_COST if ack else 1.0)
        if not wait:
            self._refused = 0
            return None
        self._refused += 1
        if self._refused > REFUSED_MESSAGES_MAX:
            return TOO_FAST
        wait_ms = int(wait * 1_000) + 1
        detail = f"too many messages on this socket: nothing was done about this one, send it again in {wait_ms} ms"
        raise ProblemError("rate_limited", detail, retryAfterMs=wait_ms)

    def _count(self, connection: Endable) -> None:
        self._held.close()
        if self.known is None:
            self._held.enter_context(self._connections.unknown(self._address))
        else:
            self._held.enter_context(self._connections.of_key(self.known.grant.key_id, connection))


def entry_of(connection: HTTPConnection) -> Entry:
    """Return the entry that the gate made for a request or socket; whoever came past the gate fails here."""
    return cast(Entry, connection.scope[ENTRY])


def principal_of(connection: HTTPConnection) -> Principal:
    """Return who sent a request.

    Raises:
        ProblemError: ``unauthenticated``.
    """
    return entry_of(connection).principal


async def require_order(connection: HTTPConnection, order_id: str) -> None:
    """Return if the sender of a request may read the order.

    Raises:
        ProblemError: see :meth:`Principal.require_order`; ``unavailable``.
    """
    try:
        await principal_of(connection).require_order(order_id)
    except StoreUnavailableError as error:
        raise unavailable("ask again") from error
