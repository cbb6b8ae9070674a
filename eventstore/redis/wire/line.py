"""One connection to one Redis server: who that is, and one round trip at a time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

from hiredis import Reader, pack_command
from redis.asyncio import Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from eventstore.errors import ConnectionLostError, StoreUnavailableError

_READ_BYTES: Final = 65536
_NOT_ENOUGH: Final = object()

Command: TypeAlias = bytes
"""A command in the form it is sent."""


class RefusedError(StoreUnavailableError):
    """The server refused a command with ``code`` (``OOM``, ``NOSCRIPT``, ``ERR``…): see its message."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the Redis server refused a command: {text}")
        self.code = text.partition(" ")[0]
        self.text = text

    @property
    def demoted(self) -> bool:
        """Whether the server is no longer the master that the connection was opened to."""
        return self.code in ("READONLY", "MASTERDOWN", "UNBLOCKED")


class Server:
    """An address, and how connections to it are made: as ``url`` says, each command being sent once.

    Args:
        host: with ``port``, another server that takes the same credentials; by default the one of ``url``.
    """

    def __init__(self, url: str, timeout_seconds: float, host: str | None = None, port: int = 0) -> None:
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        options = dict(pool.connection_kwargs)
        kind = pool.connection_class
        if host is not None:
            options.pop("path", None)
            options |= {"host": host, "port": port}
            kind = Connection if kind is UnixDomainSocketConnection else kind
        self._kind: type[AbstractConnection] = kind
        self._options = options
        self.url: Final = url
        self.timeout_seconds: Final = timeout_seconds
        self.host: Final[str] = str(options.get("path") or options.get("host") or "localhost")
        self.port: Final[int] = 0 if "path" in options else int(options.get("port") or 6379)

    @property
    def address(self) -> str:
        """``host:port``, or the path of a socket."""
        return f"{self.host}:{self.port}" if self.port else self.host

    def connection(self) -> AbstractConnection:
        """Return a new connection, not yet connected."""
        return self._kind(**self._options)


def pack(*parts: str | bytes | float) -> bytes:
    """Return a command in the form it is sent."""
    return cast("bytes", cast("Any", pack_command)(parts))


_INTRODUCTION: Final = (pack("INFO", "replication"), pack("INFO", "cluster"))


class Line:
    """A connection that is made at first use and again after it was lost; for one user at a time.

    Args:
        lost: called whenever an open connection was lost.
    """

    def __init__(self, server: Server, lost: Callable[[], None]) -> None:
        self._server = server
        self._lost = lost
        self._connection: AbstractConnection | None = None
        self._replies = Reader()
        self._introduced = False
        self._replica = False
        self._connecting: asyncio.Timeout | None = None
        self.clustered = False

    async def ready(self, *, any_role: bool = False) -> None:
        """Connect, unless connected, and learn whose server it is.

        Args:
            any_role: a replica will do.

        Raises:
            StoreUnavailableError: there is no connection, or the server is a replica; nothing was sent.
        """
        if self._connection is not None and self._broken():
            self.drop()
        if self._connection is None:
            await self._connect()
        if self._replica and not any_role:
            self.close()
            raise StoreUnavailableError(f"the Redis server at {self._server.address} is a replica")

    def _broken(self) -> bool:
        stream = self._stream
        return stream.at_eof() or stream.exception() is not None or self._transport.is_closing()

    async def _connect(self) -> None:
        connection = self._server.connection()
        try:
            async with asyncio.timeout(self._server.timeout_seconds) as self._connecting:
                await cast("Any", connection).connect()
                self._connection = connection
            self._connecting = None
            self._replies = Reader(ConnectionError, RefusedError, notEnoughData=_NOT_ENOUGH)
            await self._introduce()
        except (RedisError, OSError, ConnectionLostError) as error:
            raise StoreUnavailableError(f"cannot connect to the Redis server: {error}") from error
        finally:
            self._connecting = None
            if not self._introduced:
                self._connection = None
                _cut(connection)

    async def _introduce(self) -> None:
        for reply in (replies := await self.exchange(_INTRODUCTION, 2)):
            if isinstance(reply, RefusedError):
                raise reply
        replication, cluster = map(info_of, replies)
        self._replica = replication.get("role") == "slave"
        self.clustered = cluster.get("cluster_enabled") == "1"
        self._introduced = True

    async def exchange(self, commands: Sequence[Command], count: int, extra_seconds: float = 0) -> list[Any]:
        """Send ``commands`` and return their ``count`` replies; a refusal is a :class:`RefusedError` among them.

        Args:
            extra_seconds: how long the server may wait before it answers.

        Raises:
            ConnectionLostError: any of them may or may not have run; the connection is dropped.
        """
        replies: list[Any] = []
        whole = False
        try:
            async with asyncio.timeout(self._server.timeout_seconds + extra_seconds):
                writer = self._writer
                writer.write(b"".join(commands))
                await writer.drain()
                await self._read(replies, count)
            whole = not self._replies.has_data()
        except (OSError, EOFError) as error:
            raise ConnectionLostError(f"{self._server.address}: {type(error).__name__}: {error}") from error
        finally:
            # Whatever ended this early (cancellation, too) leaves replies under way that belong to nobody.
            if not whole:
                self.drop()
        return replies

    async def _read(self, replies: list[Any], count: int) -> None:
        reader, stream = self._replies, self._stream
        while len(replies) < count:
            reply = reader.gets()
            if reply is not _NOT_ENOUGH:
                replies.append(reply)
                continue
            data = await stream.read(_READ_BYTES)
            if not data:
                raise EOFError("the server closed the connection")
            reader.feed(data)

    def drop(self) -> None:
        """Give an open connection up as lost. Idempotent."""
        if self._connection is not None:
            self.close()
            self._lost()

    def close(self) -> None:
        """Cut the connection, also one that is being made. Idempotent."""
        if self._connecting is not None:
            self._connecting.reschedule(0)
            self._connecting = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._introduced = False
            _cut(connection)

    # redis-py makes the connection; its reading of replies costs several times as much as what is done here.

    @property
    def _stream(self) -> asyncio.StreamReader:
        return cast("asyncio.StreamReader", cast("Any", self._connection)._reader)

    @property
    def _writer(self) -> asyncio.StreamWriter:
        return cast("asyncio.StreamWriter", cast("Any", self._connection)._writer)

    @property
    def _transport(self) -> asyncio.BaseTransport:
        return self._writer.transport


def _cut(connection: AbstractConnection) -> None:
    parts = cast("Any", connection)
    if parts._writer is not None:
        # What is still to be written must not hold the socket open.
        parts._writer.transport.abort()
        parts._close()


def info_of(reply: bytes) -> dict[str, str]:
    """Return the fields of an INFO reply."""
    lines = reply.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
