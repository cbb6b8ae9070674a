"""The HTTP server: limits, and a stop that tells every client before it closes."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.api.requests import BODY_BYTES_MAX
from app.api.streaming.sessions import Sessions

PING_SECONDS: Final = 20
SHUTDOWN_SECONDS: Final = 10
BACKLOG: Final = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 takes a free one, see :func:`address_of`.

    Raises:
        OSError: the address is in use, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    created = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Made anew from its number, it knows its protocol, TCP: asyncio turns delays off for such sockets only.
    return socket.socket(fileno=created.detach())


def address_of(listener: socket.socket) -> str:
    """Return the ``http://`` address that a listening socket answers at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, except that a client which takes no data cannot keep its connection after its session."""

    async def run_asgi(self) -> None:
        """Serve the connection; then close it, at once where closing would wait for the client."""
        await super().run_asgi()
        if not self.writable.is_set():
            self.transport.abort()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, except that an answer which is left unfinished, as its client takes no data, ends its connection."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def served(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            await app(scope, receive, send)
            if cycle.response_started and not cycle.response_complete and not cycle.disconnected:
                cycle.disconnected = True
                self.transport.abort()

        super()._start_asgi_task(cycle, served)


class Server(uvicorn.Server):
    """Serves one application in the caller's event loop.

    Args:
        application: see :func:`app.api.application.create_application`.
    """

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                lifespan="on",
                http=HttpProtocol,
                ws=WebSocketProtocol,
                ws_max_size=BODY_BYTES_MAX,
                ws_ping_interval=PING_SECONDS,
                ws_ping_timeout=PING_SECONDS,
                ws_per_message_deflate=False,
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._sessions = cast(Sessions, application.state.sessions)
        self._failed = cast(asyncio.Event, application.state.failed)

    async def serve_until(self, stopping: asyncio.Event, listener: socket.socket) -> None:
        """Serve ``listener`` until ``stopping`` is set; then drain, and close it.

        Raises:
            SystemExit: the application did not start, or can do its work no longer; the log says why.
        """
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self._exit_when(event)) for event in (stopping, self._failed)]
            await self.serve([listener])
            for task in watching:
                task.cancel()
        if self._failed.is_set():
            raise SystemExit("the event log can no longer be followed: see the log")

    async def _exit_when(self, event: asyncio.Event) -> None:
        await event.wait()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain the WebSockets and the event streams, then stop as uvicorn does."""
        await self._sessions.drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: the caller sets ``stopping``."""
        yield
