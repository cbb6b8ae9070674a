"""A server of the protocol that does what a script says, where the real one cannot be made to on command."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

WAIT_SECONDS = 20
TORN_FRAME = b'\x81\x7e\x01\x00{"sub":"follow","event":"rou'
"""A text frame that announces 256 bytes and ends long before."""

Frame = dict[str, Any]


@dataclass(frozen=True)
class Close:
    """Close with a code."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Abort:
    """End without a close, after some further bytes."""

    last: bytes = b""


@dataclass(frozen=True)
class Ack:
    """Wait for this acknowledgement."""

    cursor: str


@dataclass(frozen=True)
class Text:
    """Send this as it is."""

    text: str


Step = Frame | Close | Abort | Ack | Text


@dataclass(frozen=True)
class Connection:
    """What one connection must ask for, and what happens to it then; without an end, the client is waited for."""

    asked: Mapping[str, Any]
    """Members of ``subscribe``, the start above all; None for one that must not be there."""
    steps: Sequence[Step]


@dataclass
class ScriptedServer:
    """Serves a script, one connection after the other; the last one again and again."""

    script: Sequence[Connection]
    hellos: list[Frame] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each was heard, by the event loop's clock."""
    wrong: list[str] = field(default_factory=list)
    """Where clients did not ask for what the script expects."""

    async def serve(self, socket: ServerConnection) -> None:
        """Serve one connection."""
        self.hellos.append(json.loads(await socket.recv()))
        self.times.append(asyncio.get_running_loop().time())
        connection = self.script[min(len(self.hellos), len(self.script)) - 1]
        members = json.loads(await socket.recv())
        asked = {name: members.get(name) for name in connection.asked}
        if asked != connection.asked:
            self.wrong.append(f"connection {len(self.hellos)} asked for {asked}, not {connection.asked}")
        try:
            for step in connection.steps:
                await self._perform(socket, step)
            async for text in socket:
                assert json.loads(text)["type"] == "ack"
        except ConnectionClosed:
            return

    async def _perform(self, socket: ServerConnection, step: Step) -> None:
        match step:
            case Close(code, reason):
                await socket.close(code, reason)
            case Abort(last):
                # What was sent before has arrived when this is answered; an end without a close may overtake it else.
                async with asyncio.timeout(WAIT_SECONDS):
                    await (await socket.ping())
                socket.transport.write(last)
                socket.transport.close()
                await socket.wait_closed()
            case Ack(cursor):
                async with asyncio.timeout(WAIT_SECONDS):
                    assert json.loads(await socket.recv()) == {"type": "ack", "sub": "follow", "cursor": cursor}
            case Text(text):
                await socket.send(text)
            case _:
                await socket.send(json.dumps(step))


@asynccontextmanager
async def scripted(script: Sequence[Connection]) -> AsyncIterator[tuple[str, ScriptedServer]]:
    """Serve ``script`` until the context closes; yield the address."""
    server = ScriptedServer(script)
    async with serve(server.serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}", server
