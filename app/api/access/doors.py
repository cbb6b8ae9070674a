"""Everything that decides who comes in: keys, tickets, limits and origins of one process."""

import asyncio
import secrets
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote_plus, urlencode

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers
from starlette.types import Scope

from app.api.access.connections import Connections
from app.api.access.entry import Entry
from app.api.access.keyring import REFRESH_SECONDS, STALE_SECONDS_MAX, Keyring
from app.api.access.keys import KEY_LIKE, TICKET, digest_of, new_ticket
from app.api.access.limits import BURST_SECONDS, FAILURES_BURST, FAILURES_PER_SECOND, AccessLimits, Buckets
from app.api.access.origins import require_allowed, require_local_name
from app.api.access.owners import Owners
from app.api.access.principal import EVERYTHING, Principal
from app.api.problems import UNAUTHENTICATED, ProblemError, unavailable
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.queries.keys import add_ticket, use_ticket

TICKET_SECONDS: Final = 30
PUBLIC: Final = frozenset(
    {"/", "/api/asyncapi.json", "/api/health", "/api/openapi.json", "/dashboard", "/docs", "/health"}
    | {"/livez", "/problems", "/readyz"}
)
PUBLIC_BELOW: Final = ("/dashboard/", "/docs/", "/problems/")
"""What is answered to everybody who asks with GET, and where all that is below is."""
_KEY_PARAMETERS: Final = frozenset({"token", "key", "apikey", "api_key", "access_token", "authorization", "auth"})
_NO_KEY: Final = (
    "send an active key: Authorization: Bearer otk_… over HTTP and on the handshake of a WebSocket, or hello with "
    "token as its first message; a browser's EventSource takes a ticket of POST /api/tickets"
)


class AccessPolicy(Struct, frozen=True, kw_only=True):
    """Who may use the API."""

    mode: Literal["open", "keys"] = "open"
    """``open``: whoever reaches it, and does not come from a foreign web page."""
    allowed_origins: frozenset[str] = frozenset()
    """Of web pages elsewhere, in lower case, such as ``https://desk.example``."""
    limits: AccessLimits = AccessLimits()
    refresh_seconds: float = REFRESH_SECONDS
    """Between two looks at which keys are active."""
    stale_seconds_max: float = STALE_SECONDS_MAX
    """How long those that were so last are taken for it."""


