"""Whoever is connected, and the one question that is asked before each answer: may it have this."""

from collections.abc import Mapping
from typing import Any, Final, assert_never

from msgspec import Struct

from app.api.access.keys import ADMIN, AUDITOR, TRADER
from app.api.access.owners import Owners
from app.api.problems import ProblemError, unavailable
from app.api.streaming.scopes import AllScope, ClientScope, OrderScope, Scope
from eventstore.errors import StoreUnavailableError

_CLIENT_FIELDS: Final = ("clientId", "userId")


class Grant(Struct, frozen=True, kw_only=True):
    """What a key opens."""

    key_id: str | None
    """None: no key was asked for."""
    client: str | None
    roles: frozenset[str]

    @property
    def trades(self) -> bool:
        """Whether it may place and cancel orders."""
        return not self.roles.isdisjoint((TRADER, ADMIN))

    @property
    def reads_all(self) -> bool:
        """Whether it may read everybody's orders."""
        return not self.roles.isdisjoint((AUDITOR, ADMIN))

    @property
    def is_admin(self) -> bool:
        """Whether it may do everything."""
        return ADMIN in self.roles


EVERYTHING: Final = Grant(key_id=None, client=None, roles=frozenset({ADMIN}))
"""What everybody may do where no keys are asked for."""


class Principal:
    """One who is known. Another client's order is answered like one that does not exist, in every way.

    Args:
        owners: None for those who may read all, who are never asked for an owner.
    """

    def __init__(self, grant: Grant, owners: Owners | None = None) -> None:
        self.grant: Final = grant
        self._owners = owners

    @property
    def partition(self) -> int | None:
        """The one partition whose log it may know the end of; None: all of them."""
        if self.grant.reads_all or self.grant.client is None:
            return None
        assert self._owners is not None
        return self._owners.partition_of(self.grant.client)

    async def require_order(self, order_id: str) -> None:
        """Return if it may read the order, which need not exist for those who may read all.

        Raises:
            ProblemError: ``not_found``, for other clients' orders and for missing ones alike.
            StoreUnavailableError: back off and ask again.
        """
        if not self.grant.reads_all:
            await self._require_own(order_id)

    async def require_cancelling(self, order_id: str) -> None:
        """Return if it may cancel the order.

        Raises:
            ProblemError: ``forbidden``: it cancels nothing, or not this order, which it may read; ``not_found``;
                ``unavailable``.
        """
        if not self.grant.trades:
            raise ProblemError("forbidden", "this key may read, and change nothing: cancel with a trader's")
        if self.grant.is_admin:
            return
        try:
            await self._require_own(order_id)
        except StoreUnavailableError as error:
            raise unavailable("the order is not known to be cancelled: ask again") from error
        except ProblemError as missing:
            if not self.grant.reads_all:
                raise
            detail = "this key cancels its own client's orders alone"
            raise ProblemError("forbidden", detail, orderId=order_id) from missing

    async def require_scope(self, scope: Scope) -> None:
        """Return if it may follow these events.

        Raises:
            ProblemError: ``not_found`` for an order; ``forbidden``.
            StoreUnavailableError: back off and ask again.
        """
        match scope:
            case OrderScope(order_id):
                await self.require_order(order_id)
            case ClientScope(client):
                self.require_client(client)
            case AllScope():
                if not self.grant.reads_all:
                    raise ProblemError("forbidden", f"this key reads the orders of {self._whom()} alone: {_NARROWER}")
            case _:
                assert_never(scope)

    def require_client(self, client: str) -> None:
        """Return if it may read that client's orders.

        Raises:
            ProblemError: ``forbidden``, whether or not there is such a client.
        """
        if not self.grant.reads_all and client != self.grant.client:
            raise ProblemError("forbidden", f"this key reads the orders of {self._whom()} alone: {_NARROWER}")

    def narrowed(self, client: str | None) -> str | None:
        """Return whose orders a list is to show: the client asked for, or all that it may read; None: everybody's.

        Raises:
            ProblemError: ``forbidden``.
        """
        if client is not None:
            self.require_client(client)
        return client if client is not None or self.grant.reads_all else self.grant.client

    def claimed(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an order's members with the client that it is placed for: the key's own, unless an admin says another.

        Raises:
            ProblemError: ``forbidden``: it places no orders, or not for that client.
        """
        grant = self.grant
        if not grant.trades:
            raise ProblemError("forbidden", "this key may read, and change nothing: place orders with a trader's")
        named = [members[name] for name in _CLIENT_FIELDS if members.get(name) is not None]
        if not grant.is_admin and any(name != grant.client for name in named):
            detail = f"this key places orders of {self._whom()} alone: leave clientId out, or use that client's key"
            raise ProblemError("forbidden", detail)
        if named or grant.client is None:
            return members
        return {
            **{name: value for name, value in members.items() if name not in _CLIENT_FIELDS},
            "clientId": grant.client,
        }

    def _whom(self) -> str:
        return "nobody" if self.grant.client is None else self.grant.client

    async def _require_own(self, order_id: str) -> None:
        client = self.grant.client
        assert self._owners is not None
        if client is None or not await self._owners.is_owner(client, order_id):
            raise ProblemError("not_found", f"there is no order {order_id}")


_NARROWER: Final = "ask for those, or use an auditor's key"
