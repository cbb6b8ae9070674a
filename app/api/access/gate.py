"""The gate: nothing reaches a route, and nothing leaves, without having passed it."""

from typing import Final

import msgspec
from msgspec import Struct
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access.doors import Doors
from app.api.access.entry import ENTRY, principal_of
from app.api.access.origins import is_allowed
from app.api.problems import ProblemError, response_of
from app.api.requests import read_query

TICKETS_PATH: Final = "/api/tickets"
PREFLIGHT_SECONDS: Final = 600
_SAFETY: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
"""On every answer that does not say otherwise itself."""
_METHODS: Final = "GET, POST, DELETE"
_SENT: Final = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"
_SHOWN: Final = "ETag, Idempotent-Replayed, Last-Event-ID, Location, OrderTape-Lag-Ms, OrderTape-Position, Retry-After"


class Gate:
    """Finds out who sent a request before anything is done about it."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            try:
                scope[ENTRY] = await self._doors.admit(scope)
            except ProblemError as problem:
                # The path of a request with a key in it is not repeated.
                path = "" if problem.code == "key_in_url" else scope["path"]
                await response_of(problem, path)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Envelope:
    """Puts the headers on every answer that keep browsers from misusing it, and answers preflights."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._allowed = doors.policy.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        shared = bool(self._allowed) and origin.lower() in self._allowed and is_allowed(headers, self._allowed)

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                _complete(MutableHeaders(scope=message), origin if shared else None, varies=bool(self._allowed))
            await send(message)

        if shared and scope["type"] == "http" and _is_preflight(scope, headers):
            await Response(status_code=204, headers=_preflight())(scope, receive, sending)
        else:
            await self._app(scope, receive, sending)


class Ticket(Struct, frozen=True, kw_only=True, rename="camel"):
    """A ticket, and until when it can be used."""

    ticket: str
    expires_at: str


class TicketRoutes:
    """``/api/tickets``."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route(TICKETS_PATH, self.issue, methods=["POST"])] if self._doors.keyring is not None else []

    async def issue(self, request: Request) -> Response:
        """Issue a ticket: 201."""
        read_query(request, ())
        ticket, expires_at = await self._doors.issue_ticket(principal_of(request))
        return Response(
            msgspec.json.encode(Ticket(ticket=ticket, expires_at=expires_at)), 201, media_type="application/json"
        )


def _complete(headers: MutableHeaders, origin: str | None, *, varies: bool) -> None:
    for name, value in _SAFETY:
        headers.setdefault(name, value)
    if varies:
        headers.add_vary_header("Origin")
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _SHOWN


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _preflight() -> dict[str, str]:
    return {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _SENT,
        "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
    }
