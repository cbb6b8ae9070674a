"""The HTTP server: bounds of heads and connections, and a stop that tells every client before it closes."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from app.api.problems import ProblemError, response_of
from app.api.requests import BODY_BYTES_MAX
from app.api.streaming.deliveries import TEXTS
from app.api.streaming.sessions import Sessions

PING_SECONDS: Final = 20
SHUTDOWN_SECONDS: Final = 10
BACKLOG: Final = 2048
HEAD_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
HEAD_SECONDS: Final = 10.0
_LINE_BYTES: Final = 4
"""Of a header's colon, space and line end."""


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
    """uvicorn's, except that a client which takes no data cannot keep its connection after its session.

    It also sends several frames by one message, and one write; see :data:`TEXTS`.
    """

    async def run_asgi(self) -> None:
        """Serve the connection; then close it, at once where closing would wait for the client."""
        self.scope["extensions"][TEXTS] = {}
        await super().run_asgi()
        if not self.writable.is_set():
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send; of several frames, those before the last one wait for its write.

        A handshake that was answered with a refusal is complete, and no mistake to be logged.
        """
        texts = cast("dict[str, Any]", message).get(TEXTS)
        if texts is not None:
            await self.writable.wait()
            if not self.disconnected and not self.close_sent:
                try:
                    for text in texts[:-1]:
                        self.conn.send_text(text.encode())
                except InvalidState as error:
                    raise ClientDisconnected from error
            message = {"type": "websocket.send", "text": texts[-1]}
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol with bounds, which httptools does not have: it would collect a head without end."""

    _head_bytes = 0
    """Of the head that is being read, as far as it was parsed."""
    _unfinished_bytes = 0
    """Received since its beginning, parsed or not."""
    _is_open = True
    """A head has begun, or is waited for on a new connection, and is not complete."""
    _is_too_large = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._head_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it; a head that is not complete by then must not be too large already."""
        super().data_received(data)
        if not self._is_open or self.transport.is_closing():
            return
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > HEAD_BYTES_MAX:
            self._is_too_large = True
            self.send_400_response("")
        elif self._deadline is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._is_open, self._head_bytes, self._unfinished_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Count it."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count it."""
        self._grow(len(name) + len(value) + _LINE_BYTES)
        if len(self.headers) >= HEADERS_MAX:
            self._refuse()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the request begin."""
        self._head_complete()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or is too large to be, and close."""
        self._head_complete()
        if not self._is_too_large:
            super().send_400_response(msg)
            return
        detail = f"a request has at most {HEADERS_MAX} headers, and {HEAD_BYTES_MAX} bytes before its body"
        answer = response_of(ProblemError("headers_too_large", detail), "")
        head = [STATUS_LINE[HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE], b"connection: close\r\n"]
        head += [b"%s: %s\r\n" % header for header in answer.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(answer.body)]))
        self.transport.close()

    def _grow(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse()

    def _refuse(self) -> None:
        self._is_too_large = True
        raise _HeadTooLargeError

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_complete(self) -> None:
        self._is_open = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class HttpProtocol(BoundedHeads):
    """uvicorn's, except that an answer which is left unfinished, as its client takes no data, ends its connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._application = self.app
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        unfinished = False

        async def sending(message: ASGISendEvent) -> None:
            nonlocal unfinished
            await send(message)
            unfinished = message["type"] == "http.response.start" or bool(message.get("more_body"))

        await self._application(scope, receive, sending)
        if unfinished and not self.transport.is_closing():
            self.transport.abort()
            # Lets uvicorn take note that the connection is lost before it misses the rest of the answer.
            await asyncio.sleep(0)


def is_no_clients_mistake(record: logging.LogRecord) -> bool:
    """Whether uvicorn logs anything but that a client sent text which is not UTF-8: the client is closed with 1007."""
    return record.msg != "Invalid UTF-8 sequence received from client."


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
        logging.getLogger("uvicorn.error").addFilter(is_no_clients_mistake)
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
