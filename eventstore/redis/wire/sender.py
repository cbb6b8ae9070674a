"""The commands of concurrent callers, sent together: over one connection, and over another where they wait."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from eventstore.errors import ConnectionLostError, StoreUnavailableError
from eventstore.redis.wire.line import Command, Line, RefusedError, Server, pack

MAX_PIPELINE: Final = 128
"""Most commands in one round trip."""

_CLOSED: Final = "the connection to the Redis server is closed"
_ASKING: Final = pack("ASKING")


class Durability(Struct, frozen=True, kw_only=True):
    """What a write waits for on its own connection."""

    replicas: int = 0
    """Replicas whose acknowledgement WAIT waits for."""
    flushed: bool = False
    """WAITAOF: until the server's own append-only file is flushed."""
    timeout_ms: int = 1000


class Written(Struct, frozen=True):
    """The reply of a write, and what the server then said of its durability.

    ``replicas`` acknowledged it; ``flushed``: it is in the server's append-only file. Both may be less than was
    waited for, and are 0 and False where the server refused to wait: compare them.
    """

    reply: Any
    replicas: int
    flushed: bool


class _Entry:
    """One command of one caller."""

    __slots__ = ("asking", "command", "durability", "future")

    def __init__(
        self, command: Command, durability: Durability | None, asking: bool, future: asyncio.Future[Any]
    ) -> None:
        self.command = command
        self.durability = durability
        self.asking = asking
        self.future = future


class Sender:
    """Sends the commands of concurrent callers together: while one round trip is under way, the next one fills."""

    def __init__(self, line: Line) -> None:
        self.line: Final = line
        self._waiting: list[_Entry] = []
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._retired = False

    async def send(self, command: Command, durability: Durability | None = None, *, asking: bool = False) -> Any:
        """Return the reply of one command, or a :class:`Written` where ``durability`` says what to wait for after it.

        Args:
            asking: precede it by ASKING, for a slot that is on its way to this server.

        Raises:
            RefusedError: the server refused this command.
            StoreUnavailableError: it was not sent.
            ConnectionLostError: it may or may not have run.
        """
        if self._closed:
            raise StoreUnavailableError(_CLOSED)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(command, durability, asking, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        # One turn of the loop lets every caller that is ready now join the first round trip.
        try:
            await asyncio.sleep(0)
            while self._waiting:
                await self._round_trip(self._next())
        finally:
            self._flusher = None
            _fail(self._waiting, StoreUnavailableError, _CLOSED)
            self._waiting = []
            if self._retired:
                self.line.close()

    def _next(self) -> list[_Entry]:
        """Take the first callers, as far as they wait for the same durability."""
        waiting = self._waiting
        durability = waiting[0].durability
        count = 1
        while count < min(len(waiting), MAX_PIPELINE) and waiting[count].durability == durability:
            count += 1
        self._waiting = waiting[count:]
        return [entry for entry in waiting[:count] if not entry.future.done()]

    async def _round_trip(self, entries: list[_Entry]) -> None:
        if not entries:
            return
        failure: type[StoreUnavailableError] = StoreUnavailableError
        try:
            await self.line.ready()
            failure = ConnectionLostError
            replies, said = await self._exchange(entries)
            if _answer(entries, replies, said):
                self.line.drop()
        except StoreUnavailableError as error:
            if failure is StoreUnavailableError:
                # Those behind them would only wait for as long again.
                entries = [*entries, *self._waiting]
                self._waiting = []
            _fail(entries, failure, str(error))
        finally:
            _fail(entries, failure, _CLOSED)

    async def _exchange(self, entries: list[_Entry]) -> tuple[list[Any], list[Any]]:
        waits, seconds = _waits(entries[0].durability)
        if not any(entry.asking for entry in entries):
            commands = [entry.command for entry in entries]
            replies = await self.line.exchange([*commands, *waits], len(entries) + len(waits), seconds)
            return replies[: len(entries)], replies[len(entries) :]
        commands = []
        places: list[int] = []
        for entry in entries:
            commands += [_ASKING, entry.command] if entry.asking else [entry.command]
            places.append(len(commands) - 1)
        replies = await self.line.exchange([*commands, *waits], len(commands) + len(waits), seconds)
        return [replies[place] for place in places], replies[len(commands) :]

    def retire(self) -> None:
        """Cut the connection as soon as nobody waits for it."""
        self._retired = True
        if self._flusher is None:
            self.line.close()

    async def close(self) -> None:
        """Answer those who wait with an error, and cut the connection. Idempotent."""
        self._closed = True
        flusher = self._flusher
        if flusher is not None:
            flusher.cancel()
            await asyncio.wait([flusher])
        _fail(self._waiting, StoreUnavailableError, _CLOSED)
        self._waiting = []
        self.line.close()


def _waits(durability: Durability | None) -> tuple[list[Command], float]:
    """Return the commands that wait for ``durability``, and how long they may take."""
    if durability is None:
        return [], 0
    waits: list[Command] = []
    if durability.replicas:
        waits.append(pack("WAIT", durability.replicas, durability.timeout_ms))
    if durability.flushed:
        waits.append(pack("WAITAOF", 1, 0, durability.timeout_ms))
    return waits, len(waits) * durability.timeout_ms / 1000


def _answer(entries: list[_Entry], replies: list[Any], said: list[Any]) -> bool:
    """Give every caller its reply; True where a reply shows that the server was demoted."""
    demoted = False
    durability = entries[0].durability
    replicas, flushed = _said(durability, said) if durability is not None else (0, False)
    for entry, reply in zip(entries, replies, strict=True):
        refused = isinstance(reply, RefusedError)
        demoted = demoted or (refused and reply.demoted)
        if entry.future.done():
            continue
        if refused:
            entry.future.set_exception(reply)
        else:
            entry.future.set_result(reply if durability is None else Written(reply, replicas, flushed))
    return demoted


def _said(durability: Durability, said: list[Any]) -> tuple[int, bool]:
    answers = iter(said)
    replicas = next(answers) if durability.replicas else 0
    flushed = next(answers) if durability.flushed else [0]
    return (
        0 if isinstance(replicas, RefusedError) else int(replicas),
        not isinstance(flushed, RefusedError) and int(flushed[0]) >= 1,
    )


def _fail(entries: list[_Entry], kind: type[StoreUnavailableError], text: str) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(kind(text))


class Node:
    """The connections to one server."""

    def __init__(self, server: Server, lost: Callable[[], None]) -> None:
        self.server: Final = server
        self.plain: Final = Sender(Line(server, lost))
        # WAIT blocks its connection.
        self.durable: Final = Sender(Line(server, lost))

    async def send(self, command: Command, durability: Durability | None = None, *, asking: bool = False) -> Any:
        """See :meth:`Sender.send`."""
        sender = self.plain if durability is None else self.durable
        return await sender.send(command, durability, asking=asking)

    def retire(self) -> None:
        """Cut the connections as soon as nobody waits for them."""
        self.plain.retire()
        self.durable.retire()

    async def close(self) -> None:
        """Cut the connections. Idempotent."""
        await self.plain.close()
        await self.durable.close()
