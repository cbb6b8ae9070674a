"""The ASGI application: routes, the tailer's life, and the edge where unforeseen errors end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.api.access.doors import AccessPolicy, Doors
from app.api.access.entry import entry_of
from app.api.access.gate import Envelope, Gate, TicketRoutes
from app.api.description.routes import DescriptionRoutes
from app.api.families.dialects import FAMILIES, Family
from app.api.health import HealthRoutes
from app.api.market.quotes import QuoteRoutes
from app.api.market.tokens import TokenRoutes
from app.api.market.volumes import VolumeRoutes
from app.api.orders.freshness import Freshness
from app.api.orders.intake import Intake, OrderLimits
from app.api.orders.routes import OrderRoutes
from app.api.orders.statistics import StatisticsRoutes
from app.api.problems import (
    LOG_LOST,
    LOG_REWOUND,
    ProblemError,
    answer_problem,
    answer_routing_error,
    pages,
    response_of,
)
from app.api.streaming.eventstream import StreamRoutes
from app.api.streaming.ring import Ring
from app.api.streaming.sessions import Sessions, SocketLimits
from app.api.streaming.snapshots import Snapshots
from app.api.streaming.subscriptions import Source
from app.api.streaming.tailer import LogRewoundError, Tailer
from app.api.streaming.websocket import serve_socket
from app.clock import Clock
from app.execution.quoting import Quoting
from app.execution.streams import OrderStreams
from eventstore.store import EventStore

RING_FRAMES_MAX: Final = 20_000
RING_CHARACTERS_MAX: Final = 32 * 1024 * 1024
INTERNAL_ERROR_CLOSE: Final = 4500

log: Final = logging.getLogger(__name__)


class Services(Struct, frozen=True, kw_only=True):
    """What the API works with; whoever made these closes them, after the application has shut down."""

    store: EventStore
    streams: OrderStreams
    database: AsyncEngine
    clock: Clock
    version: str
    orders: OrderLimits = OrderLimits()
    sockets: SocketLimits = SocketLimits()
    quoting: Quoting | None = None
    """None: no quotes are given."""
    access: AccessPolicy = AccessPolicy()
    ring_frames_max: int = RING_FRAMES_MAX
    ring_characters_max: int = RING_CHARACTERS_MAX


def create_application(services: Services, pages: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application, with ``pages`` beside the API; it starts working in its lifespan.

    ``state.sessions`` are its :class:`Sessions`; ``state.failed`` is set when it can do its work no longer: end it.
    """
    failed = asyncio.Event()
    doors = Doors(services.access, services.store, services.database)
    ring = Ring(frames_max=services.ring_frames_max, characters_max=services.ring_characters_max)
    tailer = Tailer(services.store, ring, services.clock)
    intake = Intake(services.streams, services.store, services.orders)
    freshness = Freshness(services.store, services.database, services.clock)
    sessions = Sessions(
        source=Source(services.store, ring, Snapshots(services.store, services.database)),
        intake=intake,
        ring=ring,
        clock=services.clock,
        limits=services.sockets,
        version=services.version,
    )
    health = HealthRoutes(
        store=services.store,
        database=services.database,
        tailer=tailer,
        sessions=sessions,
        clock=services.clock,
        version=services.version,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await tailer.start()
        await doors.start()
        async with asyncio.TaskGroup() as tasks:
            work = (_follow(tailer, sessions, failed), sessions.run(), doors.run())
            working = [tasks.create_task(one) for one in work]
            yield
            for task in working:
                task.cancel()
        await intake.close()
        await freshness.close()

    application = Starlette(
        routes=[
            *_sockets(sessions),
            *_routes(services, intake, freshness),
            *StreamRoutes(sessions).routes(),
            *TicketRoutes(doors).routes(),
            *health.routes(),
            *pages,
        ],
        middleware=[Middleware(Envelope, doors), Middleware(Edge), Middleware(Gate, doors)],
        exception_handlers={ProblemError: answer_problem, HTTPException: answer_routing_error},
        lifespan=lifespan,
    )
    application.state.sessions = sessions
    application.state.failed = failed
    return application


def _sockets(sessions: Sessions) -> list[BaseRoute]:
    async def serve(socket: WebSocket, family: Family) -> None:
        await serve_socket(socket, sessions, family, entry_of(socket))

    return [WebSocketRoute(path, partial(serve, family=family)) for path, family in FAMILIES.items()]


def _routes(services: Services, intake: Intake, freshness: Freshness) -> list[BaseRoute]:
    """Return the routes that are answered with one body."""
    store, database, clock = services.store, services.database, services.clock
    return [
        # Before orders, whose ids would be any word.
        *StatisticsRoutes(store, database, freshness).routes(),
        *OrderRoutes(intake, store, database, freshness, clock).routes(),
        *VolumeRoutes(database, freshness, store.partitions).routes(),
        *QuoteRoutes(services.quoting, clock).routes(),
        *TokenRoutes().routes(),
        *pages.routes(),
        *DescriptionRoutes(services.version).routes(),
    ]


async def _follow(tailer: Tailer, sessions: Sessions, failed: asyncio.Event) -> None:
    try:
        while True:
            try:
                await tailer.run()
            except LogRewoundError as error:
                for partition, cursor in error.cursors.items():
                    facts = {"partition": partition, "cursor": str(cursor), "problem": str(error.__cause__)}
                    log.error("log_forked", extra=facts)
                sessions.refuse(LOG_REWOUND)
                await tailer.take_up(error)
                sessions.welcome()
    except Exception:
        log.exception("tailer_failed")
        failed.set()
    finally:
        # Whatever ended it: no subscriber may believe that silence means that nothing happens.
        sessions.refuse(LOG_LOST)


class Edge:
    """Ends a request whose handling failed in a way nobody foresaw: logged once, told to the client, no details."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sending if scope["type"] == "http" else send)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("request_failed", extra={"path": scope.get("path")})
            if scope["type"] == "websocket":
                with suppress(RuntimeError, OSError):
                    await send({"type": "websocket.close", "code": INTERNAL_ERROR_CLOSE, "reason": "internal error"})
            elif started:
                raise
            else:
                problem = ProblemError("internal", "the server could not handle this request; its log says why")
                await response_of(problem, scope["path"])(scope, receive, send)
