"""Whether this process lives, and whether it can serve."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.streaming.sessions import Sessions
from app.api.streaming.tailer import Tailer
from app.clock import Clock
from eventstore.errors import StoreUnavailableError
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.errors import ProjectionError
from projections.schema.migrations import require_schema

CHECK_SECONDS: Final = 2
LOG_SILENCE_SECONDS_MAX: Final = 10
"""An idle log still answers every two seconds."""


class Liveness(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Health(Struct, frozen=True):
    """The process answers, and which version it is."""

    status: Literal["ok"]
    version: str


class Check(Struct, frozen=True, omit_defaults=True):
    """What one check found; ``problem`` is absent when it found none."""

    ok: bool
    ms: int
    problem: str | None = None


class Readiness(Struct, frozen=True):
    """Whether orders can be accepted, streamed and listed; each check by its name."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, Check]


class _NotReadyError(Exception):
    """Why a check fails, for an operator."""


class HealthRoutes:
    """``/livez``, ``/readyz`` and ``/health``, which is ``/api/health``, too."""

    def __init__(
        self,
        *,
        store: EventStore,
        database: AsyncEngine,
        tailer: Tailer,
        sessions: Sessions,
        clock: Clock,
        version: str,
    ) -> None:
        self._store = store
        self._database = database
        self._tailer = tailer
        self._sessions = sessions
        self._clock = clock
        self._version = version

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/livez", self.alive),
            Route("/readyz", self.ready),
            Route("/health", self.health),
            Route("/api/health", self.health),
        ]

    async def alive(self, _: Request) -> Response:
        """Answer: the event loop turns."""
        return _json(Liveness("ok"))

    async def health(self, _: Request) -> Response:
        """Answer, with the version."""
        return _json(Health("ok", self._version))

    async def ready(self, _: Request) -> Response:
        """Answer 200 if orders can be accepted, streamed and listed; 503, and which check says so, if not."""
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "store": self._store_answers,
            "database": self._database_answers,
            "log": self._log_is_followed,
            "accepting": self._sockets_are_welcome,
        }
        found = dict(zip(checks, await asyncio.gather(*map(self._check, checks.values())), strict=True))
        ready = all(check.ok for check in found.values())
        return _json(Readiness("ready" if ready else "unavailable", found), 200 if ready else 503)

    async def _check(self, check: Callable[[], Awaitable[None]]) -> Check:
        started_us = self._clock.now_us()
        problem = None
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check()
        except TimeoutError:
            problem = f"no answer within {CHECK_SECONDS} s"
        except _NotReadyError as error:
            problem = str(error)
        return Check(problem is None, (self._clock.now_us() - started_us) // 1000, problem)

    async def _store_answers(self) -> None:
        try:
            await self._store.log_ends()
        except StoreUnavailableError as error:
            raise _NotReadyError("the event store does not answer") from error

    async def _database_answers(self) -> None:
        try:
            await require_schema(self._database)
        except ProjectionError as error:
            raise _NotReadyError(str(error)) from error
        except DATABASE_OUTAGES as error:
            raise _NotReadyError("the database does not answer") from error

    async def _log_is_followed(self) -> None:
        read_at_us = self._tailer.read_at_us
        if read_at_us is None:
            raise _NotReadyError("the log is not followed")
        silence_us = self._clock.now_us() - read_at_us
        if silence_us > LOG_SILENCE_SECONDS_MAX * 1_000_000:
            raise _NotReadyError(f"the log has not answered for {silence_us // 1_000_000} s")

    async def _sockets_are_welcome(self) -> None:
        if self._sessions.refusal is not None:
            raise _NotReadyError(self._sessions.refusal.reason)


def _json(body: Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
