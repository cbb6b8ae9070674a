"""A TCP proxy between clients and a server that loses, delays, repeats and refuses what a test tells it to."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter, deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote

from sqlalchemy import make_url

from app.embedded.addresses import LOOPBACK
from tests.servers.resp import Frames
from tests.servers.single import unused_port

CHUNK_BYTES = 65_536
CONTROL_SECONDS_MAX = 10

Fault = Literal["drop_request", "drop_reply", "duplicate_request"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Chance:
    probability: float
    containing: bytes


class Proxy:
    """Stands between clients and ``target``, in a thread of its own; use it by ``with`` or ``async with``.

    Its methods may be called from any thread and take effect before they return. Faults are drawn for each request, by
    a generator for each connection that is seeded by ``seed`` and the connection's number. All faults are off at first.

    PostgreSQL's bytes are not understood: :meth:`delay`, :meth:`stall`, :meth:`refuse` and :meth:`cut_all` work.

    Args:
        target: ``redis://host:port``, ``unix://path`` or a PostgreSQL URL, by socket or not; without TLS.
        resp: whether to cut what passes into requests and replies; by default, unless the target is PostgreSQL.
    """

    def __init__(self, target: str, *, seed: int = 0, resp: bool | None = None) -> None:
        self.port = unused_port()
        self.seed = seed
        self.done: Counter[Fault] = Counter()
        """How often each fault happened."""
        self._target = make_url(target)
        self.resp = self._target.drivername in {"redis", "unix"} if resp is None else resp
        self._chances: dict[Fault, _Chance] = {}
        self._delay_ms = (0, 0)
        self._numbers = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._repeats: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect: the target's URL with the proxy's address."""
        if self._target.drivername == "unix":
            return f"redis://{LOOPBACK}:{self.port}"
        own = self._target.set(host=LOOPBACK, port=self.port).difference_update_query(["host", "port"])
        return own.render_as_string(hide_password=False)

    @property
    def target(self) -> str:
        """Where the proxy connects. When it is set, existing connections are cut."""
        return self._target.render_as_string(hide_password=False)

    @target.setter
    def target(self, target: str) -> None:
        self._target = make_url(target)
        self.cut_all()

    def drop_request(self, probability: float, *, containing: bytes = b"") -> None:
        """Cut the connection instead of forwarding a request: nothing of it is executed.

        Args:
            probability: 0 to 1 for each request; 0 switches the fault off.
            containing: only requests with these bytes, such as ``b"EVALSHA"``, have the fault.
        """
        self._chances["drop_request"] = _Chance(probability, containing)

    def drop_reply(self, probability: float, *, containing: bytes = b"") -> None:
        """Cut the connection instead of delivering a reply: the request was executed. See :meth:`drop_request`."""
        self._chances["drop_reply"] = _Chance(probability, containing)

    def duplicate_request(self, probability: float, *, containing: bytes = b"") -> None:
        """Like :meth:`drop_reply`; then the request is sent a second time, alone, on a new connection to the target."""
        self._chances["duplicate_request"] = _Chance(probability, containing)

    def delay(self, ms_min: int, ms_max: int) -> None:
        """Hold what a client sends for a drawn time before it is forwarded; ``delay(0, 0)`` switches this off."""
        self._delay_ms = (ms_min, ms_max)

    def calm(self) -> None:
        """Switch every fault off; connections are accepted again, and what was stalled flows."""
        self._chances.clear()
        self._delay_ms = (0, 0)
        self.flow()
        self.accept()

    def stall(self) -> None:
        """Let no byte pass in either direction, while connections stay open and are accepted; see :meth:`flow`."""
        self._call(self._set_flow(False))

    def flow(self) -> None:
        """End :meth:`stall`: what was held is delivered, but for connections that were cut."""
        self._call(self._set_flow(True))

    def refuse(self) -> None:
        """Refuse new connections; those that exist stay. See :meth:`accept`. Idempotent."""
        self._call(self._stop_listening())

    def accept(self) -> None:
        """Accept new connections again, at the same address. Idempotent."""
        self._call(self._listen())

    def cut_all(self) -> None:
        """Cut every connection; what was held for it is lost."""
        self._call(self._cut_all())

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CONTROL_SECONDS_MAX)
            self._loop.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _call(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_SECONDS_MAX)

    async def _set_flow(self, on: bool) -> None:
        if on:
            self._flowing.set()
        else:
            self._flowing.clear()

    # asyncio's own server, up to Python 3.11, leaks a connection that it is accepting while it is closed.
    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self.port))
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept_one, self._listener)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept_one(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        self._numbers += 1
        task = self._loop.create_task(self._serve(client, random.Random(f"{self.seed}/{self._numbers}")))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # A task that is cancelled before its first step closes nothing.
        task.add_done_callback(lambda _: client.close())

    async def _serve(self, client: socket.socket, chance: random.Random) -> None:
        with suppress(OSError):
            await _Connection(self, await asyncio.open_connection(sock=client), chance).run()

    async def _cut_all(self) -> None:
        await _cancelled(self._connections)

    async def _close(self) -> None:
        await self._stop_listening()
        await _cancelled(self._connections | self._repeats)

    async def connect(self) -> Streams:
        """A new connection to the target."""
        url = self._target
        if url.drivername == "unix":
            return await asyncio.open_unix_connection("/" + unquote(url.database or ""))
        host = url.query.get("host", url.host or LOOPBACK)
        if isinstance(host, str) and host.startswith("/"):
            return await asyncio.open_unix_connection(Path(host) / f".s.PGSQL.{url.port or 5432}")
        return await asyncio.open_connection(url.host, url.port)

    def fate(self, request: bytes, chance: random.Random) -> Fault | None:
        """What shall happen to a request."""
        for fault, fault_chance in list(self._chances.items()):
            if fault_chance.containing in request and chance.random() < fault_chance.probability:
                return fault
        return None

    async def hold(self, chance: random.Random) -> None:
        """Wait for the drawn delay, and until bytes may flow."""
        if self._delay_ms != (0, 0):
            await asyncio.sleep(chance.randint(*self._delay_ms) / 1000)
        await self._flowing.wait()

    async def flowing(self) -> None:
        """Wait until bytes may flow."""
        await self._flowing.wait()

    def repeat(self, request: bytes) -> None:
        """Send ``request`` alone on a new connection, and wait for its reply in the background."""
        task = asyncio.get_running_loop().create_task(self._repeated(request))
        self._repeats.add(task)
        task.add_done_callback(self._repeats.discard)

    async def _repeated(self, request: bytes) -> None:
        with suppress(OSError):
            reader, writer = await self.connect()
            try:
                writer.write(request)
                frames = Frames()
                while data := await reader.read(CHUNK_BYTES):
                    if frames.fed(data):
                        self.done["duplicate_request"] += 1
                        return
            finally:
                await _closed(writer)


class _Connection:
    """One client's connection and its counterpart at the target; the end of one is the end of the other."""

    def __init__(self, proxy: Proxy, client: Streams, chance: random.Random) -> None:
        self._proxy = proxy
        self._client = client
        self._chance = chance
        self._outstanding: deque[tuple[Fault | None, bytes]] = deque()

    async def run(self) -> None:
        """Forward both directions until one ends; a cancellation cuts both connections at once."""
        writers = [self._client[1]]
        try:
            upstream = await self._proxy.connect()
            writers.append(upstream[1])
            await self._pump(*upstream)
            await _closed(*writers)
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pumps = [asyncio.create_task(self._requests(writer)), asyncio.create_task(self._replies(reader))]
        try:
            ended, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        for pump in ended:
            pump.result()

    async def _requests(self, upstream: asyncio.StreamWriter) -> None:
        frames = Frames()
        while data := await self._client[0].read(CHUNK_BYTES):
            await self._proxy.hold(self._chance)
            for request in frames.fed(data) if self._proxy.resp else [data]:
                fate = self._proxy.fate(request, self._chance) if self._proxy.resp else None
                if fate == "drop_request":
                    self._proxy.done[fate] += 1
                    return
                self._outstanding.append((fate, request if fate else b""))
                upstream.write(request)
            await upstream.drain()

    async def _replies(self, upstream: asyncio.StreamReader) -> None:
        frames = Frames()
        while data := await upstream.read(CHUNK_BYTES):
            await self._proxy.flowing()
            for reply in frames.fed(data) if self._proxy.resp else [data]:
                # Messages of a subscription answer no request.
                fate, request = self._outstanding.popleft() if self._outstanding else (None, b"")
                if fate == "drop_reply":
                    self._proxy.done[fate] += 1
                    return
                if fate == "duplicate_request":
                    self._proxy.repeat(request)
                    return
                self._client[1].write(reply)
            await self._client[1].drain()


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    for writer in writers:
        with suppress(OSError):
            await writer.wait_closed()