class Doors:
    """Admits requests and sockets."""

    def __init__(self, policy: AccessPolicy, store: EventStore, database: AsyncEngine) -> None:
        self.policy: Final = policy
        limits = policy.limits
        self._database = database
        self._owners = Owners(store)
        self._connections = Connections(limits, self._is_active)
        keyring = Keyring(
            database,
            self._connections.end_keys,
            refresh_seconds=policy.refresh_seconds,
            stale_seconds_max=policy.stale_seconds_max,
        )
        self.keyring: Final = keyring if policy.mode == "keys" else None
        """None where no keys are asked for."""
        self._failures = Buckets(FAILURES_PER_SECOND, FAILURES_BURST, _now)
        rate = limits.requests_per_second
        self._requests = Buckets(rate, rate * BURST_SECONDS, _now) if rate else None

    async def start(self) -> None:
        """Read the keys, if any are asked for; raises as :meth:`Keyring.start`."""
        if self.keyring is not None:
            await self.keyring.start()

    async def run(self) -> None:
        """Keep the keys up to date, if any are asked for, until cancelled."""
        if self.keyring is not None:
            await self.keyring.run()

    async def admit(self, scope: Scope) -> Entry:
        """Return who sent a request or opens a socket; a ticket is taken out of its query.

        Raises:
            ProblemError: it is not answered.
        """
        headers = Headers(scope=scope)
        address = scope["client"][0] if scope.get("client") else ""
        if _changes_or_stays(scope):
            require_allowed(headers, self.policy.allowed_origins)
        if self.keyring is None:
            require_local_name(headers)
            self._take_request(address)
            return self._entry(address, Principal(EVERYTHING, self._owners))
        _refuse_key_in_url(scope)
        ticket = _take_ticket(scope)
        token = _bearer(headers)
        if token is not None and ticket is not None:
            raise ProblemError("invalid_query", "give a key or a ticket, not both")
        if _is_public(scope):
            self._take_request(address)
            return self._entry(address, None)
        if scope["type"] == "websocket" and token is None:
            return await self._entry_of_socket(address, ticket)
        known = await self._known(token, ticket, address)
        self._take_request(known.grant.key_id or "")
        return self._entry(address, known)

    async def issue_ticket(self, principal: Principal) -> tuple[str, str]:
        """Return a ticket that stands for a key once, and when it ends.

        It is kept in PostgreSQL, beside the keys, where every process sees it and one statement uses it up; nothing
        that signs tickets needs to be shared.

        Raises:
            ProblemError: ``unavailable``.
        """
        key_id = principal.grant.key_id
        assert key_id is not None, "where no keys are asked for there is nothing that a ticket could stand for"
        ticket = new_ticket(secrets.token_bytes)
        try:
            return ticket, await add_ticket(self._database, digest_of(ticket), key_id, TICKET_SECONDS)
        except DATABASE_OUTAGES as error:
            raise unavailable("no ticket was issued: ask again, or use the key itself") from error

    def _entry(self, address: str, known: Principal | None, *, refused: bool = False) -> Entry:
        closing = UNAUTHENTICATED if refused else None
        return Entry(address, known, self._connections, self.policy.limits, self._recognize, closing)

    async def _entry_of_socket(self, address: str, ticket: str | None) -> Entry:
        # Nothing but a close code reaches a browser, so what is wrong is told by one.
        if ticket is None:
            return self._entry(address, None)
        try:
            return self._entry(address, await self._holder(ticket, address))
        except ProblemError as problem:
            if problem.code != "unauthenticated":
                raise
            return self._entry(address, None, refused=True)

    async def _known(self, token: str | None, ticket: str | None, address: str) -> Principal:
        if ticket is not None:
            return await self._holder(ticket, address)
        if token is None:
            raise self._failed(address, _NO_KEY)
        return await self._recognize(token, address)

    async def _recognize(self, token: str, address: str) -> Principal:
        if self.keyring is None:
            return Principal(EVERYTHING, self._owners)
        grant = await self.keyring.recognize(token)
        if grant is None:
            raise self._failed(address, f"this key opens nothing, or nothing any more: {_NO_KEY}")
        return Principal(grant, self._owners)

    async def _holder(self, ticket: str, address: str) -> Principal:
        assert self.keyring is not None
        key_id = None
        if TICKET.fullmatch(ticket):
            try:
                key_id = await use_ticket(self._database, digest_of(ticket))
            except DATABASE_OUTAGES as error:
                raise unavailable("the ticket cannot be checked: ask again, or use the key itself") from error
        grant = None if key_id is None else self.keyring.grant_of(key_id)
        if grant is None:
            detail = f"this ticket is none, was used, or is older than {TICKET_SECONDS} s: get another one"
            raise self._failed(address, detail)
        return Principal(grant, self._owners)

    def _is_active(self, key_id: str) -> bool:
        return self.keyring is not None and self.keyring.is_active(key_id)

    def _failed(self, address: str, detail: str) -> ProblemError:
        wait = self._failures.take(address)
        if wait:
            return _rate_limited("requests of this address without an active key", wait)
        return ProblemError("unauthenticated", detail)

    def _take_request(self, name: str) -> None:
        wait = self._requests.take(name) if self._requests is not None else 0.0
        if wait:
            raise _rate_limited("requests", wait)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _rate_limited(what: str, wait: float) -> ProblemError:
    wait_ms = int(wait * 1_000) + 1
    detail = f"too many {what}: nothing was done about this one, send it again in {wait_ms} ms"
    return ProblemError("rate_limited", detail, retryAfterMs=wait_ms)


def _is_public(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return scope["path"] in PUBLIC or str(scope["path"]).startswith(PUBLIC_BELOW)


def _is_stream(scope: Scope) -> bool:
    return scope["type"] == "websocket" or str(scope["path"]).endswith("/stream")


def _changes_or_stays(scope: Scope) -> bool:
    """Whether a foreign page could do harm by the request, although no answer is shown to it."""
    return _is_stream(scope) or scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _bearer(headers: Headers) -> str | None:
    """Return the token of the header Authorization, whatever it is worth; None without one."""
    given = headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if len(given) == 1 and scheme.lower() == "bearer" else ""


def _refuse_key_in_url(scope: Scope) -> None:
    query = scope["query_string"].decode("latin-1")
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if names & _KEY_PARAMETERS or KEY_LIKE.search(unquote_plus(query)) or KEY_LIKE.search(scope["path"]):
        raise ProblemError(
            "key_in_url",
            "addresses are written into logs and histories, so a key in one is refused: if it was a real one, revoke "
            "it (ordertape keys revoke). Send it as Authorization: Bearer, or use a ticket of POST /api/tickets",
        )


def _take_ticket(scope: Scope) -> str | None:
    if b"ticket=" not in scope["query_string"]:
        return None
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    tickets = [value for name, value in pairs if name == "ticket"]
    if not tickets:
        return None
    if len(tickets) > 1 or not _is_stream(scope):
        raise ProblemError("invalid_query", "a ticket is given once, to an event stream or a WebSocket")
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "ticket"]).encode()
    return str(tickets[0])
